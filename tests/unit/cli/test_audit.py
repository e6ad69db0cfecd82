"""`sessiond audit` as a process of its own, on the files of a log."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sessiond.audit.files import sealed_segments, segment_path
from sessiond.audit.log import AuditLog
from sessiond.audit.record import Ending, Subject
from sessiond.policy.decide import CommandRequest, Verdict

START = [sys.executable, "-c", "from sessiond.cli.main import main; main()", "audit"]
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
ALLOWED = Verdict("allow", "program", "allowed: ls", ("ls",))
DENIED = Verdict("deny", "program", "'x\x1b[31m' is not an allowed program", ())
ENDING = Ending(exit_code=3, signal=None, cause="exit", seconds=1.5, output_bytes=10, timed_out=False, oom=False)


def audit(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    outcome = subprocess.run(
        [*START, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        cwd=cwd,
        check=False,
    )
    assert "Traceback" not in outcome.stderr
    return outcome


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a log of three sessions in several segments."""
    state = tmp_path / "state"
    state.mkdir()
    log = AuditLog(state / "audit.jsonl", segment_bytes=4000)
    log.event("daemon_started", Subject(who="daemon"), details={"version": "1"})
    for number in range(12):
        subject = Subject(f"s{number % 3}", f"c{number}", "default", "0" * 64, f"uid:{1000 + number % 2}")
        request = CommandRequest(("ls", "a b", "\udcff\x1b[2J"), None, {}, "src")
        log.end(subject, log.decision(subject, request, ALLOWED), ENDING)
    subject = Subject("s0", "no", "default", "0" * 64, "uid:1000")
    log.decision(subject, CommandRequest(None, "=cmd|x\ny", {}, ""), DENIED)
    log.close()
    return state


