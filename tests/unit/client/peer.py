"""A daemon from a script, on a real unix socket: it keeps the protocol, delays, drops, and lies where it is told to.

Commands are programs of the peer, chosen by the first word: coroutines that write, read and end as a test needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from sessiond_protocol.codec import decode_client, encode
from sessiond_protocol.messages import (
    SUBPROTOCOL,
    Ack,
    ClientMessage,
    CommandCloseStdin,
    CommandFollow,
    CommandInfo,
    CommandList,
    CommandReply,
    CommandResize,
    CommandSignal,
    CommandsReply,
    CommandStart,
    CommandStdin,
    CommandWait,
    Error,
    Exit,
    Exited,
    Failed,
    Failure,
    Gap,
    Hello,
    Ok,
    Output,
    Ping,
    Pong,
    ServerLimits,
    ServerMessage,
    SessionAttach,
    SessionClose,
    SessionDetach,
    SessionEvent,
    SessionInfo,
    SessionInfoRequest,
    SessionList,
    SessionOpen,
    SessionReply,
    SessionsReply,
    Started,
    StdinAck,
    StreamName,
    Welcome,
)
from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

STDIN_WINDOW = 256 * 1024
LIMITS = ServerLimits(
    frame_bytes=2**20,
    control_bytes=2**16,
    depth=8,
    elements=16384,
    window_bytes=8 * 2**20,
    commands=64,
)
Program = Callable[["Process"], Awaitable[int | None]]
"""A command's behaviour. It returns the exit code; None when a signal ended it."""
Handler = Callable[["Talk", ClientMessage], Awaitable[bool | None]]
"""A test's own answer to a message; True when the peer need not answer it any more."""


class Process:
    """One command as its program sees it."""

    def __init__(self, talk: Talk, start: CommandStart) -> None:
        self.talk = talk
        self.writer = talk
        self.start = start
        words = start.argv if start.argv is not None else (start.text or "").split()
        self.words: list[str] = list(words)
        self.kept: list[tuple[int, StreamName, bytes]] = []
        self.offset = 0
        self.cursor = 0
        self.pumping = asyncio.Lock()
        self.told = False
        self.limit = start.window
        self.stdin = bytearray(start.input)
        self.stdin_offset = len(start.input)
        self.stdin_taken = 0
        self.stdin_closed = not start.stdin
        self.signals: list[tuple[int, str]] = []
        self.sizes: list[tuple[int, int]] = []
        self.ending: Exit | None = None
        self.failure: Failure | None = None
        self.cause: str | None = None
        self.following = start.window > 0
        self.answers = start.id if start.answer == "exited" else None
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def key(self) -> dict[str, str]:
        return {"session": self.start.session, "command": self.start.command}

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            changed = self.changed
            await changed.wait()

    def change(self) -> None:
        """Let everybody who waits look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def write(self, data: bytes, stream: StreamName = "stdout") -> None:
        """Output within the client's window, as the daemon sends it."""
        position = 0
        while position < len(data):
            await self.until(lambda: self.limit > self.offset and self.following)
            piece = data[position : position + min(self.limit - self.offset, 64 * 1024)]
            self.kept.append((self.offset, stream, piece))
            self.offset += len(piece)
            position += len(piece)
            await self.pump()

    async def pump(self) -> None:
        """Send the follower what is kept from its cursor on, and the end after it."""
        async with self.pumping:
            while self.following and self.cursor < min(self.offset, self.limit):
                at, stream, data = next(piece for piece in self.kept if piece[0] + len(piece[2]) > self.cursor)
                data = data[self.cursor - at : self.limit - at]
                offset, self.cursor = self.cursor, self.cursor + len(data)
                await self.talk.send(Output(**self.key, offset=offset, stream=stream, data=data))
            if self.following and self.cursor == self.offset and not self.told and (self.ending or self.failure):
                self.told = True
                if self.ending is not None:
                    await self.talk.send(Exited(re=self.answers, **self.key, exit=self.ending))
                elif self.failure is not None:
                    await self.talk.send(Failed(**self.key, failure=self.failure))

    async def follow(self, talk: Talk, offset: int, window: int) -> None:
        """Send everything to `talk` from now on, from `offset` on."""
        async with self.pumping:
            self.talk, self.following, self.told = talk, True, False
            self.cursor = max(offset, talk.peer.kept_from)
            self.limit = max(self.limit, offset + window)
            if self.cursor > offset:
                await talk.send(Gap(**self.key, start=offset, end=self.cursor))
        self.change()
        await self.pump()

    async def read(self) -> bytes:
        """What arrived on standard input; empty at its end."""
        await self.until(lambda: bool(self.stdin) or self.stdin_closed)
        data = bytes(self.stdin)
        self.stdin.clear()
        self.stdin_taken += len(data)
        if self.start.stdin and not self.stdin_closed:
            await self.writer.send(StdinAck(**self.key, offset=self.stdin_taken, window=STDIN_WINDOW))
        return data

    async def killed(self) -> None:
        """Wait for a signal."""
        await self.until(lambda: bool(self.signals))

    def info(self) -> CommandInfo:
        state = "exited" if self.ending else "lost" if self.failure else "running"
        return CommandInfo(
            **self.key,
            state=state,
            argv=self.start.argv,
            text=self.start.text,
            output_to=self.offset,
            terminal=self.start.pty is not None,
            stdin=self.stdin_offset if self.start.stdin and state == "running" else None,
            exit=self.ending,
            failure=self.failure,
        )


