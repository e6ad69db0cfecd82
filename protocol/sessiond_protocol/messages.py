"""Every message of the `sessiond.v1` protocol, as models; `docs/protocol.md` says when each is sent.

Requests carry `id`, chosen by the client and unique among its outstanding requests; the one reply carries it back as `re`.
Events carry no `re`. Unknown fields are refused on both sides: a field exists only in the version that defines it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sessiond_protocol.limits import MAX_INTEGER

PROTOCOL_VERSION = 1
SUBPROTOCOL = "sessiond.v1"

MAX_ARGUMENTS = 4096
MAX_ARGUMENT_BYTES = 128 * 1024
"""Linux's own limit on one argument or environment string (MAX_ARG_STRLEN)."""
MAX_ENVIRONMENT = 512
MAX_LABELS = 64
MAX_DATA = 256 * 1024
"""Bytes of one `output` or `command.stdin` message."""
MAX_INPUT = 48 * 1024
"""Bytes of standard input that may ride in `command.start` itself."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Names a session or a command; the client may choose it, so that a retry names the same one."""
RequestId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Offset = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1024)]
Argument = Annotated[str, Field(max_length=MAX_ARGUMENT_BYTES, pattern=r"^[^\x00]*$")]
Environment = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Argument], Field(max_length=MAX_ENVIRONMENT)
]
Labels = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")], Annotated[str, Field(max_length=256)]],
    Field(max_length=MAX_LABELS),
]

SessionState = Literal["opening", "open", "closing", "closed", "lost"]
CommandState = Literal["starting", "running", "exited", "failed", "denied", "lost"]
ErrorCode = Literal[
    "invalid",
    "version",
    "unauthorized",
    "not_found",
    "conflict",
    "denied",
    "limit",
    "busy",
    "unavailable",
    "fenced",
    "gone",
    "unsupported",
    "internal",
]
StreamName = Literal["stdout", "stderr"]


class Message(BaseModel):
    """Base of all messages: immutable, no unknown fields, no coercion between types, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- shared parts ---------------------------------------------------------------------------------------------------


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


class SessionInfo(Message):
    """A session as its owner sees it."""

    session: Identifier
    state: SessionState
    profile: str
    engine: str
    generation: Offset
    """Grows when the session's sandbox had to be replaced: processes lost, workspace kept."""
    name: str | None = None
    labels: Labels = {}
    created: float
    """Seconds since the epoch, UTC."""
    expires: float | None = None
    idle_timeout: float | None = None
    commands: Offset = 0
    """Commands started so far."""
    attached: Offset = 0
    """Connections that follow it now."""
    pooled: bool
    """Whether it was opened from the warm pool."""


class Exit(Message):
    """How a command ended. Written once, by the guest's report; never invented."""

    code: Annotated[int, Field(ge=0, le=255)] | None
    """Exit code; None when a signal ended it."""
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    cause: Literal["exit", "signal", "timeout", "oom", "killed"]
    output_bytes: Offset
    """Bytes of output (both streams) written before it ended."""
    wall_seconds: float
    user_seconds: float
    system_seconds: float
    max_rss_bytes: Offset


class Failure(Message):
    """Why a command never ran or was lost."""

    code: ErrorCode
    message: str
    hint: str = ""
    rule: str | None = None
    """The policy rule, when the command was denied."""


class CommandInfo(Message):
    """A command as its session keeps it."""

    session: Identifier
    command: Identifier
    state: CommandState
    argv: list[str] | None = None
    text: str | None = None
    started: float | None = None
    ended: float | None = None
    output_from: Offset = 0
    """First byte of output still kept."""
    output_to: Offset = 0
    """Bytes of output received so far."""
    exit: Exit | None = None
    failure: Failure | None = None


class ServerLimits(Message):
    """What this server accepts, so that a client need not find out by being refused."""

    frame_bytes: Offset
    control_bytes: Offset
    depth: Offset
    elements: Offset
    window_bytes: Offset
    """Largest output window a client may grant."""
    commands: Offset
    """Commands running at once in a session."""


# --- client to server -----------------------------------------------------------------------------------------------


class Hello(Message):
    """First message of a connection."""

    type: Literal["hello"] = "hello"
    id: RequestId
    version: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """Highest protocol version that the client speaks."""
    client: Text
    """Name and version of the client, for logs."""


