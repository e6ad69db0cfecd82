"""What arrives about one command, and what is granted for it: output within its window, standard input, the end.

The window is a promise to the daemon and a bound for this side: what arrives beyond it breaks the protocol.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from sessiond_protocol import messages

from sessiond_client.buffer import OutputBuffer
from sessiond_client.connection import CommandEvent, Connection, Reply
from sessiond_client.errors import (
    CommandDeniedError,
    CommandError,
    CommandLostError,
    CommandNotStartedError,
    DeadlineError,
    DeniedError,
    GoneError,
    InvalidRequestError,
    LimitError,
    ProtocolViolationError,
    RemoteError,
    SessiondError,
    StdinClosedError,
    TransportError,
    UnsupportedError,
    UsageError,
)
from sessiond_client.latch import Latch
from sessiond_client.results import ExitStatus, Gap, Output, exit_status
from sessiond_client.stdin import StdinPipe

Mode = Literal["read", "collect", "discard"]
"""Whether output waits for a reader, is kept whole, or is thrown away."""


class CommandStream:
    """Follows one command over one connection."""

    def __init__(self, connection: Connection, key: tuple[str, str], *, offset: int, window: int, mode: Mode) -> None:
        self.connection = connection
        self.key = key
        self.buffer = OutputBuffer(offset)
        self.started: Latch[int | None] = Latch()
        """The pid, where it is known."""
        self.ended: Latch[ExitStatus] = Latch()
        self.stdin: StdinPipe | None = None
        self.collected: Latch[None] = Latch()
        """Set at the end, and before it when there is more output than `keep`."""
        self.keep = 0
        """Bytes that are collected."""
        self.excess = False
        """Whether there was more."""
        self._mode: Mode = mode
        self._window = window
        self._step = max(1, window // 2)
        self._acknowledged = offset
        self._reader: asyncio.Future[None] | None = None
        self._over = False
        self._over_error: SessiondError | None = None

    # --- beginning

    def on_start(self, answer: Reply | SessiondError) -> None:
        """Take the answer to the request that starts the command."""
        if isinstance(answer, messages.Started):
            self.started.set(answer.pid)
        elif isinstance(answer, GoneError):
            self._fail_unless_lost(answer)
        elif isinstance(answer, SessiondError):
            self.fail(_why_not(answer))
        else:
            self.fail(ProtocolViolationError(f"the daemon answered command.start with {answer.type!r}"))

    def _fail_unless_lost(self, error: GoneError) -> None:
        """Tell a session that was gone before from a command that went with it: of that `failed` is told, too.

        It comes before the answer to anything that is asked now.
        """
        try:
            self.connection.ask(lambda _: self.fail(error), messages.Ping)
        except SessiondError:
            self.fail(error)

    def fail_after(self, seconds: float) -> asyncio.TimerHandle:
        """Give up when no end has come after `seconds`."""
        error = DeadlineError(f"the end of command {self.key[1]} was not reported, {seconds:g} s after its start")
        return asyncio.get_running_loop().call_later(seconds, self.fail, error)

    # --- what the daemon sends

    def on_event(self, event: CommandEvent) -> None:
        """Take an event of the command."""
        if isinstance(event, messages.Output):
            self._take_output(event)
        elif isinstance(event, messages.Exited):
            self._take_exit(event.exit)
        elif isinstance(event, messages.StdinAck):
            if self.stdin is not None:
                self.stdin.on_ack(event)
        elif isinstance(event, messages.Gap):
            self._take_gap(event)
        else:
            self.fail(failure(event.failure))

    def on_error(self, error: RemoteError) -> None:
        """Take an error about the command that answers no request: something sent without one was refused."""
        if self.stdin is not None:
            self.stdin.break_off(error)

    def on_lost(self, reason: TransportError) -> None:
        """The connection is gone: how the command ends is not known here."""
        self.fail(reason)

    def fail(self, error: SessiondError) -> None:
        """Nothing more will come, because of `error`."""
        self.started.fail(error)
        self.ended.fail(error)
        self._finish(error)

    def _take_output(self, event: messages.Output) -> None:
        data, end = event.data, event.offset + len(event.data)
        if event.offset != self.buffer.received:
            raise self._violation(f"output at {event.offset} where {self.buffer.received} was due")
        if end > self._acknowledged + self._window:
            raise self._violation(
                f"output up to {end}, beyond the window that ends at {self._acknowledged + self._window}"
            )
        if self._mode == "read":
            self.buffer.append(event.stream, data)
            self._wake()
        elif self._mode == "collect" and len(self.buffer) + len(data) > self.keep:
            self.buffer.append(event.stream, data[: self.keep - len(self.buffer)])
            self._mode = "discard"
            self.buffer.received = end
            self.excess = True
            self.collected.set(None)
        elif self._mode == "collect":
            self.buffer.append(event.stream, data)
        else:
            self.buffer.received = end
        if self._mode != "read":
            self._acknowledge(end)

    def _take_gap(self, event: messages.Gap) -> None:
        if event.start != self.buffer.received or event.end <= event.start:
            raise self._violation(f"a gap from {event.start} to {event.end} where {self.buffer.received} was due")
        if self._mode == "discard":
            self.buffer.received = event.end
        else:
            self.buffer.skip(event.end)
        if self._mode == "read":
            self._wake()
        else:
            self._acknowledge(event.end)

    def _take_exit(self, exit: messages.Exit) -> None:
        if self.buffer.received < exit.output_bytes:
            raise self._violation(
                f"its end after {self.buffer.received} bytes of output, of {exit.output_bytes} that it wrote"
            )
        self.started.set(None)
        self.ended.set(exit_status(exit))
        self._finish(None)

    def _finish(self, error: SessiondError | None) -> None:
        if self._over:
            return
        self._over = True
        self._over_error = error
        self.connection.unfollow(self.key, self)
        self.collected.set(None)
        if self.stdin is not None:
            self.stdin.break_off(error or StdinClosedError(f"command {self.key[1]} has ended"))
        self._wake()

    def _violation(self, what: str) -> ProtocolViolationError:
        return ProtocolViolationError(f"the daemon sent for command {self.key[1]}: {what}")

    def on_detached(self) -> None:
        """The session is not followed any more over this connection, and with it none of its commands."""
        self.fail(UsageError(f"session {self.key[0]} was detached, and command {self.key[1]} is not followed any more"))

    # --- what the caller does

    async def next(self) -> Output | Gap | None:
        """The next piece; None at the end. Cancelling loses nothing. Raises why there is no end where there is none."""
        while (piece := self.buffer.pop()) is None:
            if self._over:
                if self._over_error is not None:
                    raise self._over_error
                return None
            if self._reader is not None:
                raise UsageError(f"the output of command {self.key[1]} is being read already")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        self._acknowledge(self.buffer.consumed)
        return piece

    async def stop(self) -> None:
        """Let the daemon send no more of it."""
        session, command = self.key
        if not self._over:
            await self.connection.request(
                messages.CommandReply,
                messages.CommandFollow,
                session=session,
                command=command,
                offset=self.buffer.received,
                window=0,
            )
            self._finish(UsageError(f"command {command} is not followed any more"))

    def discard(self) -> None:
        """Throw away what came and what is to come, so that the command can end."""
        self._mode = "discard"
        self.buffer.drain()
        self._acknowledge(self.buffer.received)

    def _acknowledge(self, consumed: int) -> None:
        if consumed - self._acknowledged >= self._step and not self._over and not self.connection.lost:
            self._acknowledged = consumed
            session, command = self.key
            self.connection.send(messages.Ack(session=session, command=command, offset=consumed, window=self._window))

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def failure(cause: messages.Failure) -> CommandError:
    """The error for how a command failed."""
    if cause.code == "denied":
        kind: type[CommandDeniedError | CommandLostError | CommandNotStartedError] = CommandDeniedError
    elif cause.code == "gone":
        kind = CommandLostError
    else:
        kind = CommandNotStartedError
    return kind(cause.code, cause.message, cause.hint, cause.rule)


def _why_not(error: SessiondError) -> SessiondError:
    """The error for a start that was refused. One about the session or the daemon stays what it is."""
    if isinstance(error, DeniedError):
        return CommandDeniedError(error.code, error.message, error.hint, error.rule)
    if isinstance(error, InvalidRequestError | LimitError | UnsupportedError):
        return CommandNotStartedError(error.code, error.message, error.hint, error.rule)
    return error
