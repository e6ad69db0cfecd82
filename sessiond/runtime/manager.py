"""All sessions of the daemon, and the pools they are opened from."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

import structlog
from sessiond_protocol.messages import SessionInfo, SessionList, SessionOpen

from sessiond.core.errors import RequestError
from sessiond.core.identity import same_body
from sessiond.core.launch import Environment
from sessiond.core.paging import page
from sessiond.engine.port import Engine, EngineError, Limits
from sessiond.policy.audit import AuditLog
from sessiond.runtime.admission import Admission
from sessiond.runtime.confine import confine
from sessiond.runtime.pool import Pool
from sessiond.runtime.session import Session, SessionRules

log = structlog.get_logger()

KEPT_CLOSED = 1024
"""Sessions that ended, kept so that a question about one finds its end and its id is not used again."""
IDLE_CHECK_SECONDS = 1.0
"""Lifetimes are in seconds and longer.

One sweep a second over all sessions is exact enough and costs less than a timer each.
"""


@dataclass(frozen=True, slots=True)
class OpenProfile:
    """A profile ready for use."""

    engine: Engine
    rules: SessionRules
    pool: Pool
    ttl: float | None
    idle_timeout: float | None
    max_ttl: float | None


class SessionManager:
    """Opens, finds, lists and closes sessions."""

    def __init__(self, profiles: dict[str, OpenProfile], *, audit: AuditLog, admission: Admission, most: int) -> None:
        self.profiles = profiles
        self._audit = audit
        self._admission = admission
        self._most = most
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._opening: dict[str, asyncio.Future[None]] = {}
        self._closed: OrderedDict[str, SessionInfo] = OrderedDict()
        self._sweeper: asyncio.Task[None] | None = None
        self._draining = False
        self._calm = asyncio.Event()

    def start(self) -> None:
        """Begin to fill the pools and to watch lifetimes."""
        for profile in self.profiles.values():
            profile.pool.start()
        self._sweeper = asyncio.create_task(self._sweep(), name="lifetimes")

    async def close(self) -> None:
        """Close all sessions and erase all sandboxes."""
        self._draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for session in tuple(self._sessions.values()):
            session.close("the daemon stops")
        await asyncio.gather(*(profile.pool.close() for profile in self.profiles.values()))

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

    async def open(self, request: SessionOpen) -> Session:
        """Open a session, or find the one that the same request opened before. Raises RequestError."""
        session_id = request.session or secrets.token_hex(8)
        while session_id in self._opening:
            await asyncio.wait([self._opening[session_id]])
        known = self._sessions.get(session_id)
        if known is not None:
            if not same_body(known.request, request):
                raise RequestError("conflict", f"session {session_id} was opened by another request", "choose a new id")
            return known
        if session_id in self._closed:
            raise RequestError("conflict", f"session {session_id} was opened before and has ended", "choose a new id")
        if self._draining:
            raise RequestError("unavailable", "the daemon is stopping", "try again when it is back")
        if len(self._sessions) + len(self._opening) >= self._most:
            raise RequestError("limit", f"{self._most} sessions are open, the daemon's limit", "close one")
        return await self._open(session_id, request)

    def find(self, session_id: str) -> Session | None:
        """A session that has not ended, or None."""
        return self._sessions.get(session_id)

    def get(self, session_id: str) -> Session:
        """A session that has not ended. Raises RequestError: `gone` when it has, `not_found` when it never was."""
        session = self._sessions.get(session_id)
        if session is not None:
            return session
        if session_id in self._closed:
            state = self._closed[session_id].state
            raise RequestError("gone", f"session {session_id} is {state}", "open a new one")
        raise RequestError("not_found", f"there is no session {session_id}")

    def info(self, session_id: str) -> SessionInfo:
        """A session's state, even when it has ended."""
        if session_id in self._closed:
            return self._closed[session_id]
        return self.get(session_id).info()

    def list(self, request: SessionList) -> tuple[list[SessionInfo], bool]:
        """Sessions that have not ended and carry the labels, oldest first, and whether there are more."""
        sessions = iter(self._sessions.values())
        if request.after is not None:
            self.get(request.after)
            for session in sessions:
                if session.id == request.after:
                    break
        wanted = (session.info() for session in sessions if request.labels.items() <= session.labels.items())
        return page(wanted, request.limit)

    def close_session(self, session_id: str, reason: str) -> SessionInfo:
        """End a session; one that has ended stays as it was."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.close(reason)
        return self.info(session_id)

    async def _open(self, session_id: str, request: SessionOpen) -> Session:
        profile = self.profiles.get(request.profile)
        if profile is None:
            raise RequestError(
                "not_found", f"there is no profile {request.profile!r}", f"profiles: {', '.join(sorted(self.profiles))}"
            )
        limits = session_limits(request, profile.rules.limits)
        ttl = lifetime(request.ttl, profile)
        done = self._opening[session_id] = asyncio.get_running_loop().create_future()
        try:
            reserved = profile.pool.reserve()
            session = self._make(session_id, request, profile, ttl) if reserved is not None else None
            sandbox, pooled = await profile.pool.claim(reserved)
            try:
                if limits != profile.rules.limits:
                    await profile.engine.tighten(sandbox.id, limits)
                if profile.rules.kernel is not None:
                    search = Environment(profile.pool.image_env, profile.rules.env).path
                    await confine(sandbox, profile.rules.kernel, search)
            except BaseException as error:
                profile.pool.release(sandbox)
                if isinstance(error, EngineError):
                    raise RequestError("unavailable", f"the session's limits cannot be set: {error}") from error
                raise
            if session is None:  # the image's environment is known only now
                session = self._make(session_id, request, profile, ttl)
            self._sessions[session_id] = session
            session.opened(sandbox, pooled=pooled)
        finally:
            del self._opening[session_id]
            done.set_result(None)
        if session.state != "open":
            raise RequestError("unavailable", f"the sandbox of session {session_id} died as it was opened", "try again")
        return session

    def _make(self, session_id: str, request: SessionOpen, profile: OpenProfile, ttl: float | None) -> Session:
        session = Session(
            session_id,
            request,
            profile.rules,
            image_env=profile.pool.image_env,
            audit=self._audit,
            admission=self._admission,
            expires=time.time() + ttl if ttl is not None else None,
            idle_timeout=request.idle_timeout if request.idle_timeout is not None else profile.idle_timeout,
            on_end=self._ended,
            on_calm=self._calm.set,
        )
        session.deadline = asyncio.get_running_loop().time() + ttl if ttl is not None else None
        return session

    def _ended(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._closed[session.id] = session.info()
        while len(self._closed) > KEPT_CLOSED:
            self._closed.popitem(last=False)
        if session.sandbox is not None:
            self.profiles[session.rules.profile].pool.release(session.sandbox)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(IDLE_CHECK_SECONDS)
            now = asyncio.get_running_loop().time()
            for session in tuple(self._sessions.values()):
                if session.deadline is not None and now >= session.deadline:
                    session.close("its time to live is over")
                elif session.idle_timeout is not None and session.idle_for >= session.idle_timeout:
                    session.close(f"idle for {session.idle_timeout:g} s")


def session_limits(request: SessionOpen, profile: Limits) -> Limits:
    """The profile's limits tightened to the request's.

    Raises RequestError when one asks for more than the profile has.
    """
    if not request.limits.model_fields_set:
        return profile
    asked = {name: value for name, value in request.limits.model_dump().items() if value is not None}
    for name, value in asked.items():
        if value > getattr(profile, name):
            raise RequestError(
                "limit",
                f"{name} {value} is above the profile's {getattr(profile, name)}",
                "ask for less, or for another profile",
            )
    sandbox_wide = {name: value for name, value in asked.items() if name in ("memory_bytes", "pids", "cpus")}
    return Limits(**{**{name: getattr(profile, name) for name in Limits.__slots__}, **sandbox_wide})


def lifetime(asked: float | None, profile: OpenProfile) -> float | None:
    """Seconds that a session may live. Raises RequestError when more is asked for than the profile allows."""
    if asked is not None and profile.max_ttl is not None and asked > profile.max_ttl:
        raise RequestError("limit", f"ttl {asked:g} is above the profile's {profile.max_ttl:g}")
    return asked if asked is not None else profile.ttl if profile.ttl is not None else profile.max_ttl
