"""What is kept of a session and of a command, and what the journal says happened to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


class Kind(IntEnum):
    """What a record of the journal says. Its numbers are on disk: never reuse one."""

    SESSION = 1
    STARTED = 2
    ENDED = 3
    SETTLED = 4
    FORGOTTEN = 5
    APPROVAL = 6


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session. Times are wall clock, in seconds since the epoch."""

    id: str
    state: str
    profile: str
    engine: str
    sandbox: str
    """Id of its present sandbox, "" when it has none."""
    generation: int
    """From 1; one more with each sandbox that was lost."""
    request: bytes
    """The msgpack frame of `session.open`."""
    image_env: dict[str, str]
    created: float
    expires: float | None
    idle_timeout: float | None
    """Seconds."""
    epoch: int
    """Its newest writer's."""
    pooled: bool
    workspace: str
    """"" or the name of its volume."""
    kernel: str
    """What the kernel enforces of its profile's rules, "" when nothing was asked of it."""
    ended: float | None
    reason: str
    """Why it ended, "" while it lives."""
    policy: str = ""
    """Digest of the policy that it is bound to; "" in what was recorded before there was this."""


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command of a session. Times are wall clock, in seconds since the epoch."""

    session: str
    id: str
    number: int
    """Ordinal in its session, from 1."""
    generation: int
    """The session's, when it was started."""
    request: bytes
    """The msgpack frame of `command.start`."""
    state: str
    """`starting` until it has ended."""
    started: float | None
    ended: float | None
    result: bytes
    """msgpack of its exit or failure; empty while it runs."""
    output: bytes
    """Small output, as the spool encodes it; empty when there is none or it lies in files."""
    output_end: int
    """Offset just behind its last byte; 0 while it runs."""
    settled: bool
    """Whether nothing more can come of it."""


ApprovalState = Literal["pending", "allowed", "denied", "expired", "withdrawn"]


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """A command that needs a person's consent, and what became of it. Times are as in SessionRow."""

    id: str
    session: str
    command: str
    digest: str
    """SHA-256 (hex) of all that would run: what a consent is bound to."""
    policy: str
    """Digest of the policy that asks."""
    rule: str
    reason: str
    """Why it asks."""
    profile: str
    """Of the session."""
    who: str
    """Who wants the command, as the audit log says it."""
    request: bytes
    """The msgpack frame of a `command.start` whose environment is all that the client sets."""
    asked: float
    expires: float
    state: ApprovalState
    answered: float | None
    approver: str
    """Who answered, as the audit log says it; "" while nobody has."""
    scope: str
    """How far a consent goes: `once`, `times`, `until`, `session`, `rule`; "" without one."""
    times_left: int
    """With `times`: how many more equal commands it allows."""
    until: float | None
    """With `until`: when it ends."""
    note: str
    """What who answered said."""