class SessionOpen(Message):
    """Open a session from a profile. A chosen `session` makes it safe to send again."""

    type: Literal["session.open"] = "session.open"
    id: RequestId
    profile: Text = "default"
    session: Identifier | None = None
    name: Text | None = None
    labels: Labels = {}
    env: Environment = {}
    """Added to the environment of every command of the session."""
    limits: SessionLimits = SessionLimits()
    ttl: Seconds | None = None
    idle_timeout: Seconds | None = None


class SessionAttach(Message):
    """Follow a session's events; as a writer, also take it over from any earlier writer."""

    type: Literal["session.attach"] = "session.attach"
    id: RequestId
    session: Identifier
    mode: Literal["writer", "reader"] = "writer"


class SessionDetach(Message):
    """Stop following. The session does not care."""

    type: Literal["session.detach"] = "session.detach"
    id: RequestId
    session: Identifier


class SessionClose(Message):
    """End the session: everything in it is killed and its sandbox erased."""

    type: Literal["session.close"] = "session.close"
    id: RequestId
    session: Identifier


class SessionList(Message):
    """The caller's sessions, oldest first."""

    type: Literal["session.list"] = "session.list"
    id: RequestId
    labels: Labels = {}
    """Only sessions that carry all of these."""
    after: Identifier | None = None
    """Continue a listing after this session."""
    limit: Annotated[int, Field(ge=1, le=256)] = 256


class SessionInfoRequest(Message):
    """One session's state."""

    type: Literal["session.info"] = "session.info"
    id: RequestId
    session: Identifier


class CommandStart(Message):
    """Run a command: `argv` as it is, or `text` as a shell would read it. The same id with the same body runs once."""

    type: Literal["command.start"] = "command.start"
    id: RequestId
    session: Identifier
    command: Identifier
    argv: Annotated[list[Argument], Field(min_length=1, max_length=MAX_ARGUMENTS)] | None = None
    text: Argument | None = None
    env: Environment = {}
    cwd: Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")] = ""
    """Relative to the workspace; resolved inside the sandbox."""
    input: Annotated[bytes, Field(max_length=MAX_INPUT)] = b""
    """First bytes of standard input."""
    stdin: bool = False
    """Whether standard input stays open after `input`; without either it is /dev/null."""
    timeout: Seconds | None = None
    grace: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5.0
    """Seconds between TERM and KILL when the timeout strikes."""
    merge_stderr: bool = False
    limits: CommandLimits = CommandLimits()
    window: Offset = 0
    """Output bytes that may be sent to this connection before it acknowledges; 0 does not follow the output."""

    @model_validator(mode="after")
    def _one_body(self) -> CommandStart:
        if (self.argv is None) == (self.text is None):
            raise ValueError("a command has either argv or text")
        if self.argv is not None and not self.argv[0]:
            raise ValueError("argv[0] is empty")
        return self


class CommandFollow(Message):
    """Send this connection the command's output from `offset` on; again to move, with window 0 to stop."""

    type: Literal["command.follow"] = "command.follow"
    id: RequestId
    session: Identifier
    command: Identifier
    offset: Offset = 0
    window: Offset


class CommandStdin(Message):
    """Bytes of standard input at their offset. No reply; `stdin.ack` moves the window."""

    type: Literal["command.stdin"] = "command.stdin"
    session: Identifier
    command: Identifier
    offset: Offset
    data: Annotated[bytes, Field(min_length=1, max_length=MAX_DATA)]


class CommandCloseStdin(Message):
    """Standard input ends at `offset`. No reply."""

    type: Literal["command.close_stdin"] = "command.close_stdin"
    session: Identifier
    command: Identifier
    offset: Offset


class CommandSignal(Message):
    """Signal the command's process group, or all its descendants."""

    type: Literal["command.signal"] = "command.signal"
    id: RequestId
    session: Identifier
    command: Identifier
    signal: Annotated[int, Field(ge=1, le=64)]
    scope: Literal["group", "tree"] = "group"


class CommandResize(Message):
    """New size of the command's terminal."""

    type: Literal["command.resize"] = "command.resize"
    id: RequestId
    session: Identifier
    command: Identifier
    rows: Annotated[int, Field(ge=1, le=65535)]
    columns: Annotated[int, Field(ge=1, le=65535)]


class CommandWait(Message):
    """Answered with the command when it has ended."""

    type: Literal["command.wait"] = "command.wait"
    id: RequestId
    session: Identifier
    command: Identifier


