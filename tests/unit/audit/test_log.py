"""The audit log: complete, bounded, unforgeable lines, or an error."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sessiond.audit.chain import START, read_line
from sessiond.audit.files import lines, open_log, sealed_segments, segment_path
from sessiond.audit.log import SEGMENT_BYTES, AuditError, AuditLog
from sessiond.audit.record import SHOWN_CHARACTERS, Ending, Subject, request_digest
from sessiond.audit.verifier import Report
from sessiond.audit.verify import verify_log
from sessiond.policy.decide import CommandRequest, Verdict

SUBJECT = Subject(session="s1", command="c1", profile="default", policy="0" * 64, who="uid:1000")
ALLOWED = Verdict("allow", "program", "allowed: ls", ("ls",))
ENDING = Ending(
    exit_code=None, signal=9, cause="timeout", seconds=1.23456789, output_bytes=10, timed_out=True, oom=False
)


def request(*argv: str, text: str | None = None, env: dict[str, str] | None = None) -> CommandRequest:
    return CommandRequest(None if text is not None else argv, text, env or {}, "src")


def whole(path: Path) -> Report:
    """Verifies the log and says what is in it."""
    report = verify_log(path)
    assert report.findings == []
    return report


def everything(path: Path) -> list[dict[str, object]]:
    """All records of a log, torn ones left out."""
    found = (read_line(line) for segment in open_log(path) for line in lines(segment.file))
    return [record.fields for record in found if record is not None]


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().decode("ascii").splitlines()]


def test_a_decision_and_an_end_are_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    asked = request("ls", "-l", env={"B": "secret", "A": "x"})
    digest = log.decision(SUBJECT, asked, ALLOWED)
    log.end(SUBJECT, digest, ENDING)
    log.close()
    began, decision, end = records(path)
    raw = path.read_bytes().splitlines(True)
    written = datetime.fromisoformat(str(decision.pop("time")))
    assert timedelta(0) <= datetime.now(UTC) - written < timedelta(minutes=1)
    assert (began["v"], began["seq"], began["previous"], began["event"]) == (1, 1, START, "began")
    assert end["previous"] == hashlib.sha256(raw[1]).hexdigest()
    assert decision == {
        "v": 1,
        "seq": 2,
        "previous": hashlib.sha256(raw[0]).hexdigest(),
        "who": "uid:1000",
        "tenant": "default",
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
    assert data.count(b"\n") == 2
    assert all(0x20 <= byte < 0x7F for byte in data.replace(b"\n", b""))
    assert records(path)[1]["text"] == hostile


def test_a_long_command_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request(text="x" * 100_000), ALLOWED)
    log.decision(SUBJECT, request("ls", "y" * 100_000, "z"), ALLOWED)
    log.decision(SUBJECT, request(*["a"] * 4096), ALLOWED)
    log.decision(SUBJECT, request("ls", "y" * (SHOWN_CHARACTERS - 3)), ALLOWED)
    assert [record["truncated"] for record in records(path)[1:]] == [True, True, True, False]
    assert all(len(line) < 6 * 1024 for line in path.read_bytes().splitlines())


def test_reopen_seals_the_file_and_continues_in_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request("one"), ALLOWED)
    log.reopen()
    log.decision(SUBJECT, request("two"), ALLOWED)
    assert [record["event"] for record in records(tmp_path / "audit-000001.jsonl")] == ["began", "decision", "sealed"]
    began, decision = records(path)
    assert decision["argv"] == ["two"]
    assert (began["segment"], began["after"], began["seq"]) == (2, "audit-000001.jsonl", 4)
    segment = tmp_path / "audit-000001.jsonl"
    sealed = records(segment)[-1]
    assert (sealed["segment"], sealed["records"]) == (1, 2)
    assert began["previous"] == hashlib.sha256(segment.read_bytes().splitlines(True)[-1]).hexdigest()
    assert whole(path).records == 5


def test_a_file_that_somebody_moved_away_is_missed_until_it_has_the_segments_name(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request("one"), ALLOWED)
    path.rename(tmp_path / "audit.jsonl.1")
    log.reopen()
    log.decision(SUBJECT, request("two"), ALLOWED)
    assert verify_log(path).findings
    (tmp_path / "audit.jsonl.1").rename(tmp_path / "audit-000001.jsonl")
    assert whole(path).records == 5


@pytest.mark.parametrize("name", ["audit.jsonl", "audit-000001.jsonl"])
def test_a_reopen_that_fails_keeps_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    if name == path.name:
        path.rename(tmp_path / "old")
    (tmp_path / name).mkdir()
    with pytest.raises(AuditError, match="in the way"):
        log.reopen()
    log.decision(SUBJECT, request("ls"), ALLOWED)
    assert len(records(tmp_path / "old" if name == path.name else path)) == 2
    (tmp_path / name).rmdir()
    if name == path.name:
        (tmp_path / "old").rename(path)
    log.reopen()
    assert whole(path).records == 4


def test_a_seal_that_nothing_could_follow_is_followed_later(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    draft = tmp_path / ".audit.jsonl.new"
    draft.mkdir()
    for _ in range(2):
        with pytest.raises(AuditError):
            log.reopen()
        with pytest.raises(AuditError):
            log.decision(SUBJECT, request("ls"), ALLOWED)
    draft.rmdir()
    log.decision(SUBJECT, request("ls"), ALLOWED)
    assert whole(path).records == 4
    assert sealed_segments(path) == [1]


def test_what_a_crash_left_of_a_rotation_is_completed(tmp_path: Path) -> None:
    """Killed after the seal; between the renames; with a draft of the next file; with an empty one."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.reopen()
    log.close()
    segment = tmp_path / "audit-000001.jsonl"
    after_rename = segment.read_bytes()
    for present in ("current", "segment", "draft", "empty"):
        for one in tmp_path.iterdir():
            one.unlink()
        (path if present == "current" else segment).write_bytes(after_rename)
        if present == "draft":
            (tmp_path / ".audit.jsonl.new").write_bytes(b'{"v":1,')
        if present == "empty":
            path.touch()
        AuditLog(path).decision(SUBJECT, request("ls"), ALLOWED)
        assert whole(path).records == 4
        assert sorted(one.name for one in tmp_path.iterdir()) == ["audit-000001.jsonl", "audit.jsonl"]


