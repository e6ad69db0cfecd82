"""What an approver does: looks at commands that wait for consent, and allows or denies them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from sessiond_protocol import messages
from sessiond_protocol.messages import ApprovalInfo

from sessiond_client.doorbell import Doorbell
from sessiond_client.errors import SessiondError

if TYPE_CHECKING:
    from sessiond_client.client import Client

Scope = Literal["once", "times", "until", "session", "rule"]
_MAX_EVENTS = 4096


class Approvals:
    """The questions of a daemon's sessions, from `Client.approvals`. Its client cannot use sessions."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self) -> list[ApprovalInfo]:
        """Those without an answer, oldest first."""
        link = await self._client.ready()
        found: list[ApprovalInfo] = []
        more = True
        while more:
            after = found[-1].approval if found else None
            page = await link.request(messages.ApprovalsReply, messages.ApprovalList, after=after)
            found += page.approvals
            more = page.more and bool(page.approvals)
        return found

    async def show(self, approval: str) -> tuple[ApprovalInfo, str]:
        """One of them, answered or not, and rules as TOML that would make it unnecessary."""
        link = await self._client.ready()
        reply = await link.request(messages.ApprovalReply, messages.ApprovalShow, approval=approval)
        return reply.approval, reply.proposal

    async def allow(
        self,
        approval: str,
        *,
        scope: Scope = "once",
        times: int | None = None,
        until: float | None = None,
        rule: str | None = None,
        reason: str = "",
    ) -> ApprovalInfo:
        """Let the command run: this one only, or equal ones of its session `times` times, `until` a time (in seconds
        since the epoch) or while the session lasts, or by a `rule` (TOML) that is appended to the policy's file.
        """
        return await self._answer(approval, "allow", scope=scope, times=times, until=until, rule=rule, reason=reason)

    async def deny(self, approval: str, *, reason: str = "") -> ApprovalInfo:
        """Let it not run."""
        return await self._answer(approval, "deny", reason=reason)

    def watch(self) -> ApprovalEvents:
        """Iterate over the questions without an answer, then over new ones and over what becomes of them all."""
        return ApprovalEvents(self._client)

    async def reload_policy(self) -> None:
        """Have the daemon read its policy files again. Raises InvalidRequestError; the old policy then stays."""
        link = await self._client.ready()
        await link.request(messages.Ok, messages.PolicyReload)

    async def _answer(self, approval: str, verdict: Literal["allow", "deny"], **fields: Any) -> ApprovalInfo:
        link = await self._client.ready()
        reply = await link.request(
            messages.ApprovalReply, messages.ApprovalAnswer, approval=approval, verdict=verdict, **fields
        )
        return reply.approval


class ApprovalEvents:
    """What happens to questions, as an asynchronous iterator. After a lost connection open ones come again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._events: deque[ApprovalInfo] = deque(maxlen=_MAX_EVENTS)
        self._error: SessiondError | None = None
        self._begun = False
        self._bell = Doorbell()

    def __aiter__(self) -> ApprovalEvents:
        """Itself."""
        return self

    async def __anext__(self) -> ApprovalInfo:
        """The next one."""
        return await self.next()

    async def next(self) -> ApprovalInfo:
        """The next one. Raises why no more will come."""
        if not self._begun:
            self._begun = True
            link = await self._client.ready()
            link.watch(self)
            await link.request(messages.Ok, messages.ApprovalWatch)
        while not self._events:
            if self._error is not None:
                raise self._error
            await self._bell.wait("these events are")
        return self._events.popleft()

    def on_approval(self, approval: ApprovalInfo) -> None:
        """Take an event from the connection."""
        self._events.append(approval)
        self._bell.ring()

    def on_lost(self, reason: SessiondError) -> None:
        """Take note that the connection is gone for good."""
        self._error = reason
        self._bell.ring()