class CommandList(Message):
    """Commands of a session, oldest first."""

    type: Literal["command.list"] = "command.list"
    id: RequestId
    session: Identifier
    after: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=256)] = 256


class Ack(Message):
    """Output below `offset` is consumed; up to `offset + window` may be sent. No reply."""

    type: Literal["ack"] = "ack"
    session: Identifier
    command: Identifier
    offset: Offset
    window: Offset


class Ping(Message):
    """Answered at once, to measure or to keep alive."""

    type: Literal["ping"] = "ping"
    id: RequestId


# --- server to client -----------------------------------------------------------------------------------------------


class Welcome(Message):
    """Answer to `hello`: the version that will be spoken and what this server can do."""

    type: Literal["welcome"] = "welcome"
    re: RequestId
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    server: str
    capabilities: list[str]
    profiles: list[str]
    limits: ServerLimits


class SessionReply(Message):
    """A session's state: answer to open, attach, close and info."""

    type: Literal["session"] = "session"
    re: RequestId
    session: SessionInfo


class SessionsReply(Message):
    """Answer to `session.list`; `more` when `after` would bring further ones."""

    type: Literal["sessions"] = "sessions"
    re: RequestId
    sessions: list[SessionInfo]
    more: bool = False


class CommandReply(Message):
    """A command's state: answer to follow and wait."""

    type: Literal["command"] = "command"
    re: RequestId
    command: CommandInfo


class CommandsReply(Message):
    """Answer to `command.list`."""

    type: Literal["commands"] = "commands"
    re: RequestId
    commands: list[CommandInfo]
    more: bool = False


class Started(Message):
    """Answer to `command.start`: allowed, on record, and running inside as `pid`."""

    type: Literal["started"] = "started"
    re: RequestId
    session: Identifier
    command: Identifier
    pid: Offset


class Ok(Message):
    """Done; there is nothing more to say."""

    type: Literal["ok"] = "ok"
    re: RequestId


class Pong(Message):
    """Answer to `ping`."""

    type: Literal["pong"] = "pong"
    re: RequestId


class Error(Message):
    """What went wrong, with what, and what to do. With `re` it is the reply to a request, without an event."""

    type: Literal["error"] = "error"
    re: RequestId | None = None
    session: Identifier | None = None
    command: Identifier | None = None
    code: ErrorCode
    message: str
    hint: str = ""
    rule: str | None = None


class Output(Message):
    """Output bytes of a followed command. Offsets run over both streams together, without holes."""

    type: Literal["output"] = "output"
    session: Identifier
    command: Identifier
    offset: Offset
    stream: StreamName
    data: Annotated[bytes, Field(max_length=MAX_DATA)]


class Gap(Message):
    """Output in [from, to) is not kept any more; `output` goes on at `to`."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["gap"] = "gap"
    session: Identifier
    command: Identifier
    start: Offset = Field(alias="from")
    end: Offset = Field(alias="to")


class Exited(Message):
    """A followed command ended; sent after the last byte that it wrote before."""

    type: Literal["exited"] = "exited"
    session: Identifier
    command: Identifier
    exit: Exit


class Failed(Message):
    """A followed command will not end by itself any more: it could not be spawned, or its sandbox is lost."""

    type: Literal["failed"] = "failed"
    session: Identifier
    command: Identifier
    failure: Failure


class StdinAck(Message):
    """Standard input below `offset` has reached the command; up to `offset + window` may be sent. Window 0: it reads no more."""

    type: Literal["stdin.ack"] = "stdin.ack"
    session: Identifier
    command: Identifier
    offset: Offset
    window: Offset


class SessionEvent(Message):
    """An attached session changed state."""

    type: Literal["session.event"] = "session.event"
    session: SessionInfo
    reason: str


ClientMessage = Annotated[
    Hello
    | SessionOpen
    | SessionAttach
    | SessionDetach
    | SessionClose
    | SessionList
    | SessionInfoRequest
    | CommandStart
    | CommandFollow
    | CommandStdin
    | CommandCloseStdin
    | CommandSignal
    | CommandResize
    | CommandWait
    | CommandList
    | Ack
    | Ping,
    Field(discriminator="type"),
]
ServerMessage = Annotated[
    Welcome
    | SessionReply
    | SessionsReply
    | CommandReply
    | CommandsReply
    | Started
    | Ok
    | Pong
    | Error
    | Output
    | Gap
    | Exited
    | Failed
    | StdinAck
    | SessionEvent,
    Field(discriminator="type"),
]