def test_it_is_rotated_at_its_size_in_the_middle_of_traffic_and_old_segments_go(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        log = AuditLog(path, segment_bytes=5000, keep=3)
        for number in range(100):
            log.end(SUBJECT, log.decision(SUBJECT, request("ls", str(number)), ALLOWED), ENDING)
        log.close()
    numbers = sealed_segments(path)
    assert len(numbers) == 3
    assert numbers[0] > 10
    assert all(5000 <= segment_path(path, n).stat().st_size < 6500 for n in numbers)
    report = whole(path)
    assert report.head is not None
    assert report.head[0] - (report.first or 0) + 1 == report.records
    segment_path(path, numbers[0]).unlink()
    assert "missing" in str(verify_log(path).findings[0])


def test_erasing_the_oldest_segment_is_noticed_even_after_later_rotations(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.reopen()
    segment_path(path, 1).unlink()
    log.reopen()
    log.reopen()
    assert any("segment 1 is missing" in str(finding) for finding in verify_log(path).findings)


def test_it_goes_on_from_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for name in ("one", "two"):
        log = AuditLog(path)
        log.decision(SUBJECT, request(name), ALLOWED)
        log.close()
    assert [record["seq"] for record in records(path)] == [1, 2, 3]
    assert whole(path).records == 3


@pytest.mark.parametrize(
    "content", [b'{"time":"2026"}\n', b"\0" * 5000, b"x" * 6_000_000], ids=["old", "zeros", "large"]
)
def test_a_file_that_is_no_log_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(content)
    with pytest.raises(AuditError, match="move it away"):
        AuditLog(path)
    assert path.read_bytes() == content


def test_an_event_says_who_did_what(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    subject = Subject("s1", "c1", "default", "0" * 64, "uid:1000", "acme")
    log.event("approval_answered", subject, digest="a" * 64, details={"approver": "uid:0", "answer": "once", "uses": 1})
    record = records(path)[1]
    assert (record["event"], record["who"], record["tenant"]) == ("approval_answered", "uid:1000", "acme")
    assert (record["session"], record["command"], record["sha256"]) == ("s1", "c1", "a" * 64)
    assert record["details"] == {"approver": "uid:0", "answer": "once", "uses": 1}


def test_declared_secrets_are_shown_nowhere_and_the_digest_is_over_the_original(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, redact=["hunter2hunter2", 's3cr"t\n'])
    asked = request("login", "--password=hunter2hunter2", 's3cr"t\n', env={"hunter2hunter2": "hunter2hunter2"})
    verdict = Verdict("deny", "program", "no hunter2hunter2 here", ())
    assert log.decision(SUBJECT, asked, verdict) == request_digest(asked)
    long = "x" * (SHOWN_CHARACTERS - 5) + "hunter2hunter2"
    log.decision(SUBJECT, CommandRequest(None, long, {}, "hunter2hunter2"), ALLOWED)
    log.event("session_closed", SUBJECT, details={"reason": "hunter2hunter2"})
    data = path.read_bytes()
    assert b"hunte" not in data
    assert b"s3cr" not in data
    assert records(path)[1]["argv"] == ["login", "--password=[redacted]", "[redacted]"]


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


def test_a_record_written_in_part_is_an_error_and_does_not_spoil_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = path.stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        with pytest.raises(AuditError, match="part"):
            log.decision(SUBJECT, request("ls"), ALLOWED)
        for _ in range(2):
            with pytest.raises(AuditError, match="cannot be written"):
                log.decision(SUBJECT, request("ls"), ALLOWED)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 101, hard))
        with pytest.raises(AuditError, match="takes no more"):
            log.decision(SUBJECT, request("ls"), ALLOWED)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 150, hard))
        with pytest.raises(AuditError, match="part"):
            log.decision(SUBJECT, request("ls"), ALLOWED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    log.decision(SUBJECT, request("ls"), ALLOWED)
    report = whole(path)
    assert (report.records, report.recovered) == (3, 1)
    assert json.loads(path.read_bytes().splitlines()[-1])["argv"] == ["ls"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is soon full")
@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, 10_000])
def test_a_full_disk_stops_what_cannot_be_recorded_and_room_heals_it(tmp_path: Path, segment_bytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True, timeout=10)
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 16_000)
        log = AuditLog(disk / "audit.jsonl", segment_bytes=segment_bytes)
        written = failed = 0
        for _ in range(300):
            try:
                log.decision(SUBJECT, request("ls", "y" * 500), ALLOWED)
                written += 1
            except AuditError:
                failed += 1
        assert failed > 100
        ballast.unlink()
        log.decision(SUBJECT, request("ls"), ALLOWED)
        log.close()
        log = AuditLog(disk / "audit.jsonl", segment_bytes=segment_bytes)
        log.decision(SUBJECT, request("ls"), ALLOWED)
        log.close()
        report = whole(disk / "audit.jsonl")
        decisions = [record for record in everything(disk / "audit.jsonl") if record["event"] == "decision"]
        assert len(decisions) == written + 2
        assert report.recovered > 0 or segment_bytes < SEGMENT_BYTES
    finally:
        for thread in threading.enumerate():
            if thread.name == "audit-fsync":
                thread.join(10)
        log.close()
        subprocess.run(["umount", disk], check=True, timeout=10)


