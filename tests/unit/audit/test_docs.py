"""docs/audit.md describes the log that is written: its program verifies one, and it names every event and field."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from sessiond.audit.files import sealed_segments, segment_path
from sessiond.audit.log import AuditLog
from sessiond.audit.record import Ending, EventName, Subject
from sessiond.policy.decide import CommandRequest, Verdict

TEXT = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()


def run(path: Path) -> subprocess.CompletedProcess[str]:
    """The program that the documentation shows, on all files of a log."""
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    files = [*(segment_path(path, number) for number in sealed_segments(path)), path]
    return subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, timeout=30, check=False
    )


def fill(path: Path) -> None:
    log = AuditLog(path, segment_bytes=5000)
    subject, verdict = Subject("s", "c", "default", "0" * 64), Verdict("allow", "program", "allowed", ("ls",))
    for _ in range(20):
        digest = log.decision(subject, CommandRequest(("ls",), None, {}, ""), verdict)
        log.end(subject, digest, Ending(0, None, "exit", 0.1, 5, False, False))
    log.close()


def test_the_program_in_the_documentation_verifies_a_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    fill(path)
    path.write_bytes(path.read_bytes() + b'{"v":1')
    fill(path)
    outcome = run(path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("whole up to record ")
    segment = segment_path(path, 2)
    data = segment.read_bytes()
    for changed in (data.replace(b'"ls"', b'"rm"', 1), data.partition(b"\n")[2], data[:-300], data + b"x\n"):
        segment.write_bytes(changed)
        assert run(path).returncode != 0
    segment.write_bytes(data)
    assert run(path).returncode == 0


def test_every_event_and_field_is_in_the_documentation(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    fill(path)
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert set(get_args(EventName)) <= named
    keys = set(re.findall(rb'[{,]"(\w+)":', path.read_bytes() + segment_path(path, 1).read_bytes()))
    assert {key.decode() for key in keys} <= named
