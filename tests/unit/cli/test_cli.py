"""The command line as a process of its own, against the scripted daemon: what it prints and how it exits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from client.peer import Peer, Process
from sessiond_client import connect
from sessiond_protocol.messages import CommandSignal, CommandStart, SessionOpen

from sessiond.cli import approvals
from sessiond.cli.main import COMMANDS

START = [sys.executable, "-c", "from sessiond.cli.main import main; main()"]


@dataclass
class Outcome:
    status: int
    out: bytes
    err: str

    @property
    def line(self) -> str:
        return self.out.decode().strip()


class Shell:
    """Runs `sessiond`."""

    def __init__(self, peer: Peer) -> None:
        self.environ = {**os.environ, "SESSIOND_URL": peer.url, "PYTHONWARNINGS": "error"}

    async def begin(self, *arguments: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *START,
            *arguments,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environ,
        )

    async def __call__(self, *arguments: str, stdin: bytes | None = None) -> Outcome:
        process = await self.begin(*arguments, stdin=asyncio.subprocess.PIPE if stdin is not None else -3)
        async with asyncio.timeout(20):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        text = err.decode()
        assert "Traceback" not in text
        return Outcome(process.returncode, out, text)


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with Peer(tmp_path / "s.sock") as peer:
        yield peer


@pytest.fixture
def shell(peer: Peer) -> Shell:
    return Shell(peer)


async def until_started(peer: Peer) -> Process:
    async with asyncio.timeout(10):
        while not peer.processes():
            await asyncio.sleep(0.005)
    return peer.processes()[0]


async def test_version_and_help_need_no_client(shell: Shell) -> None:
    shell.environ["PYTHONPROFILEIMPORTTIME"] = "1"
    for option in ("--version", "--help"):
        outcome = await shell(option)
        assert outcome.status == 0
        imported = {line.rsplit("|", 1)[-1].strip() for line in outcome.err.splitlines() if "|" in line}
        assert "click" in imported
        assert not imported & {"sessiond_client", "pydantic", "asyncio", "docker", "websockets"}
    assert all(name in outcome.out.decode() for name in COMMANDS)


async def test_opening_prints_the_id_alone(shell: Shell, peer: Peer) -> None:
    outcome = await shell(
        "open",
        "--name",
        "n",
        "--label",
        "a=b",
        "--ttl",
        "2h",
        "--idle-timeout",
        "90",
        "-e",
        "X=1",
        "-e",
        "SESSIOND_URL",
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.line in peer.sessions
    (request,) = peer.received(SessionOpen)
    assert isinstance(request, SessionOpen)
    assert (request.name, request.labels, request.ttl, request.idle_timeout) == ("n", {"a": "b"}, 7200, 90)
    assert request.env == {"X": "1", "SESSIOND_URL": peer.url}
    again = await shell("open", "--id", "mine", "--json")
    assert json.loads(again.out)["session"] == "mine"


async def test_exec_passes_everything_through(shell: Shell, peer: Peer) -> None:
    session = (await shell("open")).line
    assert (await shell("exec", session, "--", "echo", "hi", "-n", "--json")).out == b"hi -n --json\n"
    assert (await shell("exec", session, "echo", "--", "x")).out == b"-- x\n"
    both = await shell("exec", session, "-c", "both")
    assert (both.out, both.err) == (b"out1 out2", "err1 ")
    await shell("exec", "--cwd", "src", session, "-e", "A=1", "--timeout=1m", "true")
    start = peer.received(CommandStart)[-1]
    assert isinstance(start, CommandStart)
    assert (start.cwd, start.env, start.timeout, start.argv, start.stdin) == ("src", {"A": "1"}, 60, ["true"], False)


@pytest.mark.parametrize(
    ("command", "status"),
    [("true", 0), ("exit 1", 1), ("exit 2", 2), ("exit 255", 255), ("curl x", 126), ("nope", 125), ("lose", 125)],
)
async def test_exit_status(shell: Shell, command: str, status: int) -> None:
    session = (await shell("open")).line
    assert (await shell("exec", session, "-c", command)).status == status
    assert (await shell("run", "-c", command)).status == status


async def test_a_timeout_is_124_and_a_signal_128_and_more(shell: Shell, peer: Peer) -> None:
    async def die(process: Process) -> None:
        process.signals = [(11, "group")]

    peer.programs["die"] = die
    assert (await shell("run", "--timeout", "1s", "sleep")).status == 124
    assert (await shell("run", "die")).status == 128 + 11


async def test_standard_input_is_streamed(shell: Shell, peer: Peer) -> None:
    data = os.urandom(2_000_000)
    assert (await shell("run", "cat", stdin=data)).out == data
    assert (await shell("run", "-n", "cat", stdin=b"x")).out == b""
    assert (await shell("run", "true", stdin=data)).status == 0


async def test_nobody_reading_kills_the_command(shell: Shell, peer: Peer) -> None:
    process = await shell.begin("run", "flood", "100000000")
    assert process.stdout is not None
    await process.stdout.readexactly(10)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        assert await process.wait() == 128 + signal.SIGPIPE
    assert peer.processes()[0].signals == [(9, "tree")]
    assert not peer.sessions
    assert process.stderr is not None
    assert await process.stderr.read() == b""


async def test_ctrl_c_goes_to_the_command_and_the_second_one_kills(shell: Shell, peer: Peer) -> None:
    process = await shell.begin("run", "trap")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert await process.stdout.readline() == b"caught 2\n"
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"", b"", 137)
    assert peer.processes()[0].signals == [(2, "group"), (9, "tree")]
    assert not peer.sessions


async def test_ctrl_c_before_the_command_runs_ends_at_once(shell: Shell, peer: Peer) -> None:
    async def never(*_: object) -> bool:
        return True

    peer.handlers[CommandStart] = never
    process = await shell.begin("run", "true")
    async with asyncio.timeout(10):
        while not peer.received(CommandStart):
            await asyncio.sleep(0.005)
        process.send_signal(signal.SIGINT)
        peer.talks[0].drop()
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_run_closes_its_session_whatever_happens(shell: Shell, peer: Peer) -> None:
    for command in ("true", "exit 3", "curl", "lose"):
        await shell("run", "--label", "a=b", "-c", command)
    assert len(peer.received(SessionOpen)) == 4
    assert not peer.sessions


async def test_results_as_json(shell: Shell) -> None:
    outcome = await shell("run", "--json", "both")
    result = json.loads(outcome.out)
    assert (result["exit_code"], result["stdout"], result["stderr"]) == (0, "out1 out2", "err1 ")
    outcome = await shell("run", "--json", "-i", "cat", stdin=b"in")
    assert json.loads(outcome.out)["stdout"] == "in"
    outcome = await shell("run", "--json", "--timeout", "1", "sleep")
    assert (outcome.status, json.loads(outcome.out)["timed_out"]) == (124, True)


async def test_errors_are_one_line_or_one_object(shell: Shell) -> None:
    denied = await shell("run", "curl")
    assert denied.err == "sessiond: denied: curl is not allowed (rule deny-net)\n"
    as_json = await shell("run", "--json", "curl")
    assert json.loads(as_json.err)["error"] == {
        "code": "denied",
        "message": "denied: curl is not allowed",
        "rule": "deny-net",
    }
    missing = await shell("exec", "none", "true")
    assert missing.err == "sessiond: no session none\nsessiond: hint: see `sessiond ps`\n"
    usage = await shell("run", "--json")
    assert (usage.status, json.loads(usage.err)["error"]["code"]) == (125, "usage")


async def test_what_a_daemon_says_cannot_steer_the_terminal(shell: Shell, peer: Peer) -> None:
    await shell("open", "--name", "a\x1b[31mb")
    outcome = await shell("ps")
    assert b"\x1b" not in outcome.out
    assert rb"a\x1b[31mb" in outcome.out


async def test_no_daemon(shell: Shell, tmp_path: Path) -> None:
    outcome = await shell("ps", "--url", f"unix:{tmp_path}/none")
    assert (outcome.status, outcome.out) == (1, b"")
    assert outcome.err.startswith(f"sessiond: no daemon answers at unix:{tmp_path}/none")
    assert "start one with `sessiond serve`" in outcome.err
    assert (await shell("exec", "--url", f"unix:{tmp_path}/none", "s", "true")).status == 125


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nope",), 2),
        (("ps", "--nope"), 2),
        (("open", "--ttl", "soon"), 2),
        (("open", "--ttl", "0"), 2),
        (("open", "--label", "x"), 2),
        (("open", "-e", "NO_SUCH_VARIABLE"), 2),
        (("close",), 2),
        (("close", "--all", "x"), 2),
        (("ps", "s", "--label", "a=b"), 2),
        (("exec",), 125),
        (("exec", "s"), 125),
        (("exec", "s", "-c", "a", "b"), 125),
        (("exec", "--nope", "s"), 125),
        (("run",), 125),
    ],
)
async def test_wrong_usage(shell: Shell, arguments: tuple[str, ...], status: int) -> None:
    outcome = await shell(*arguments)
    assert (outcome.status, outcome.out) == (status, b"")
    assert outcome.err.startswith("sessiond: ")


async def test_without_arguments_it_explains_itself(shell: Shell) -> None:
    outcome = await shell()
    assert outcome.status == 2
    assert "Usage: sessiond" in outcome.out.decode() + outcome.err


async def test_listing(shell: Shell, peer: Peer) -> None:
    assert (await shell("ps")).out == b"SESSION  NAME  PROFILE  STATE  AGE  LEFT  COMMANDS\n"
    one = (await shell("open", "--name", "first", "--label", "a=b")).line
    two = (await shell("open")).line
    peer.sessions[two] = peer.sessions[two].model_copy(update={"state": "closed"})
    assert (await shell("ps", "-q")).out.decode().split() == [one]
    assert (await shell("ps", "-qa")).out.decode().split() == [one, two]
    assert (await shell("ps", "-qa", "--label", "a=b")).out.decode().split() == [one]
    assert [info["session"] for info in json.loads((await shell("ps", "--json")).out)] == [one]
    assert "first" in (await shell("ps")).out.decode()
    assert (await shell("ps", one)).out.startswith(b"COMMAND")


async def test_listing_commands(shell: Shell, peer: Peer) -> None:
    session = (await shell("open")).line
    async with connect(peer.url) as client:
        opened = await client.session(session)
        await opened.run("exit 3")
        await opened.start(["trap", "a b"])
        outcome = await shell("ps", "-a", session)
        assert "exit 3" in outcome.out.decode()
        assert "trap 'a b'" in outcome.out.decode()
        assert len((await shell("ps", "-q", session)).out.splitlines()) == 1
        assert len(json.loads((await shell("ps", "-a", "--json", session)).out)) == 2


async def test_closing(shell: Shell, peer: Peer) -> None:
    sessions = [(await shell("open")).line for _ in range(3)]
    outcome = await shell("close", sessions[0], "none")
    assert (outcome.status, outcome.line) == (1, sessions[0])
    assert outcome.err == "sessiond: none: no session none\n"
    outcome = await shell("close", "--all", "--json")
    assert json.loads(outcome.out) == {"closed": sessions[1:], "failed": {}}
    assert not peer.sessions


async def test_a_token_comes_from_a_file_that_others_may_not_read(shell: Shell, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken")
    file.chmod(0o644)
    outcome = await shell("ps", "--token-file", str(file))
    assert (outcome.status, "chmod 600" in outcome.err) == (1, True)
    file.chmod(0o600)
    assert (await shell("ps", "--token-file", str(file))).status == 0
    assert peer.talks[-1].authorization == "Bearer t0ken"


async def test_the_terminating_signal_is_forwarded_too(shell: Shell, peer: Peer) -> None:
    process = await shell.begin("run", "trap")
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert await process.stdout.readline() == b"caught 15\n"
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 137
    assert [m.signal for m in peer.received(CommandSignal) if isinstance(m, CommandSignal)] == [15, 9]


@pytest.mark.parametrize(
    ("typed", "scope"),
    [
        ("once", {"scope": "once"}),
        ("session", {"scope": "session"}),
        ("rule", {"scope": "rule"}),
        ("3", {"scope": "times", "times": 3}),
        ("2h", {"scope": "until", "until": 8200.0}),
    ],
)
def test_how_far_a_consent_goes(monkeypatch: pytest.MonkeyPatch, typed: str, scope: dict[str, object]) -> None:
    monkeypatch.setattr(approvals.time, "time", lambda: 1000.0)
    assert approvals.scope_of(typed) == scope


@pytest.mark.parametrize("typed", ["0", "-1", "forever", "1.5", "²", ""])
def test_a_consent_that_goes_nobody_knows_how_far_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        approvals.scope_of(typed)
