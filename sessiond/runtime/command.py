"""One command of a session: its state, its output, who follows it, and what it still owes its guest.

The guest's reports are hostile input: each is checked against what this command can have said, and `GuestFault`
ends the sandbox.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from sessiond_protocol import guest as wire
from sessiond_protocol.messages import (
    Awaiting,
    CommandInfo,
    CommandStart,
    CommandState,
    Error,
    Exit,
    Exited,
    Failure,
    Started,
    StdinAck,
    StreamName,
)
from sessiond_protocol.states import CommandEventName, next_command_state

from sessiond.audit.record import Ending
from sessiond.core.errors import RequestError
from sessiond.policy.decide import Verdict
from sessiond.runtime.admission import Slot
from sessiond.runtime.follower import Follower, Sink
from sessiond.runtime.reports import GuestFault, ending, exit_record, spawn_failure
from sessiond.runtime.stdin import Stdin
from sessiond.store.spool import Spool

ACK_BYTES = 256 * 1024
"""Output is acknowledged by this much: a quarter of the guest's ring, so that it never waits for an honest daemon."""
KILL_TREE = (int(signal.SIGKILL), wire.SCOPE_TREE)
WITHDRAWING = frozenset(map(int, (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)))
"""Signals that end a command which waits for consent."""
STREAMS: dict[int, StreamName] = {wire.STDOUT: "stdout", wire.STDERR: "stderr"}


class Channel(Protocol):
    """The way to the guest, as a command needs it."""

    def send(self, frame: wire.DaemonFrame, *, soon: bool = True) -> None:
        """Queue a frame; dropped when the guest is away, because the resynchronisation repeats what is owed."""


class Keeper(Protocol):
    """What a command's session does for it."""

    def record_end(self, command: Command) -> None:
        """Put its end on record, then call `tell_end`."""

    def ended(self, command: Command) -> None:
        """Its end has been told."""

    def fell_silent(self, command: Command) -> None:
        """It ended before, and what it left behind has now closed its streams, too."""

    def stalled(self, command: Command) -> None:
        """The disk does not take its output: call `retry` in a while."""


class End(NamedTuple):
    """How a command ended."""

    event: Literal["exited", "failed", "denied", "lost"]
    at: float
    exit: Exit | None = None
    failure: Failure | None = None


class Starter(NamedTuple):
    """A `command.start` without an answer yet."""

    sink: Sink
    re: int
    answer: Literal["started", "exited"]