def exit_of(process: Process, code: int | None) -> Exit:
    number = process.signals[-1][0] if code is None and process.signals else None
    cause = process.cause or ("exit" if code is not None else "killed" if number == 9 else "signal")
    return Exit(
        code=code,
        signal=number,
        cause=cause,
        output_bytes=process.offset,
        wall_seconds=0.25,
        user_seconds=0.1,
        system_seconds=0.05,
        max_rss_bytes=1 << 20,
    )


async def echo(process: Process) -> int:
    await process.write(" ".join(process.words[1:]).encode() + b"\n")
    return 0


async def cat(process: Process) -> int:
    while data := await process.read():
        await process.write(data)
    return 0


async def sleep(process: Process) -> int | None:
    timeout = process.start.timeout
    try:
        async with asyncio.timeout(min(timeout, 0.05) if timeout is not None else None):
            await process.killed()
    except TimeoutError:
        process.cause, process.signals = "timeout", [(15, "group")]
    return None


async def flood(process: Process) -> int | None:
    """Write so many bytes, and stop when killed."""
    writing = asyncio.ensure_future(process.write(b"x" * int(process.words[1])))
    dying = asyncio.ensure_future(process.killed())
    await asyncio.wait((writing, dying), return_when=asyncio.FIRST_COMPLETED)
    killed = not writing.done()
    for task in (writing, dying):
        task.cancel()
    return None if killed else 0


async def both(process: Process) -> int:
    await process.write(b"out1 ")
    await process.write(b"err1 ", "stderr")
    await process.write(b"out2")
    return 0


async def show_env(process: Process) -> int:
    lines = [f"{name}={value}" for name, value in sorted(process.start.env.items())]
    await process.write("\n".join([*lines, f"cwd={process.start.cwd}"]).encode())
    return 0


async def leave(process: Process) -> int:
    return int(process.words[1])


async def trap(process: Process) -> int:
    """Say so and go on when interrupted; end on the second."""
    await process.write(b"ready\n")
    await process.killed()
    await process.write(b"caught %d\n" % process.signals[0][0])
    await process.until(lambda: len(process.signals) > 1)
    return None if process.signals[-1][0] == 9 else 7


async def drop(process: Process) -> int:
    """Write something, then the connection breaks."""
    await process.write(b"partial")
    process.talk.drop()
    return 0


async def lose(process: Process) -> int:
    await process.write(b"partial")
    process.failure = Failure(code="gone", message="its sandbox is lost")
    return 0


async def daemonise(process: Process) -> int:
    """End, and leave a child behind that goes on writing."""
    await process.write(b"first")
    return 0


PROGRAMS: dict[str, Program] = {
    "true": lambda process: _now(0),
    "false": lambda process: _now(1),
    "echo": echo,
    "cat": cat,
    "sleep": sleep,
    "flood": flood,
    "both": both,
    "env": show_env,
    "exit": leave,
    "trap": trap,
    "drop": drop,
    "lose": lose,
    "daemonise": daemonise,
}


async def _now(code: int) -> int:
    return code


