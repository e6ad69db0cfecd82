"""Maps within messages: what several messages say in the same way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sessiond_protocol.fields import (
    MAX_ARGUMENTS,
    MAX_INPUT,
    Argument,
    Environment,
    ErrorCode,
    Identifier,
    Labels,
    Message,
    Offset,
    Text,
)
from sessiond_protocol.limits import MAX_INTEGER
from sessiond_protocol.states import CommandState, SessionState


class SessionLimits(Message):
    """Limits that a session asks for; each must not exceed its profile's."""

    memory_bytes: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    """Memory of the whole sandbox."""
    pids: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    """Processes and threads of the whole sandbox."""
    cpus: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | None = None
    """Processors' worth of time of the whole sandbox."""
    open_files: Annotated[int, Field(ge=8, le=MAX_INTEGER)] | None = None
    """Descriptors of one process."""
    file_bytes: Offset | None = None
    """Largest single file."""


class CommandLimits(Message):
    """Limits of each process of one command (rlimits); those above the session's change nothing."""

    memory_bytes: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    """Address space (RLIMIT_AS)."""
    cpu_seconds: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    """Processor time (RLIMIT_CPU)."""
    open_files: Annotated[int, Field(ge=8, le=MAX_INTEGER)] | None = None
    """Descriptors (RLIMIT_NOFILE)."""
    file_bytes: Offset | None = None
    """Largest single file (RLIMIT_FSIZE)."""


class Terminal(Message):
    """The terminal that a command runs on."""

    rows: Annotated[int, Field(ge=1, le=65535)] = 24
    """Lines of text."""
    columns: Annotated[int, Field(ge=1, le=65535)] = 80
    """Characters of a line."""
    term: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")] = "xterm-256color"
    """What kind it is: TERM in the command's environment."""


class SessionInfo(Message):
    """A session as its owner sees it."""

    session: Identifier
    """Its name."""
    state: SessionState
    """Where it stands; see the states."""
    profile: str
    """What it was opened from."""
    engine: str
    """What makes its sandbox."""
    generation: Offset
    """Grows when the session's sandbox had to be replaced: processes lost, workspace kept."""
    name: str | None = None
    """A title for people."""
    labels: Labels = Field(default={})
    """What it was labelled with."""
    created: float
    """Seconds since the epoch, UTC."""
    expires: float | None = None
    """When it is closed whatever happens, in seconds since the epoch."""
    idle_timeout: float | None = None
    """Seconds of idleness after which it is closed."""
    commands: Offset = 0
    """Commands started so far."""
    attached: Offset = 0
    """Connections that follow it now."""
    epoch: Offset = 0
    """How often a writer has attached anew: the last one has this epoch."""
    pooled: bool
    """Whether it was opened from the warm pool."""
    kernel: Text | None = None
    """What the kernel enforces of the profile's rules, and what this machine's cannot; nil when nothing was asked."""
    policy: Text | None = None
    """Version (SHA-256) of the command policy that it is bound to."""


class Exit(Message):
    """How a command ended. Written once, by the guest's report; never invented."""

    code: Annotated[int, Field(ge=0, le=255)] | None
    """Exit code; nil when a signal ended it."""
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    """The signal that ended it."""
    cause: Literal["exit", "signal", "timeout", "oom", "killed", "quota"]
    """`timeout`: its own; `oom`: out of memory; `killed`: on request; `quota`: the workspace held more than it may."""
    output_bytes: Offset
    """Bytes of output (both streams) written before it ended."""
    wall_seconds: float
    """From its start to its end."""
    user_seconds: float
    """Processor time in its own code."""
    system_seconds: float
    """Processor time in the kernel."""
    max_rss_bytes: Offset
    """Most memory that one of its processes held."""


class Failure(Message):
    """Why a command never ran or was lost."""

    code: ErrorCode
    """What kind of failure."""
    message: str
    """What happened, for people."""
    hint: str = ""
    """What to do about it, for people."""
    rule: str | None = None
    """The policy rule, when the command was denied."""


class CommandInfo(Message):
    """A command as its session keeps it."""

    session: Identifier
    command: Identifier
    """Its name."""
    state: CommandState
    """Where it stands; see the states."""
    argv: Annotated[list[str], Field(max_length=MAX_ARGUMENTS)] | None = None
    """As it was asked for."""
    text: str | None = None
    """As it was asked for."""
    started: float | None = None
    """When it began to run, in seconds since the epoch."""
    ended: float | None = None
    """When it ended, in seconds since the epoch."""
    output_from: Offset = 0
    """First byte of output still kept."""
    output_to: Offset = 0
    """Bytes of output received so far."""
    terminal: bool = False
    """Whether it runs on a terminal."""
    stdin: Offset | None = None
    """Where standard input goes on; nil when it takes none, or that is not known yet."""
    exit: Exit | None = None
    """How it ended, once it has exited."""
    failure: Failure | None = None
    """Why it failed, was denied or was lost."""


class ApprovalInfo(Message):
    """A command that needs a person's consent, exactly as it would run, and what became of the question."""

    approval: Identifier
    """Names the question."""
    session: Identifier
    command: Identifier
    profile: str
    """Of the session."""
    state: Literal["pending", "allowed", "denied", "expired", "withdrawn"]
    """`withdrawn`: the command ended before anybody answered."""
    argv: Annotated[list[Argument], Field(max_length=MAX_ARGUMENTS)] | None = None
    """As it was asked for."""
    text: Argument | None = None
    """As it was asked for."""
    cwd: str = ""
    """As it was asked for."""
    env: Environment = Field(default={})
    """What the client sets, for the session and for the command."""
    input: Annotated[bytes, Field(max_length=MAX_INPUT)] = b""
    """First bytes of its standard input."""
    stdin: bool = False
    """Whether more standard input comes later. What that is nobody knows yet, so no answer vouches for it."""
    digest: str
    """SHA-256 of all that would run, the policy's version included: what an answer is bound to."""
    policy: str
    """The policy's version."""
    rule: str
    """Which rule asks."""
    reason: str
    """Why, for people."""
    who: str
    """Who wants to run it, as the audit log says it."""
    asked: float
    """When, in seconds since the epoch."""
    expires: float
    """When it is denied if nobody answers, in seconds since the epoch."""
    answered: float | None = None
    """When it was answered, in seconds since the epoch."""
    approver: str | None = None
    """Who answered, as the audit log says it."""
    scope: Literal["once", "times", "until", "session", "rule"] | None = Field(default=None, alias="for")
    """How far a consent goes."""
    note: str = ""
    """What who answered said."""

    model_config = ConfigDict(populate_by_name=True)


class ServerLimits(Message):
    """What this server accepts, so that a client need not find out by being refused."""

    frame_bytes: Offset
    """Longest frame."""
    control_bytes: Offset
    """Longest frame of a message that is not bulk."""
    depth: Offset
    """Most maps and arrays within each other."""
    elements: Offset
    """Most map entries and array items of a frame."""
    window_bytes: Offset
    """Largest output window a client may grant."""
    commands: Offset
    """Commands running at once in a session."""
