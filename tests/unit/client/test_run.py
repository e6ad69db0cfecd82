"""`run`: results, limits, input, and every way not to end well."""

from __future__ import annotations

import asyncio

import pytest
from sessiond_client import (
    BusyError,
    Client,
    CommandDeniedError,
    CommandFailedError,
    CommandLostError,
    CommandNotStartedError,
    ConnectionLostError,
    DeadlineError,
    DeniedError,
    Gap,
    GoneError,
    NotFoundError,
    OutputLimitError,
    RemoteError,
    Session,
    UsageError,
)
from sessiond_client import Result as ClientResult
from sessiond_protocol import messages
from sessiond_protocol.messages import Ack, ClientMessage, CommandSignal, CommandStart, CommandStdin

from .peer import Peer, Process, Talk


def settled(client: Client) -> bool:
    """Whether nothing is under way on the client's connection."""
    connection = client.link
    return not (len(connection._requests) or connection._followers or connection._errands or connection._muting)


async def settle(client: Client) -> None:
    async with asyncio.timeout(2):
        while not settled(client):
            await asyncio.sleep(0.005)


async def test_a_result(session: Session) -> None:
    result = await session.run("both")
    assert result.ok
    assert (result.exit_code, result.signal, result.cause, result.status) == (0, None, "exit", 0)
    assert (result.stdout, result.stderr, result.text) == (b"out1 out2", b"err1 ", "out1 err1 out2")
    assert (result.duration, result.output_bytes, result.timed_out, result.gaps) == (0.25, 14, False, ())


async def test_text_and_arguments_travel_as_they_are(session: Session, peer: Peer) -> None:
    await session.run("echo 'a b' | cat", env={"A": "1"}, cwd="src")
    await session.run(["echo", "a b", ""], timeout=60, merge_stderr=True, command_id="mine")
    first, second = peer.received(CommandStart)
    assert isinstance(first, CommandStart)
    assert isinstance(second, CommandStart)
    assert (first.text, first.argv, first.env, first.cwd) == ("echo 'a b' | cat", None, {"A": "1"}, "src")
    assert (second.text, second.argv, second.timeout) == (None, ["echo", "a b", ""], 60)
    assert (second.merge_stderr, second.command) == (True, "mine")


async def test_a_nonzero_exit_is_a_value_unless_checked(session: Session) -> None:
    assert (await session.run("exit 3")).exit_code == 3
    with pytest.raises(CommandFailedError, match="exited with 3") as caught:
        await session.run("exit 3", check=True)
    assert caught.value.result.exit_code == 3


async def test_a_timeout_keeps_the_output_so_far(session: Session, peer: Peer) -> None:
    async def work(process: Process) -> None:
        await process.write(b"so far")
        process.cause, process.signals = "timeout", [(15, "group")]

    peer.programs["work"] = work
    result = await session.run("work", timeout=1)
    assert (result.timed_out, result.stdout, result.exit_code, result.status) == (True, b"so far", None, 143)
    with pytest.raises(CommandFailedError, match="was ended by SIGTERM at its timeout"):
        await session.run("work", timeout=1, check=True)


async def test_the_way_a_command_ended_is_described() -> None:
    result = ClientResult(None, 9, "oom", 1.0, 0, 0, 0, 0, b"", b"\xff", b"\xff")
    assert result.describe() == "was ended by SIGKILL out of memory after 1 s"
    assert (result.status, result.text) == (137, "\N{REPLACEMENT CHARACTER}")
    assert "signal 63" in ClientResult(None, 63, "signal", 1.0, 0, 0, 0, 0, b"", b"", b"").describe()


async def test_a_denied_command_names_rule_and_reason(session: Session) -> None:
    with pytest.raises(CommandDeniedError, match="curl is not allowed") as caught:
        await session.run("curl example.org")
    assert isinstance(caught.value, DeniedError)
    assert (caught.value.rule, caught.value.reason) == ("deny-net", "curl is not allowed")


async def test_a_command_that_cannot_be_spawned(session: Session) -> None:
    with pytest.raises(CommandNotStartedError, match="cannot be executed") as caught:
        await session.run(["nope"])
    assert caught.value.code == "invalid"


async def test_a_session_that_is_not_there(session: Session, peer: Peer) -> None:
    peer.sessions.clear()
    with pytest.raises(NotFoundError):
        await session.run("true")


async def test_busy_stays_busy(session: Session, peer: Peer) -> None:
    async def busy(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, CommandStart)
        await talk.refuse(message.id, "busy", "later", "", message.command)
        return True

    peer.handlers[CommandStart] = busy
    with pytest.raises(BusyError) as caught:
        await session.run("true")
    assert isinstance(caught.value, RemoteError)


