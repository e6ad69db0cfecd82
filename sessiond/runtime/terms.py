"""What a session is opened on: what its profile gives it, and what the request may ask for within that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sessiond_protocol.messages import SessionInfo, SessionOpen, SessionState

from sessiond.core.errors import RequestError
from sessiond.engine.port import Engine, Limits
from sessiond.policy.decide import Policy
from sessiond.policy.kernel import KernelRules
from sessiond.runtime.pool import Pool
from sessiond.runtime.tools import ALL_TOOLS, Tool
from sessiond.store.records import SessionRow


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What a session takes from its profile."""

    profile: str
    engine: str
    policy: Policy
    limits: Limits
    commands: int
    command_bytes: int
    """Output kept of one command."""
    session_bytes: int
    """Output kept of one session, in files."""
    ring: bool
    """Whether more output pushes out the oldest, instead of blocking who writes it."""
    env: Mapping[str, str]
    try_sh: bool
    """Whether a missing bash may be replaced by sh."""
    replace: bool = True
    """Whether a session whose sandbox died gets another one."""
    kernel: KernelRules | None = None
    """What the kernel enforces below the policy."""
    tools: frozenset[Tool] = ALL_TOOLS
    """What of the daemon's own clients may use."""


@dataclass(frozen=True, slots=True)
class OpenProfile:
    """A profile ready for use."""

    engine: Engine
    rules: SessionRules
    pool: Pool
    ttl: float | None
    idle_timeout: float | None
    max_ttl: float | None
    idle_pause: float | None
    """Seconds of idleness after which a session's processes are made to stand still."""


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


def session_info(
    row: SessionRow, request: SessionOpen, *, state: SessionState, commands: int, attached: int = 0, epoch: int = 0
) -> SessionInfo:
    """A session as the wire shows it."""
    return SessionInfo(
        session=row.id,
        state=state,
        profile=row.profile,
        engine=row.engine,
        generation=row.generation,
        name=request.name,
        labels=request.labels,
        created=row.created,
        expires=row.expires,
        idle_timeout=row.idle_timeout,
        commands=commands,
        attached=attached,
        epoch=epoch,
        pooled=row.pooled,
        kernel=row.kernel or None,
        policy=row.policy or None,
    )
