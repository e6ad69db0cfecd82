"""What the models accept and refuse, beyond their types."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from sessiond_protocol.messages import CommandStart, Message, SessionClose, SessionOpen, SessionReply

from .strategies import CLIENT_MODELS, SERVER_MODELS

IDS = {"id": 1, "session": "s", "command": "c"}


@pytest.mark.parametrize("model", CLIENT_MODELS + SERVER_MODELS, ids=lambda model: model.__name__)
def test_every_message_is_immutable_closed_and_names_its_type_first(model: Any) -> None:
    assert issubclass(model, Message)
    assert model.model_config["frozen"]
    assert model.model_config["strict"]
    assert model.model_config["extra"] == "forbid"
    assert next(iter(model.model_fields)) == "type"


def test_each_type_belongs_to_one_message() -> None:
    types = [model.model_fields["type"].default for model in CLIENT_MODELS + SERVER_MODELS]
    assert len(set(types)) == len(types)


@pytest.mark.parametrize("name", ["a", "A-1", "a.b_c-d", "0", "x" * 64])
def test_identifiers_that_are_allowed(name: str) -> None:
    assert SessionClose(id=1, session=name).session == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "a\0", "ä", "x" * 65])
def test_identifiers_that_are_not(name: str) -> None:
    with pytest.raises(ValidationError):
        SessionClose(id=1, session=name)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"argv": ["a"], "text": "a"},
        {"argv": []},
        {"argv": [""]},
        {"argv": ["a\0"]},
        {"argv": ["a"] * 4097},
        {"text": "a\0"},
        {"text": "a", "cwd": "b\0"},
        {"text": "a", "env": {"A": "\0"}},
        {"text": "a", "env": {"A=B": ""}},
        {"text": "a", "env": {"A\n": ""}},
        {"text": "a", "env": {"": ""}},
        {"text": "a", "timeout": 0.0},
        {"text": "a", "timeout": float("nan")},
        {"text": "a", "timeout": float("inf")},
        {"text": "a", "grace": -1.0},
        {"text": "a", "window": -1},
        {"text": "a", "input": "text"},
        {"text": "a", "input": b"x" * 49153},
    ],
    ids=lambda body: repr(body)[:40],
)
def test_commands_that_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CommandStart(**IDS, **body)


def test_arguments_may_hold_anything_but_nul() -> None:
    argv = ["sh", "-c", "a\nb\t\x01\x7f ü €  \U0001f600", ""]
    assert CommandStart(**IDS, argv=argv).argv == argv


def test_labels_have_plain_names_and_short_values() -> None:
    assert SessionOpen(id=1, labels={"team/x.y": "v"}).labels == {"team/x.y": "v"}
    for labels in ({"": "v"}, {"a b": "v"}, {"a": "v" * 257}, {f"l{n}": "" for n in range(65)}):
        with pytest.raises(ValidationError):
            SessionOpen(id=1, labels=labels)


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_no_message_carries_a_number_that_is_not_finite(time: float) -> None:
    info = {"session": "s", "state": "open", "profile": "p", "engine": "e", "generation": 0, "pooled": True}
    SessionReply.model_validate({"re": 1, "session": {**info, "created": 1.0}})
    with pytest.raises(ValidationError, match="finite"):
        SessionReply.model_validate({"re": 1, "session": {**info, "created": time}})
