"""Commands that need a person's consent: asked for, answered from a second terminal, remembered, expired."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sessiond_client import (
    ApprovalInfo,
    Client,
    CommandDeniedError,
    ConflictError,
    InvalidRequestError,
    Session,
    UnauthorizedError,
    UnsupportedError,
    connect,
)

from tests.daemon import COMMAND, DaemonProcess, eventually

ASKING = """
include = ["developer"]

[[rule]]
id = "touch-asks"
programs = ["touch"]
subcommands = []
verdict = "ask"
any = true
reason = "touching needs consent"

[[rule]]
id = "never"
programs = ["rm"]
verdict = "deny"
any = true
reason = "nothing is removed"
"""


def asking(make: Callable[..., DaemonProcess], tmp_path: Path, **settings: Any) -> DaemonProcess:
    """A daemon whose policy is a file of the test's own."""
    policy = tmp_path / "policy.toml"
    policy.write_text(ASKING)
    profiles = {"asks": {"policy": {"use": str(policy)}, "pool": {"min": 0, "max": 4}}}
    return make(settings={"on_stop": "keep", **settings}, profiles=profiles).start()


def token(daemon: DaemonProcess) -> str:
    return (daemon.state / "approver.token").read_text().strip()


async def terminal(daemon: DaemonProcess, *arguments: str, input: str = "") -> tuple[int, str]:
    """`sessiond ARGUMENTS` in another terminal: its exit status, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        COMMAND[0],
        *arguments,
        "--url",
        daemon.url,
        "--state",
        str(daemon.state),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate(input.encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


async def asked(daemon: DaemonProcess, count: int = 1) -> list[ApprovalInfo]:
    """So many open questions, once they are there."""
    async with connect(daemon.url) as approver:
        approvals = await approver.approvals(token(daemon))
        while len(found := await approvals.list()) < count:
            await asyncio.sleep(0.02)
        return found


def events(daemon: DaemonProcess, *names: str) -> list[dict[str, Any]]:
    """Records of these kinds in the audit log."""
    lines = [line for path in daemon.state.glob("audit*.jsonl") for line in path.read_text().splitlines()]
    records = map(json.loads, lines)
    return [record for record in sorted(records, key=lambda record: record["seq"]) if record["event"] in names]


async def clear(client: Client) -> None:
    for info in await client.sessions():
        await (await client.session(info.session)).close()


async def test_a_second_terminal_allows_it_and_the_audit_log_says_who(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """It waits, is shown as it would run with nothing that steers a terminal, is allowed, and runs."""
    daemon = asking(make_daemon, tmp_path)
    assert stat.S_IMODE((daemon.state / "approver.token").stat().st_mode) == 0o600
    async with connect(daemon.url) as client:
        session = await client.open("asks", env={"E": "1"})
        running = asyncio.ensure_future(session.run(["touch", "a\x1b[2Jb"], timeout=20, command_id="c"))
        (question,) = await asked(daemon)
        (waiting,) = await session.commands()
        assert waiting.state == "awaiting_approval"
        async with connect(daemon.url) as watching:
            followed = await (await watching.session(session.id)).command("c")
            assert followed.state == "awaiting_approval"
        status, shown = await terminal(daemon, "approvals", "show", question.approval)
        assert status == 0, shown
        assert "touch 'a\\x1b[2Jb'" in shown
        assert "\x1b" not in shown
        assert "touching needs consent" in shown
        assert "E=1" in shown
        status, said = await terminal(daemon, "approvals", "allow", question.approval, "--reason", "fine")
        assert status == 0, said
        assert (await running).exit_code == 0
        assert (await session.run(["ls"])).stdout == b"a\x1b[2Jb\n"
        with pytest.raises(ConflictError, match=f"allowed by uid:{os.geteuid()}"):
            async with connect(daemon.url) as late:
                await (await late.approvals(token(daemon))).deny(question.approval)
        await session.close()
    told = events(daemon, "decision", "approval_asked", "approval_answered", "end")
    told = [record for record in told if record["command"] == "c"]
    assert [record["event"] for record in told] == ["decision", "approval_asked", "approval_answered", "end"]
    assert told[0]["verdict"] == "ask"
    answer = told[2]["details"]
    assert answer["approver"] == f"uid:{os.geteuid()}"
    assert (answer["verdict"], answer["for"], answer["reason"]) == ("allow", "once", "fine")
    assert answer["binding"] == question.digest == told[1]["details"]["binding"]
    assert token(daemon) not in daemon.log
    assert (await terminal(daemon, "approvals", "list"))[0] == 0


async def test_a_denial_and_an_expiry_deny(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    daemon = asking(make_daemon, tmp_path, approval_timeout=3)
    async with connect(daemon.url) as client:
        session = await client.open("asks")
        denied = asyncio.ensure_future(session.run(["touch", "a"]))
        (question,) = await asked(daemon)
        status, said = await terminal(daemon, "approvals", "deny", question.approval, "--reason", "not today")
        assert status == 0, said
        with pytest.raises(CommandDeniedError, match="not today") as refused:
            await denied
        assert refused.value.rule == "touch-asks"
        with pytest.raises(CommandDeniedError, match="nobody allowed it within 3 s"):
            await session.run(["touch", "b"], timeout=0.1)
        assert [info.state for info in await session.commands()] == ["denied", "denied"]
        assert (await session.run(["ls"])).stdout == b""
        (expired,) = events(daemon, "approval_expired")
        assert expired["session"] == session.id
        await session.close()


async def test_a_daemon_killed_in_between_keeps_the_question(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """The client comes back by itself, the question has its number, the answer runs the command once."""
    daemon = asking(make_daemon, tmp_path)
    async with connect(daemon.url) as client:
        session = await client.open("asks")
        waits = [asyncio.ensure_future(session.run(["touch", name], command_id=name)) for name in ("kept", "dropped")]
        before = {info.command: info for info in await asked(daemon, 2)}
        daemon.kill()
        daemon.start()
        after = {info.command: info for info in await asked(daemon, 2)}
        assert after == before
        for name, answer in (("kept", "allow"), ("dropped", "deny")):
            status, said = await terminal(daemon, "approvals", answer, before[name].approval)
            assert status == 0, said
        assert (await waits[0]).exit_code == 0
        with pytest.raises(CommandDeniedError):
            await waits[1]
        assert (await session.run(["ls"])).stdout == b"kept\n"
        daemon.kill()
        daemon.start()
        assert (await session.run(["touch", "kept"], command_id="kept")).exit_code == 0
        await clear(client)


async def test_a_consent_goes_as_far_as_it_says(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    """Equal commands of the session alone; another argument, variable, directory or input is asked about again."""
    daemon = asking(make_daemon, tmp_path)
    async with connect(daemon.url) as client, connect(daemon.url) as other:
        approvals = await other.approvals(token(daemon))
        session = await client.open("asks")

        async def allowed(command: list[str], scope: dict[str, Any], **options: Any) -> None:
            run = asyncio.ensure_future(session.run(command, **options))
            while not (found := await approvals.list()):
                await asyncio.sleep(0.02)
            await approvals.allow(found[0].approval, **scope)
            assert (await run).exit_code == 0

        async def asks(command: list[str], **options: Any) -> None:
            run = asyncio.ensure_future(session.run(command, **options))
            while not (found := await approvals.list()):
                await asyncio.sleep(0.02)
            await approvals.deny(found[0].approval)
            with pytest.raises(CommandDeniedError):
                await run

        await allowed(["touch", "once"], {})
        await asks(["touch", "once"])
        await allowed(["touch", "twice"], {"scope": "times", "times": 2})
        daemon.kill()
        daemon.start()
        assert (await session.run(["touch", "twice"])).exit_code == 0
        await asks(["touch", "twice"])
        await allowed(["touch", "all"], {"scope": "session"})
        for _ in range(3):
            assert (await session.run(["touch", "all"])).exit_code == 0
        decision = events(daemon, "decision")[-1]
        assert (decision["verdict"], decision["rule"]) == ("allow", "approval")
        await asks(["touch", "all", "more"])
        await asks(["touch", "all"], env={"A": "b"})
        await asks(["touch", "all"], cwd="..")
        await asks(["touch", "all"], stdin=b"x")
        second = await client.open("asks")
        session, first = second, session
        await asks(["touch", "all"])
        with pytest.raises(CommandDeniedError):
            await first.run(["rm", "all"])
        assert await approvals.list() == []
        await clear(client)


async def test_a_rule_is_appended_to_the_policy_and_counts_for_new_sessions(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """Only rules, only such that the whole policy stands and allows the command; with who and when."""
    daemon = asking(make_daemon, tmp_path)
    policy = tmp_path / "policy.toml"
    async with connect(daemon.url) as client, connect(daemon.url) as other:
        approvals = await other.approvals(token(daemon))
        session = await client.open("asks")
        run = asyncio.ensure_future(session.run(["stat", "--cached=never", "."]))
        (question,) = await asked(daemon)
        _, proposal = await approvals.show(question.approval)
        assert "[[rule]]" in proposal
        for bad, why in (
            ("open = true", "only"),
            ("[[rule]]\nid = 'x'", "programs"),
            ("[[rule]]\nid = 'x'\nprograms = ['true']\nany = true", "still gets ask"),
        ):
            with pytest.raises(InvalidRequestError, match=why):
                await approvals.allow(question.approval, scope="rule", rule=bad)
        assert policy.read_text() == ASKING
        status, said = await terminal(
            daemon, "approvals", "allow", question.approval, "--for", "rule", "--rule", "-", input=proposal
        )
        assert status == 0, said
        assert (await run).exit_code is not None
        text = policy.read_text()
        assert text.startswith(ASKING.rstrip())
        assert f"# Allowed by 'uid:{os.geteuid()}' at 20" in text
        assert question.approval in text
        assert [path.name for path in tmp_path.glob(".policy*")] == []
        assert (await session.run(["stat", "--cached=never", "."])).exit_code is not None
        new = await client.open("asks")
        assert (await new.run(["stat", "--cached=never", "."])).exit_code is not None
        assert [record["profile"] for record in events(daemon, "policy_reloaded")] == ["asks"]
        run = asyncio.ensure_future(new.run(["touch", "x"]))
        (question,) = await asked(daemon)
        with pytest.raises(InvalidRequestError, match="still gets ask by touch-asks"):
            rule = "[[rule]]\nid = 'free'\nprograms = ['touch']\nany = true"
            await approvals.allow(question.approval, scope="rule", rule=rule)
        await approvals.deny(question.approval)
        with pytest.raises(CommandDeniedError):
            await run
        await clear(client)


async def test_a_policy_that_is_no_file_takes_no_rule(make_daemon: Callable[..., DaemonProcess]) -> None:
    profiles = {"asks": {"policy": {"use": "developer"}, "pool": {"min": 0, "max": 2}}}
    daemon = make_daemon(profiles=profiles).start()
    async with connect(daemon.url) as client, connect(daemon.url) as other:
        approvals = await other.approvals(token(daemon))
        session = await client.open("asks")
        run = asyncio.ensure_future(session.run(["stat", "--cached=never", "."]))
        (question,) = await asked(daemon)
        with pytest.raises(UnsupportedError, match="no file"):
            await approvals.allow(question.approval, scope="rule", rule="[[rule]]")
        await approvals.deny(question.approval)
        with pytest.raises(CommandDeniedError):
            await run


async def test_who_asks_does_not_answer(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    """Approving takes the token, and a connection that uses sessions cannot approve, nor the other way round."""
    daemon = asking(make_daemon, tmp_path)
    async with connect(daemon.url) as client, connect(daemon.url) as approver:
        with pytest.raises(UnauthorizedError, match="not the approver's token"):
            await client.approvals("0" * 64)
        session = await client.open("asks")
        with pytest.raises(UnauthorizedError, match="either uses sessions or approves"):
            await client.approvals(token(daemon))
        approvals = await approver.approvals(token(daemon))
        for attempt in (
            lambda: approver.open("asks"),
            lambda: approver.attach(session.id),
            lambda: Session(approver, session.snapshot).run(["true"]),
            lambda: Session(approver, session.snapshot).close(),
        ):
            with pytest.raises(UnauthorizedError):
                await attempt()
        assert await approvals.list() == []
        await approver.attach(session.id, mode="reader")
        await session.close()
    async with connect(daemon.url) as nobody:
        from sessiond_client.approvals import Approvals

        with pytest.raises(UnauthorizedError, match="only an approver"):
            await Approvals(nobody).list()


async def test_a_command_that_waits_can_be_withdrawn_and_ends_with_its_session(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    daemon = asking(make_daemon, tmp_path)
    async with connect(daemon.url) as client, connect(daemon.url) as other:
        events_ = (await other.approvals(token(daemon))).watch()
        session = await client.open("asks")
        cancelled = asyncio.ensure_future(session.run(["touch", "a"]))
        assert (await anext(events_)).state == "pending"
        cancelled.cancel()
        assert (await anext(events_)).state == "withdrawn"
        killed = asyncio.ensure_future(session.run(["touch", "b"], command_id="b"))
        assert (await anext(events_)).state == "pending"
        async with connect(daemon.url) as twin:
            await (await (await twin.session(session.id)).command("b")).signal(signal.SIGTERM)
        with pytest.raises(CommandDeniedError, match="withdrawn"):
            await killed
        assert (await anext(events_)).state == "withdrawn"
        lost = asyncio.ensure_future(session.run(["touch", "c"]))
        assert (await anext(events_)).state == "pending"
        await session.close()
        assert (await anext(events_)).state == "withdrawn"
        with pytest.raises(Exception, match="closed"):
            await lost


async def test_what_the_second_parser_decides_holds_up_nobody(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """Decided beside the loop: on record all the same, once each, and a start sent twice is one command."""
    daemon = asking(make_daemon, tmp_path)
    async with connect(daemon.url) as client, connect(daemon.url) as twin:
        session = await client.open("asks")
        again = await twin.session(session.id)
        text = "for x in a b; do echo $x >> out; done; cat out"
        first, second = await asyncio.gather(session.run(text, command_id="loop"), again.run(text, command_id="loop"))
        assert first.stdout == second.stdout == b"a\nb\n"
        with pytest.raises(CommandDeniedError):
            await session.run("for x in a b; do curl $x; done")
        results = await asyncio.gather(*(session.run(f"for x in {n}; do echo $x; done") for n in range(40)))
        assert [int(result.stdout) for result in results] == list(range(40))
        records = [record for record in daemon.audit(session.id) if record["command"] == "loop"]
        assert [record["event"] for record in records] == ["decision", "end"]
        daemon.kill()
        daemon.start()
        assert len(await session.commands()) == 42
        await clear(client)


async def test_a_broken_policy_file_keeps_the_old_policy_and_says_so(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """By `sessiond policy reload` and by SIGHUP; open sessions keep what they were bound to."""
    daemon = asking(make_daemon, tmp_path)
    policy = tmp_path / "policy.toml"
    async with connect(daemon.url) as client:
        old = await client.open("asks")
        policy.write_text("include = [")
        status, said = await terminal(daemon, "policy", "reload")
        assert status == 1
        assert str(policy) in said
        assert (await (await client.open("asks")).run(["ls"])).exit_code == 0
        os.kill(daemon.pid, signal.SIGHUP)
        await eventually("it is refused again", lambda: len(events(daemon, "policy_refused")) == 2)
        assert "policy was not reloaded" in daemon.log
        policy.write_text(ASKING.replace('verdict = "ask"', 'verdict = "deny"'))
        status, said = await terminal(daemon, "policy", "reload")
        assert (status, said) == (0, "reloaded\n")
        new = await client.open("asks")
        with pytest.raises(CommandDeniedError, match="touching needs consent"):
            await new.run(["touch", "x"])
        assert (await new.info()).policy != (await old.info()).policy
        run = asyncio.ensure_future(old.run(["touch", "x"]))
        (question,) = await asked(daemon)
        assert question.policy == (await old.info()).policy
        daemon.kill()
        daemon.start()
        with pytest.raises(CommandDeniedError, match="the policy changed"):
            await run
        assert old.id in [record["session"] for record in events(daemon, "session_bound")]
        assert (await old.info()).policy == (await new.info()).policy
        await clear(client)
