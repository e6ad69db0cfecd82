"""What a consent is bound to: everything that would run, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from sessiond_protocol.messages import CommandStart

from sessiond.core.identity import consent_digest


def digest(policy: str = "p", env: dict[str, str] | None = None, **fields: Any) -> str:
    request = CommandStart(**{"id": 1, "session": "s", "command": "c", "argv": ["touch", "a"], **fields})
    return consent_digest(request, env or {}, policy)


@pytest.mark.parametrize(
    "other",
    [
        {"argv": ["touch", "a", ""]},
        {"argv": ["touch a"]},
        {"argv": None, "text": "touch a"},
        {"cwd": "x"},
        {"env": {"A": "b"}},
        {"input": b"x"},
        {"stdin": True},
        {"policy": "q"},
    ],
)
def test_whatever_changes_what_runs_changes_it(other: dict[str, Any]) -> None:
    assert digest(**other) != digest()


@pytest.mark.parametrize("other", [{"id": 2}, {"command": "d"}, {"window": 5}, {"answer": "exited"}])
def test_names_and_windows_do_not(other: dict[str, Any]) -> None:
    assert digest(**other) == digest()
