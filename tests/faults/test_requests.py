"""Requests sent twice, by two, behind the window or without anybody reading the answers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from sessiond_client import Client, ConflictError, FencedError, GoneError, NotFoundError, Output, SessionLimits, connect
from sessiond_protocol.codec import encode
from sessiond_protocol.messages import (
    Ack,
    CommandFollow,
    CommandInfo,
    CommandList,
    CommandReply,
    CommandSignal,
    CommandStart,
    CommandStdin,
    CommandWait,
    Error,
    Exited,
    Gap,
    Message,
    Ok,
    Ping,
    Pong,
    SessionAttach,
    SessionReply,
    Started,
    StdinAck,
)
from sessiond_protocol.messages import Output as OutputMessage

from tests.daemon import DaemonProcess, eventually, python
from tests.wire import Wire


def start(session: str, command: str, *argv: str, **fields: object) -> dict[str, object]:
    return {"session": session, "command": command, "argv": list(argv), **fields}


@pytest.mark.parametrize("answer", ["started", "exited"])
async def test_same_command_twice_runs_once(client: Client, daemon: DaemonProcess, answer: str) -> None:
    """Row 42: the same id and body: the same answer and output, on any connection, while it runs and afterwards."""
    session = await client.open("open")
    body = start(session.id, "once", "sh", "-c", "echo ran >> log; cat log; read line", stdin=True, window=65536)
    async with await Wire.greeted(daemon) as one, await Wire.greeted(daemon) as two:
        await one.ask(Started, CommandStart, **body)
        assert (await one.expect(OutputMessage)).data == b"ran\n"
        number = 77
        await two.send(CommandStart.model_validate({"id": number, **body, "answer": answer}))
        if answer == "started":
            assert (await two.expect(Started)).re == number
        assert (await two.expect(OutputMessage)).data == b"ran\n"
        await one.send(CommandStdin(session=session.id, command="once", offset=0, data=b"\n"))
        assert (await one.expect(Exited)).exit.code == 0
        again = await two.expect(Exited)
        assert (again.exit.code, again.re) == (0, number if answer == "exited" else None)
        # and after its end, once more from the beginning
        await two.send(CommandStart.model_validate({"id": 78, **body, "answer": answer}))
        if answer == "started":
            assert (await two.expect(Started)).re == 78
        assert (await two.expect(OutputMessage)).data == b"ran\n"
        assert (await two.expect(Exited)).re == (78 if answer == "exited" else None)
    assert (await session.run(["cat", "log"])).stdout == b"ran\n"


async def test_same_command_with_another_body(client: Client, daemon: DaemonProcess) -> None:
    """Row 42: `conflict`, and nothing runs; whatever in the body differs."""
    session = await client.open("open")
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "c", "sleep", "0"))
        for other in (
            {"argv": ["sleep", "1"]},
            {"env": {"A": "1"}},
            {"cwd": "/tmp"},
            {"timeout": 3.0},
            {"stdin": True},
            {"input": b"x"},
            {"merge_stderr": True},
        ):
            error = await wire.refused(CommandStart, **{**start(session.id, "c", "sleep", "0"), **other})
            assert (error.code, error.command) == ("conflict", "c"), other
    assert len(await session.commands()) == 1


async def test_command_that_failed_or_was_denied_answers_the_same_again(client: Client, daemon: DaemonProcess) -> None:
    """Row 42: the answer is the first one's error, and nothing is tried again."""
    session = await client.open("strict")
    async with await Wire.greeted(daemon) as wire:
        for argv, code in ((["echo"], None), (["cat", "x"], None), (["rm"], "denied")):
            name = argv[0]
            for _ in range(2):
                if code:
                    assert (await wire.refused(CommandStart, **start(session.id, name, *argv))).code == code
                else:
                    await wire.ask(Started, CommandStart, **start(session.id, name, *argv))
        for _ in range(2):
            error = await wire.refused(CommandStart, **start(session.id, "where", "echo", cwd="missing"))
            assert error.code == "invalid"
    decisions = [record for record in daemon.audit(session.id) if record["event"] == "decision"]
    assert len(decisions) == 4


async def test_answer_at_the_end_without_following(client: Client, daemon: DaemonProcess) -> None:
    """Who wants only the result and no output gets it."""
    session = await client.open("open")
    async with await Wire.greeted(daemon) as wire:
        reply = await wire.ask(
            Exited, CommandStart, **start(session.id, "c", "sh", "-c", "echo x; exit 4", answer="exited")
        )
        assert (reply.exit.code, reply.exit.output_bytes) == (4, 2)
        assert not [message for message in wire.messages if isinstance(message, OutputMessage)]


