"""A session: one sandbox that stays, and the commands in it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from sessiond_protocol import messages
from sessiond_protocol.codec import decode_client
from sessiond_protocol.errors import RemoteProtocolError
from sessiond_protocol.messages import MAX_INPUT, CommandInfo, CommandLimits, SessionInfo

from sessiond_client.byte_stream import ByteStream, target_of
from sessiond_client.command import Command, abandon, kill
from sessiond_client.errors import (
    CommandFailedError,
    DeadlineError,
    GoneError,
    NotFoundError,
    OutputLimitError,
    ProtocolViolationError,
    SessiondError,
    TransportError,
    UsageError,
)
from sessiond_client.events import SessionEvents
from sessiond_client.files import Files
from sessiond_client.link import Link
from sessiond_client.results import Result, Transfer, result
from sessiond_client.stdin import StdinPipe
from sessiond_client.stream import CommandStream, Mode
from sessiond_client.tools import DEFAULT_MAX_OUTPUT, DEFAULT_WINDOW, Tools, fit
from sessiond_client.transfer import File, export_to, import_from

if TYPE_CHECKING:
    from types import TracebackType

    from sessiond_client.client import Client


class Session:
    """One session, from `Client.open` or `Client.attach`. `async with session:` closes it at the end."""

    def __init__(self, client: Client, info: SessionInfo, *, attached: bool = False) -> None:
        self._client = client
        self._info = info
        self._attached = attached
        prefix = secrets.token_hex(6)
        self._names = (f"{prefix}-{number}" for number in count(1))
        """Names for commands: unlike any other client's, and without asking the system for chance each time."""
        self._tools = Tools(self, self._names)
        self._files = Files(self, self._tools)

    @property
    def id(self) -> str:
        """Names the session; another client can attach to it with this."""
        return self._info.session

    @property
    def profile(self) -> str:
        """The profile that it was opened from."""
        return self._info.profile

    @property
    def snapshot(self) -> SessionInfo:
        """Its state when the daemon last told it; `info` asks again."""
        return self._info

    @property
    def client(self) -> Client:
        """The client that it belongs to."""
        return self._client

    @property
    def attached(self) -> bool:
        """Whether its events are sent to this client."""
        return self._attached

    @property
    def files(self) -> Files:
        """Its files: read, written, listed, watched, carried in and out."""
        return self._files

    async def __aenter__(self) -> Session:
        """The session itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session, unless it is gone already; a lost connection leaves it to its TTL."""
        with contextlib.suppress(NotFoundError, GoneError, TransportError):
            await self.close()

    # --- commands

    async def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon enforces it, and a scope here could not
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        check: bool = False,
        max_output: int = DEFAULT_MAX_OUTPUT,
        merge_stderr: bool = False,
        grace: float = 5.0,
        limits: CommandLimits | None = None,
        window: int = DEFAULT_WINDOW,
        command_id: str | None = None,
    ) -> Result:
        """Run a command to its end: a string as a shell reads it, a list as the program and its arguments.

        Where the policy wants a person's consent it waits for that, too; `timeout` counts from when the command runs.
        Denied, or not allowed in time, it raises CommandDeniedError.
        A non-zero exit code is a value; with `check` it raises CommandFailedError. At `timeout` seconds the command
        gets TERM, `grace` seconds later KILL, and the result has `timed_out` and the output so far. Output beyond
        `max_output` bytes kills the command and raises OutputLimitError, which holds what came before.
        Cancelling kills the command. When the connection is lost and does not come back, ConnectionLostError: the
        command goes on.
        """
        if max_output < 0:
            raise UsageError("max_output is negative")
        link = await self._client.ready()
        stream, rest = self._begin(
            link,
            command,
            mode="collect",
            window=window,
            command_id=command_id,
            stdin=stdin,
            keep_stdin=False,
            timeout=timeout,
            env=dict(env or {}),
            cwd=cwd,
            merge_stderr=merge_stderr,
            grace=grace,
            limits=limits or CommandLimits(),
        )
        stream.keep = max_output
        feeder = asyncio.ensure_future(_feed(stream, rest)) if rest else None
        spare = 2 * link.timeout + link.reconnect_timeout
        if timeout is not None:
            stream.fail_after(timeout + grace + spare)
        try:
            await stream.collected.wait()
            status = await (kill(stream) if stream.excess else stream.ended.wait())
        except (DeadlineError, asyncio.CancelledError):
            abandon(stream)
            raise
        finally:
            if feeder is not None:
                feeder.cancel()
            stream.keep_waiting()
        ended = result(status, *stream.buffer.drain())
        if stream.excess:
            raise OutputLimitError(max_output, ended)
        if check and not ended.ok:
            raise CommandFailedError(ended)
        return ended

    async def start(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon enforces it, and a scope here could not
        stdin: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        merge_stderr: bool = False,
        grace: float = 5.0,
        limits: CommandLimits | None = None,
        window: int = DEFAULT_WINDOW,
        command_id: str | None = None,
    ) -> Command:
        """Start a command and come back when it runs. With `stdin` its standard input stays open for `write`.

        At most `window` bytes of output wait here unread; further ones wait in the daemon. Cancelling kills it.
        """
        link = await self._client.ready()
        stream, _ = self._begin(
            link,
            command,
            mode="read",
            window=window,
            command_id=command_id,
            stdin=b"",
            keep_stdin=stdin,
            timeout=timeout,
            env=dict(env or {}),
            cwd=cwd,
            merge_stderr=merge_stderr,
            grace=grace,
            limits=limits or CommandLimits(),
        )
        return await self._running(stream)

    async def terminal(
        self,
        command: str | Sequence[str] = ("bash",),
        *,
        rows: int = 24,
        columns: int = 80,
        term: str = "xterm-256color",
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon enforces it, and a scope here could not
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        grace: float = 5.0,
        limits: CommandLimits | None = None,
        window: int = DEFAULT_WINDOW,
        command_id: str | None = None,
    ) -> Command:
        """Start a command on a terminal and come back when it runs; sh where the sandbox has no bash.

        What is written is what the terminal's keyboard sends, so ctrl-C is a byte; all output is "stdout". `resize`
        changes its size. `close_stdin` types the end-of-file character. Cancelling kills the command.
        """
        link = await self._client.ready()
        stream, _ = self._begin(
            link,
            command,
            mode="read",
            window=window,
            command_id=command_id,
            stdin=b"",
            keep_stdin=True,
            pty={"rows": rows, "columns": columns, "term": term},
            timeout=timeout,
            env=dict(env or {}),
            cwd=cwd,
            grace=grace,
            limits=limits or CommandLimits(),
        )
        return await self._running(stream)

    async def command(
        self,
        command_id: str,
        *,
        offset: int = 0,
        stdin: bool = False,
        stdin_offset: int | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> Command:
        """Follow a command that was started before, by anyone, from the byte `offset` of its output on.

        With `stdin` take its standard input over: whoever wrote before cannot any more. Or say with `stdin_offset` how
        many bytes were written before.
        """
        link = await self._client.ready()
        window = fit(link, window)
        stream = CommandStream(link, (self.id, command_id), offset=offset, window=window, mode="read")
        stream.takes_stdin = stdin
        if stdin_offset is not None:
            stream.stdin = StdinPipe(link, stream.key, stdin_offset)
        link.follow(stream.key, stream)
        try:
            link.ask(
                stream.on_followed,
                messages.CommandFollow,
                unwanted=lambda: stream.over,
                session=self.id,
                command=command_id,
                offset=offset,
                window=window,
                stdin=stdin,
            )
            await stream.started.wait()
        except BaseException:
            stream.let_go()
            raise
        return Command(self, stream)

    async def record(self, command_id: str | None = None) -> messages.CommandStart | messages.SessionOpen | None:
        """The request that began a command, or without an id the one that opened the session, as it is on record.

        None for what carried a workspace in or out.
        """
        link = await self._client.ready()
        reply = await link.request(messages.Recorded, messages.Record, session=self.id, command=command_id)
        try:
            request = decode_client(reply.body)
        except RemoteProtocolError as error:
            raise ProtocolViolationError(f"the daemon has a record that is no request: {error}") from error
        return request if isinstance(request, messages.CommandStart | messages.SessionOpen) else None

    async def commands(self) -> list[CommandInfo]:
        """All its commands that the daemon still knows, oldest first."""
        link = await self._client.ready()
        found: list[CommandInfo] = []
        more = True
        while more:
            page = await link.request(
                messages.CommandsReply,
                messages.CommandList,
                session=self.id,
                after=found[-1].command if found else None,
            )
            found += page.commands
            more = page.more and bool(page.commands)
        return found

    # --- streams

    async def connect(self, where: int | str) -> ByteStream:
        """A stream to what listens inside on a port of the loopback interface, or on the unix socket at a path.

        Raises TunnelError when nobody listens there.
        """
        command = await self._tools.start(messages.TunnelOpen, feed=True, target=target_of(where))
        stream = ByteStream(command, tunnel=True)
        try:
            await stream.connected()
        except BaseException:
            await stream.close()
            raise
        return stream

    async def spawn_stdio(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = ""
    ) -> ByteStream:
        """Start a program that talks over its standard streams, as language servers do. Its errors are apart."""
        return ByteStream(await self.start(list(argv), env=env, cwd=cwd))

    # --- its workspace

    async def export_workspace(self, target: File, *, path: str = "") -> Transfer:
        """Write the workspace, or the directory `path` of it, as a tar archive to a file.

        A path gets a whole archive or none. Permissions, times and symbolic links are kept. Raises TransferError.
        Cancelling ends it.
        """
        async with self._tools.running(messages.SessionExport, path=path) as command:
            return await export_to(command, target)

    async def import_workspace(self, source: File, *, path: str = "") -> Transfer:
        """Read a tar archive from a file into the workspace, or the directory `path` of it, over what is there.

        Raises TransferError for the first member that cannot be taken; those before it are there. Cancelling ends it.
        """
        async with self._tools.running(messages.SessionImport, feed=True, path=path) as command:
            return await import_from(command, source)

    # --- the session itself

    async def info(self) -> SessionInfo:
        """Its state now."""
        link = await self._client.ready()
        reply = await link.request(messages.SessionReply, messages.SessionInfoRequest, session=self.id)
        self._info = reply.session
        return reply.session

    def events(self) -> SessionEvents:
        """Iterate over its changes of state from now on, up to the final one.

        The first step attaches to the session as its writer, unless `Client.attach` did so already.
        """
        return SessionEvents(self)

    async def attach(self, *, mode: Literal["writer", "reader"] = "writer") -> None:
        """Have its events sent. As a writer, take the session over from any earlier one."""
        link = await self._client.ready()
        reply = await link.request(messages.SessionReply, messages.SessionAttach, session=self.id, mode=mode)
        self._info = reply.session
        self._attached = True

    async def detach(self) -> None:
        """Stop following it and its commands. The session does not care."""
        link = await self._client.ready()
        await link.request(messages.Ok, messages.SessionDetach, session=self.id)
        self._attached = False
        link.detached(self.id)

    async def close(self) -> None:
        """End it: everything in it is killed and its sandbox erased."""
        self._info = await self._client.close_session(self.id)

    # --- inside

    def _begin(
        self,
        link: Link,
        command: str | Sequence[str],
        *,
        mode: Mode,
        window: int,
        command_id: str | None,
        stdin: bytes,
        keep_stdin: bool,
        **options: Any,
    ) -> tuple[CommandStream, bytes]:
        """Send the start of a command; the stream that follows it, and the input that did not fit in."""
        text = command if isinstance(command, str) else None
        argv = None if isinstance(command, str) else list(command)
        rides = len(stdin) + _size([command] if isinstance(command, str) else command, options["env"]) <= MAX_INPUT
        pipe = keep_stdin or not rides
        window = fit(link, window)
        key = (self.id, command_id or next(self._names))
        stream = CommandStream(link, key, offset=0, window=window, mode=mode)
        if pipe:
            stream.stdin = StdinPipe(link, key, 0)
        # Who only wants the result needs no message about the start; who writes to it must know when it can read.
        at_end = mode == "collect" and not pipe
        link.follow(key, stream)
        try:
            link.ask(
                stream.on_start,
                messages.CommandStart,
                deadline=math.inf if at_end else None,
                session=self.id,
                command=key[1],
                answer="exited" if at_end else "started",
                text=text,
                argv=argv,
                input=stdin if rides else b"",
                stdin=pipe,
                window=window,
                **options,
            )
        except SessiondError:
            link.unfollow(key, stream)
            raise
        return stream, b"" if rides else stdin

    async def _running(self, stream: CommandStream) -> Command:
        """The command of `stream`, once it runs. Cancelling kills it."""
        try:
            await stream.started.wait()
        except (DeadlineError, asyncio.CancelledError):
            abandon(stream)
            raise
        return Command(self, stream)


def _size(words: Iterable[str], env: Mapping[str, str]) -> int:
    """Bytes that the text of a command and its environment take; the frame must have room for both and the input."""
    return sum(len(str(word).encode("utf-8", "replace")) for word in (*words, *env, *env.values()))


async def _feed(stream: CommandStream, data: bytes) -> None:
    """Write all of standard input; that a command does not read all of it is its own business."""
    pipe = stream.stdin
    if pipe is not None:
        with contextlib.suppress(SessiondError):
            await stream.started.wait()
            await pipe.write(data)
            await pipe.close()
