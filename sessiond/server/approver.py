"""What approvers do over their connections: look at questions, answer them, reload the policy.

An approver shows the token from a file that only the daemon's user may read. That user's agents could read it, too: run
clients as another user than the daemon, or reach it by TCP.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Callable, Coroutine
from hmac import compare_digest
from pathlib import Path
from typing import Any

import structlog
from sessiond_protocol.messages import (
    ApprovalAnswer,
    ApprovalList,
    ApprovalReply,
    ApprovalShow,
    ApprovalsReply,
    ApprovalWatch,
    Ok,
    PolicyReload,
)

from sessiond.core.errors import RequestError
from sessiond.policy.decide import CommandRequest
from sessiond.policy.learn import Recorded, proposals
from sessiond.runtime.approvals import Approvals, approval_info, asked_for
from sessiond.runtime.follower import Sink
from sessiond.server.policies import Policies
from sessiond.store.records import ApprovalRow

log = structlog.get_logger()

TOKEN_FILE = "approver.token"  # noqa: S105 - the name of a file
"""In the state directory."""
ApproverMessage = ApprovalList | ApprovalShow | ApprovalAnswer | ApprovalWatch | PolicyReload


class ApproverDesk:
    """Where approvers' requests are carried out, for all connections."""

    def __init__(self, token: str, approvals: Approvals, policies: Policies) -> None:
        self._token = token.encode()
        self._approvals = approvals
        self._policies = policies
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, token: str, who: str) -> None:
        """Raise RequestError `unauthorized` unless `who` has the approver's token."""
        if not compare_digest(token.encode(), self._token):
            log.warning("somebody who is no approver tried to be one", who=who)
            raise RequestError(
                "unauthorized", "that is not the approver's token", f"the daemon keeps it in {TOKEN_FILE}"
            )

    def handle(self, message: ApproverMessage, sink: Sink, who: str, refuse: Callable[[RequestError], None]) -> None:
        """Carry out a request of an approver, who is `who` on the audit log. Raises RequestError, or refuses later."""
        match message:
            case ApprovalList():
                found, more = self._approvals.list(message.after, message.limit)
                sink.send(ApprovalsReply(re=message.id, approvals=found, more=more))
            case ApprovalShow():
                row = self._approvals.find(message.approval)
                proposal = self._proposal(row)
                sink.send(ApprovalReply(re=message.id, approval=approval_info(row), proposal=proposal))
            case ApprovalAnswer(rule=None):
                self._answer(message, sink, who)
            case ApprovalAnswer():
                self._spawn(self._answer_with_rule(message, sink, who), refuse)
            case ApprovalWatch():
                sink.send(Ok(re=message.id))
                self._approvals.watch(sink)
            case PolicyReload():
                self._spawn(self._reload(message, sink, who), refuse)

    def leave(self, sink: Sink) -> None:
        """An approver's connection is gone."""
        self._approvals.unwatch(sink)

    def _answer(self, message: ApprovalAnswer, sink: Sink, who: str) -> None:
        row = self._approvals.answer(message, who)
        sink.send(ApprovalReply(re=message.id, approval=approval_info(row)))

    async def _answer_with_rule(self, message: ApprovalAnswer, sink: Sink, who: str) -> None:
        row = self._approvals.check_open(message.approval)
        await self._policies.append(row, message.rule or "", who)
        self._answer(message, sink, who)

    async def _reload(self, message: PolicyReload, sink: Sink, who: str) -> None:
        await self._policies.reload(who)
        sink.send(Ok(re=message.id))

    def _proposal(self, row: ApprovalRow) -> str:
        request = asked_for(row)
        argv = tuple(request.argv) if request.argv is not None else None
        wanted = Recorded(CommandRequest(argv, request.text, {}, request.cwd), "ask")
        policy = self._policies.of(row.profile)
        return "\n".join(proposal.toml(row.id) for proposal in proposals(policy, [wanted])) if policy else ""

    def _spawn(self, work: Coroutine[Any, Any, None], refuse: Callable[[RequestError], None]) -> None:
        async def run() -> None:
            try:
                await work
            except RequestError as error:
                refuse(error)
            except Exception:
                log.exception("request failed", request="approver")
                refuse(RequestError("internal", "the daemon failed to do this; its log says why"))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def approver_token(state: Path) -> str:
    """The token that makes an approver, chosen once for the state directory. Raises OSError."""
    path = state / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _choose_token(path)
    with os.fdopen(descriptor) as file:
        status = os.fstat(file.fileno())
        token = file.read(4096).strip()
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid() or not token:
        log.warning("the approver's token was empty or not ours alone; there is a new one", file=str(path))
        return _choose_token(path)
    return token


def _choose_token(path: Path) -> str:
    token = secrets.token_hex(32)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(token + "\n")
    draft.rename(path)
    return token
