"""The audit log: complete, bounded, unforgeable lines, or an error."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sessiond.policy.audit import SHOWN_CHARACTERS, AuditError, AuditLog, Ending, Subject, request_digest
from sessiond.policy.decide import CommandRequest, Verdict

SUBJECT = Subject(session="s1", command="c1", profile="default", policy="0" * 64)
ALLOWED = Verdict("allow", "program", "allowed: ls", ("ls",))
ENDING = Ending(
    exit_code=None, signal=9, cause="timeout", seconds=1.23456789, output_bytes=10, timed_out=True, oom=False
)


def request(*argv: str, text: str | None = None, env: dict[str, str] | None = None) -> CommandRequest:
    return CommandRequest(None if text is not None else argv, text, env or {}, "src")


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().decode("ascii").splitlines()]


def test_a_decision_and_an_end_are_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    asked = request("ls", "-l", env={"B": "secret", "A": "x"})
    digest = log.decision(SUBJECT, asked, ALLOWED)
    log.end(SUBJECT, digest, ENDING)
    log.close()
    decision, end = records(path)
    time = datetime.fromisoformat(str(decision.pop("time")))
    assert timedelta(0) <= datetime.now(UTC) - time < timedelta(minutes=1)
    assert decision == {
        "event": "decision",
        "session": "s1",
        "command": "c1",
        "profile": "default",
        "policy": "0" * 64,
        "sha256": request_digest(asked),
        "env": ["A", "B"],
        "cwd": "src",
        "argv": ["ls", "-l"],
        "truncated": False,
        "verdict": "allow",
        "rule": "program",
        "reason": "allowed: ls",
    }
    assert (end["event"], end["exit_code"], end["signal"], end["cause"]) == ("end", None, 9, "timeout")
    assert (end["seconds"], end["output_bytes"], end["timed_out"], end["oom"]) == (1.234568, 10, True, False)
    assert end["sha256"] == decision["sha256"]


def test_the_digest_covers_exactly_what_would_run() -> None:
    different = [
        request("a", "b"),
        request("a b"),
        request(text="a b"),
        request("a", "b", env={"A": ""}),
        request("a", "b", env={"A": "1"}),
        CommandRequest(("a", "b"), None, {}, ""),
    ]
    assert len({request_digest(one) for one in different}) == len(different)
    assert request_digest(request("a", env={"A": "1", "B": "2"})) == request_digest(
        request("a", env={"B": "2", "A": "1"})
    )


def test_the_digest_is_that_of_plain_json_so_that_anybody_can_compute_it() -> None:
    for asked in (
        request("a", 'b"\n\u2028'),
        request(text="x\x7f" * 3, env={"B": "\\", "A": "é"}),
        CommandRequest(("a",), None, {}, "\udcff"),
    ):
        value = {"argv": asked.argv, "cwd": asked.cwd, "env": asked.env, "text": asked.text}
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":")).replace("\x7f", "\\u007f")
        assert request_digest(asked) == hashlib.sha256(canonical.encode()).hexdigest()


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch(mode=0o644)
    AuditLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_character_can_forge_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    hostile = 'a\n{"event":"end"}\r\x00\x1b[2J\x7f\x85\u2028\u2029\u202e\udcff'
    log.decision(SUBJECT, request(text=hostile), Verdict("deny", "lexical", hostile, ()))
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in data[:-1])
    assert records(path)[0]["text"] == hostile


def test_a_long_command_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request(text="x" * 100_000), ALLOWED)
    log.decision(SUBJECT, request("ls", "y" * 100_000, "z"), ALLOWED)
    log.decision(SUBJECT, request(*["a"] * 4096), ALLOWED)
    log.decision(SUBJECT, request("ls", "y" * (SHOWN_CHARACTERS - 3)), ALLOWED)
    assert [record["truncated"] for record in records(path)] == [True, True, True, False]
    assert all(len(line) < 6 * 1024 for line in path.read_bytes().splitlines())


def test_reopen_continues_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request("one"), ALLOWED)
    path.rename(tmp_path / "audit.jsonl.1")
    log.reopen()
    log.decision(SUBJECT, request("two"), ALLOWED)
    assert [record["argv"] for record in records(path)] == [["two"]]
    assert [record["argv"] for record in records(tmp_path / "audit.jsonl.1")] == [["one"]]


def test_a_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    path.rename(tmp_path / "old")
    path.mkdir()
    with pytest.raises(AuditError):
        log.reopen()
    log.decision(SUBJECT, request("ls"), ALLOWED)
    assert len(records(tmp_path / "old")) == 1


def test_it_appends_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for name in ("one", "two"):
        log = AuditLog(path)
        log.decision(SUBJECT, request(name), ALLOWED)
        log.close()
    assert len(records(path)) == 2


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "link"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.jsonl"
    if kind == "missing":
        path = tmp_path / "missing" / "audit.jsonl"
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "other")
    with pytest.raises(AuditError):
        AuditLog(path)


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.close()
    with pytest.raises(AuditError):
        log.decision(SUBJECT, request("ls"), ALLOWED)
    log.close()


def test_a_record_written_in_part_is_an_error_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(AuditError, match="part"):
            log.decision(SUBJECT, request("ls"), ALLOWED)
        with pytest.raises(AuditError, match="cannot be written"):
            log.decision(SUBJECT, request("ls"), ALLOWED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    log.decision(SUBJECT, request("ls"), ALLOWED)
    assert json.loads(path.read_bytes().splitlines()[-1])["argv"] == ["ls"]
    assert len(path.read_bytes().splitlines()) == 2


def test_a_record_torn_by_a_crash_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"time":')
    AuditLog(path).decision(SUBJECT, request("ls"), ALLOWED)
    assert json.loads(path.read_bytes().splitlines()[1])["argv"] == ["ls"]
