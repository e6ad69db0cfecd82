"""Connecting, staying connected, and being cut off."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
import sessiond_client.transport
from sessiond_client import (
    Client,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    ProtocolViolationError,
    UnauthorizedError,
    UsageError,
    VersionError,
    connect,
)
from sessiond_protocol.messages import ClientMessage, Hello, Ping, SessionOpen
from websockets.asyncio.server import ServerConnection, unix_serve

from .peer import Peer, Talk


async def swallow(talk: Talk, message: ClientMessage) -> bool:
    return True


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_no_daemon_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match=r"no daemon answers at unix:.*start one with `sessiond serve`"):
        await connect(f"unix:{tmp_path}/none.sock")


async def test_nobody_listens_on_the_port(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectError, match="SESSIOND_URL"):
        await connect(f"ws://127.0.0.1:{unused_tcp_port}")


async def test_what_the_daemon_says_of_itself(client: Client, peer: Peer) -> None:
    assert (client.server, client.profiles, client.capabilities) == ("peer/1", ["default"], ["pool"])
    assert client.url == peer.url
    await client.ping()


async def test_the_token_goes_into_the_header_alone(peer: Peer) -> None:
    async with connect(peer.url, token="t0ken"):
        assert peer.talks[0].authorization == "Bearer t0ken"
        hello = peer.received(Hello)[0]
        assert "t0ken" not in repr(hello)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_unauthorized(peer: Peer, status: int) -> None:
    peer.refuse_http = status
    with pytest.raises(UnauthorizedError) as caught:
        await connect(peer.url)
    assert "SESSIOND_TOKEN" in caught.value.hint


async def test_another_refusal_is_told(peer: Peer) -> None:
    peer.refuse_http = 503
    with pytest.raises(ConnectError, match="HTTP 503"):
        await connect(peer.url)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 10000])
async def test_something_else_answers(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await end(writer)

    async with await asyncio.start_unix_server(serve, str(tmp_path / "x")):
        with pytest.raises((ConnectError, ProtocolViolationError)):
            await connect(f"unix:{tmp_path}/x")


async def test_a_server_without_the_subprotocol_is_refused(tmp_path: Path) -> None:
    async def serve(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with unix_serve(serve, str(tmp_path / "x")):
        with pytest.raises(ProtocolViolationError, match=r"sessiond\.v1"):
            await connect(f"unix:{tmp_path}/x")


async def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await end(writer)

    async with await asyncio.start_unix_server(serve, str(tmp_path / "x")):
        with pytest.raises(ConnectError, match="no answer"):
            await connect(f"unix:{tmp_path}/x", connect_timeout=0.05)


async def test_another_version_is_refused(peer: Peer) -> None:
    peer.version = 2
    with pytest.raises(VersionError, match="version 2"):
        await connect(peer.url)


async def test_timeouts_must_be_positive() -> None:
    with pytest.raises(UsageError):
        connect("unix:/x", request_timeout=0)


async def test_a_request_has_a_deadline_and_its_late_reply_is_no_violation(peer: Peer) -> None:
    held: list[Ping] = []

    async def hold(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, Ping)
        held.append(message)
        return len(held) == 1

    peer.handlers[Ping] = hold
    async with connect(peer.url, request_timeout=0.05) as client:
        with pytest.raises(DeadlineError, match=r"0\.05 s"):
            await client.ping()
        await peer.talks[0].answer(held[0])
        await client.ping()


async def test_a_cancelled_request_is_no_violation(peer: Peer, client: Client) -> None:
    peer.delay = 0.05
    task = asyncio.create_task(client.ping())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.ping()


async def test_everybody_who_waits_hears_of_the_end(peer: Peer, client: Client) -> None:
    peer.handlers[Ping] = swallow
    waiting = [asyncio.create_task(client.ping()) for _ in range(3)]
    await asyncio.sleep(0.02)
    peer.talks[0].drop()
    for task in waiting:
        with pytest.raises(ConnectionLostError):
            await task
    with pytest.raises(ConnectionLostError):
        await client.ping()


async def test_the_daemons_farewell_is_the_reason(peer: Peer, client: Client) -> None:
    peer.handlers[Ping] = swallow
    task = asyncio.create_task(client.ping())
    await asyncio.sleep(0.02)
    await peer.talks[0].socket.close(1001, "stopping")
    with pytest.raises(ConnectionLostError, match=r"1001 \(stopping\)"):
        await task


async def test_closing_twice_and_using_it_afterwards(peer: Peer) -> None:
    client = await connect(peer.url)
    await client.close()
    await client.close()
    with pytest.raises(ConnectionLostError, match="was closed"):
        await client.ping()


async def test_a_server_that_does_not_say_goodbye_cannot_hold_up_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessiond_client.transport, "CLOSE_TIMEOUT", 0.05)
    async with Peer(tmp_path / "x") as peer:
        client = await connect(peer.url)
        peer.talks[0].socket.transport.pause_reading()
        await client.close()
        peer.talks[0].drop()


async def test_a_silent_connection_is_pinged_and_kept(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessiond_client.transport, "KEEPALIVE", 0.03)
    async with connect(peer.url) as client:
        await asyncio.sleep(0.3)
        await client.ping()


async def test_a_dead_connection_is_noticed(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessiond_client.transport, "KEEPALIVE", 0.03)
    async with connect(peer.url, reconnect_timeout=0) as client:
        peer.handlers[Ping] = swallow
        waiting = asyncio.create_task(client.ping())
        await asyncio.sleep(0)
        peer.talks[0].socket.transport.pause_reading()
        with pytest.raises(ConnectionLostError, match="silent"):
            await waiting
        peer.talks[0].drop()


async def test_many_requests_at_once_keep_their_order(peer: Peer, client: Client) -> None:
    names = [f"n{i}" for i in range(200)]
    await asyncio.gather(*(client.open(name=name) for name in names))
    assert [m.name for m in peer.received(SessionOpen) if isinstance(m, SessionOpen)] == names


async def test_a_daemon_that_does_not_read_holds_writers_up_and_is_given_up(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessiond_client.transport, "_WRITE_BUFFER", 1024)
    async with connect(peer.url, request_timeout=0.1) as client:
        peer.talks[0].socket.transport.pause_reading()
        with pytest.raises(DeadlineError):
            for _ in range(1000):
                session = asyncio.ensure_future(client.open(env={"A": "x" * 60000}, session_id="s"))
                await asyncio.sleep(0)
                session.add_done_callback(lambda task: task.cancelled() or task.exception())
                if client.link._connection.congested:
                    await client.ping()
        peer.talks[0].drop()