async def test_a_lost_command_has_no_exit_code(session: Session, client: Client) -> None:
    with pytest.raises(CommandLostError, match="sandbox is lost"):
        await session.run("lose")
    await settle(client)


async def test_a_session_that_is_gone_is_no_lost_command(session: Session, peer: Peer, client: Client) -> None:
    async def gone(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, CommandStart)
        await talk.refuse(message.id, "gone", "session s is closed", "open a new one", message.command)
        return True

    peer.handlers[CommandStart] = gone
    for attempt in (session.run, session.start):
        with pytest.raises(GoneError, match="is closed") as caught:
            await attempt("true")
        assert not isinstance(caught.value, CommandLostError)
    await settle(client)


async def test_a_kill_is_repeated_until_the_end(session: Session, peer: Peer) -> None:
    async def deaf_once(process: Process) -> None:
        await process.killed()
        process.signals.clear()
        await process.killed()

    peer.programs["deaf"] = deaf_once
    task = asyncio.create_task(session.run("deaf"))
    while not peer.processes():
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    await settle(session.client)
    assert len(peer.received(CommandSignal)) == 2


async def test_only_who_writes_is_told_of_the_start(session: Session, peer: Peer) -> None:
    await session.run("cat", stdin=b"x")
    await session.run("cat", stdin=b"x" * 100_000)
    await session.start("true")
    answers = [start.answer for start in peer.received(CommandStart) if isinstance(start, CommandStart)]
    assert answers == ["exited", "started", "started"]


async def test_a_stream_that_ends_early_is_never_an_exit(session: Session) -> None:
    with pytest.raises(ConnectionLostError):
        await session.run("drop")


async def test_more_than_the_window_flows_by_acknowledging(session: Session, peer: Peer) -> None:
    result = await session.run("flood 300000", window=64 * 1024)
    assert result.stdout == b"x" * 300000
    acks = [ack for ack in peer.received(Ack) if isinstance(ack, Ack)]
    assert len(acks) >= 300000 // (64 * 1024)
    assert all(ack.window == 64 * 1024 for ack in acks)
    assert [ack.offset for ack in acks] == sorted({ack.offset for ack in acks})


async def test_too_much_output_kills_the_command_and_keeps_the_beginning(
    session: Session, peer: Peer, client: Client
) -> None:
    with pytest.raises(OutputLimitError, match="max_output=1000 ") as caught:
        await session.run("flood 100000000", max_output=1000, window=64 * 1024)
    assert caught.value.result.stdout == b"x" * 1000
    assert (caught.value.result.cause, caught.value.result.signal) == ("killed", 9)
    assert peer.processes()[0].signals == [(9, "tree")]
    await settle(client)


async def test_exactly_the_limit_is_not_too_much(session: Session) -> None:
    assert len((await session.run("flood 1000", max_output=1000)).stdout) == 1000
    assert (await session.run("true", max_output=0)).ok


async def test_an_output_limit_whose_kill_is_not_answered_has_a_deadline(session: Session, peer: Peer) -> None:
    async def swallow(talk: Talk, message: ClientMessage) -> bool:
        return True

    session.client.link.timeout = 0.05
    peer.handlers[CommandSignal] = swallow
    with pytest.raises(DeadlineError):
        await session.run("flood 100000000", max_output=1000, window=64 * 1024)


