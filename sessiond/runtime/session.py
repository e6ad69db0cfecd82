"""One session: a tenant's hold on a sandbox, which may be replaced, its commands, and who follows it.

The way of a command is here: known already? - within the limits? - allowed by the policy? - on record - admitted - sent
to the guest. All of it is synchronous, and the guest's reports do the rest; but where the policy has to ask its second
parser, or a person, the command waits (`_start_slowly`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import structlog
from sessiond_protocol import guest as wire
from sessiond_protocol.codec import encode
from sessiond_protocol.errors import LocalProtocolError
from sessiond_protocol.messages import (
    CommandStart,
    Failure,
    SessionEvent,
    SessionInfo,
    SessionOpen,
    SessionState,
    Started,
)
from sessiond_protocol.states import SessionEventName, next_session_state

from sessiond.audit.log import AuditError, AuditLog
from sessiond.audit.record import DAEMON, Detail, EventName, Subject
from sessiond.audit.record import request_digest as audit_digest
from sessiond.core.errors import RequestError
from sessiond.core.identity import consent_digest
from sessiond.core.launch import Environment, launch_frame
from sessiond.policy.decide import CommandRequest, Verdict
from sessiond.runtime.admission import Admission, Slot
from sessiond.runtime.approvals import Approvals, denial
from sessiond.runtime.command import WITHDRAWING, Command, Starter
from sessiond.runtime.deciding import Deciders
from sessiond.runtime.follower import Follower, Sink
from sessiond.runtime.ledger import Ledger
from sessiond.runtime.sandbox import Sandbox
from sessiond.runtime.shelf import Shelf
from sessiond.runtime.terms import SessionRules, session_info
from sessiond.store.records import ApprovalRow, SessionRow

log = structlog.get_logger()

MOST_COMMANDS = 100_000
"""Commands a session may start in its life: their ids are remembered, so that none can run twice."""
HANDLES = 2
"""Handles of one command: the second is for another shell, should the first be missing. So a command's number in its
session tells what a guest may know it by, also after the daemon was killed."""


class Recorded(NamedTuple):
    """What the audit log said of a command before it ran."""

    subject: Subject
    digest: str


class Host(NamedTuple):
    """What sessions have in common, and whom they tell what becomes of them."""

    audit: AuditLog
    admission: Admission
    ledger: Ledger
    approvals: Approvals
    deciders: Deciders
    on_end: Callable[[Session], None]
    on_loss: Callable[[Session], None]
    """Its sandbox died, and it is to have another."""
    on_calm: Callable[[], None]
    """It runs no command any more."""
    on_use: Callable[[Session], None]
    """It is paused, and has been asked for something."""


class Session:
    """A session from its opening on."""

    def __init__(
        self, row: SessionRow, request: SessionOpen, rules: SessionRules, shelf: Callable[[Session], Shelf], host: Host
    ) -> None:
        self.id = row.id
        self.request = request
        self.rules = rules
        self.state: SessionState = "opening"
        self.sandbox: Sandbox | None = None
        self.draining = False
        """Whether the daemon stops, so that nothing new may begin."""
        self.shelf = shelf(self)
        self._row = row
        self._host = host
        self._loop = asyncio.get_running_loop()
        self.last_active = self._loop.time()
        self.deadline = None if row.expires is None else self._loop.time() + row.expires - time.time()
        """On the loop's clock, which no change of the wall clock moves."""
        self.warned = False
        """Whether it has been told that its end is near."""
        self._limits = request.limits
        self._asked_env = request.env
        self._env = Environment(row.image_env, rules.env, request.env)
        self._recorded: dict[str, Recorded] = {}
        self._running = 0
        self._deciding: set[Command] = set()
        """Commands that are not on record yet: the policy is still at them."""
        self._parked: list[Callable[[], None]] = []
        """Launches that wait for the next sandbox."""
        self._attached: dict[Sink, int] = {}
        self._epoch = row.epoch

    # --- life -------------------------------------------------------------------------------------------------------

    def opened(self, sandbox: Sandbox, *, pooled: bool, who: str) -> None:
        """It has its first sandbox, as `who` asked. Raises RequestError when that cannot be put on record."""
        self._row = replace(
            self._row,
            sandbox=sandbox.id,
            pooled=pooled,
            state="open",
            kernel=str(sandbox.layer or ""),
            workspace=sandbox.volume.name if sandbox.volume is not None else "",
        )
        self._host.ledger.session(self._row)
        self.sandbox = sandbox
        self._move("opened", "ready")
        details = {"name": self.request.name, "sandbox": sandbox.id, "engine": self.rules.engine, "pooled": pooled}
        self._audit("session_opened", details, who)
        sandbox.on_death(self.lose_sandbox)

    def adopted(self, sandbox: Sandbox | None) -> None:
        """It comes from an earlier life of the daemon, and so do its commands. Its sandbox may be gone."""
        self._move("opened", "adopted")
        self._audit("session_adopted", {"sandbox": sandbox.id if sandbox is not None else None})
        self.sandbox = sandbox
        self._bind_again()
        rows = self._host.ledger.approvals(self.id)
        self._host.approvals.remember(rows)
        asked = {row.command: row for row in rows}
        for command in self.shelf.restore():
            if command.running:
                self._running += 1
                self._expect(command, asked.get(command.id))
            else:
                self._await(command, None)
        if sandbox is not None:
            sandbox.link.used(HANDLES * self.shelf.count + HANDLES - 1)
            sandbox.on_death(self.lose_sandbox)

    def replaced(self, sandbox: Sandbox) -> None:
        """It has another sandbox: what waited for it goes there."""
        self.sandbox = sandbox
        self._note(sandbox=sandbox.id, generation=self._row.generation + 1, state="open")
        self._move("replaced", "it has a new sandbox")
        self._audit("session_generation", {"generation": self._row.generation, "sandbox": sandbox.id})
        parked, self._parked = self._parked, []
        for launch in parked:
            launch()
        sandbox.on_death(self.lose_sandbox)

    def paused(self, reason: str) -> None:
        """Its processes stand still."""
        self._move("pause", reason)
        self._audit("session_paused", {"reason": reason})

    def resumed(self) -> None:
        """They go on."""
        self._move("resume", "it is in use again")
        self._audit("session_resumed", {})
        self.touch()

    def stop_writers(self) -> None:
        """Its volume holds more than it may: end whatever runs in it."""
        for command in self.shelf.present():
            command.kill("quota")
        self._tell("its workspace holds more than it may: what ran was killed")

    def warn(self, reason: str) -> None:
        """Tell who follows it that its end is near."""
        self.warned = True
        self._tell(reason)

    def close(self, reason: str, who: str = DAEMON) -> None:
        """End it, as `who` asks: commands still running are lost. Its sandbox is the manager's to release."""
        if self.state in ("closed", "closing"):
            return
        self._move("close", reason)
        self._lose_commands(Failure(code="gone", message=f"session {self.id} was closed: {reason}"))
        self._move("closed", reason)
        self._audit("session_closed", {"reason": reason, "commands": self.shelf.count}, who)
        self._end(reason)

    def leave(self) -> None:
        """The daemon stops, and the session goes on without it."""
        if self.sandbox is not None:
            self.sandbox.leave()

    def lose_sandbox(self, cause: str) -> None:
        """Its sandbox is gone, and with it whatever ran there."""
        if self.state not in ("open", "paused"):
            return
        log.warning("sandbox lost", session=self.id, cause=cause)
        self._lose_commands(Failure(code="gone", message=f"the sandbox of session {self.id} died: {cause}"))
        self._move("lost", cause)
        self._audit("session_lost", {"reason": cause, "commands": self.shelf.count})
        if self.rules.replace and not self.draining:
            self._note(state="lost", sandbox="")
            self._host.on_loss(self)
        else:
            self._end(cause)

    @property
    def open(self) -> bool:
        """Whether commands may be started in it."""
        return self.state in ("open", "paused") or (self.state == "lost" and self._row.ended is None)

    def _bind_again(self) -> None:
        """To the policy of its profile, which may have changed while the daemon was away: older ones are not kept."""
        was, now = self._row.policy, self.rules.policy.digest
        if was != now:
            self._note(policy=now)
            self._audit("session_bound", {"was": was, "policy": now})

    def _end(self, reason: str) -> None:
        self._note(state=self.state, ended=time.time(), reason=reason)
        self._host.on_end(self)

    def _lose_commands(self, failure: Failure) -> None:
        self._parked.clear()
        deciding, self._deciding = self._deciding, set()
        for command in deciding:
            with contextlib.suppress(RequestError):  # it did not run: nothing depends on the record
                self._host.ledger.start(self.id, command.id, command.number, self._row.generation, command.body)
        for command in self.shelf.present():
            if not command.settled:
                command.lose(failure)
                self._host.approvals.withdraw(command.approval)

    def _audit(self, event: EventName, details: Mapping[str, Detail], who: str = DAEMON) -> None:
        """Put an event on the audit log. What cannot be does not stop it: its commands then do not run."""
        subject = Subject(self.id, "", self.rules.profile, self.rules.policy.digest, who)
        try:
            self._host.audit.event(event, subject, details=details)
        except AuditError as error:
            log.error("an event of a session is not on record", session=self.id, event_=event, error=str(error))

    def _move(self, event: SessionEventName, reason: str) -> None:
        self.state = next_session_state(self.state, event)
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        if self._attached:
            message = SessionEvent(session=self.info(), reason=reason)
            for sink in tuple(self._attached):
                sink.send(message)

    def _note(
        self,
        *,
        state: str | None = None,
        sandbox: str | None = None,
        generation: int | None = None,
        ended: float | None = None,
        reason: str = "",
        policy: str = "",
    ) -> None:
        row = self._row
        self._row = replace(
            row,
            state=state or row.state,
            sandbox=row.sandbox if sandbox is None else sandbox,
            generation=generation or row.generation,
            epoch=self._epoch,
            ended=ended or row.ended,
            reason=reason or row.reason,
            policy=policy or row.policy,
        )
        self._host.ledger.note(self._row)

    @property
    def row(self) -> SessionRow:
        """The session as the store has it."""
        return self._row

    @property
    def lifetime(self) -> float:
        """Seconds from its opening to when it is closed whatever happens."""
        return (self._row.expires or math.inf) - self._row.created

    @property
    def running(self) -> int:
        """Commands running now."""
        return self._running

    @property
    def idle_timeout(self) -> float | None:
        """Seconds of idleness after which it is closed."""
        return self._row.idle_timeout

    @property
    def idle_for(self) -> float:
        """Seconds since it last did or was asked anything; 0 while a command runs."""
        return 0.0 if self._running else self._loop.time() - self.last_active

    def info(self) -> SessionInfo:
        """The session as the wire shows it."""
        return session_info(
            self._row,
            self.request,
            state=self.state,
            commands=self.shelf.count,
            attached=len(self._attached),
            epoch=self._epoch,
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
            self._note()
        self._attached[sink] = (epoch or self._epoch) if writer else 0

    def detach(self, sink: Sink) -> None:
        """Tell the sink nothing more of it."""
        self._attached.pop(sink, None)
        for command in self.shelf.present():
            command.unfollow(sink)

    def check_writer(self, sink: Sink) -> None:
        """Refuse one who was a writer and has been replaced, and one who attached to read.

        Who never attached may write.
        """
        epoch = self._attached.get(sink)
        if epoch is not None and (epoch == 0 or epoch != self._epoch):
            what = "another connection took this session over" if epoch else "this connection attached as a reader"
            raise RequestError("fenced", f"{what}: session {self.id}", "attach as a writer to take it (back)")

    def touch(self) -> None:
        """It is in use."""
        self.last_active = self._loop.time()
        self.warned = False
        if self.state == "paused":
            self._host.on_use(self)

    # --- commands ---------------------------------------------------------------------------------------------------

    def start(
        self, request: CommandStart, body: bytes, sink: Sink, who: str, verdict: Verdict | None = None
    ) -> Follower | None:
        """Start a command, or answer for the same one started before. The sink gets `started` or an error in reply.

        `body` is the request as it came, `who` asks for it, as the audit log says it. With a `verdict` the policy
        is not asked: the command is the daemon's own. Returns its follower when the request asks to follow it. Raises
        RequestError.
        """
        known = self.shelf.find_same(request)
        if known is not None:
            follower = known.follow(sink, 0, request.window) if request.window else None
            self._answer_again(known, request, sink)
            return follower
        self._check_open()
        self._check_room()
        self.touch()
        granted, asked = verdict, self._asked(request)
        verdict = granted or self.rules.policy.decide_cached(asked)
        if verdict is None or verdict.outcome == "ask":
            return self._start_slowly(request, body, sink, who, asked, verdict)
        recorded = self._put_decision(request, who, asked, verdict)
        number = self.shelf.count + 1
        frame = self._frame(number, request, verdict.argv)
        durable = self._host.ledger.start(self.id, request.command, number, self._row.generation, body)
        slot = None
        if verdict.outcome == "allow" and durable is None and self.sandbox is not None:
            slot = self._host.admission.take()
            if slot is not None:
                self.sandbox.link.send_now(frame)  # the guest spawns it while the rest is seen to here
        command = self._add(request, body, granted)
        if verdict.outcome != "allow":
            command.deny(Failure(code="denied", message=verdict.reason, rule=verdict.rule))
            raise RequestError("denied", verdict.reason, rule=verdict.rule)
        self._recorded[command.id] = recorded
        follower = self._introduce(command, request, sink)
        if slot is not None:
            self._launch(command, frame, slot, sent=True)
        else:
            self._admit_when(durable, command, frame)
        return follower

    def signal(self, command_id: str, number: int, *, tree: bool) -> None:
        """Signal a command; one that waits for consent is withdrawn. Raises RequestError."""
        command = self.shelf.get(command_id)
        if command.state == "awaiting_approval" and number in WITHDRAWING:
            self._host.approvals.withdraw(command.approval)
        else:
            command.signal(number, tree=tree)

    def _answer_again(self, command: Command, request: CommandStart, sink: Sink) -> None:
        if command.failure is not None and (command.state != "lost" or request.answer == "exited"):
            failure = command.failure
            raise RequestError(failure.code, failure.message, failure.hint, failure.rule)
        if request.answer == "started" and not command.unspawned:
            sink.send(Started(re=request.id, session=self.id, command=command.id, pid=command.pid))
        else:
            command.answer_later(Starter(sink, request.id, request.answer))

    def _check_open(self) -> None:
        if not self.open:
            raise RequestError("gone", f"session {self.id} is {self.state}", "open a new one")
        if self.draining:
            raise RequestError("unavailable", "the daemon is stopping", "try again when it is back")

    def _check_room(self) -> None:
        if self._running >= self.rules.commands:
            raise RequestError(
                "limit", f"{self._running} commands run at once in session {self.id}, its limit", "wait for one to end"
            )
        if self.shelf.count >= MOST_COMMANDS:
            raise RequestError("limit", f"session {self.id} has started {MOST_COMMANDS} commands", "open a new one")

    def _add(self, request: CommandStart, body: bytes, granted: Verdict | None) -> Command:
        number = self.shelf.count + 1
        command = Command(
            session_id=self.id,
            number=number,
            request=request,
            body=body,
            spool=self.shelf.home.spool(number),
            keeper=self,
            granted=granted,
        )
        self.shelf.add(command)
        self._running += 1
        return command

    def _introduce(self, command: Command, request: CommandStart, sink: Sink) -> Follower | None:
        """Have the sink told what becomes of the command."""
        command.starters.append(Starter(sink, request.id, request.answer))
        command.stdin_sink = sink
        return command.follow(sink, 0, request.window) if request.window else None

    def _start_slowly(
        self,
        request: CommandStart,
        body: bytes,
        sink: Sink,
        who: str,
        asked: CommandRequest,
        verdict: Verdict | None,
    ) -> Follower | None:
        """Start a command whose verdict takes time, or a person. Until it is decided it is on no record."""
        command = self._add(request, body, None)
        self._deciding.add(command)
        self._introduce(command, request, sink)
        if verdict is None:
            self._host.deciders.decide(
                self.rules.policy, asked, lambda judged: self._decided(command, asked, judged, who)
            )
        else:
            self._decided(command, asked, verdict, who)
        return command.followers.get(sink)

    def _decided(self, command: Command, asked: CommandRequest, verdict: Verdict, who: str) -> None:
        if command not in self._deciding:
            return  # its session ended meanwhile
        self._deciding.discard(command)
        request = command.request
        try:
            question = None
            if verdict.outcome == "ask":
                question = self._question(request, asked, verdict, who)
                verdict = self._host.approvals.consent(self.id, question.digest, verdict)
            recorded = self._put_decision(request, who, asked, verdict)
            frame = self._frame(command.number, request, verdict.argv)
            if question is not None and verdict.outcome == "ask":
                self._host.approvals.ask(question, lambda row: self._answered(command, verdict.argv, row))
            durable = self._host.ledger.start(self.id, command.id, command.number, self._row.generation, command.body)
        except RequestError as error:
            self._take_back(command, error, question)
            return
        if verdict.outcome == "deny":
            command.deny(Failure(code="denied", message=verdict.reason, rule=verdict.rule))
            return
        self._recorded[command.id] = recorded
        if verdict.outcome == "allow":
            self._admit_when(durable, command, frame)
        elif question is not None:
            command.park(question.id, question.expires)
            if command.killed:
                self._host.approvals.withdraw(question.id)

    def _take_back(self, command: Command, error: RequestError, question: ApprovalRow | None) -> None:
        """It could not be put on record: whoever asked for it may ask again."""
        self.shelf.take_back(command)
        self._running -= 1
        command.refuse(Failure(code=error.code, message=error.message, hint=error.hint))
        if question is not None:
            self._host.approvals.withdraw(question.id)
        if self._running == 0:
            self._host.on_calm()

    def _question(self, request: CommandStart, asked: CommandRequest, verdict: Verdict, who: str) -> ApprovalRow:
        policy = self.rules.policy.digest
        try:
            body = encode(request.model_copy(update={"env": asked.env}))
        except LocalProtocolError as error:
            raise RequestError("limit", "it is too large to be put to a person for consent", "use a file") from error
        now = time.time()
        return ApprovalRow(
            id=secrets.token_hex(4),
            session=self.id,
            command=request.command,
            digest=consent_digest(request, asked.env, policy),
            policy=policy,
            rule=verdict.rule,
            reason=verdict.reason,
            profile=self.rules.profile,
            who=who,
            request=body,
            asked=now,
            expires=now + self._host.approvals.seconds,
            state="pending",
            answered=None,
            approver="",
            scope="",
            times_left=0,
            until=None,
            note="",
        )

    def _answered(self, command: Command, argv: tuple[str, ...], row: ApprovalRow) -> None:
        if command.state != "awaiting_approval" or command.end is not None:
            return
        if row.state != "allowed":
            self._recorded.pop(command.id, None)
            command.deny(Failure(code="denied", message=denial(row), rule=row.rule))
            return
        command.release()
        self.touch()
        frame = self._frame(command.number, command.request, argv)
        self._admit_when(self._host.ledger.durable(), command, frame)

    def _put_decision(self, request: CommandStart, who: str, asked: CommandRequest, verdict: Verdict) -> Recorded:
        subject = Subject(self.id, request.command, self.rules.profile, self.rules.policy.digest, who)
        try:
            digest = self._host.audit.decision(subject, asked, verdict)
        except AuditError as error:
            raise RequestError("unavailable", f"nothing may run that is not on record: {error}") from error
        return Recorded(subject, digest)

    def _asked(self, request: CommandStart) -> CommandRequest:
        return CommandRequest(
            argv=tuple(request.argv) if request.argv is not None else None,
            text=request.text,
            env={**self._asked_env, **request.env},
            cwd=request.cwd,
        )

    def _expect(self, command: Command, question: ApprovalRow | None) -> None:
        """A command of an earlier life that has not ended: the guest has it, or has never been sent it, or somebody
        was asked whether it may run.
        """
        asked = self._asked(command.request)
        verdict = command.granted or self.rules.policy.decide(asked)
        subject = Subject(self.id, command.id, self.rules.profile, self.rules.policy.digest, DAEMON)
        self._recorded[command.id] = Recorded(subject, audit_digest(asked))
        frame, allowed = None, verdict.outcome == "allow"
        if question is not None:
            allowed = verdict.outcome == "ask" and question.policy == self.rules.policy.digest
            if question.state == "pending" and allowed:
                command.park(question.id, question.expires)
                self._host.approvals.resume(question, lambda row: self._answered(command, verdict.argv, row))
                return
            if question.state != "allowed":
                self._recorded.pop(command.id)
                why = "the policy changed while it waited for consent" if not allowed else denial(question)
                command.deny(Failure(code="denied", message=why, hint="send it again", rule=question.rule))
                return
        if allowed:
            frame = self._frame(command.number, command.request, verdict.argv)
            self._offer_sh(command, frame)
        self._await(command, frame)

    def _frame(self, number: int, request: CommandStart, argv: tuple[str, ...]) -> wire.Start:
        """What the guest is sent to begin the session's command `number`. Raises RequestError."""
        return launch_frame(HANDLES * number, request, argv, self._env, self._limits)

    def _await(self, command: Command, frame: wire.Start | None) -> None:
        if self.sandbox is None:
            return
        handles = range(HANDLES * command.number, HANDLES * (command.number + 1))
        command.expect(self.sandbox.link, handles[0], frame)
        for handle in handles:
            self.sandbox.link.register(handle, command)

    def _admit(self, command: Command, frame: wire.Start) -> None:
        if self.sandbox is None:
            self._parked.append(lambda: self._admit(command, frame))
        else:
            self._host.admission.submit(lambda slot: self._launch(command, frame, slot))

    def _admit_when(self, durable: asyncio.Future[None] | None, command: Command, frame: wire.Start) -> None:
        """Admit it once it is on the disk, if it has to be."""
        if durable is None:
            self._admit(command, frame)
        else:
            durable.add_done_callback(lambda done: self._admit_durable(command, frame, done))

    def _admit_durable(self, command: Command, frame: wire.Start, done: asyncio.Future[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            command.lose(Failure(code="unavailable", message="its start could not be put on the disk; it did not run"))
        else:
            self._admit(command, frame)

    def _launch(self, command: Command, frame: wire.Start, slot: Slot, *, sent: bool = False) -> None:
        if not command.running or self.sandbox is None:
            slot.release()
            return
        command.slot = slot
        self._offer_sh(command, frame)
        self.sandbox.link.register(frame.command, command)
        command.launch(self.sandbox.link, frame, sent=sent)

    def _offer_sh(self, command: Command, frame: wire.Start) -> None:
        request = command.request
        may_be_sh = request.text is not None or (request.pty is not None and request.argv == ["bash"])
        if frame.argv[0] == b"bash" and may_be_sh and self.rules.try_sh:
            with_sh = replace(frame, command=frame.command + 1, argv=(b"sh", *frame.argv[1:]))
            command.substitute = lambda again: self._admit(again, with_sh)

    # --- Keeper: what its commands report ---------------------------------------------------------------------------

    def record_end(self, command: Command) -> None:
        """Put the end on record, then let the command tell it."""
        self._host.ledger.end(command)

    def ended(self, command: Command) -> None:
        """It has ended, on record and as far as anybody knows."""
        if command.slot is not None:
            command.slot.release()
            command.slot = None
        self._running -= 1
        if self.sandbox is None:
            self._put_on_record(command)
        else:
            if command.silent:
                self.sandbox.link.unregister(command.handle)
            self.sandbox.link.outbox.afterwards(lambda: self._put_on_record(command))

    def fell_silent(self, command: Command) -> None:
        """What an ended command left behind has closed its streams."""
        if not command.settled:
            if self.sandbox is not None:
                self.sandbox.link.unregister(command.handle)
            self._host.ledger.settle(command)
            self.shelf.ended(command)

    def stalled(self, command: Command) -> None:
        """The disk does not take a command's output."""
        self._host.ledger.stalled(command)

    def _put_on_record(self, command: Command) -> None:
        """What nobody waits for when a command has ended."""
        self.touch()
        self._audit_end(command)
        command.settle()
        self.shelf.ended(command)
        if self._running == 0:
            self._host.on_calm()

    def _audit_end(self, command: Command) -> None:
        recorded = self._recorded.pop(command.id, None)
        if recorded is None:
            return
        try:
            self._host.audit.end(recorded.subject, recorded.digest, command.ending)
        except AuditError as error:
            log.error("the end of a command is not on record", session=self.id, command=command.id, error=str(error))