def test_help_needs_nothing_heavy() -> None:
    outcome = subprocess.run(
        [*START, "verify", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"},
        check=True,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in outcome.stderr.splitlines() if "|" in line}
    assert "sessiond.cli.failure" in imported
    assert not imported & {"pydantic", "structlog", "tree_sitter", "asyncio", "sessiond.audit.files"}


def test_verify_says_that_a_log_is_whole_and_what_its_head_is(state: Path) -> None:
    outcome = audit("verify", state)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("whole: ")
    last = (state / "audit.jsonl").read_bytes().splitlines(keepends=True)[-1]
    head = json.loads(audit("verify", "--state", state, "--json").stdout)["head"]
    assert f"head: record {json.loads(last)['seq']} sha256 {head['sha256']}\n" in outcome.stdout


def test_verify_names_what_is_not_whole_and_has_a_status_of_its_own(state: Path) -> None:
    segment = segment_path(state / "audit.jsonl", 2)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    outcome = audit("verify", state)
    assert outcome.returncode == 3
    sequence = json.loads(lines[2])["seq"]
    assert outcome.stdout.startswith(f"audit-000002.jsonl:3: record {sequence} is missing before this line\nNOT WHOLE")
    report = json.loads(audit("verify", "--json", segment).stdout)
    assert (report["whole"], report["findings"][0]["sequence"]) == (False, sequence)
    assert audit("verify", segment_path(state / "audit.jsonl", 1)).returncode == 0


def test_where_the_log_is_comes_from_the_settings(state: Path, tmp_path: Path) -> None:
    (tmp_path / "sessiond.toml").write_text(f'[daemon]\nstate = "{state}"\n')
    assert audit("verify", cwd=tmp_path).returncode == 0
    assert audit("tail", "--config", tmp_path / "sessiond.toml", cwd=state).returncode == 0


@pytest.mark.parametrize("command", [("verify",), ("tail",), ("query",), ("export", "-o", "-")])
def test_no_log_is_an_error_that_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    outcome = audit(*command, "--state", tmp_path)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == f"sessiond: there is no audit log in {tmp_path}; name the state directory with --state\n"
    assert audit("verify", tmp_path / "none.jsonl").returncode == 1


def test_query_finds_what_is_meant(state: Path) -> None:
    def found(*arguments: str) -> list[dict[str, object]]:
        outcome = audit("query", "--json", "--state", state, *arguments)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        return [json.loads(line) for line in outcome.stdout.splitlines()]

    everything = found()
    assert [record["seq"] for record in everything] == list(range(1, len(everything) + 1))
    assert [record["command"] for record in found("--session", "s0", "--event", "end")] == ["c0", "c3", "c6", "c9"]
    assert [record["command"] for record in found("--verdict", "deny")] == ["no"]
    assert [record["event"] for record in found("--command", "c5")] == ["decision", "end"]
    assert {record["who"] for record in found("--who", "uid:1001")} == {"uid:1001"}
    assert [record["event"] for record in found("--who", "daemon")] == ["daemon_started"]
    assert found("--since", "1h") == everything
    assert found("--until", "1h") == found("--since", "2100-01-01") == []
    middle = str(everything[10]["time"])
    assert found("--until", middle) + found("--since", middle) == everything


def test_what_is_shown_cannot_steer_the_terminal(state: Path) -> None:
    text = audit("query", "--state", state).stdout
    assert "\x1b" not in text
    assert r"deny (program): =cmd|x\ny" in text
    assert "exit 3, exit, 1.5 s, 10 bytes" in text
    assert "began segment=2 after=audit-000001.jsonl" in text


def test_a_damaged_log_can_still_be_queried(state: Path) -> None:
    with (state / "audit.jsonl").open("ab") as file:
        file.write(b"\xff\x1b[2J")
    outcome = audit("query", "--state", state, "--verdict", "deny", "--json")
    assert json.loads(outcome.stdout)["command"] == "no"
    assert outcome.stderr == "sessiond: 1 lines are no records; `sessiond audit verify` says more\n"


def test_export_writes_a_new_file_for_its_owner_alone(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert audit("export", "--state", state, "-o", target, "--session", "s1").returncode == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    log = b"".join(
        [segment_path(state / "audit.jsonl", n).read_bytes() for n in sealed_segments(state / "audit.jsonl")]
    )
    assert all(line in log for line in target.read_bytes().splitlines(keepends=True))
    again = audit("export", "--state", state, "-o", state / "audit.jsonl")
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert audit("verify", state).returncode == 0


def test_export_as_a_table_that_no_spreadsheet_runs(state: Path) -> None:
    outcome = audit("export", "--state", state, "--format", "csv", "-o", "-", "--verdict", "deny")
    (row,) = csv.DictReader(io.StringIO(outcome.stdout))
    assert (row["session"], row["verdict"], row["text"]) == ("s0", "deny", r"'=cmd|x\ny")
    outcome = audit("export", "--state", state, "--format", "csv", "-o", "-", "--event", "decision")
    assert next(csv.DictReader(io.StringIO(outcome.stdout)))["argv"] == r"ls 'a b' '\udcff\x1b[2J'"


def test_tail_shows_the_last_records_whatever_file_they_are_in(state: Path) -> None:
    everything = audit("query", "--json", "--state", state).stdout.splitlines()
    for count in (0, 1, 10, 25, 1000):
        shown = audit("tail", "--json", "-n", str(count), "--state", state).stdout.splitlines()
        assert shown == everything[len(everything) - min(count, len(everything)) :]


def test_tail_follows_through_rotations(state: Path) -> None:
    log = AuditLog(state / "audit.jsonl", segment_bytes=1000)
    before = audit("query", "--json", "--state", state).stdout.splitlines()
    process = subprocess.Popen(
        [*START, "tail", "-f", "-n", "1", "--json", "--state", str(state)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    try:
        shown = [process.stdout.readline()]
        assert shown == [before[-1] + "\n"]
        for burst in (1, 40, 1, 300):  # many rotations between two looks
            for number in range(burst):
                log.event("session_closed", Subject(session="s"), details={"number": number})
            last = json.loads((state / "audit.jsonl").read_bytes().splitlines()[-1])["seq"]
            while json.loads(shown[-1])["seq"] < last:
                shown.append(process.stdout.readline())
        assert [json.loads(line)["seq"] for line in shown] == list(range(len(before), last + 1))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        log.close()


@pytest.mark.parametrize(
    "arguments",
    [("query", "--since", "soon"), ("query", "--verdict", "maybe"), ("tail", "-n", "-1"), ("export",), ("nope",)],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert audit(*arguments).returncode == 2


def test_several_directories_are_wrong_usage(state: Path, tmp_path: Path) -> None:
    assert audit("verify", state, tmp_path).returncode == 2