@pytest.mark.parametrize("size", [0, 1, 48 * 1024, 48 * 1024 + 1, 3_000_000])
async def test_standard_input_of_any_size(session: Session, peer: Peer, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    result = await session.run(["cat"], stdin=data)
    assert result.stdout == data
    start = peer.received(CommandStart)[0]
    assert isinstance(start, CommandStart)
    assert (start.input == data) is (size <= 48 * 1024 - 3)
    if start.stdin:
        assert len(peer.received(CommandStdin)) > 0


async def test_a_command_that_does_not_read_its_input_still_ends(session: Session, client: Client) -> None:
    assert (await session.run("true", stdin=b"x" * 10_000_000)).ok
    await settle(client)


async def test_cancelling_kills_the_command(session: Session, peer: Peer, client: Client) -> None:
    task = asyncio.create_task(session.run("sleep"))
    while not peer.processes():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(client)
    assert peer.processes()[0].signals == [(9, "tree")]


async def test_cancelling_before_it_started_kills_it_when_it_does(session: Session, peer: Peer, client: Client) -> None:
    peer.delay = 0.02
    task = asyncio.create_task(session.run("sleep"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(client)
    assert peer.processes()[0].signals == [(9, "tree")]


async def test_cancelling_while_input_is_written_leaves_nothing(session: Session, peer: Peer, client: Client) -> None:
    async def hold(process: Process) -> None:
        await process.killed()

    peer.programs["hold"] = hold
    task = asyncio.create_task(session.run("hold", stdin=b"x" * 1_000_000))
    while not peer.received(CommandStdin):
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(client)


async def test_closing_the_client_finishes_the_kill_of_a_cancelled_run(peer: Peer, session: Session) -> None:
    task = asyncio.create_task(session.run("sleep"))
    while not peer.processes():
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    await session.client.close()
    assert peer.processes()[0].signals == [(9, "tree")]


async def test_an_end_that_is_not_reported_has_a_deadline(session: Session, peer: Peer) -> None:
    async def never(process: Process) -> None:
        await process.until(lambda: False)

    peer.programs["never"] = never
    session.client.link.timeout = 0.02
    with pytest.raises(DeadlineError, match="end of command"):
        await session.run("never", timeout=0.01, grace=0)


async def test_a_start_that_is_not_answered_has_a_deadline_and_is_killed(session: Session, peer: Peer) -> None:
    async def late(talk: Talk, message: ClientMessage) -> bool:
        await asyncio.sleep(0.1)
        return False

    peer.handlers[CommandStart] = late
    session.client.link.timeout = 0.05
    with pytest.raises(DeadlineError):
        await session.start("sleep")
    async with asyncio.timeout(2):
        while not (peer.processes() and peer.processes()[0].signals):
            await asyncio.sleep(0.01)


async def test_output_of_what_a_command_left_behind_is_muted(session: Session, peer: Peer, client: Client) -> None:
    gate = asyncio.Event()

    async def leave(process: Process) -> int:
        async def child() -> None:
            await gate.wait()
            for _ in range(5):
                await process.write(b"late")
            process.muted = True  # type: ignore[attr-defined]

        process.child = asyncio.create_task(child())  # type: ignore[attr-defined]
        await process.write(b"first")
        return 0

    peer.programs["leave"] = leave
    assert (await session.run("leave")).stdout == b"first"
    gate.set()
    async with asyncio.timeout(2):
        while peer.processes()[0].following:
            await asyncio.sleep(0.005)
    peer.processes()[0].child.cancel()  # type: ignore[attr-defined]
    await settle(client)
    assert len(peer.received(messages.CommandFollow)) == 1


async def test_a_gap_in_a_result_is_told(session: Session, peer: Peer) -> None:
    async def gappy(process: Process) -> int:
        await process.write(b"ab")
        await process.talk.send(messages.Gap(**process.key, start=2, end=10))
        process.offset = 10
        await process.write(b"cd")
        return 0

    peer.programs["gappy"] = gappy
    result = await session.run("gappy")
    assert (result.stdout, result.gaps) == (b"abcd", (Gap(2, 10),))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"command": []}, "argv"),
        ({"command": [""]}, "argv"),
        ({"command": "a\0b"}, "text"),
        ({"command": ["a", 5]}, "argv"),
        ({"command": "x", "timeout": -1}, "timeout"),
        ({"command": "x", "env": {"A=B": "c"}}, "env"),
        ({"command": "x", "command_id": "a b"}, "command"),
        ({"command": "x", "window": 0}, "window"),
        ({"command": "x", "max_output": -1}, "max_output"),
        ({"command": ["x" * 70000]}, "command.start"),
        ({"command": ["\udc80"]}, "argv"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_sent(
    session: Session, peer: Peer, client: Client, arguments: dict[str, object], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        await session.run(**arguments)  # type: ignore[arg-type]
    assert settled(client)
    assert not peer.received(CommandStart)


async def test_the_time_that_a_person_takes_does_not_count(session: Session, peer: Peer) -> None:
    """Neither for the answer to a start, nor for the end of a command with a timeout."""

    async def waits(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, CommandStart)
        key = {"session": message.session, "command": message.command}
        await talk.send(messages.Awaiting(re=message.id, **key, approval="a1", seconds=30.0))
        await asyncio.sleep(0.2)
        return False

    peer.handlers[CommandStart] = waits
    session.client.link.timeout = 0.02
    command = await session.start("both")
    assert (await command.wait()).ok
    assert command.state == "exited"
    assert (await session.run("both", timeout=0.02, grace=0)).ok


async def test_a_command_says_that_it_waits_for_a_person(session: Session, peer: Peer) -> None:
    async def waits(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, CommandStart)
        key = {"session": message.session, "command": message.command}
        await talk.send(messages.Awaiting(re=message.id, **key, approval="a1", seconds=30.0))
        await talk.refuse(message.id, "denied", "nobody allowed it", command=message.command)
        return True

    peer.handlers[CommandStart] = waits
    with pytest.raises(CommandDeniedError, match="nobody allowed it"):
        await session.run("both")
