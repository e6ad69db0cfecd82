"""A daemon that lies, stammers or talks nonsense: only documented errors escape, and nothing hangs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessiond_client import (
    Client,
    Command,
    ConnectionLostError,
    ProtocolViolationError,
    Session,
    SessiondError,
    connect,
)
from sessiond_protocol import messages
from sessiond_protocol.codec import encode
from sessiond_protocol.messages import ClientMessage, CommandStart, Ping

from .peer import Peer, Process, Talk, exit_of

Lie = Callable[[Process], Awaitable[None]]


def output(process: Process, offset: int, data: bytes) -> messages.Output:
    return messages.Output(**process.key, offset=offset, stream="stdout", data=data)


async def hole(process: Process) -> None:
    await process.talk.send(output(process, 5, b"x"))


async def repeat(process: Process) -> None:
    await process.talk.send(output(process, 0, b"abc"))
    await process.talk.send(output(process, 0, b"abc"))


async def beyond_the_window(process: Process) -> None:
    await process.talk.send(output(process, 0, b"x" * (process.limit + 1)))


async def backward_gap(process: Process) -> None:
    await process.talk.send(messages.Gap(**process.key, start=0, end=0))


async def gap_elsewhere(process: Process) -> None:
    await process.talk.send(messages.Gap(**process.key, start=7, end=9))


async def early_end(process: Process) -> None:
    await process.talk.send(output(process, 0, b"abc"))
    process.offset = process.cursor = 10
    await process.talk.send(messages.Exited(**process.key, exit=exit_of(process, 0)))


async def input_never_sent(process: Process) -> None:
    await process.talk.send(messages.StdinAck(**process.key, offset=5, window=100))


async def unknown_reply(process: Process) -> None:
    await process.talk.send(messages.Ok(re=999_999))


async def nonsense(process: Process) -> None:
    await process.talk.raw(b"\xc1")


async def text(process: Process) -> None:
    await process.talk.raw("hello")


async def empty(process: Process) -> None:
    await process.talk.raw(b"")


async def unknown_type(process: Process) -> None:
    await process.talk.raw(msgpack.packb({"type": "surprise"}))


async def unknown_field(process: Process) -> None:
    await process.talk.raw(msgpack.packb({"type": "ok", "re": 1, "extra": 1}))


async def too_large(process: Process) -> None:
    await process.talk.raw(b"\0" * (2**20 + 1))


LIES: list[Lie] = [
    hole,
    repeat,
    beyond_the_window,
    backward_gap,
    gap_elsewhere,
    early_end,
    input_never_sent,
    unknown_reply,
    nonsense,
    text,
    empty,
    unknown_type,
    unknown_field,
    too_large,
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_ends_the_connection_and_is_no_result(session: Session, peer: Peer, lie: Lie) -> None:
    async def program(process: Process) -> None:
        await lie(process)
        await process.killed()

    peer.programs["lie"] = program
    command = await session.start("lie", window=100_000)
    with pytest.raises(ProtocolViolationError):
        await command.wait()
    with pytest.raises(ProtocolViolationError):
        while await command.next() is not None:
            pass
    with pytest.raises(ProtocolViolationError):
        await session.run("true")
    async with asyncio.timeout(2):
        await peer.talks[0].socket.wait_closed()


async def test_the_wrong_reply_is_a_violation(session: Session, peer: Peer, client: Client) -> None:
    async def wrong(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, Ping | CommandStart)
        await talk.send(messages.SessionsReply(re=message.id, sessions=[]))
        return True

    peer.handlers[Ping] = peer.handlers[CommandStart] = wrong
    with pytest.raises(ProtocolViolationError):
        await client.ping()
    with pytest.raises(ProtocolViolationError):
        await session.run("true")


async def test_events_about_strangers_are_ignored(session: Session, peer: Peer, client: Client) -> None:
    key: dict[str, Any] = {"session": "other", "command": "other"}
    talk = peer.talks[0]
    await talk.send(messages.Failed(**key, failure=messages.Failure(code="gone", message="x")))
    await talk.send(messages.StdinAck(**key, offset=0, window=1))
    await talk.send(messages.Error(**key, code="gone", message="x"))
    await talk.send(messages.SessionEvent(session=session.snapshot, reason="x"))
    await client.ping()


async def test_an_error_about_nothing_is_the_reason_for_the_end(peer: Peer, client: Client) -> None:
    await peer.talks[0].send(messages.Error(code="unavailable", message="the daemon is stopping"))
    peer.talks[0].drop()
    with pytest.raises(ConnectionLostError, match="the daemon is stopping"):
        while True:
            await client.ping()


async def test_a_message_in_fragments_is_one_message(session: Session, peer: Peer) -> None:
    async def fragments(process: Process) -> int:
        frame = encode(output(process, 0, b"abcdef"))
        process.offset = process.cursor = 6
        await process.talk.socket.send([frame[:10], frame[10:20], frame[20:]])
        return 0

    peer.programs["fragments"] = fragments
    assert (await session.run("fragments")).stdout == b"abcdef"


async def test_fragments_without_end_are_too_large(session: Session, peer: Peer) -> None:
    async def fragments(process: Process) -> None:
        await process.talk.socket.send([b"x" * 1000] * 2000)

    peer.programs["fragments"] = fragments
    with pytest.raises(ProtocolViolationError):
        await session.run("fragments")


async def test_byte_by_byte_is_the_same_as_at_once(peer: Peer, tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while byte := await reader.read(1):
            writer.write(byte)
            await writer.drain()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(peer.path))
        await asyncio.gather(drip(reader, up_writer), drip(up_reader, writer))

    server = await asyncio.start_unix_server(proxy, str(tmp_path / "proxy"))
    async with server, connect(f"unix:{tmp_path}/proxy") as client:
        session = await client.open()
        result = await session.run("both")
        assert (result.stdout, result.stderr, result.text) == (b"out1 out2", b"err1 ", "out1 err1 out2")
        assert (await session.run("cat", stdin=b"x" * 60_000)).stdout == b"x" * 60_000


async def behave_badly(frames: list[bytes], then_drop: bool) -> None:
    """Everything that a client can wait for, while the daemon sends `frames` in place of output."""
    with tempfile.TemporaryDirectory() as directory:
        async with Peer(Path(directory) / "s") as peer:

            async def program(process: Process) -> int:
                for frame in frames:
                    await process.talk.raw(frame)
                if then_drop:
                    process.talk.drop()
                return 0

            peer.programs["bad"] = program
            async with connect(peer.url, request_timeout=5) as client:
                try:
                    session = await client.open()
                    command: Command = await session.start("bad", command_id="c")
                    async with asyncio.timeout(5):
                        await asyncio.gather(command.wait(), client.ping(), session.run("true"))
                except SessiondError:
                    pass


key = {"session": st.just("s"), "command": st.just("c")}
NUMBERS = st.integers(-2, 300) | st.just(2**53) | st.just(2**64 - 1)
FRAMES = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | NUMBERS | st.text(max_size=8), max_size=5).map(
        msgpack.packb
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["output", "gap", "exited", "failed", "started", "ok", "error", "stdin.ack", "session.event", "pong"]
            ),
            **key,
        },
        optional={
            "re": NUMBERS,
            "offset": NUMBERS,
            "window": NUMBERS,
            "from": NUMBERS,
            "to": NUMBERS,
            "pid": NUMBERS,
            "stream": st.sampled_from(["stdout", "stderr", "x"]),
            "data": st.binary(max_size=20),
            "code": st.sampled_from(["invalid", "gone", "x"]),
            "message": st.text(max_size=5),
        },
    ).map(msgpack.packb),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FRAMES, max_size=6), st.booleans())
def test_whatever_a_daemon_sends_only_documented_errors_escape(frames: list[bytes], then_drop: bool) -> None:
    asyncio.run(behave_badly(frames, then_drop), debug=True)


async def test_a_request_that_is_not_open_cannot_wait_for_a_person(session: Session, peer: Peer) -> None:
    async def lie(talk: Talk, message: ClientMessage) -> bool:
        await talk.send(messages.Awaiting(re=12345, session="s", command="c", approval="a", seconds=1.0))
        return True

    peer.handlers[Ping] = lie
    with pytest.raises(ProtocolViolationError, match="12345"):
        await session.client.ping()
