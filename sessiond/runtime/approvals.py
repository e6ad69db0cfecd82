"""Commands that wait for a person's consent: the questions, who is told of them, the answers, and how far they go.

A question is on record before anybody sees it, an answer before it has an effect. A consent is bound to the digest of
exactly what would run, in one session; without an answer in time it is a denial.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sessiond_protocol.codec import decode_client
from sessiond_protocol.messages import ApprovalAnswer, ApprovalEvent, ApprovalInfo, CommandStart

from sessiond.audit.log import AuditError, AuditLog
from sessiond.audit.record import DAEMON, Detail, EventName, Subject
from sessiond.core.errors import RequestError
from sessiond.core.paging import page
from sessiond.policy.decide import Verdict
from sessiond.runtime.follower import Sink
from sessiond.runtime.ledger import Ledger
from sessiond.store.records import ApprovalRow, ApprovalState

log = structlog.get_logger()

RULE = "approval"
"""Which rule allows a command that an earlier consent covers, on the audit log."""


@dataclass(slots=True)
class _Question:
    row: ApprovalRow
    on_answer: Callable[[ApprovalRow], None]
    timer: asyncio.TimerHandle


class Approvals:
    """All questions without an answer, and the consents that still count."""

    def __init__(self, ledger: Ledger, audit: AuditLog, seconds: float) -> None:
        self.seconds = seconds
        """For an answer."""
        self._ledger = ledger
        self._audit = audit
        self._loop = asyncio.get_running_loop()
        self._questions: OrderedDict[str, _Question] = OrderedDict()
        self._consents: dict[str, dict[str, ApprovalRow]] = {}
        """By session, then by digest."""
        self._watchers: set[Sink] = set()

    # --- what sessions do -------------------------------------------------------------------------------------------

    def ask(self, row: ApprovalRow, on_answer: Callable[[ApprovalRow], None]) -> None:
        """Put a question on record and to who watches; `on_answer` is called once. Raises RequestError."""
        details = {"approval": row.id, "rule": row.rule, "reason": row.reason, "binding": row.digest}
        try:
            self._record("approval_asked", row, row.who, {**details, "expires": row.expires})
        except AuditError as error:
            raise RequestError("unavailable", f"nobody may be asked what is not on record: {error}") from error
        self._ledger.approval(row)
        self.resume(row, on_answer)

    def resume(self, row: ApprovalRow, on_answer: Callable[[ApprovalRow], None]) -> None:
        """Go on waiting for an answer; the question is on record."""
        timer = self._loop.call_later(max(0.0, row.expires - time.time()), self._expire, row.id)
        self._questions[row.id] = _Question(row, on_answer, timer)
        self._tell(row)

    def consent(self, session: str, digest: str, verdict: Verdict) -> Verdict:
        """What a verdict of `ask` becomes by an earlier consent, of which one use is spent. Raises RequestError."""
        consents = self._consents.get(session, {})
        row = consents.get(digest)
        if row is None:
            return verdict
        if row.scope == "times":
            row = replace(row, times_left=row.times_left - 1)
            self._ledger.approval(row)
            consents[digest] = row
        if not _lasts(row):
            del consents[digest]
        if row.until is not None and row.until <= time.time():
            return verdict
        return replace(verdict, outcome="allow", rule=RULE, reason=f"{row.approver} allowed it by approval {row.id}")

    def remember(self, rows: Iterable[ApprovalRow]) -> None:
        """Take over the consents on record."""
        for row in rows:
            if row.state == "allowed" and _lasts(row):
                self._consents.setdefault(row.session, {})[row.digest] = row

    def withdraw(self, approval: str) -> None:
        """The command ended before anybody answered."""
        question = self._questions.get(approval)
        if question is not None:
            self._end(question, replace(question.row, state="withdrawn", answered=time.time()))

    def forget(self, session: str) -> None:
        """It has ended, and so have the consents for it."""
        self._consents.pop(session, None)

    def close(self) -> None:
        """Nothing expires any more: what is open is open at the next start."""
        for question in self._questions.values():
            question.timer.cancel()
        self._questions.clear()

    # --- what approvers do ------------------------------------------------------------------------------------------

    def watch(self, sink: Sink) -> None:
        """Tell the sink of each question, and of what becomes of it."""
        self._watchers.add(sink)
        for question in self._questions.values():
            sink.send(ApprovalEvent(approval=approval_info(question.row)))

    def unwatch(self, sink: Sink) -> None:
        """Tell it nothing more."""
        self._watchers.discard(sink)

    def list(self, after: str | None, limit: int) -> tuple[list[ApprovalInfo], bool]:
        """Questions without an answer, oldest first, behind the one named, and whether there are more."""
        rows = [question.row for question in self._questions.values()]
        if after is not None:
            behind = next((n for n, row in enumerate(rows, 1) if row.id == after), None)
            if behind is None:
                raise RequestError("not_found", f"there is no open approval {after}", "begin the listing again")
            rows = rows[behind:]
        return page(map(approval_info, rows), limit)

    def find(self, approval: str) -> ApprovalRow:
        """A question, answered or not. Raises RequestError `not_found`."""
        question = self._questions.get(approval)
        row = question.row if question is not None else self._ledger.find_approval(approval)
        if row is None:
            raise RequestError("not_found", f"there is no approval {approval}", "`sessiond approvals list` has them")
        if question is None and row.state == "pending":  # the daemon died before its command was on record, or ended
            return replace(row, state="withdrawn")
        return row

    def check_open(self, approval: str) -> ApprovalRow:
        """A question that has no answer yet. Raises RequestError: `conflict` when it has."""
        row = self.find(approval)
        if approval not in self._questions:
            by = f" by {row.approver}" if row.approver else ""
            raise RequestError("conflict", f"approval {approval} is {row.state}{by} already")
        return row

    def answer(self, message: ApprovalAnswer, who: str) -> ApprovalRow:
        """Let `who` allow or deny. Raises RequestError; nothing then happened."""
        row = self.check_open(message.approval)
        now = time.time()
        if message.until is not None and message.until <= now:
            raise RequestError("invalid", "the time until which it is to be allowed is over")
        allowed = message.verdict == "allow"
        row = replace(
            row,
            state="allowed" if allowed else "denied",
            answered=now,
            approver=who,
            scope=message.scope if allowed else "",
            times_left=(message.times or 1) - 1,
            until=message.until,
            note=message.reason,
        )
        details = {"approval": row.id, "verdict": message.verdict, "for": row.scope, "binding": row.digest}
        try:
            self._record("approval_answered", row, who, {**details, "approver": who, "reason": row.note})
        except AuditError as error:
            raise RequestError("unavailable", f"no answer counts that is not on record: {error}") from error
        self._ledger.approval(row)
        if allowed:
            self.remember([row])
        self._finish(self._questions[row.id], row)
        return row

    # --- inside -----------------------------------------------------------------------------------------------------

    def _expire(self, approval: str) -> None:
        question = self._questions.get(approval)
        if question is not None:
            row = replace(question.row, state="expired", answered=time.time())
            try:
                self._record("approval_expired", row, DAEMON, {"approval": row.id, "binding": row.digest})
            except AuditError as error:  # it is denied all the same
                log.error("an expiry is not on record", approval=row.id, error=str(error))
            self._end(question, row)

    def _end(self, question: _Question, row: ApprovalRow) -> None:
        """It is over without consent, whether or not the record takes it."""
        try:
            self._ledger.approval(row)
        except RequestError as error:
            log.error("the end of a question is not on record", approval=row.id, error=error.message)
        self._finish(question, row)

    def _finish(self, question: _Question, row: ApprovalRow) -> None:
        question.timer.cancel()
        del self._questions[row.id]
        question.on_answer(row)
        self._tell(row)

    def _record(self, event: EventName, row: ApprovalRow, who: str, details: dict[str, Detail]) -> None:
        self._audit.event(event, Subject(row.session, row.command, row.profile, row.policy, who), details=details)

    def _tell(self, row: ApprovalRow) -> None:
        if self._watchers:
            message = ApprovalEvent(approval=approval_info(row))
            for sink in tuple(self._watchers):
                sink.send(message)


def approval_info(row: ApprovalRow) -> ApprovalInfo:
    """A question as the wire shows it."""
    request = asked_for(row)
    shown: dict[str, Any] = {name: getattr(request, name) for name in ("argv", "text", "cwd", "env", "input", "stdin")}
    for name in ("session", "command", "profile", "digest", "policy", "rule", "reason", "who", "asked", "expires"):
        shown[name] = getattr(row, name)
    return ApprovalInfo(
        **shown,
        approval=row.id,
        state=row.state,
        answered=row.answered,
        approver=row.approver or None,
        scope=row.scope or None,  # type: ignore[arg-type]
        note=row.note,
    )


def asked_for(row: ApprovalRow) -> CommandStart:
    """The command that a question is about; its environment is all that the client sets."""
    request = decode_client(row.request)
    if not isinstance(request, CommandStart):
        raise RequestError("internal", f"the record of approval {row.id} is not that of a command")
    return request


def denial(row: ApprovalRow) -> str:
    """Why a command does not run whose question ended in another way than by consent."""
    said: dict[ApprovalState, str] = {
        "denied": f"{row.approver} denied it" + (f": {row.note}" if row.note else ""),
        "expired": f"nobody allowed it within {row.expires - row.asked:g} s",
        "withdrawn": "it was withdrawn before anybody allowed it",
    }
    return f"{said.get(row.state, row.state)} (approval {row.id}; {row.reason})"


def _lasts(row: ApprovalRow) -> bool:
    """Whether a consent goes further than the command that was asked about."""
    if row.scope == "times":
        return row.times_left > 0
    return row.scope in ("session", "rule") or (row.until is not None and row.until > time.time())