@pytest.mark.parametrize("torn", [b'{"v":1,"se', b"\0" * 4096, b"x\n#\ny\n", b"#"])
def test_a_record_torn_by_a_crash_is_kept_and_put_on_record(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request("one"), ALLOWED)
    log.close()
    before = path.read_bytes()
    path.write_bytes(before + torn)
    assert "unfinished" in str(verify_log(path).findings[0])
    AuditLog(path).decision(SUBJECT, request("two"), ALLOWED)
    assert path.read_bytes().startswith(before + torn)
    report = whole(path)
    assert (report.records, report.recovered) == (4, 1)
    path.write_bytes(path.read_bytes().replace(torn, b"!" * len(torn), 1))
    assert verify_log(path).findings


def test_a_record_without_its_newline_alone_counts_as_torn(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.decision(SUBJECT, request("one"), ALLOWED)
    log.close()
    path.write_bytes(path.read_bytes()[:-1])
    AuditLog(path).decision(SUBJECT, request("two"), ALLOWED)
    report = whole(path)
    assert (report.records, report.recovered) == (3, 1)


WRITER = """
import sys
from pathlib import Path
from sessiond.audit.log import AuditLog
from sessiond.audit.record import Ending, Subject
from sessiond.policy.decide import CommandRequest, Verdict
log = AuditLog(Path(sys.argv[1]), segment_bytes=20_000)
subject, verdict = Subject("s", "c", "default", "0" * 64), Verdict("allow", "program", "allowed", ("ls",))
ending = Ending(0, None, "exit", 0.1, 5, False, False)
request = CommandRequest(("ls", "x" * 3000), None, {}, "src")
print("writes", flush=True)
while True:
    log.end(subject, log.decision(subject, request, verdict), ending)
"""


def test_a_writer_killed_at_any_moment_leaves_a_log_that_is_whole_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for moment in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writes\n"
        time.sleep(0.002 + 0.007 * moment)
        writer.kill()
        writer.wait(10)
        writer.stdout.close()
    log = AuditLog(path)
    log.decision(SUBJECT, request("last"), ALLOWED)
    log.close()
    assert whole(path).records > 100
    assert len(sealed_segments(path)) > 1


def test_a_log_that_is_being_written_and_rotated_is_whole_whenever_it_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "writes\n"
        seen = [whole(path).records for _ in range(10)]
        while seen[-1] < 1000:
            seen.append(whole(path).records)
    finally:
        writer.kill()
        writer.wait(10)
        writer.stdout.close()
    assert seen == sorted(seen)
    assert len(sealed_segments(path)) > 10
