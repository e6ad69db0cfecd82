"""A command that runs: its output piece by piece, its input, its control, and cancelling in the middle of each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sessiond_client import (
    Client,
    Command,
    CommandLostError,
    ConnectionLostError,
    FencedError,
    Gap,
    NotFoundError,
    Output,
    Session,
    StdinClosedError,
    UsageError,
    connect,
)
from sessiond_protocol import messages
from sessiond_protocol.messages import Ack, ClientMessage, CommandStdin

from .peer import STDIN_WINDOW, Peer, Process, Talk
from .test_run import settle, settled


async def read_all(command: Command) -> bytes:
    return b"".join([piece.data async for piece in command if isinstance(piece, Output)])


async def test_output_as_it_comes(session: Session) -> None:
    command = await session.start("both")
    assert command.pid == 42
    assert command.session is session
    pieces = [piece async for piece in command]
    assert b"".join(piece.data for piece in pieces if isinstance(piece, Output)) == b"out1 err1 out2"
    assert [piece.stream for piece in pieces if isinstance(piece, Output)] == ["stdout", "stderr", "stdout"]
    assert command.ended
    assert command.offset == 14
    assert (await command.wait()).exit_code == 0
    assert [piece async for piece in command] == []


async def test_input_and_output_take_turns(session: Session, client: Client) -> None:
    command = await session.start(["cat"])
    for word in (b"one", b"two"):
        await command.write(word)
        assert await anext(command) == Output("stdout", word, 0 if word == b"one" else 3)
    assert command.stdin_offset == 6
    await command.close_stdin()
    await command.close_stdin()
    assert (await command.wait()).ok
    with pytest.raises(StdinClosedError, match="has ended"):
        await command.write(b"late")
    await settle(client)


async def test_writing_after_closing_is_a_mistake(session: Session, peer: Peer) -> None:
    command = await session.start("sleep")
    await command.close_stdin()
    with pytest.raises(UsageError, match="closed already"):
        await command.write(b"x")
    without = await session.start("sleep", stdin=False)
    with pytest.raises(UsageError, match="without standard input"):
        await without.write(b"x")
    await without.close_stdin()


async def test_a_command_that_reads_no_more_breaks_the_pipe(session: Session, peer: Peer) -> None:
    async def deaf(process: Process) -> None:
        await process.talk.send(messages.StdinAck(**process.key, offset=0, window=0))
        await process.killed()

    peer.programs["deaf"] = deaf
    command = await session.start("deaf")
    with pytest.raises(StdinClosedError, match="reads no more"):
        for _ in range(1000):
            await command.write(b"x" * 1000)
    await command.close_stdin()


async def test_input_that_the_daemon_refuses(session: Session, peer: Peer) -> None:
    async def refuse(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, CommandStdin)
        key = {"session": message.session, "command": message.command}
        await talk.send(messages.Error(**key, code="fenced", message="another connection took this session over"))
        return True

    peer.handlers[CommandStdin] = refuse
    command = await session.start("cat")
    with pytest.raises(FencedError):
        for _ in range(1000):
            await command.write(b"x" * 10000)


async def test_writes_do_not_mix_and_keep_the_window(session: Session, peer: Peer) -> None:
    command = await session.start("cat")
    reading = asyncio.create_task(read_all(command))
    blocks = [bytes([i]) * (STDIN_WINDOW + 1000) for i in range(4)]
    await asyncio.gather(*(command.write(block) for block in blocks))
    await command.close_stdin()
    assert await reading == b"".join(blocks)


async def test_cancelling_a_read_loses_nothing(session: Session, peer: Peer) -> None:
    gate = asyncio.Event()

    async def later(process: Process) -> int:
        await gate.wait()
        await process.write(b"here")
        return 0

    peer.programs["later"] = later
    command = await session.start("later")
    for _ in range(3):
        task = asyncio.ensure_future(anext(command))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.set()
    assert await anext(command) == Output("stdout", b"here", 0)


async def test_cancelling_a_write_tells_how_much_went(session: Session, peer: Peer, client: Client) -> None:
    async def slow(process: Process) -> int:
        await process.killed()
        while data := await process.read():
            await process.write(data)
        return 0

    peer.programs["slow"] = slow
    command = await session.start("slow")
    data = bytes(range(256)) * 4096
    task = asyncio.ensure_future(command.write(data))
    waiting = asyncio.ensure_future(command.write(b"never"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    task.cancel()
    await asyncio.wait([task, waiting])
    sent = command.stdin_offset
    assert sent == STDIN_WINDOW
    await command.signal(10)
    reading = asyncio.create_task(read_all(command))
    await command.write(data[sent:])
    await command.close_stdin()
    assert await reading == data
    await settle(client)


async def test_cancelling_a_wait_leaves_the_command(session: Session, peer: Peer, client: Client) -> None:
    command = await session.start("sleep")
    task = asyncio.ensure_future(command.wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not peer.processes()[0].signals
    await command.kill()
    assert (await command.wait()).signal == 9
    await settle(client)


async def test_cancelling_a_start_kills(session: Session, peer: Peer, client: Client) -> None:
    peer.delay = 0.02
    task = asyncio.create_task(session.start("sleep"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(client)
    assert peer.processes()[0].signals == [(9, "tree")]


async def test_waiting_needs_no_reader(session: Session, peer: Peer) -> None:
    async def full(process: Process) -> int:
        await process.write(b"x" * 1000)
        return 0

    async def end(talk: Talk, message: ClientMessage) -> bool:
        assert isinstance(message, messages.CommandWait)
        process = talk.processes[message.session, message.command]
        ending = messages.Exit(
            code=4,
            cause="exit",
            output_bytes=1000,
            wall_seconds=1,
            user_seconds=0,
            system_seconds=0,
            max_rss_bytes=0,
        )
        info = process.info().model_copy(update={"state": "exited", "exit": ending})
        await talk.send(messages.CommandReply(re=message.id, command=info))
        return True

    peer.programs["full"] = full
    peer.handlers[messages.CommandWait] = end
    command = await session.start("full", window=100)
    assert (await command.wait()).exit_code == 4
    assert await read_all(command) == b"x" * 1000


async def test_unread_output_is_bounded_by_the_window(session: Session, peer: Peer) -> None:
    command = await session.start("flood 1000000", window=50_000)
    await asyncio.sleep(0.1)
    assert peer.processes()[0].offset == 50_000
    assert not peer.received(Ack)
    assert await read_all(command) == b"x" * 1000000


async def test_two_readers_at_once_are_a_mistake(session: Session) -> None:
    command = await session.start("sleep")
    task = asyncio.ensure_future(anext(command))
    await asyncio.sleep(0.01)
    with pytest.raises(UsageError, match="being read already"):
        await anext(command)
    task.cancel()


async def test_signals_and_sizes(session: Session, peer: Peer) -> None:
    command = await session.start("trap")
    await command.resize(24, 80)
    await command.signal(2)
    await command.signal(15, tree=True)
    assert (await command.wait()).exit_code == 7
    process = peer.processes()[0]
    assert (process.signals, process.sizes) == ([(2, "group"), (15, "tree")], [(24, 80)])
    with pytest.raises(UsageError):
        await command.signal(99)


async def test_a_lost_command_says_so_after_its_output(session: Session) -> None:
    command = await session.start("lose")
    assert await anext(command) == Output("stdout", b"partial", 0)
    with pytest.raises(CommandLostError):
        await anext(command)
    with pytest.raises(CommandLostError):
        await command.wait()


async def test_a_lost_connection_is_no_end_of_output(session: Session) -> None:
    command = await session.start("drop")
    assert await anext(command) == Output("stdout", b"partial", 0)
    with pytest.raises(ConnectionLostError):
        await anext(command)
    with pytest.raises(ConnectionLostError):
        await command.write(b"x")
    with pytest.raises(ConnectionLostError):
        await command.wait()


async def test_following_from_an_offset(session: Session, peer: Peer) -> None:
    first = await session.start("echo 0123456789")
    assert await read_all(first) == b"0123456789\n"
    again = await session.command(first.id, offset=4)
    assert again.pid is None
    assert await anext(again) == Output("stdout", b"456789\n", 4)
    assert (await again.wait()).ok
    peer.kept_from = 6
    gappy = await session.command(first.id, offset=2)
    assert [piece async for piece in gappy] == [Gap(2, 6), Output("stdout", b"6789\n", 6)]
    with pytest.raises(NotFoundError):
        await session.command("other")


async def test_going_on_with_standard_input(session: Session, peer: Peer) -> None:
    first = await session.start("cat")
    await first.write(b"abc")
    assert await anext(first) == Output("stdout", b"abc", 0)
    await first.detach()
    with pytest.raises(UsageError, match="not followed any more"):
        await anext(first)
    again = await session.command(first.id, offset=first.offset, stdin_offset=first.stdin_offset)
    await again.write(b"def")
    await again.close_stdin()
    assert await read_all(again) == b"def"
    read_only = await session.command(first.id)
    with pytest.raises(UsageError):
        await read_only.write(b"x")


async def test_following_twice_at_once_is_a_mistake(session: Session, client: Client) -> None:
    command = await session.start("sleep")
    with pytest.raises(UsageError, match="followed already"):
        await session.command(command.id)
    with pytest.raises(UsageError, match="followed already"):
        await session.run("true", command_id=command.id)
    await command.kill()
    await command.wait()
    await settle(client)
    assert settled(client)


async def test_detaching_from_the_session_ends_the_following(session: Session) -> None:
    command = await session.start("sleep")
    await session.detach()
    with pytest.raises(UsageError, match="was detached"):
        await anext(command)


async def test_a_terminal_is_asked_for_with_its_size_and_kind(session: Session, peer: Peer) -> None:
    terminal = await session.terminal(["echo", "x"], rows=5, columns=6, term="vt100", env={"A": "1"}, cwd="d")
    assert (await terminal.wait()).exit_code == 0
    start = peer.processes()[0].start
    assert start.pty is not None
    assert (start.pty.rows, start.pty.columns, start.pty.term) == (5, 6, "vt100")
    assert (start.stdin, start.input, start.env, start.cwd) == (True, b"", {"A": "1"}, "d")


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"columns": 65536}, {"term": "a b"}, {"term": ""}])
async def test_a_terminal_that_cannot_be_is_not_asked_for(session: Session, peer: Peer, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        await session.terminal(**wrong)
    assert peer.processes() == []


async def test_taking_standard_input_over_goes_on_where_the_daemon_says(session: Session, client: Client) -> None:
    first = await session.start("cat")
    await first.write(b"x" * 100)
    async with connect(client.url) as other:
        second = await (await other.session(session.id)).command(first.id, stdin=True)
        assert second.stdin_offset == 100
        await second.write(b"yz")
        await second.close_stdin()
        assert [piece.data async for piece in second if isinstance(piece, Output)][-1].endswith(b"yz")
