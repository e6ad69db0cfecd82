"""One session: a tenant's hold on one sandbox, its commands, and who follows it.

The way of a command is here: known already? - within the limits? - allowed by the policy? - on record - admitted -
sent to the
guest. All of it is synchronous; the guest's reports do the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog
from sessiond_protocol import guest as wire
from sessiond_protocol.messages import (
    CommandInfo,
    CommandStart,
    Failure,
    SessionEvent,
    SessionInfo,
    SessionOpen,
    SessionState,
    Started,
)
from sessiond_protocol.states import SessionEventName, next_session_state

from sessiond.core.errors import RequestError
from sessiond.core.identity import request_digest, same_body
from sessiond.core.launch import Environment, launch_frame
from sessiond.core.paging import page
from sessiond.core.spool import Spool
from sessiond.engine.port import Limits
from sessiond.policy.audit import AuditError, AuditLog, Subject
from sessiond.policy.decide import CommandRequest, Policy, Verdict
from sessiond.runtime.admission import Admission, Slot
from sessiond.runtime.command import Command, Starter
from sessiond.runtime.follower import Follower, Sink
from sessiond.runtime.link import GuestLink
from sessiond.runtime.sandbox import Sandbox

log = structlog.get_logger()

KEPT_COMMANDS = 256
"""Ended commands of a session whose record and output are kept in memory; of older ones only id and digest."""
KEPT_OUTPUT_BYTES = 64 * 1024**2
"""Output of ended commands kept in memory for a session; beyond it the oldest one's is forgotten."""
MOST_COMMANDS = 100_000
"""Commands a session may start in its life: their ids are remembered, so that none can run twice."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What a session takes from its profile."""

    profile: str
    engine: str
    policy: Policy
    limits: Limits
    commands: int
    output_bytes: int
    env: Mapping[str, str]
    try_sh: bool
    """Whether a missing bash may be replaced by sh."""


class Recorded(NamedTuple):
    """What the audit log said of a command before it ran."""

    subject: Subject
    digest: str