class Command:
    """A command on record in a session."""

    def __init__(
        self,
        *,
        session_id: str,
        number: int,
        request: CommandStart,
        body: bytes,
        spool: Spool,
        keeper: Keeper,
        granted: Verdict | None = None,
    ) -> None:
        self.session_id = session_id
        self.id = request.command
        self.number = number
        """Counts the commands of the session, from 1."""
        self.request = request
        self.body = body
        """The request as it came."""
        self.granted = granted
        """The verdict on a command of the daemon's own; None when the policy has to be asked."""
        self.spool = spool
        self.state: CommandState = "starting"
        self.pid = 0
        self.end: End | None = None
        """How it ended, from when that is known; `exit`, `failure` and `state` say it from when it is on record."""
        self.exit: Exit | None = None
        self.failure: Failure | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self.settled = False
        """Whether all of it is on record, and the guest may forget it."""
        self.followers: dict[Sink, Follower] = {}
        self.starters: list[Starter] = []
        self.waiters: list[Callable[[Command], None]] = []
        self.stdin_sink: Sink | None = None
        """Who is told how standard input moves on: who wrote last, or has taken it over."""
        self.substitute: Callable[[Command], None] | None = None
        """Launches it with another shell, should the first one be missing."""
        self.slot: Slot | None = None
        self.approval, self._approval_until = "", 0.0
        """The question that it waits for, or waited, and when that expires, by the wall clock."""
        self.handle = 0
        """What the guest calls it; 0 before it is sent."""
        self._keeper = keeper
        self._channel: Channel | None = None
        self._start: wire.Start | None = None
        self._acked = 0
        self._open_streams = 1 if request.merge_stderr or request.pty else 3
        self._stdin = Stdin(request.command, self._send) if request.stdin or request.input else None
        self._stdin_taken = False
        """Whether nobody but `stdin_sink` may write."""
        self._size: tuple[int, int] | None = None
        """Rows and columns that its terminal was given after the start."""
        self._killed_for: Literal["quota"] | None = None
        self._signals: dict[tuple[int, int], None] = {}
        """Signals and their scopes for when the guest can be reached: early ones, and the one that kills."""
        if self._stdin is not None and request.input:
            self._stdin.write(0, 0, request.input)
            if not request.stdin:
                self._stdin.close(0, len(request.input))

    @classmethod
    def recalled(
        cls,
        *,
        session_id: str,
        number: int,
        request: CommandStart,
        body: bytes,
        spool: Spool,
        keeper: Keeper,
        end: End | None,
        started: float | None,
        settled: bool,
        granted: Verdict | None = None,
    ) -> Command:
        """A command of an earlier life of the daemon, or one whose record had left memory."""
        command = cls(
            session_id=session_id,
            number=number,
            request=request,
            body=body,
            spool=spool,
            keeper=keeper,
            granted=granted,
        )
        command.started = started
        command._acked = spool.stored
        if end is None:
            if command._stdin is not None and request.stdin:
                command._stdin.expect_guest()
        else:
            command.end, command.state = end, end.event
            command.exit, command.failure, command.ended = end.exit, end.failure, end.at
            command._stdin = None
        if settled:
            command.settled = True
            command._open_streams = 0
        return command

    # --- what the daemon asks ---------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it may still do something."""
        return self.state in ("starting", "awaiting_approval", "running")

    @property
    def unspawned(self) -> bool:
        """Whether it may still run, and does not yet."""
        return self.state in ("starting", "awaiting_approval")

    @property
    def killed(self) -> bool:
        """Whether it is to be killed as soon as it runs."""
        return KILL_TREE in self._signals

    @property
    def silent(self) -> bool:
        """Whether no more output can come.

        The guest has reported the end of both streams, or will not report any more.
        """
        return self._open_streams == 0

    def park(self, approval: str, until: float) -> None:
        """It waits until a person allows it, by the wall clock at most `until`."""
        self._move("asked")
        self.approval, self._approval_until = approval, until
        for starter in self.starters:
            self._tell_awaiting(starter)

    def release(self) -> None:
        """It has been allowed."""
        self._move("approved")

    def refuse(self, failure: Failure) -> None:
        """It could not be put on record, and is as if it had never been asked for."""
        starters, self.starters = self.starters, []
        for starter in starters:
            starter.sink.send(self._error(starter, failure))
        for sink, follower in self.followers.items():
            sink.finished(follower)
        self.followers.clear()
        self._move("lost")
        self.failure = failure
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter(self)

    def launch(self, channel: Channel, start: wire.Start, *, sent: bool = False) -> None:
        """Send it to the guest, if that has not been done, with what came for it while it waited.

        Again with another handle after `failed` said that the shell is missing.
        """
        self._channel, self.handle, self._start = channel, start.command, start
        if self._stdin is not None:
            self._stdin.start_again()
        if not sent:
            channel.send(start)
        self._repeat()

    def expect(self, channel: Channel, handle: int, start: wire.Start | None) -> None:
        """The guest may know it from an earlier life of the daemon; if not, it can be sent as `start`, if anything."""
        self._channel, self.handle, self._start = channel, handle, start

    def write(self, offset: int, data: bytes) -> None:
        """Pass standard input on. What was passed on before is ignored; a hole or too much is refused."""
        if not self.request.stdin and not self.request.input:
            raise RequestError("invalid", f"command {self.id} was started without standard input")
        if self._stdin is not None and self.running:
            self._stdin.write(self.handle, offset, data)

    def take_stdin(self, sink: Sink, then: Callable[[], None]) -> None:
        """Let nobody but the sink write from now on; `then` is called when it is known where standard input stands.

        Who wrote before is told that there is no room any more.
        """
        if not self.request.stdin:
            raise RequestError("invalid", f"command {self.id} was started without standard input")
        before, self.stdin_sink, self._stdin_taken = self.stdin_sink, sink, True
        if before is not None and before is not sink:
            before.send(StdinAck(session=self.session_id, command=self.id, offset=0, window=0))
        if self._stdin is not None and self.running:
            self._stdin.when_known(then)
        else:
            then()

    def tell_stdin(self, sent: int) -> None:
        """Tell a connection that has just written up to `sent` where standard input stands: what it sent may be old."""
        stdin = self._stdin
        if self.stdin_sink is not None:
            window, acked = (stdin.window, stdin.acked) if stdin is not None and self.running else (0, sent)
            offset = min(sent, acked)
            self.stdin_sink.send(StdinAck(session=self.session_id, command=self.id, offset=offset, window=window))

    def check_stdin(self, sink: Sink) -> None:
        """Refuse one whose place at standard input another connection has taken."""
        if self._stdin_taken and self.stdin_sink is not sink:
            raise RequestError("fenced", f"another connection writes to command {self.id} now", "take it back, or read")

    def close_stdin(self, offset: int) -> None:
        """End standard input at `offset`, which must be what was written."""
        if self._stdin is not None and self.running:
            self._stdin.close(self.handle, offset)

    def signal(self, number: int, *, tree: bool) -> None:
        """Signal the process group or the whole tree; nothing when it has ended, for the signal may cross the end."""
        if not self.running:
            return
        scope = wire.SCOPE_TREE if tree else wire.SCOPE_GROUP
        if self._channel is None or (number, scope) == KILL_TREE:
            self._signals[number, scope] = None
        self._send(wire.Signal(self.handle, number, scope))

    def kill(self, cause: Literal["quota"]) -> None:
        """End it and all that it started, and say why."""
        self._killed_for = cause
        self.signal(signal.SIGKILL, tree=True)

    def resize(self, rows: int, columns: int) -> None:
        """New size of its terminal."""
        if self.request.pty is None:
            raise RequestError("invalid", f"command {self.id} was started without a terminal")
        if self.running:
            self._size = (rows, columns)
            self._send(wire.Resize(self.handle, rows, columns))

    def follow(self, sink: Sink, offset: int, window: int) -> Follower:
        """Send the sink the output from `offset` on, instead of what it followed before."""
        follower = Follower(self, sink, offset, window)
        self.followers[sink] = follower
        return follower

    def answer_later(self, starter: Starter) -> None:
        """Answer a start when what it waits for has come."""
        if self.running:
            self.starters.append(starter)
            if self.state == "awaiting_approval":
                self._tell_awaiting(starter)
        else:
            self._answer_end(starter)

    def unfollow(self, sink: Sink) -> None:
        """Send the sink nothing more."""
        self.followers.pop(sink, None)
        if self.stdin_sink is sink:
            self.stdin_sink, self._stdin_taken = None, False
        self.starters = [starter for starter in self.starters if starter.sink is not sink]
        self.acknowledge()

    def info(self) -> CommandInfo:
        """The command as the wire shows it."""
        return CommandInfo(
            session=self.session_id,
            command=self.id,
            state=self.state,
            argv=self.request.argv,
            text=self.request.text,
            started=self.started,
            ended=self.ended,
            output_from=self.spool.start,
            output_to=self.spool.end,
            terminal=self.request.pty is not None,
            stdin=self._stdin.position if self._stdin is not None and self.request.stdin and self.running else None,
            exit=self.exit,
            failure=self.failure,
        )

    @property
    def ending(self) -> Ending:
        """How it ended, for the audit log."""
        seconds = max(0.0, (self.ended or 0.0) - (self.started or self.ended or 0.0))
        lost = self.state == "lost"
        spool = self.spool
        return ending(self.exit, lost=lost, seconds=seconds, output_bytes=spool.end, truncated=spool.start > 0)

    def acknowledge(self) -> None:
        """Forget what every follower has consumed if space is short, and let the guest forget what is kept here.

        A terminal that nobody looks at goes on, and forgets the oldest.
        """
        spool = self.spool
        if spool.full:
            unseen = spool.end if self.request.pty is not None else 0
            spool.make_room(min((follower.acked for follower in self.followers.values()), default=unseen))
            if spool.full and self.running:
                return
        unacknowledged = spool.stored - self._acked
        if unacknowledged >= ACK_BYTES or (unacknowledged and not self.running):
            self._acked = spool.stored
            self._send(wire.OutputAck(self.handle, self._acked), soon=self.running)

    def settle(self) -> None:
        """Its end is on record: the guest may forget it."""
        self.acknowledge()
        if self.end is not None and self.end.event in ("exited", "failed"):
            self._send(wire.Forget(self.handle), soon=False)

    def retry(self) -> None:
        """Try again to put its output into files."""
        self.spool.store()
        if self.spool.error is not None:
            self._keeper.stalled(self)
        else:
            self.acknowledge()

    def lose(self, failure: Failure) -> None:
        """It will never be heard of again: its sandbox is gone, or its guest does not know it."""
        self._open_streams = 0
        if self.end is None:
            self._end(End("lost", time.time(), failure=failure))
        else:
            self._pump()

    def deny(self, failure: Failure) -> None:
        """The policy does not let it run."""
        self._open_streams = 0
        self._end(End("denied", time.time(), failure=failure))

    def tell_end(self) -> None:
        """Its end is on record: say so to all who wait for it."""
        self._show_end()
        if self._stdin is not None:
            self._stdin.forget()
        starters, self.starters = self.starters, []
        for starter in starters:
            self._answer_end(starter)
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter(self)
        self._keeper.ended(self)
        if self.silent and not self.settled:  # it fell silent while its end was being put on record
            self._keeper.fell_silent(self)
        self._pump()

    # --- what the guest reports -------------------------------------------------------------------------------------

    def on_started(self, frame: wire.Started) -> None:
        """It runs."""
        if self.state != "starting":
            return
        self._move("started")
        self.pid = frame.pid
        self._signals = {kill: None for kill in self._signals if kill == KILL_TREE}
        self.started = time.time()
        starters, self.starters = self.starters, []
        for starter in starters:
            if starter.answer == "started":
                starter.sink.send(Started(re=starter.re, session=self.session_id, command=self.id, pid=self.pid))
            else:
                self.starters.append(starter)

    def on_failed(self, frame: wire.Failed) -> None:
        """It could not be spawned. A missing shell may have a substitute; else this is its end."""
        if self.end is not None:
            self.settle()
            return
        if self.state != "starting":
            raise GuestFault(f"command {self.handle} failed to start after it had started")
        substitute, self.substitute = self.substitute, None
        if substitute is not None and frame.stage == wire.STAGE_EXEC and frame.errno == errno.ENOENT:
            self._send(wire.Forget(self.handle), soon=False)
            substitute(self)
            return
        self._open_streams = 0
        self._end(End("failed", time.time(), failure=spawn_failure(self._start, frame)))

    def on_output(self, frame: wire.Output, ring: int) -> None:
        """Bytes it wrote.

        A repetition after a redial is skipped; a hole is a fault, and so is more than the ring can hold.
        """
        spool, data = self.spool, frame.data
        skip = spool.end - frame.offset
        if skip < 0:
            raise GuestFault(f"output of command {self.handle} goes on at {frame.offset}, not {spool.end}")
        if skip >= len(data):
            return
        if frame.offset + len(data) > self._acked + ring:
            raise GuestFault(f"output of command {self.handle} beyond its window")
        if self.end is not None and self.end.event != "exited":
            raise GuestFault(f"output of command {self.handle}, which did not run")
        spool.append(STREAMS[frame.stream], data[skip:] if skip else data)
        self._pump()
        spool.store(all=self.end is not None)
        if spool.error is not None:
            self._keeper.stalled(self)
        self.acknowledge()

    def on_eof(self, frame: wire.OutputEof) -> None:
        """The end of one of its streams."""
        self._open_streams &= ~(1 << (frame.stream - 1))
        if self.silent and self.exit is not None:
            self._keeper.fell_silent(self)
            self._pump()

    def on_exited(self, frame: wire.Exited) -> None:
        """It ended. The record is written once; repetitions after a redial are acknowledged again."""
        if self.end is not None:
            if not self.running:
                self.settle()
            return
        if frame.output_bytes > self.spool.end:
            raise GuestFault(f"command {self.handle} ended after output that never came")
        if self.state == "starting":
            raise GuestFault(f"command {self.handle} ended before it started")
        self._open_streams &= ~(frame.stdout_eof | frame.stderr_eof << 1)
        self._end(End("exited", time.time(), exit=exit_record(frame, self._killed_for)))

    def on_stdin_ack(self, frame: wire.StdinAck) -> None:
        """Standard input moved on, or its reading end is gone."""
        stdin = self._stdin
        if not self.running:
            return
        if stdin is None:
            raise GuestFault(f"command {self.handle} acknowledged standard input that it does not have")
        stdin.acknowledged(frame.offset)
        if self.stdin_sink is not None:
            self.stdin_sink.send(
                StdinAck(session=self.session_id, command=self.id, offset=stdin.acked, window=stdin.window)
            )

    def resynchronise(self, *, known: bool) -> None:
        """The guest redialed and said whether it knows this command: repeat what may not have reached it."""
        if self.end is not None:
            if not self.running:
                self.settle()
                if not known and not self.settled:
                    self._open_streams = 0
                    self._keeper.fell_silent(self)
                    self._pump()
            return
        if not known:
            if self.state == "running" or self._start is None:
                self.lose(Failure(code="gone", message=f"the sandbox's guest does not know command {self.id} any more"))
                return
            self._send(self._start)
        self._send(wire.OutputAck(self.handle, self._acked))
        self._repeat()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _repeat(self) -> None:
        if self._stdin is not None:
            self._stdin.repeat(self.handle)
        if self._size is not None:
            self._send(wire.Resize(self.handle, *self._size))
        for number, scope in self._signals:
            self._send(wire.Signal(self.handle, number, scope))

    def _send(self, frame: wire.DaemonFrame, *, soon: bool = True) -> None:
        if self._channel is not None:
            self._channel.send(frame, soon=soon)

    def _move(self, event: CommandEventName) -> None:
        self.state = next_command_state(self.state, event)

    def _pump(self) -> None:
        for follower in tuple(self.followers.values()):
            follower.pump()

    def _end(self, end: End) -> None:
        self.end = end
        self._keeper.record_end(self)

    def _show_end(self) -> None:
        if self.end is not None:
            self._move(self.end.event)
            self.exit, self.failure, self.ended = self.end.exit, self.end.failure, self.end.at

    def _answer_end(self, starter: Starter) -> None:
        """The reply of a start that has not been answered when the command ends."""
        follower = self.followers.get(starter.sink)
        if self.failure is not None:
            starter.sink.send(self._error(starter, self.failure))
        elif follower is not None:
            follower.answer = starter.re
        elif self.exit is not None:
            starter.sink.send(Exited(re=starter.re, session=self.session_id, command=self.id, exit=self.exit))

    def _error(self, starter: Starter, failure: Failure) -> Error:
        return Error(
            re=starter.re,
            session=self.session_id,
            command=self.id,
            code=failure.code,
            message=failure.message,
            hint=failure.hint,
            rule=failure.rule,
        )

    def _tell_awaiting(self, starter: Starter) -> None:
        left = max(0.0, self._approval_until - time.time())
        starter.sink.send(
            Awaiting(re=starter.re, session=self.session_id, command=self.id, approval=self.approval, seconds=left)
        )