async def test_session_opened_twice(client: Client, daemon: DaemonProcess) -> None:
    """Row 42 for sessions: the same body the same session; another body, or one that has ended, a conflict."""
    name = f"twice-{os.getpid()}-{daemon.engine.name}"
    one = await client.open("open", session_id=name, labels={"a": "1"}, ttl=600)
    async with connect(daemon.url) as other:
        two = await other.open("open", session_id=name, labels={"a": "1"}, ttl=600)
        assert two.id == one.id
        assert (await two.info()).created == (await one.info()).created
        for body in ({"labels": {"a": "2"}}, {"ttl": 601}, {"env": {"A": "1"}}, {"limits": SessionLimits(pids=9)}):
            with pytest.raises(ConflictError):
                await other.open("open", session_id=name, **{"labels": {"a": "1"}, "ttl": 600, **body})
        with pytest.raises(ConflictError):
            await other.open("strict", session_id=name, labels={"a": "1"}, ttl=600)
    assert daemon.status()["sessions"] == 2
    await one.close()
    with pytest.raises(ConflictError):
        await client.open("open", session_id=name, labels={"a": "1"}, ttl=600)


async def test_sessions_opened_at_once_under_one_name(client: Client, daemon: DaemonProcess) -> None:
    """Row 42: two opens in flight open one session."""
    import asyncio

    name = f"race-{os.getpid()}-{daemon.engine.name}"
    opened = await asyncio.gather(*(client.open("open", session_id=name) for _ in range(8)))
    assert {session.id for session in opened} == {name}
    assert daemon.status()["sessions"] == 2


async def test_gap_from_to(client: Client, daemon: DaemonProcess) -> None:
    """Row 45: on the wire: `gap {from, to}` first, then output from exactly there on."""
    session = await client.open("small")
    await session.run(python("import os\nfor n in range(512): os.write(1, bytes([n % 251]) * 8192)"), command_id="long")
    async with await Wire.greeted(daemon) as wire:
        reply = await wire.ask(CommandReply, CommandFollow, session=session.id, command="long", offset=5, window=4096)
        info: CommandInfo = reply.command
        assert info.output_from > 5
        gap = await wire.expect(Gap)
        assert (gap.start, gap.end) == (5, info.output_from)
        position = gap.end
        await wire.send(Ack(session=session.id, command="long", offset=position, window=4096))
        while position < info.output_to:
            piece = await wire.expect(OutputMessage)
            assert piece.offset == position
            assert piece.data[0] == position // 8192 % 251
            position += len(piece.data)
            await wire.send(Ack(session=session.id, command="long", offset=position, window=65536))
        await wire.expect(Exited)
        error = await wire.refused(
            CommandFollow, session=session.id, command="long", offset=info.output_to + 1, window=1
        )
        assert error.code == "invalid"


async def test_window_is_kept(client: Client, daemon: DaemonProcess) -> None:
    """Never more than was granted: 10 bytes, then 3 more, then all."""
    session = await client.open("open")
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "c", "printf", "x" * 100, window=10))

        async def upto(end: int) -> None:
            position = end - {10: 10, 13: 3, 100: 87}[end]
            while position < end:
                piece = await wire.expect(OutputMessage)
                assert piece.offset == position
                position += len(piece.data)
            assert position == end
            await wire.ask(Pong, Ping)
            assert not [message for message in wire.messages if isinstance(message, OutputMessage)]

        await upto(10)
        await wire.send(Ack(session=session.id, command="c", offset=10, window=3))
        await upto(13)
        await wire.send(Ack(session=session.id, command="c", offset=0, window=1))  # takes nothing back, gives nothing
        await wire.send(Ack(session=session.id, command="c", offset=13, window=1000))
        await upto(100)
        assert (await wire.expect(Exited)).exit.output_bytes == 100


@pytest.mark.parametrize("lie", [(10**15, 10**15), (2**53 - 1, 2**53 - 1)])
async def test_acknowledgement_of_what_was_not_sent(
    client: Client, daemon: DaemonProcess, lie: tuple[int, int]
) -> None:
    """An `ack` that lies harms nobody but its sender."""
    session = await client.open("small")
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "c", "head", "-c", "600000", "/dev/zero", window=1))
        await wire.send(Ack(session=session.id, command="c", offset=lie[0], window=lie[1]))
        assert (await wire.expect(Exited)).exit.output_bytes == 600_000
        await wire.ask(Pong, Ping)


