"""A command that runs in a session: its output as it comes, its standard input, signals, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal as signals
from typing import TYPE_CHECKING, Any

from sessiond_protocol import messages
from sessiond_protocol.messages import CommandState

from sessiond_client.errors import DeadlineError, ProtocolViolationError, UsageError
from sessiond_client.results import ExitStatus, Gap, Output, exit_status
from sessiond_client.roles import expect
from sessiond_client.stream import CommandStream, failure

if TYPE_CHECKING:
    from sessiond_client.session import Session

_FIRST_PAUSE = 0.1


class Command:
    """One command. Iterate over it for its output; from `Session.start` and `Session.command`.

    Nothing of its output is lost while nobody iterates: the daemon keeps it, and the command is held back when that
    is full. Cancelling an iteration, a write or a wait leaves the command as it is, and each may be begun again.
    """

    def __init__(self, session: Session, stream: CommandStream) -> None:
        self._session = session
        self._stream = stream

    @property
    def id(self) -> str:
        """Names the command within its session."""
        return self._stream.key[1]

    @property
    def session(self) -> Session:
        """The session that it runs in."""
        return self._session

    @property
    def pid(self) -> int | None:
        """Its process id inside the sandbox; None where the daemon did not say, as for a command followed later."""
        return self._stream.started.peek()

    @property
    def state(self) -> CommandState:
        """Where it stands, as far as the daemon has told: `awaiting_approval` while a person has to allow it."""
        return self._stream.state

    @property
    def offset(self) -> int:
        """How many bytes of output were taken so far: where another client would go on."""
        return self._stream.buffer.consumed

    @property
    def ended(self) -> bool:
        """Whether its end has been seen."""
        return self._stream.ended.done

    # --- output

    def __aiter__(self) -> Command:
        """Iterate over the output, from where the last iteration stopped."""
        return self

    async def __anext__(self) -> Output | Gap:
        """The next piece of output, or a gap where output was not kept."""
        piece = await self._stream.next()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def next(self) -> Output | Gap | None:
        """The next piece of output, or a gap; None at the end. Raises why the end is not known."""
        return await self._stream.next()

    async def wait(self) -> ExitStatus:
        """Wait for the end, however much output nobody has read yet."""
        ended = self._stream.ended
        if ended.done:
            return ended.peek()
        # The end of the stream comes after the last byte, for which there may be no room here. So ask for it, too.
        asking = self._stream.link.submit(
            messages.CommandWait, deadline=math.inf, session=self._session.id, command=self.id
        )
        watching = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait((asking, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                return watching.result()
            info = expect(messages.CommandReply, asking.result()).command
        finally:
            for waiter in (asking, watching):
                waiter.cancel()
        if info.failure is not None:
            raise failure(info.failure)
        if info.exit is None:
            raise ProtocolViolationError(f"the daemon says that command {self.id} has ended, and not how")
        ended.set(exit_status(info.exit))
        return ended.peek()

    # --- standard input

    @property
    def stdin_offset(self) -> int:
        """Bytes of standard input sent so far; tells after a cancelled write how much of it went."""
        return self._stream.stdin.offset if self._stream.stdin is not None else 0

    async def write(self, data: bytes) -> None:
        """Write to standard input; waits while the command does not read.

        Concurrent writes do not mix. Raises StdinClosedError when the command reads no more.
        """
        if self._stream.stdin is None:
            raise UsageError(f"command {self.id} was started without standard input")
        await self._stream.stdin.write(data)

    async def close_stdin(self) -> None:
        """Let the command read the end of its input, after all that was written."""
        if self._stream.stdin is not None:
            await self._stream.stdin.close()

    # --- control

    async def signal(self, signal: int, *, tree: bool = False) -> None:
        """Send a signal to its process group, or with `tree` to everything that descends from it."""
        await self._request_ok(messages.CommandSignal, signal=int(signal), scope="tree" if tree else "group")

    async def kill(self) -> None:
        """Kill it and everything that descends from it."""
        await self.signal(signals.SIGKILL, tree=True)

    async def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""
        await self._request_ok(messages.CommandResize, rows=rows, columns=columns)

    async def detach(self) -> None:
        """Stop following it; the command goes on. What arrived may still be read."""
        await self._stream.stop()

    async def _request_ok(self, model: type[messages.Message], **fields: Any) -> None:
        await self._stream.link.request(messages.Ok, model, session=self._session.id, command=self.id, **fields)


def abandon_command(command: Command) -> None:
    """Kill it in the background, unless it is over: nobody reads what it says any more."""
    if not command._stream.over:
        abandon(command._stream)


def abandon(stream: CommandStream) -> None:
    """Kill the command of `stream` in the background: nobody waits for it any more."""
    stream.discard()
    stream.link.errand(lambda: kill(stream))


async def kill(stream: CommandStream) -> ExitStatus:
    """Kill the command of `stream`, again and again until its end is reported: it may not have been spawned yet."""
    session, command = stream.key
    seconds = stream.link.timeout
    pause = _FIRST_PAUSE
    try:
        async with asyncio.timeout(seconds):
            while True:
                await stream.link.request(
                    messages.Ok,
                    messages.CommandSignal,
                    session=session,
                    command=command,
                    signal=int(signals.SIGKILL),
                    scope="tree",
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        return await stream.ended.wait()
                pause = min(pause * 2, 1.0)
    except TimeoutError as error:
        if isinstance(error, DeadlineError):
            raise
        raise DeadlineError(f"command {command} was killed, and no end came within {seconds:g} s") from None
