"""A connection that is lost comes back, and nobody notices anything but time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import sessiond_client.backoff
import sessiond_client.transport
from sessiond_client import (
    Client,
    Command,
    CommandLostError,
    ConnectionLostError,
    FencedError,
    Gap,
    GoneError,
    NotFoundError,
    Output,
    Session,
    UnauthorizedError,
    UsageError,
    VersionError,
    connect,
    sync,
)
from sessiond_client.backoff import Backoff
from sessiond_protocol import messages
from sessiond_protocol.messages import ClientMessage, CommandSignal, CommandStart, Ping, SessionAttach, SessionOpen

from tests.proxy import CuttingProxy

from .peer import Peer, Process, Talk
from .test_sync import PeerThread

INPUT = bytes(range(256)) * 4


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessiond_client.backoff, "FIRST", 0.001)
    monkeypatch.setattr(sessiond_client.backoff, "LONGEST", 0.01)


@pytest.fixture
async def proxy(peer: Peer, tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(tmp_path / "proxy", peer.path) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: CuttingProxy) -> AsyncIterator[Client]:
    async with connect(proxy.url, request_timeout=5, reconnect_timeout=5) as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def swallow_once(peer: Peer, kind: type) -> None:
    """Let the connection break instead of an answer, once, after the peer has done what was asked."""

    async def handler(talk: Talk, message: ClientMessage) -> bool:
        del peer.handlers[kind]
        talk.send = _nothing  # type: ignore[method-assign]
        await talk.answer(message)
        talk.drop()
        return True

    peer.handlers[kind] = handler


async def _nothing(message: object) -> None:
    pass


async def run(session: Session) -> object:
    return await session.run("talk")


async def run_with_input(session: Session) -> object:
    return await session.run("echo-input", stdin=INPUT * 64)


async def converse(session: Session) -> object:
    command = await session.start("echo-input")
    await command.write(INPUT)
    await command.close_stdin()
    pieces = [piece async for piece in command]
    status = await command.wait()
    assert all(isinstance(piece, Output) for piece in pieces)
    ends = [piece.offset + len(piece.data) for piece in pieces if isinstance(piece, Output)]
    assert [piece.offset for piece in pieces if isinstance(piece, Output)] == [0, *ends[:-1]]
    return b"".join(piece.data for piece in pieces if isinstance(piece, Output)), status


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("work", [run, converse, run_with_input])
async def test_cut_at_every_byte_the_result_is_the_same_and_the_command_ran_once(
    peer: Peer, proxy: CuttingProxy, client: Client, work: Callable[[Session], Awaitable[object]], direction: str
) -> None:
    runs = 0

    async def talk(process: Process) -> int:
        nonlocal runs
        runs += 1
        await process.write(b"out1 ")
        await process.write(b"err1 ", "stderr")
        await process.write(b"out2")
        return 3

    async def echo_input(process: Process) -> int:
        nonlocal runs
        runs += 1
        while data := await process.read():
            await process.write(data)
        return 3

    peer.programs |= {"talk": talk, "echo-input": echo_input}
    session = await client.open()
    expected = await work(session)
    step = 997 if work is run_with_input else 1  # Its 64 KiB of input are the same all over.
    for tries, position in enumerate(itertools.count(0, step), 2):
        before = proxy.cuts
        proxy.cut_after(**{direction: [position]})
        async with asyncio.timeout(10):
            assert await work(session) == expected, f"cut {direction} after {position} bytes"
        assert runs == tries, f"cut {direction} after {position} bytes"
        if proxy.cuts == before:
            break
    assert position > 100


async def test_cut_again_at_every_byte_of_coming_back(peer: Peer, proxy: CuttingProxy, client: Client) -> None:
    session = await client.attach((await client.open()).id)
    expected = await session.run("both")
    for position in itertools.count():
        before = proxy.cuts
        proxy.cut_after(down=[30, position])
        async with asyncio.timeout(10):
            assert await session.run("both") == expected, f"cut after {position} bytes of the second connection"
        if proxy.cuts < before + 2:
            break
    assert position > 300
    assert len(peer.processes()) == position + 2


async def test_an_open_without_an_answer_is_sent_again(peer: Peer, client: Client) -> None:
    swallow_once(peer, SessionOpen)
    session = await client.open(name="n")
    first, second = peer.received(SessionOpen)
    assert first == second
    assert len(peer.sessions) == 1
    assert session.id in peer.sessions
    assert client.reconnects == 1


@pytest.mark.parametrize("kind", [SessionAttach, messages.SessionInfoRequest, messages.SessionList, Ping])
async def test_what_can_be_asked_again_is(peer: Peer, client: Client, kind: type) -> None:
    session = await client.open()
    swallow_once(peer, kind)
    await client.attach(session.id)
    await session.info()
    await client.sessions()
    await client.ping()
    assert client.reconnects == 1


async def test_a_close_without_an_answer_is_sent_again(peer: Peer, client: Client) -> None:
    session = await client.open()
    swallow_once(peer, messages.SessionClose)
    await session.close()
    assert session.snapshot.state == "closed"


@pytest.mark.parametrize("mode", ["writer", "reader"])
async def test_a_session_is_attached_again_as_it_was(peer: Peer, client: Client, mode: str) -> None:
    session = await client.attach((await client.open()).id, mode=mode)  # type: ignore[arg-type]
    peer.talks[-1].drop()
    await until(lambda: client.reconnects)
    await client.ping()
    first, again = peer.received(SessionAttach)
    assert isinstance(first, SessionAttach)
    assert isinstance(again, SessionAttach)
    assert (again.session, again.mode, again.epoch) == (session.id, mode, 1 if mode == "writer" else None)
    peer.talks[-1].drop()
    await until(lambda: client.reconnects == 2)
    await client.ping()
    assert peer.received(SessionAttach)[2] == again.model_copy(update={"id": peer.received(SessionAttach)[2].id})  # type: ignore[union-attr]


async def test_a_detached_session_is_not_attached_again(peer: Peer, client: Client) -> None:
    session = await client.attach((await client.open()).id)
    await session.detach()
    peer.talks[-1].drop()
    await until(lambda: client.reconnects)
    await client.ping()
    assert len(peer.received(SessionAttach)) == 1


async def test_fenced_is_told_and_not_fought_over(peer: Peer, client: Client) -> None:
    session = await client.attach((await client.open()).id)
    peer.talks[-1].drop()
    await until(lambda: client.reconnects)

    async def fence(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, CommandStart)
        await talk.refuse(message.id, "fenced", "another connection took this session over")
        return True

    peer.handlers[CommandStart] = fence
    with pytest.raises(FencedError):
        await session.run("true")
    assert [m.epoch for m in peer.received(SessionAttach) if isinstance(m, SessionAttach)] == [None, 1]


async def test_a_session_that_is_gone_ends_its_commands_and_events_with_an_error(peer: Peer, client: Client) -> None:
    session = await client.attach((await client.open()).id)
    command = await session.start("cat")
    events = session.events()
    event = asyncio.ensure_future(anext(events))
    run_on = asyncio.ensure_future(session.run("sleep"))
    await until(lambda: len(peer.processes()) == 2)

    async def gone(talk: Talk, message: ClientMessage) -> bool:
        await talk.refuse(message.id, "gone", "session s is closed")  # type: ignore[union-attr]
        return True

    for kind in (SessionAttach, CommandStart, messages.CommandFollow):
        peer.handlers[kind] = gone
    peer.talks[-1].drop()
    with pytest.raises(CommandLostError, match="is closed"):
        await command.wait()
    with pytest.raises(CommandLostError):
        await command.next()
    for waiter in (event, run_on):
        with pytest.raises(GoneError, match="is closed"):
            await waiter


async def test_a_command_that_the_daemon_does_not_know_any_more(peer: Peer, client: Client) -> None:
    command = await (await client.open()).start("cat")
    peer.commands.clear()
    peer.talks[-1].drop()
    with pytest.raises(NotFoundError):
        await command.next()


async def test_a_gap_is_surfaced(peer: Peer, client: Client) -> None:
    command = await (await client.open()).start("trap")
    assert await command.next() == Output("stdout", b"ready\n", 0)
    peer.kept_from = 10
    process = peer.processes()[0]
    process.kept, process.offset = [(10, "stdout", b"later")], 15
    process.cursor = 15
    peer.talks[-1].drop()
    assert await command.next() == Gap(6, 10)
    assert await command.next() == Output("stdout", b"later", 10)


async def test_a_command_that_ended_meanwhile(peer: Peer, proxy: CuttingProxy, client: Client) -> None:
    session = await client.open()
    command = await session.start("trap")
    assert await command.next() is not None
    waiting = asyncio.ensure_future(command.wait())
    proxy.refusing = True
    proxy.cut()
    process = peer.processes()[0]
    await until(lambda: not process.following)
    process.limit = 10**6
    process.following, process.talk = True, peer.talks[-1]
    process.signals = [(2, "group"), (2, "group")]
    process.change()
    await until(lambda: process.ending)
    process.following = False
    proxy.refusing = False
    assert (await waiting).exit_code == 7
    assert await command.next() == Output("stdout", b"caught 2\n", 6)
    assert await command.next() is None


async def test_a_full_buffer_holds_the_command_and_nothing_is_lost(peer: Peer, client: Client) -> None:
    command = await (await client.open()).start("flood 1000", window=100)
    process = peer.processes()[0]
    await until(lambda: process.offset == 100)
    peer.talks[-1].drop()
    await until(lambda: client.reconnects)
    await client.ping()
    assert process.offset <= 101
    data = b""
    async for piece in command:
        assert isinstance(piece, Output)
        data += piece.data
    assert data == b"x" * 1000


async def test_standard_input_waits_for_the_connection(peer: Peer, proxy: CuttingProxy, client: Client) -> None:
    command = await (await client.open()).start("cat")
    proxy.refusing = True
    proxy.cut()
    await until(lambda: client.link._connection is None)
    writing = asyncio.ensure_future(command.write(b"abc" * 200_000))
    reading = asyncio.ensure_future(collect(command))
    await asyncio.sleep(0.02)
    assert not writing.done()
    assert command.stdin_offset <= 256 * 1024
    proxy.refusing = False
    await writing
    await command.close_stdin()
    assert await reading == b"abc" * 200_000


async def collect(command: Command) -> bytes:
    data = b""
    async for piece in command:
        assert isinstance(piece, Output)
        data += piece.data
    return data


@pytest.mark.parametrize(("number", "signalled"), [(2, 1), (9, 2)])
async def test_only_a_kill_is_sent_again(peer: Peer, client: Client, number: int, signalled: int) -> None:
    command = await (await client.open()).start("cat")
    swallow_once(peer, CommandSignal)
    if number == 9:
        await command.signal(number)
    else:
        with pytest.raises(ConnectionLostError, match="may have been sent"):
            await command.signal(number)
    await client.ping()
    assert [name for name, _ in peer.processes()[0].signals] == [number] * signalled


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_ends_it_at_once(peer: Peer, client: Client, status: int) -> None:
    command = await (await client.open()).start("cat")
    peer.refuse_http = status
    peer.talks[-1].drop()
    async with asyncio.timeout(2):
        with pytest.raises(UnauthorizedError):
            await command.wait()
    with pytest.raises(UnauthorizedError):
        await client.ping()


async def test_another_version_ends_it_at_once(peer: Peer, client: Client) -> None:
    peer.version = 2
    peer.talks[-1].drop()
    with pytest.raises(VersionError):
        await asyncio.wait_for(client.ping(), 2)


async def test_a_proxy_that_has_no_daemon_for_a_while_is_no_refusal(peer: Peer, client: Client) -> None:
    peer.refuse_http = 503
    peer.talks[-1].drop()
    await asyncio.sleep(0.03)
    peer.refuse_http = None
    await client.ping()
    assert client.reconnects == 1


@pytest.mark.parametrize("code", [1002, 1007, 1008, 1009])
async def test_what_is_this_clients_fault_is_not_tried_again(peer: Peer, client: Client, code: int) -> None:
    await peer.talks[-1].socket.close(code)
    with pytest.raises(ConnectionLostError, match=str(code)):
        await client.ping()
    assert len(peer.talks) == 1


async def test_a_daemon_that_stops_is_waited_for(peer: Peer, client: Client) -> None:
    await peer.talks[-1].socket.close(1001, "stopping")
    await client.ping()
    assert client.reconnects == 1


async def test_it_gives_up_in_time_and_says_so(peer: Peer, proxy: CuttingProxy) -> None:
    async with connect(proxy.url, reconnect_timeout=0.05) as client:
        session = await client.open()
        command = await session.start("cat")
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(ConnectionLostError, match=r"none could be made within 0\.05 s: "):
            await command.wait()
        with pytest.raises(ConnectionLostError, match="none could be made"):
            await session.run("true")


async def test_without_time_to_reconnect_a_loss_is_the_end(peer: Peer, proxy: CuttingProxy) -> None:
    async with connect(proxy.url, reconnect_timeout=0) as client:
        proxy.cut()
        with pytest.raises(ConnectionLostError):
            await client.ping()
        assert len(peer.talks) == 1
    with pytest.raises(UsageError, match="reconnect_timeout"):
        connect(proxy.url, reconnect_timeout=-1)


async def test_time_without_a_connection_does_not_count_against_a_request(peer: Peer, proxy: CuttingProxy) -> None:
    async def swallow(talk: Talk, message: ClientMessage) -> bool:
        return True

    async with connect(proxy.url, request_timeout=0.2, reconnect_timeout=5) as client:
        peer.handlers[Ping] = swallow
        ping = asyncio.ensure_future(client.ping())
        await until(lambda: peer.received(Ping))
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(0.3)
        assert not ping.done()
        del peer.handlers[Ping]
        proxy.refusing = False
        await ping


async def test_cancelling_while_there_is_no_connection_leaves_nothing_pending(
    peer: Peer, proxy: CuttingProxy, client: Client
) -> None:
    session = await client.open()
    command = await session.start("cat")
    proxy.refusing = True
    proxy.cut()
    await until(lambda: client.link._connection is None)
    tasks = [
        asyncio.ensure_future(work)
        for work in (command.wait(), client.ping(), session.run("true"), command.kill(), session.command("c"))
    ]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    seen = len(peer.talks[-1].received)
    proxy.refusing = False
    await client.ping()
    assert len(client.link._requests) == 0
    assert list(client.link._followers) == [(session.id, command.id)]
    assert not client.link._errands
    sent = [type(message).__name__ for message in peer.talks[-1].received]
    assert sent == ["Hello", "CommandFollow", "Ping"]
    assert seen


async def test_a_run_cancelled_while_there_is_no_connection_is_killed_afterwards(
    peer: Peer, proxy: CuttingProxy, client: Client
) -> None:
    session = await client.open()
    running = asyncio.ensure_future(session.run("cat", stdin=b"x" * 100_000))
    await until(peer.processes)
    process = peer.processes()[0]
    proxy.refusing = True
    proxy.cut()
    await until(lambda: client.link._connection is None)
    running.cancel()
    await asyncio.wait((running,))
    proxy.refusing = False
    await until(lambda: (9, "tree") in process.signals or process.ending)


async def test_closing_while_there_is_no_connection(peer: Peer, proxy: CuttingProxy, client: Client) -> None:
    command = await (await client.open()).start("cat")
    waiting = asyncio.ensure_future(command.wait())
    proxy.refusing = True
    proxy.cut()
    await until(lambda: client.link._connection is None)
    async with asyncio.timeout(1):
        await client.close()
    for doomed in (waiting, client.ping()):
        with pytest.raises(ConnectionLostError, match="was closed"):
            await doomed
    talks = len(peer.talks)
    proxy.refusing = False
    await asyncio.sleep(0.03)
    assert len(peer.talks) == talks


async def test_a_half_open_connection_is_noticed_and_replaced(
    peer: Peer, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessiond_client.transport, "KEEPALIVE", 0.05)
    async with connect(proxy.url, connect_timeout=0.2, reconnect_timeout=5) as client:
        command = await (await client.open()).start("cat")
        proxy.frozen.clear()
        await command.write(b"abc")
        await until(lambda: client.link._connection is None)
        proxy.frozen.set()
        assert await command.next() == Output("stdout", b"abc", 0)
        assert client.reconnects == 1


async def test_flapping_does_not_go_on_for_ever(
    peer: Peer, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drop(talk: Talk, message: ClientMessage) -> bool:
        talk.drop()
        return True

    async with connect(proxy.url, reconnect_timeout=0.2) as client:
        peer.handlers[Ping] = drop
        with pytest.raises(ConnectionLostError, match="none could be made"):
            await asyncio.wait_for(client.ping(), 5)


def test_pauses_grow_and_are_drawn_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessiond_client.backoff, "FIRST", 0.1)
    monkeypatch.setattr(sessiond_client.backoff, "LONGEST", 5.0)
    upper = Backoff(lambda: 1.0)
    assert [upper.pause() for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    upper.reset()
    assert upper.pause() == 0.1
    one, other = Backoff(random.Random(7).random), Backoff(random.Random(7).random)
    drawn = [one.pause() for _ in range(20)]
    assert drawn == [other.pause() for _ in range(20)]
    assert all(0 <= pause <= 5 for pause in drawn)
    assert len(set(drawn)) == 20


def test_the_synchronous_client_reconnects_too(tmp_path: Path) -> None:
    daemon = PeerThread(tmp_path / "s.sock")
    try:
        with sync.connect(daemon.url, reconnect_timeout=5) as client:
            command = client.open().start(["cat"])
            daemon.drop()
            command.write(b"abc")
            assert command.next() == Output("stdout", b"abc", 0)
            assert client.reconnects == 1
    finally:
        daemon.stop()