async def test_newest_writer_wins(client: Client, daemon: DaemonProcess) -> None:
    """Row 46: the older writer is fenced from everything that changes the session, still reads, and may come back."""
    session = await client.open("open")
    await session.attach()
    command = await session.start(["cat"])
    async with connect(daemon.url) as other:
        taken = await other.attach(session.id)
        assert (await taken.info()).attached == 2
        with pytest.raises(FencedError):
            await session.run(["true"])
        with pytest.raises(FencedError):
            await command.signal(signal.SIGTERM)
        with pytest.raises(FencedError):
            await session.close()
        assert (await session.info()).state == "open"
        assert [info.command for info in await session.commands()] == [command.id]
        theirs = await taken.command(command.id, stdin_offset=0)
        await theirs.write(b"theirs\n")
        piece = await command.next()
        assert isinstance(piece, Output)
        assert piece.data == b"theirs\n"  # the fenced one still follows
        await session.attach()
        with pytest.raises(FencedError):
            await taken.run(["true"])
        assert (await session.run(["true"])).ok
    assert (await session.run(["true"])).ok


async def test_fenced_writer_is_told_of_lost_input(client: Client, daemon: DaemonProcess) -> None:
    """Row 46: what has no reply is answered by an error without `re` that names the command."""
    session = await client.open("open")
    async with await Wire.greeted(daemon) as old, await Wire.greeted(daemon) as new:
        await old.ask(SessionReply, SessionAttach, session=session.id)
        await old.ask(Started, CommandStart, **start(session.id, "c", "cat", stdin=True, window=100))
        await new.ask(SessionReply, SessionAttach, session=session.id)
        await old.send(CommandStdin(session=session.id, command="c", offset=0, data=b"x"))
        error = await old.expect(Error)
        assert (error.re, error.session, error.command, error.code) == (None, session.id, "c", "fenced")


async def test_readers_may_be_many(client: Client, daemon: DaemonProcess) -> None:
    """Row 46: a reader follows, does not write, and fences nobody."""
    session = await client.open("open")
    await session.attach()
    command = await session.start(["cat"])
    readers = [await Wire.greeted(daemon) for _ in range(5)]
    try:
        for reader in readers:
            await reader.ask(SessionReply, SessionAttach, session=session.id, mode="reader")
            await reader.ask(CommandReply, CommandFollow, session=session.id, command=command.id, window=100)
            assert (await reader.refused(CommandStart, **start(session.id, "no", "true"))).code == "fenced"
        await command.write(b"to all\n")
        for reader in readers:
            assert (await reader.expect(OutputMessage)).data == b"to all\n"
        await command.close_stdin()
        for reader in readers:
            assert (await reader.expect(Exited)).exit.code == 0
    finally:
        for reader in readers:
            await reader.close()
    assert (await session.run(["true"])).ok


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "in one write"])
async def test_client_that_never_reads(client: Client, daemon: DaemonProcess, at_once: bool) -> None:
    """Row 47: what waits for it is bounded, it is disconnected, and its command goes on."""
    session = await client.open("open")
    for number in range(16):
        await session.run(["true", "x" * 48_000], command_id=f"long{number}")
    before = daemon.memory()
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # the peak begins anew
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "goes-on", "cat", stdin=True, window=1000))
        request = encode(CommandList(id=5, session=session.id))
        with pytest.raises((ConnectionError, AssertionError)):
            for _ in range(199):  # each is answered by 768 KiB
                if at_once:
                    wire.protocol.send_binary(request)
                else:
                    await wire.send_frame(request)
            await wire.send_frame(request)
            await eventually("the daemon hangs up", lambda: b"client does not read" in daemon.log.encode())
            while await wire.next() is not None:
                pass
            raise ConnectionError
        assert "client does not read" in daemon.log
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
        assert peak - before < 128 << 20
    follower = await session.command("goes-on", stdin_offset=0)
    await follower.write(b"alive")
    piece = await follower.next()
    assert isinstance(piece, Output)
    assert piece.data == b"alive"


async def test_output_for_a_client_that_never_reads_waits_where_it_is_kept(
    client: Client, daemon: DaemonProcess
) -> None:
    """Row 47: 64 MiB for one that does not read cost the daemon no more than the spool and a buffer; others go on."""
    session = await client.open("open")
    before = daemon.memory()
    async with await Wire.greeted(daemon) as wire:
        for number in range(4):
            await wire.ask(
                Started,
                CommandStart,
                **start(session.id, f"c{number}", "head", "-c", "16M", "/dev/zero", window=0),
            )
            await wire.ask(CommandReply, CommandFollow, session=session.id, command=f"c{number}", window=16 << 20)
        assert (await session.run(["true"])).ok
        assert daemon.memory() - before < 4 * (4 + 1 + 1) << 20
        ended: dict[str, int] = {}
        offsets = dict.fromkeys((f"c{number}" for number in range(4)), 0)
        while len(ended) < 4:
            message: Message | None = await wire.next()
            if isinstance(message, OutputMessage):
                assert message.offset == offsets[message.command]
                offsets[message.command] += len(message.data)
                await wire.send(
                    Ack(session=session.id, command=message.command, offset=offsets[message.command], window=1 << 20)
                )
            elif isinstance(message, Exited):
                ended[message.command] = message.exit.output_bytes
        assert ended == offsets == dict.fromkeys(offsets, 16 << 20)


