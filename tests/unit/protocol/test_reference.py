"""`docs/protocol.md` says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from sessiond_protocol import limits
from sessiond_protocol.codec import decode_client, decode_server
from sessiond_protocol.example import Step, annotated, exchange
from sessiond_protocol.fields import ErrorCode
from sessiond_protocol.messages import ClientMessage, ServerMessage
from sessiond_protocol.reference import main, models_of, render
from sessiond_protocol.states import diagrams

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"
TEXT = PAGE.read_text()


def test_the_generated_parts_of_the_page_are_current() -> None:
    assert render(TEXT) == TEXT, "run: python -m sessiond_protocol.reference docs/protocol.md"


def test_the_generator_rewrites_a_page_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: states -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["reference", str(page)])
    main()
    assert page.read_text() == f"before\n<!-- generated: states -->\n\n{diagrams()}\n\n<!-- end -->\nafter\n"


def test_the_diagrams_can_be_printed() -> None:
    command = [sys.executable, "-m", "sessiond_protocol.states"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == diagrams() + "\n"


@pytest.mark.parametrize("model", models_of(ClientMessage) + models_of(ServerMessage), ids=lambda model: model.__name__)
def test_every_message_has_its_table(model: typing.Any) -> None:
    assert f"#### `{model.model_fields['type'].default}`\n" in TEXT


def test_every_field_has_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


@pytest.mark.parametrize("code", typing.get_args(ErrorCode))
def test_every_error_code_says_what_to_do(code: str) -> None:
    [meaning, remedy] = re.findall(rf"^\| `{code}` \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)[0]
    assert meaning.strip()
    assert remedy.strip()


@pytest.mark.parametrize("step", exchange(), ids=lambda step: step.message.type)
def test_the_example_is_what_travels(step: Step) -> None:
    lines = annotated(step).splitlines()[1:]
    frame = bytes.fromhex(" ".join(line[4:52] for line in lines))
    limits.check_frame(frame)
    decode = decode_client if step.from_client else decode_server
    assert decode(frame) == step.message
