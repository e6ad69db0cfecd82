"""What arrives about one command, and what is granted for it: output within its window, standard input, the end.

The window is a promise to the daemon and a bound for this side: what arrives beyond it breaks the protocol.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from sessiond_protocol import messages
from sessiond_protocol.messages import CommandState

from sessiond_client.buffer import OutputBuffer
from sessiond_client.doorbell import Doorbell
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
    UnsupportedError,
    UsageError,
)
from sessiond_client.latch import Latch
from sessiond_client.link import Link
from sessiond_client.results import ExitStatus, Gap, Output, exit_status
from sessiond_client.roles import CommandEvent, Reply
from sessiond_client.stdin import StdinPipe

Mode = Literal["read", "collect", "discard"]
"""Whether output waits for a reader, is kept whole, or is thrown away."""


class CommandStream:
    """Follows one command, over one connection after the other."""

    def __init__(self, link: Link, key: tuple[str, str], *, offset: int, window: int, mode: Mode) -> None:
        self.link = link
        self.key = key
        self.buffer = OutputBuffer(offset)
        self.started: Latch[int | None] = Latch()
        """The pid, where it is known."""
        self.ended: Latch[ExitStatus] = Latch()
        self.stdin: StdinPipe | None = None
        self.takes_stdin = False
        """Whether standard input is taken over as soon as the daemon has said where it goes on."""
        self.collected: Latch[None] = Latch()
        """Set at the end, and before it when there is more output than `keep`."""
        self.keep = 0
        """Bytes that are collected."""
        self.excess = False
        """Whether there was more."""
        self.state: CommandState = "starting"
        """As far as the daemon has told."""
        self.approval: str | None = None
        """The question that it waits for, or waited."""
        self._overdue: tuple[asyncio.TimerHandle, float] | None = None
        self._mode: Mode = mode
        self._window = window
        self._step = max(1, window // 2)
        self._acknowledged = offset
        self._limit = offset + window
        """Offset up to which output was granted."""
        self._bell = Doorbell()
        self._over = False
        self._over_error: SessiondError | None = None

    # --- beginning

    @property
    def begun(self) -> bool:
        """Whether the daemon has begun to send of it."""
        return self.started.done

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    def on_start(self, answer: Reply | SessiondError) -> None:
        """Take the answer to the request that starts the command."""
        if isinstance(answer, messages.Started):
            self.state = "running"
            self.started.set(answer.pid)
        elif isinstance(answer, GoneError):
            self._fail_unless_lost(answer)
        elif isinstance(answer, SessiondError):
            self.fail(_why_not(answer))
        else:
            self.fail(ProtocolViolationError(f"the daemon answered command.start with {answer.type!r}"))

    def on_followed(self, answer: Reply | SessiondError) -> None:
        """Take the answer to the request that follows the command, for the first time or again."""
        if isinstance(answer, messages.CommandReply):
            if self.takes_stdin and self.stdin is None and answer.command.stdin is not None:
                self.stdin = StdinPipe(self.link, self.key, answer.command.stdin)
            self.state = answer.command.state
            self.started.set(None)
        elif isinstance(answer, GoneError) and self.begun:
            self.fail(CommandLostError(answer.code, answer.message, answer.hint, answer.rule))
        elif isinstance(answer, SessiondError):
            self.fail(answer)
        else:
            self.fail(ProtocolViolationError(f"the daemon answered command.follow with {answer.type!r}"))

    def _fail_unless_lost(self, error: GoneError) -> None:
        """Tell a session that was gone before from a command that went with it: of that `failed` is told, too.

        It comes before the answer to anything that is asked now.
        """
        try:
            self.link.ask(lambda _: self.fail(error), messages.Ping)
        except SessiondError:
            self.fail(error)

    def fail_after(self, seconds: float) -> None:
        """Give up when no end has come after `seconds`; the time that it waits for consent does not count."""
        self.keep_waiting()
        error = DeadlineError(f"the end of command {self.key[1]} was not reported, {seconds:g} s after its start")
        self._overdue = asyncio.get_running_loop().call_later(seconds, self.fail, error), seconds

    def keep_waiting(self) -> None:
        """Do not give up."""
        if self._overdue is not None:
            self._overdue[0].cancel()
            self._overdue = None

    def _take_awaiting(self, event: messages.Awaiting) -> None:
        self.state, self.approval = "awaiting_approval", event.approval
        if self._overdue is not None:
            self.fail_after(self._overdue[1] + event.seconds)

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
        elif isinstance(event, messages.Awaiting):
            self._take_awaiting(event)
        else:
            self.fail(failure(event.failure))

    def on_error(self, error: RemoteError) -> None:
        """Take an error about the command that answers no request: something sent without one was refused."""
        if self.stdin is not None:
            self.stdin.break_off(error)

    def on_reconnected(self) -> None:
        """Go on where it was. What has not begun is begun by its request, which is sent again."""
        self._window = min(self._window, self.link.welcome.limits.window_bytes)
        self._step = max(1, self._window // 2)
        if not self.begun:
            return
        session, command = self.key
        received = self.buffer.received
        self._acknowledged = self.buffer.consumed if self._mode == "read" else received
        self._limit = max(self._acknowledged + self._window, received + 1)  # A window of 0 would not follow.
        self.link.ask(
            self.on_followed,
            messages.CommandFollow,
            once=True,
            session=session,
            command=command,
            offset=received,
            window=self._limit - received,
        )
        if self.stdin is not None:
            self.stdin.on_reconnected()

    def on_lost(self, reason: SessiondError) -> None:
        """The connection is gone for good: how the command ends is not known here."""
        self.fail(reason)

    def fail(self, error: SessiondError) -> None:
        """Nothing more will come, because of `error`."""
        self.state = _state_of(error, self.state)
        self.started.fail(error)
        self.ended.fail(error)
        self._finish(error)

    def _take_output(self, event: messages.Output) -> None:
        data, end = event.data, event.offset + len(event.data)
        if event.offset != self.buffer.received:
            raise self._violation(f"output at {event.offset} where {self.buffer.received} was due")
        if end > self._limit:
            raise self._violation(f"output up to {end}, beyond the window that ends at {self._limit}")
        if not self.ended.done:
            self.state = "running"
        self.started.set(None)
        if self._mode == "read":
            self.buffer.append(event.stream, data)
            self._bell.ring()
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
        self.started.set(None)
        if self._mode == "discard":
            self.buffer.received = event.end
        else:
            self.buffer.skip(event.end)
        if self._mode == "read":
            self._bell.ring()
        else:
            self._acknowledge(event.end)

    def _take_exit(self, exit: messages.Exit) -> None:
        if self.buffer.received < exit.output_bytes:
            raise self._violation(
                f"its end after {self.buffer.received} bytes of output, of {exit.output_bytes} that it wrote"
            )
        self.state = "exited"
        self.started.set(None)
        self.ended.set(exit_status(exit))
        self._finish(None)

    def _finish(self, error: SessiondError | None) -> None:
        if self._over:
            return
        self._over = True
        self._over_error = error
        self.link.unfollow(self.key, self)
        self.collected.set(None)
        if self.stdin is not None:
            self.stdin.break_off(error or StdinClosedError(f"command {self.key[1]} has ended"))
        self._bell.ring()

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
            await self._bell.wait(f"the output of command {self.key[1]} is")
        self._acknowledge(self.buffer.consumed)
        return piece

    async def stop(self) -> None:
        """Let the daemon send no more of it."""
        session, command = self.key
        if not self._over:
            await self.link.request(
                messages.CommandReply,
                messages.CommandFollow,
                session=session,
                command=command,
                offset=self.buffer.received,
                window=0,
            )
            self.let_go()

    def let_go(self) -> None:
        """Take nothing more of it."""
        self._finish(UsageError(f"command {self.key[1]} is not followed any more"))

    def discard(self) -> None:
        """Throw away what came and what is to come, so that the command can end."""
        self._mode = "discard"
        self.buffer.drain()
        self._acknowledge(self.buffer.received)

    def _acknowledge(self, consumed: int) -> None:
        if consumed - self._acknowledged >= self._step and not self._over and not self.link.lost:
            self._acknowledged = consumed
            self._limit = max(self._limit, consumed + self._window)
            session, command = self.key
            self.link.send(messages.Ack(session=session, command=command, offset=consumed, window=self._window))


def failure(cause: messages.Failure) -> CommandError:
    """The error for how a command failed."""
    if cause.code == "denied":
        kind: type[CommandDeniedError | CommandLostError | CommandNotStartedError] = CommandDeniedError
    elif cause.code == "gone":
        kind = CommandLostError
    else:
        kind = CommandNotStartedError
    return kind(cause.code, cause.message, cause.hint, cause.rule)


def _state_of(error: SessiondError, state: CommandState) -> CommandState:
    """The state of a command about which `error` is the last that was heard."""
    if isinstance(error, CommandDeniedError):
        return "denied"
    if isinstance(error, CommandLostError):
        return "lost"
    return "failed" if isinstance(error, CommandNotStartedError) else state


def _why_not(error: SessiondError) -> SessiondError:
    """The error for a start that was refused. One about the session or the daemon stays what it is."""
    if isinstance(error, DeniedError):
        return CommandDeniedError(error.code, error.message, error.hint, error.rule)
    if isinstance(error, InvalidRequestError | LimitError | UnsupportedError):
        return CommandNotStartedError(error.code, error.message, error.hint, error.rule)
    return error