class Session:
    """A session from its opening on."""

    def __init__(
        self,
        session_id: str,
        request: SessionOpen,
        rules: SessionRules,
        *,
        image_env: Mapping[str, str],
        audit: AuditLog,
        admission: Admission,
        expires: float | None,
        idle_timeout: float | None,
        on_end: Callable[[Session], None],
        on_calm: Callable[[], None],
    ) -> None:
        self.id = session_id
        self.request = request
        self.rules = rules
        self.state: SessionState = "opening"
        self.sandbox: Sandbox | None = None
        self.name = request.name
        self.labels = request.labels
        self.created = time.time()
        self.expires = expires
        self.idle_timeout = idle_timeout
        self.pooled = False
        self.draining = False
        """Whether the daemon stops, so that nothing new may begin."""
        self.deadline: float | None = None
        """On the loop's clock, which no change of the wall clock moves."""
        self._loop = asyncio.get_running_loop()
        self.last_active = self._loop.time()
        self._limits = request.limits
        self._asked_env = request.env
        self._env = Environment(image_env, rules.env, request.env)
        self._recorded: dict[str, Recorded] = {}
        self._audit = audit
        self._admission = admission
        self._on_end = on_end
        self._on_calm = on_calm
        self._commands: OrderedDict[str, Command] = OrderedDict()
        self._kept_output: OrderedDict[str, int] = OrderedDict()
        self._kept_bytes = 0
        self._forgotten: dict[str, bytes] = {}
        self._started = 0
        self._running = 0
        self._attached: dict[Sink, int] = {}
        self._epoch = 0

    # --- life -------------------------------------------------------------------------------------------------------

    def opened(self, sandbox: Sandbox, *, pooled: bool) -> None:
        """It has its sandbox."""
        self.sandbox, self.pooled = sandbox, pooled
        self._move("opened", "ready")
        sandbox.on_death(self._lost)

    def close(self, reason: str) -> None:
        """End it: commands still running are lost. Its sandbox is the manager's to release."""
        if self.state in ("closed", "closing"):
            return
        self._move("close", reason)
        self._lose_commands(Failure(code="gone", message=f"session {self.id} was closed: {reason}"))
        self._move("closed", reason)
        self._on_end(self)

    def _lost(self, cause: str) -> None:
        if self.state != "open":
            return
        log.warning("session lost", session=self.id, cause=cause)
        self._lose_commands(Failure(code="gone", message=f"the sandbox of session {self.id} died: {cause}"))
        self._move("lost", cause)
        self._on_end(self)

    def _lose_commands(self, failure: Failure) -> None:
        for command in tuple(self._commands.values()):
            command.lose(failure)

    def _move(self, event: SessionEventName, reason: str) -> None:
        self.state = next_session_state(self.state, event)
        if self._attached:
            message = SessionEvent(session=self.info(), reason=reason)
            for sink in tuple(self._attached):
                sink.send(message)

    @property
    def running(self) -> int:
        """Commands running now."""
        return self._running

    @property
    def idle_for(self) -> float:
        """Seconds since it last did or was asked anything; 0 while a command runs."""
        return 0.0 if self._running else self._loop.time() - self.last_active

    def info(self) -> SessionInfo:
        """The session as the wire shows it."""
        return SessionInfo(
            session=self.id,
            state=self.state,
            profile=self.rules.profile,
            engine=self.rules.engine,
            generation=1,
            name=self.name,
            labels=self.labels,
            created=self.created,
            expires=self.expires,
            idle_timeout=self.idle_timeout,
            commands=self._started,
            attached=len(self._attached),
            epoch=self._epoch,
            pooled=self.pooled,
        )

    # --- who follows it ---------------------------------------------------------------------------------------------

    def attach(self, sink: Sink, *, writer: bool, epoch: int | None = None) -> None:
        """Tell the sink of the session's events; as a writer it fences those that were writers before.

        One that comes back with its `epoch` is what it was: the writer, or fenced.
        """
        if epoch is not None and not (writer and 1 <= epoch <= self._epoch):
            raise RequestError("invalid", f"session {self.id} has had no writer of epoch {epoch}")
        self.touch()
        if writer and epoch is None:
            self._epoch += 1
        self._attached[sink] = (epoch or self._epoch) if writer else 0

    def detach(self, sink: Sink) -> None:
        """Tell the sink nothing more of it."""
        self._attached.pop(sink, None)
        for command in self._commands.values():
            command.unfollow(sink)

    def check_writer(self, sink: Sink) -> None:
        """Refuse one who was a writer and has been replaced, and one who attached to read.

        Who never attached may write.
        """
        epoch = self._attached.get(sink)
        if epoch is not None and epoch != self._epoch:
            what = "another connection took this session over" if epoch else "this connection attached as a reader"
            raise RequestError("fenced", f"{what}: session {self.id}", "attach as a writer to take it (back)")

    def touch(self) -> None:
        """It is in use."""
        self.last_active = self._loop.time()

    # --- commands ---------------------------------------------------------------------------------------------------

    def start(self, request: CommandStart, sink: Sink, verdict: Verdict | None = None) -> Follower | None:
        """Start a command, or answer for the same one started before. The sink gets `started` or an error in reply.

        With a `verdict` the policy is not asked: the command is the daemon's own.
        Returns its follower when the request asks to follow it. Raises RequestError.
        """
        known = self._find_same(request)
        if known is not None:
            follower = known.follow(sink, 0, request.window) if request.window else None
            self._answer_again(known, request, sink)
            return follower
        self._check_open()
        self._check_room()
        self.touch()
        verdict, recorded = self._judge(request, verdict)
        frame = launch_frame(self._link.new_handle(), request, verdict.argv, self._env, self._limits)
        slot = self._admission.take() if verdict.outcome == "allow" else None
        if slot is not None:
            self._link.send_now(frame)  # the guest spawns it while the rest is seen to here
        command = Command(
            session_id=self.id,
            command_id=request.command,
            request=request,
            spool=Spool(self.rules.output_bytes),
            ended=self._command_ended,
        )
        self._record(command)
        if verdict.outcome != "allow":
            command.deny(Failure(code="denied", message=verdict.reason, rule=verdict.rule))
            raise RequestError("denied", verdict.reason, rule=verdict.rule)
        self._running += 1
        self._recorded[command.id] = recorded
        command.starters.append(Starter(sink, request.id, request.answer))
        command.stdin_sink = sink
        follower = command.follow(sink, 0, request.window) if request.window else None
        if slot is not None:
            self._launch(command, frame, slot, sent=True)
        else:
            self._admission.submit(lambda slot: self._launch(command, frame, slot))
        return follower

    def command(self, command_id: str) -> Command:
        """A command by its id. Raises RequestError `not_found` or, when only its id is remembered, `gone`."""
        command = self._commands.get(command_id)
        if command is not None:
            return command
        if command_id in self._forgotten:
            raise RequestError("gone", f"command {command_id} ended long ago; its record is not kept any more")
        raise RequestError("not_found", f"session {self.id} has no command {command_id}")

    def list(self, after: str | None, limit: int) -> tuple[list[CommandInfo], bool]:
        """Up to `limit` commands after the named one, oldest first, and whether there are more."""
        if after is not None:
            self.command(after)
        rest = iter(self._commands)
        if after is not None:
            for command_id in rest:
                if command_id == after:
                    break
        return page((self._commands[command_id].info() for command_id in rest), limit)

    def _find_same(self, request: CommandStart) -> Command | None:
        known = self._commands.get(request.command)
        if known is not None:
            same = same_body(known.request, request)
        elif request.command in self._forgotten:
            same = self._forgotten[request.command] == request_digest(request)
        else:
            return None
        if not same:
            raise RequestError(
                "conflict",
                f"command {request.command} was started with another body",
                "choose a new id for a new command",
            )
        return self.command(request.command)

    def _answer_again(self, command: Command, request: CommandStart, sink: Sink) -> None:
        if command.failure is not None and (command.state != "lost" or request.answer == "exited"):
            failure = command.failure
            raise RequestError(failure.code, failure.message, failure.hint, failure.rule)
        if request.answer == "started" and command.state != "starting":
            sink.send(Started(re=request.id, session=self.id, command=command.id, pid=command.pid))
        else:
            command.answer_later(Starter(sink, request.id, request.answer))

    def _check_open(self) -> None:
        if self.state != "open":
            raise RequestError("gone", f"session {self.id} is {self.state}", "open a new one")
        if self.draining:
            raise RequestError("unavailable", "the daemon is stopping", "try again when it is back")

    def _check_room(self) -> None:
        if self._running >= self.rules.commands:
            raise RequestError(
                "limit", f"{self._running} commands run at once in session {self.id}, its limit", "wait for one to end"
            )
        if self._started >= MOST_COMMANDS:
            raise RequestError("limit", f"session {self.id} has started {MOST_COMMANDS} commands", "open a new one")

    def _judge(self, request: CommandStart, verdict: Verdict | None) -> tuple[Verdict, Recorded]:
        asked = CommandRequest(
            argv=tuple(request.argv) if request.argv is not None else None,
            text=request.text,
            env={**self._asked_env, **request.env},
            cwd=request.cwd,
        )
        if verdict is None:
            verdict = self.rules.policy.decide(asked)
        subject = Subject(self.id, request.command, self.rules.profile, self.rules.policy.digest)
        try:
            digest = self._audit.decision(subject, asked, verdict)
        except AuditError as error:
            raise RequestError("unavailable", f"nothing may run that is not on record: {error}") from error
        return verdict, Recorded(subject, digest)

    def _record(self, command: Command) -> None:
        self._commands[command.id] = command
        self._started += 1

    def _launch(self, command: Command, frame: wire.Start, slot: Slot, *, sent: bool = False) -> None:
        if not command.running:
            slot.release()
            return
        command.slot = slot
        if frame.argv[0] == b"bash" and command.request.text is not None and self.rules.try_sh:
            command.substitute = lambda again: self._launch(again, self._with_sh(frame), slot)
        self._link.register(frame.command, command)
        command.launch(self._link, frame, sent=sent)

    def _with_sh(self, frame: wire.Start) -> wire.Start:
        return replace(frame, command=self._link.new_handle(), argv=(b"sh", *frame.argv[1:]))

    @property
    def _link(self) -> GuestLink:
        if self.sandbox is None:
            raise RequestError("gone", f"session {self.id} has no sandbox")
        return self.sandbox.link

    def _command_ended(self, command: Command) -> None:
        if command.slot is not None:
            command.slot.release()
            command.slot = None
        if command.state == "denied":
            self._keep(command)
            return
        self._running -= 1
        self._link.outbox.afterwards(lambda: self._put_on_record(command))

    def _put_on_record(self, command: Command) -> None:
        """What nobody waits for when a command has ended."""
        self.touch()
        self._audit_end(command)
        command.settle()
        self._keep(command)
        if self._running == 0:
            self._on_calm()

    def _keep(self, command: Command) -> None:
        self._kept_output[command.id] = kept = command.spool.end - command.spool.start
        self._kept_bytes += kept
        self._forget_old()

    def _audit_end(self, command: Command) -> None:
        recorded = self._recorded.pop(command.id)
        try:
            self._audit.end(recorded.subject, recorded.digest, command.ending)
        except AuditError as error:
            log.error("the end of a command is not on record", session=self.id, command=command.id, error=str(error))

    def _forget_old(self) -> None:
        while self._kept_bytes > KEPT_OUTPUT_BYTES and len(self._kept_output) > 1:
            oldest_id, kept = self._kept_output.popitem(last=False)
            self._kept_bytes -= kept
            self._commands[oldest_id].spool.clear()
        while len(self._commands) - self._running > KEPT_COMMANDS:
            oldest = next(command for command in self._commands.values() if not command.running)
            del self._commands[oldest.id]
            self._forgotten[oldest.id] = request_digest(oldest.request)
            self._kept_bytes -= self._kept_output.pop(oldest.id, 0)
