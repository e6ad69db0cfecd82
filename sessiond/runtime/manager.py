"""All sessions of the daemon, and the pools they are opened from."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import structlog
from sessiond_protocol.codec import decode_client
from sessiond_protocol.messages import CommandInfo, SessionInfo, SessionList, SessionOpen

from sessiond.audit.log import AuditLog
from sessiond.core.errors import RequestError
from sessiond.core.identity import same_body
from sessiond.core.paging import page
from sessiond.runtime.admission import Admission
from sessiond.runtime.approvals import Approvals
from sessiond.runtime.command import Command
from sessiond.runtime.deciding import Deciders
from sessiond.runtime.fitting import fit
from sessiond.runtime.keeping import EndedSession
from sessiond.runtime.ledger import Ledger
from sessiond.runtime.lifetimes import Lifetimes
from sessiond.runtime.replacing import Replacing
from sessiond.runtime.sandbox import Sandbox
from sessiond.runtime.session import Host, Session
from sessiond.runtime.shelf import Shelf
from sessiond.runtime.terms import OpenProfile, lifetime, session_limits
from sessiond.store.records import SessionRow
from sessiond.store.spool import SpoolHome
from sessiond.store.store import Store

log = structlog.get_logger()

MOST_ENDED = 10_000
"""Ended sessions kept, whatever their age."""
RECALLED_SESSIONS = 32
"""Ended sessions at hand for who reads what is left of them."""


class SessionManager:
    """Opens, finds, lists and closes sessions."""

    def __init__(
        self,
        profiles: dict[str, OpenProfile],
        *,
        audit: AuditLog,
        admission: Admission,
        store: Store,
        spools: Path,
        most: int,
        retention: float,
        approval_seconds: float,
    ) -> None:
        self.profiles = profiles
        self._store = store
        self._spools = spools
        self._most = most
        self._retention = retention
        self._ledger = Ledger(store, power=store.power)
        self.approvals = Approvals(self._ledger, audit, approval_seconds)
        self._deciders = Deciders()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._opening: dict[str, asyncio.Future[None]] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()
        """Ended sessions that are kept, and until when, on the loop's clock; those that ended first come first."""
        self._recalled: OrderedDict[str, EndedSession] = OrderedDict()
        self._draining = False
        self._calm = asyncio.Event()
        self._lifetimes = Lifetimes(self)
        self._replacing = Replacing(self)
        self._host = Host(
            audit=audit,
            admission=admission,
            ledger=self._ledger,
            approvals=self.approvals,
            deciders=self._deciders,
            on_end=self._session_ended,
            on_loss=self._replacing.begin,
            on_calm=self._calm.set,
            on_use=self._lifetimes.wake,
        )

    def start(self) -> None:
        """Begin to fill the pools and to watch lifetimes."""
        for profile in self.profiles.values():
            profile.pool.start()
        self._lifetimes.start()

    async def close(self, *, keep: bool) -> None:
        """Erase all sandboxes but, if they are to be kept for the next start, those of sessions."""
        self.drain()
        self._deciders.close()
        await self._lifetimes.close()
        await self._replacing.close()
        for session in tuple(self._sessions.values()):
            if keep:
                session.leave()
            else:
                session.close("the daemon stops")
        self.approvals.close()
        await asyncio.gather(*(profile.pool.close() for profile in self.profiles.values()))
        self._ledger.close()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those that have not ended, oldest first."""
        return tuple(self._sessions.values())

    @property
    def count(self) -> int:
        """Sessions that have not ended."""
        return len(self._sessions)

    async def quiet(self) -> None:
        """Return when no command runs."""
        while any(session.running for session in self._sessions.values()):
            self._calm.clear()
            await self._calm.wait()

    def drain(self) -> None:
        """Refuse new sessions and new commands from now on."""
        self._draining = True
        for session in self._sessions.values():
            session.draining = True

    # --- opening ----------------------------------------------------------------------------------------------------

    async def open(self, request: SessionOpen, body: bytes, who: str) -> Session:
        """Open a session, or find the one that the same request opened before. Raises RequestError.

        `body` is the request as it came, `who` asks for it, as the audit log says it.
        """
        session_id = request.session or secrets.token_hex(8)
        while session_id in self._opening:
            await asyncio.wait([self._opening[session_id]])
        known = self._sessions.get(session_id)
        if known is not None:
            if not same_body(known.request, request):
                raise RequestError("conflict", f"session {session_id} was opened by another request", "choose a new id")
            return known
        if session_id in self._ended:
            raise RequestError("conflict", f"session {session_id} was opened before and has ended", "choose a new id")
        if self._draining:
            raise RequestError("unavailable", "the daemon is stopping", "try again when it is back")
        if len(self._sessions) + len(self._opening) >= self._most:
            raise RequestError("limit", f"{self._most} sessions are open, the daemon's limit", "close one")
        return await self._open(session_id, request, body, who)

    async def _open(self, session_id: str, request: SessionOpen, body: bytes, who: str) -> Session:
        profile = self.profiles.get(request.profile)
        if profile is None:
            raise RequestError(
                "not_found", f"there is no profile {request.profile!r}", f"profiles: {', '.join(sorted(self.profiles))}"
            )
        session_limits(request, profile.rules.limits)  # refuse too much before a sandbox is taken
        ttl = lifetime(request.ttl, profile)
        done = self._opening[session_id] = asyncio.get_running_loop().create_future()
        try:
            reserved = profile.pool.reserve()
            session = self._make(session_id, request, body, profile, ttl) if reserved is not None else None
            sandbox, pooled = await profile.pool.claim(reserved)
            try:
                await fit(sandbox, request, profile)
                if session is None:  # the image's environment is known only now
                    session = self._make(session_id, request, body, profile, ttl)
                session.opened(sandbox, pooled=pooled, who=who)
            except BaseException:
                profile.pool.release(sandbox)
                raise
            self._sessions[session_id] = session
        finally:
            del self._opening[session_id]
            done.set_result(None)
        if sandbox.cause is not None:
            session.close("its sandbox died as it was opened")
            raise RequestError("unavailable", f"the sandbox of session {session_id} died as it was opened", "try again")
        return session

    def _make(
        self, session_id: str, request: SessionOpen, body: bytes, profile: OpenProfile, ttl: float | None
    ) -> Session:
        now = time.time()
        row = SessionRow(
            id=session_id,
            state="opening",
            profile=profile.rules.profile,
            engine=profile.rules.engine,
            sandbox="",
            generation=1,
            request=body,
            image_env=dict(profile.pool.image_env),
            created=now,
            expires=now + ttl if ttl is not None else None,
            idle_timeout=request.idle_timeout if request.idle_timeout is not None else profile.idle_timeout,
            epoch=0,
            pooled=False,
            workspace="",
            kernel="",
            ended=None,
            reason="",
            policy=profile.rules.policy.digest,
        )
        return self._session(row, request, profile)

    def _session(self, row: SessionRow, request: SessionOpen, profile: OpenProfile) -> Session:
        rules = profile.rules
        home = SpoolHome(
            self._spools / row.id,
            command_bytes=rules.command_bytes,
            session_bytes=rules.session_bytes,
            ring=rules.ring,
        )

        def shelf(session: Session) -> Shelf:
            return Shelf(row.id, self._store, home, session, rules.tools)

        return Session(row, request, rules, shelf, self._host)

    # --- an earlier life --------------------------------------------------------------------------------------------

    def remember(self, row: SessionRow) -> None:
        """An ended session is on record, to be kept for the retention."""
        age = time.time() - (row.ended or row.created)
        self._ended[row.id] = asyncio.get_running_loop().time() + self._retention - age

    def restore(self, row: SessionRow, sandbox: Sandbox | None, cause: str) -> None:
        """A session of an earlier life of the daemon goes on, in its sandbox or else, because of `cause`, in another.

        One whose profile is gone ends.
        """
        profile = self.profiles.get(row.profile)
        if profile is None:
            self.abandon(row, f"its profile {row.profile} is gone")
            return
        session = self._session(row, opening_request(row), profile)
        self._sessions[row.id] = session
        if sandbox is not None:
            profile.pool.count(sandbox)
        session.adopted(sandbox)
        if sandbox is None:
            session.lose_sandbox(cause)

    def abandon(self, row: SessionRow, reason: str) -> None:
        """A session of an earlier life cannot go on."""
        log.warning("session ends", session=row.id, reason=reason)
        ended = replace(row, state="lost", ended=time.time(), reason=reason, sandbox="")
        self._ledger.note(ended)
        self.remember(ended)

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, session_id: str) -> Session | None:
        """A session that has not ended, or None."""
        return self._sessions.get(session_id)

    def get(self, session_id: str) -> Session:
        """A session that has not ended. Raises RequestError: `gone` when it has, `not_found` when it never was."""
        session = self._sessions.get(session_id)
        if session is not None:
            return session
        ended = self._recall(session_id)
        raise RequestError("gone", f"session {session_id} is {ended.row.state}: {ended.row.reason}", "open a new one")

    def command(self, session_id: str, command_id: str) -> Command:
        """A command to be read of, also one of a session that has ended. Raises RequestError `not_found`."""
        session = self._sessions.get(session_id)
        return (session or self._recall(session_id)).shelf.get(command_id)

    def recorded(self, session_id: str, command_id: str | None) -> bytes:
        """The request that opened a session, or that began one of its commands, as it came. Raises RequestError."""
        session = self._sessions.get(session_id) or self._recall(session_id)
        return session.row.request if command_id is None else session.shelf.get(command_id).body

    def commands(self, session_id: str, after: str | None, limit: int) -> tuple[list[CommandInfo], bool]:
        """A page of a session's commands, also of one that has ended. Raises RequestError `not_found`."""
        session = self._sessions.get(session_id)
        return (session or self._recall(session_id)).shelf.page(after, limit)

    def info(self, session_id: str) -> SessionInfo:
        """A session's state, even when it has ended."""
        session = self._sessions.get(session_id)
        return (session or self._recall(session_id)).info()

    def list(self, request: SessionList) -> tuple[list[SessionInfo], bool]:
        """Sessions that have not ended and carry the labels, oldest first, and whether there are more."""
        sessions = iter(self._sessions.values())
        if request.after is not None:
            self.get(request.after)
            for session in sessions:
                if session.id == request.after:
                    break
        wanted = (session.info() for session in sessions if request.labels.items() <= session.request.labels.items())
        return page(wanted, request.limit)

    def _recall(self, session_id: str) -> EndedSession:
        ended = self._recalled.get(session_id)
        if ended is None:
            row = self._store.find_session(session_id) if session_id in self._ended else None
            if row is None:
                raise RequestError("not_found", f"there is no session {session_id}")
            ended = EndedSession(row, opening_request(row), self._store, self._spools / row.id)
            self._recalled[session_id] = ended
            if len(self._recalled) > RECALLED_SESSIONS:
                self._recalled.popitem(last=False)
        return ended

    # --- ending -----------------------------------------------------------------------------------------------------

    def close_session(self, session_id: str, reason: str, who: str) -> SessionInfo:
        """End a session; one that has ended stays as it was."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.close(reason, who)
        return self.info(session_id)

    def _session_ended(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self.remember(session.row)
        self.approvals.forget(session.id)
        pool = self.profiles[session.rules.profile].pool
        if session.sandbox is not None:
            pool.release(session.sandbox)
        elif session.row.workspace:
            pool.erase_volume(session.row.workspace)

    def volume_exceeded(self, name: str, used: int) -> None:
        """A volume without a hard limit holds more than it may."""
        for session in self.sessions:
            if session.row.workspace == name:
                log.warning("workspace over its size", session=session.id, used=used)
                session.stop_writers()

    def forget_old(self) -> None:
        """Erase what was kept of sessions that ended long ago."""
        now = asyncio.get_running_loop().time()
        while self._ended:
            session_id, until = next(iter(self._ended.items()))
            if now < until and len(self._ended) <= MOST_ENDED:
                return
            del self._ended[session_id]
            self._recalled.pop(session_id, None)
            self._store.forget(session_id)
            shutil.rmtree(self._spools / session_id, ignore_errors=True)


def opening_request(row: SessionRow) -> SessionOpen:
    """The request that opened a session. Raises RequestError when the record is not one."""
    request = decode_client(row.request)
    if not isinstance(request, SessionOpen):
        raise RequestError("internal", f"the record of session {row.id} is not that of a session")
    return request