async def test_resume_at_any_offset(client: Client, daemon: DaemonProcess) -> None:
    """Row 44: after a lost connection, from the offset that was reached: no byte twice, none missing."""
    session = await client.open("open")
    code = "import sys\nfor n in range(20000): sys.stdout.write(f'{n:06d}\\n')\nsys.stdout.flush()\nsys.stdin.read()"
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "c", *python(code), stdin=True, window=1000))
    heard = b""
    for turn in range(1, 40):
        async with await Wire.greeted(daemon) as wire:
            await wire.ask(
                CommandReply, CommandFollow, session=session.id, command="c", offset=len(heard), window=turn * 177
            )
            piece = await wire.expect(OutputMessage)
            assert piece.offset == len(heard)
            heard += piece.data
    assert heard == b"".join(b"%06d\n" % n for n in range(20000))[: len(heard)]
    assert len(heard) > 40_000


async def test_input_sent_again_counts_once(client: Client, daemon: DaemonProcess) -> None:
    """Standard input after a lost connection: what was sent before is ignored, a hole refused, too much refused."""
    session = await client.open("open")
    where = {"session": session.id, "command": "c"}
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "c", "cat", stdin=True, input=b"ab", window=1000))
        await wire.send(CommandStdin(**where, offset=2, data=b"cd"))
        assert (await wire.expect(StdinAck, lambda ack: ack.offset == 4)).window > 0
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(CommandReply, CommandFollow, **where, offset=4, window=1000)
        await wire.send(CommandStdin(**where, offset=1, data=b"bcdef"))
        assert (await wire.expect(OutputMessage)).data == b"ef"
        await wire.send(CommandStdin(**where, offset=7, data=b"x"))
        assert (await wire.expect(Error)).code == "invalid"
        await wire.ask(Ok, CommandSignal, **where, signal=signal.SIGSTOP)
        for number in range(5):
            await wire.send(CommandStdin(**where, offset=6 + number * 131_072, data=b"x" * 131_072))
        assert (await wire.expect(Error)).code == "limit"
        await wire.ask(Ok, CommandSignal, **where, signal=signal.SIGKILL)
        waited = await wire.ask(CommandReply, CommandWait, **where)
        assert waited.command.exit is not None
        assert waited.command.exit.signal == signal.SIGKILL


async def test_names_that_do_not_exist(client: Client, daemon: DaemonProcess) -> None:
    """`not_found` and `gone` are typed, and told apart."""
    with pytest.raises(NotFoundError):
        await client.session("absent")
    with pytest.raises(NotFoundError):
        await client.open("no-such-profile")
    session = await client.open("open")
    with pytest.raises(NotFoundError):
        await session.command("absent")
    await session.close()
    assert (await session.info()).state == "closed"
    await session.close()
    assert await session.commands() == []
    with pytest.raises(GoneError):
        await session.run(["true"])
    async with await Wire.greeted(daemon) as wire:
        assert (await wire.refused(CommandList, session="absent")).code == "not_found"


async def test_request_number_used_twice(client: Client, daemon: DaemonProcess) -> None:
    """Two waits under one number: the second is refused, the first still answered."""
    session = await client.open("open")
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, **start(session.id, "c", "cat", stdin=True))
        await wire.send(CommandWait(id=900, session=session.id, command="c"))
        await wire.send(CommandWait(id=900, session=session.id, command="c"))
        assert (await wire.expect(Error)).re == 900
        await wire.ask(Ok, CommandSignal, session=session.id, command="c", signal=9)
        assert (await wire.expect(CommandReply)).re == 900


async def test_last_words_before_a_goodbye_count(client: Client, daemon: DaemonProcess) -> None:
    """Input, and the WebSocket's close frame right behind it in one piece: the command gets the input."""
    session = await client.open("open")
    command = await session.start(["cat"])
    async with await Wire.greeted(daemon) as wire:
        wire.protocol.send_binary(
            encode(CommandStdin(session=session.id, command=command.id, offset=0, data=b"last words"))
        )
        wire.protocol.send_close(1000)
        await wire.send_bytes(b"".join(wire.protocol.data_to_send()))
        assert await wire.closed() == 1000
    piece = await command.next()
    assert isinstance(piece, Output)
    assert piece.data == b"last words"