class Talk:
    """One connection of a client."""

    def __init__(self, peer: Peer, socket: ServerConnection) -> None:
        self.peer = peer
        self.socket = socket
        self.processes = peer.commands
        self.received: list[ClientMessage] = []
        self.waits: set[asyncio.Task[None]] = set()
        self.authorization = socket.request.headers.get("Authorization") if socket.request else None

    async def send(self, message: ServerMessage) -> None:
        if self.peer.delay:
            await asyncio.sleep(self.peer.delay)
        await self.raw(encode(message))

    async def raw(self, data: bytes | str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(data)

    def drop(self) -> None:
        """Break the connection without goodbye."""
        self.socket.transport.abort()

    async def serve(self) -> None:
        try:
            async for data in self.socket:
                assert isinstance(data, bytes)
                message = decode_client(data)
                self.received.append(message)
                handler = self.peer.handlers.get(type(message))
                if handler is None or not await handler(self, message):
                    await self.answer(message)
        except ConnectionClosed:
            pass
        finally:
            for wait in self.waits:
                wait.cancel()
            for process in self.peer.processes():
                if process.talk is self:
                    process.following, process.answers = False, None

    async def answer(self, message: ClientMessage) -> None:
        peer = self.peer
        match message:
            case Hello():
                await self.send(
                    Welcome(
                        re=message.id,
                        version=peer.version,
                        server="peer/1",
                        capabilities=["pool"],
                        profiles=["default"],
                        limits=LIMITS,
                    )
                )
            case Ping():
                await self.send(Pong(re=message.id))
            case SessionOpen():
                if message.profile != "default":
                    await self.refuse(message.id, "not_found", f"no profile {message.profile!r}", "see `ps`")
                    return
                info = peer.add(message)
                await self.send(SessionReply(re=message.id, session=info))
            case SessionList():
                found = [s for s in peer.sessions.values() if message.labels.items() <= s.labels.items()]
                ids = [s.session for s in found]
                start = ids.index(message.after) + 1 if message.after else 0
                page = found[start : start + peer.page]
                await self.send(SessionsReply(re=message.id, sessions=page, more=start + peer.page < len(found)))
            case SessionAttach() | SessionInfoRequest() | SessionClose() | SessionDetach():
                await self.answer_session(message)
            case CommandStart():
                await self.start(message)
            case CommandList():
                commands = [p.info() for p in peer.processes() if p.start.session == message.session]
                names = [command.command for command in commands]
                start = names.index(message.after) + 1 if message.after else 0
                more = start + peer.page < len(commands)
                await self.send(CommandsReply(re=message.id, commands=commands[start : start + peer.page], more=more))
            case _:
                await self.answer_command(message)

    async def answer_session(self, message: SessionAttach | SessionInfoRequest | SessionClose | SessionDetach) -> None:
        info = self.peer.sessions.get(message.session)
        if info is None and message.session in self.peer.closed and isinstance(message, SessionClose):
            await self.send(SessionReply(re=message.id, session=self.peer.closed[message.session]))
        elif info is None:
            await self.refuse(message.id, "not_found", f"no session {message.session}", "see `sessiond ps`")
        elif isinstance(message, SessionDetach):
            await self.send(Ok(re=message.id))
        elif isinstance(message, SessionClose):
            del self.peer.sessions[message.session]
            closed = self.peer.closed[message.session] = info.model_copy(update={"state": "closed"})
            await self.send(SessionReply(re=message.id, session=closed))
            await self.send(SessionEvent(session=closed, reason="closed by its owner"))
        else:
            if isinstance(message, SessionAttach) and message.mode == "writer" and message.epoch is None:
                info = self.peer.sessions[message.session] = info.model_copy(update={"epoch": info.epoch + 1})
            await self.send(SessionReply(re=message.id, session=info))

    async def refuse(self, number: int, code: str, text: str, hint: str = "", command: str | None = None) -> None:
        error = {"re": number, "code": code, "message": text, "hint": hint, "command": command}
        await self.send(Error.model_validate(error))

    async def start(self, message: CommandStart) -> None:
        if message.session not in self.peer.sessions:
            await self.refuse(message.id, "not_found", f"no session {message.session}", "see `sessiond ps`")
            return
        known = self.processes.get((message.session, message.command))
        if known is not None:
            await self.start_again(known, message)
            return
        process = Process(self, message)
        name = process.words[0]
        if name == "curl":
            denied = {"re": message.id, "code": "denied", "message": "curl is not allowed", "rule": "deny-net"}
            await self.send(Error.model_validate({**denied, "command": message.command}))
            return
        program = self.peer.programs.get(name)
        if program is None:
            await self.refuse(message.id, "invalid", f"{name!r} cannot be executed: no such file", "", message.command)
            return
        self.processes[message.session, message.command] = process
        if message.answer == "started":
            await self.send(Started(re=message.id, **process.key, pid=42))
        process.task = asyncio.create_task(self.run(process, program))

    async def run(self, process: Process, program: Program) -> None:
        code = await program(process)
        if process.failure is not None:
            process.change()
            if process.answers is not None:
                await process.talk.refuse(process.answers, "gone", process.failure.message, "", process.start.command)
        else:
            process.ending = exit_of(process, code)
            process.change()
        await process.pump()

    async def start_again(self, process: Process, message: CommandStart) -> None:
        """The answer to a start of what was started before."""
        assert message == process.start.model_copy(update={"id": message.id, "window": message.window})
        if message.answer == "started":
            await self.send(Started(re=message.id, **process.key, pid=42))
        else:
            process.answers = message.id
        await process.follow(self, 0, message.window)

    async def answer_command(self, message: ClientMessage) -> None:
        assert not isinstance(message, Hello | Ping | SessionOpen | SessionList)
        assert not isinstance(message, SessionAttach | SessionInfoRequest | SessionClose | SessionDetach)
        assert not isinstance(message, CommandStart | CommandList)
        process = self.processes.get((message.session, message.command))
        if process is None:
            if not isinstance(message, Ack | CommandStdin | CommandCloseStdin):
                await self.refuse(message.id, "not_found", f"no command {message.command}")
            return
        match message:
            case Ack():
                process.limit = max(process.limit, message.offset + message.window)
                await process.pump()
            case CommandStdin():
                assert message.offset <= process.stdin_offset, "standard input out of order"
                data = message.data[process.stdin_offset - message.offset :]
                process.stdin_offset += len(data)
                assert process.stdin_offset <= process.stdin_taken + STDIN_WINDOW, "beyond the window"
                process.stdin += data
                if process.writer is not self:
                    process.writer = self
                    taken = min(process.stdin_taken, message.offset + len(message.data))
                    await self.send(StdinAck(**process.key, offset=taken, window=STDIN_WINDOW))
            case CommandCloseStdin():
                assert message.offset == process.stdin_offset
                process.stdin_closed = True
            case CommandSignal():
                process.signals.append((message.signal, message.scope))
                await self.send(Ok(re=message.id))
            case CommandResize():
                process.sizes.append((message.rows, message.columns))
                await self.send(Ok(re=message.id))
            case CommandWait():
                self.waits.add(asyncio.create_task(self.wait(process, message.id)))
            case CommandFollow():
                await self.follow(process, message)
        process.change()

    async def wait(self, process: Process, number: int) -> None:
        await process.until(lambda: process.ending is not None or process.failure is not None)
        await self.send(CommandReply(re=number, command=process.info()))

    async def follow(self, process: Process, message: CommandFollow) -> None:
        if message.window == 0:
            process.following = False
        await self.send(CommandReply(re=message.id, command=process.info()))
        if message.window > 0:
            process.answers = None
            await process.follow(self, message.offset, message.window)


class Peer:
    """The scripted daemon. `async with Peer(path) as peer:`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers: dict[type, Handler] = {}
        self.programs: dict[str, Program] = dict(PROGRAMS)
        self.sessions: dict[str, SessionInfo] = {}
        self.closed: dict[str, SessionInfo] = {}
        self.commands: dict[tuple[str, str], Process] = {}
        self.talks: list[Talk] = []
        self.delay = 0.0
        self.version = 1
        self.page = 100
        self.kept_from = 0
        self.refuse_http: int | None = None
        self.failures: list[BaseException] = []
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    def received(self, kind: type) -> list[ClientMessage]:
        """All messages of one type that clients sent."""
        return [message for talk in self.talks for message in talk.received if isinstance(message, kind)]

    def processes(self) -> list[Process]:
        return list(self.commands.values())

    def add(self, message: SessionOpen) -> SessionInfo:
        session = message.session or f"s{len(self.sessions)}"
        if session not in self.sessions:
            self.sessions[session] = SessionInfo(
                session=session,
                state="open",
                profile=message.profile,
                engine="peer",
                generation=0,
                name=message.name,
                labels=message.labels,
                created=time.time(),
                idle_timeout=message.idle_timeout,
                pooled=True,
            )
        return self.sessions[session]

    async def __aenter__(self) -> Self:
        self._server = await unix_serve(
            self._serve,
            str(self.path),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            process_request=self._door,
            ping_interval=None,
            close_timeout=1,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for process in self.processes():
            if process.task is not None:
                process.task.cancel()
        self._server.close()
        await self._server.wait_closed()
        if self.failures:
            raise self.failures[0]

    def _door(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.refuse_http is not None:
            return connection.respond(self.refuse_http, "no\n")
        assert request.path == "/v1"
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        talk = Talk(self, socket)
        self.talks.append(talk)
        try:
            await talk.serve()
        except Exception as error:
            self.failures.append(error)
            raise
