"""What a server sends: replies, which carry `re`, and events, which do not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sessiond_protocol.fields import (
    MAX_DATA,
    MAX_NAMES,
    MAX_PAGE,
    ErrorCode,
    Identifier,
    Message,
    Offset,
    RequestId,
    StreamName,
)
from sessiond_protocol.limits import CONTROL_BYTES, MAX_INTEGER
from sessiond_protocol.parts import ApprovalInfo, CommandInfo, Exit, Failure, ServerLimits, SessionInfo


class Welcome(Message):
    """Answer to `hello`: the version that will be spoken and what this server can do."""

    type: Literal["welcome"] = "welcome"
    re: RequestId
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    """The version that both will speak."""
    server: str
    """Name and version of the server, for logs."""
    capabilities: Annotated[list[str], Field(max_length=MAX_NAMES)]
    """What it can do beyond this page; each is a name."""
    profiles: Annotated[list[str], Field(max_length=MAX_NAMES)]
    """What the client may open sessions from."""
    limits: ServerLimits
    """What it accepts."""


class SessionReply(Message):
    """A session's state: answer to open, attach, close and info."""

    type: Literal["session"] = "session"
    re: RequestId
    session: SessionInfo
    """Its state."""


class SessionsReply(Message):
    """Answer to `session.list`; `more` when `after` would bring further ones."""

    type: Literal["sessions"] = "sessions"
    re: RequestId
    sessions: Annotated[list[SessionInfo], Field(max_length=MAX_PAGE)]
    """Oldest first."""
    more: bool = False
    """Whether there are further ones."""


class CommandReply(Message):
    """A command's state: answer to follow and wait."""

    type: Literal["command"] = "command"
    re: RequestId
    command: CommandInfo
    """Its state."""


class CommandsReply(Message):
    """Answer to `command.list`."""

    type: Literal["commands"] = "commands"
    re: RequestId
    commands: Annotated[list[CommandInfo], Field(max_length=MAX_PAGE)]
    """Oldest first."""
    more: bool = False
    """Whether there are further ones."""


class Started(Message):
    """Answer to `command.start`: allowed, on record, and running inside as `pid`."""

    type: Literal["started"] = "started"
    re: RequestId
    session: Identifier
    command: Identifier
    pid: Offset
    """Inside the sandbox."""


class Awaiting(Message):
    """The command waits until a person allows it. Comes before the reply to `command.start`, which is still to come."""

    type: Literal["awaiting"] = "awaiting"
    re: RequestId
    session: Identifier
    command: Identifier
    approval: Identifier
    """Names the question, for who answers it."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Until it is denied if nobody answers."""


class Recorded(Message):
    """Answer to `record`."""

    type: Literal["recorded"] = "recorded"
    re: RequestId
    body: Annotated[bytes, Field(max_length=CONTROL_BYTES)]
    """The frame of the request, as it came."""


class ApprovalReply(Message):
    """Answer to `approval.show` and `approval.answer`."""

    type: Literal["approval"] = "approval"
    re: RequestId
    approval: ApprovalInfo
    """The question, and what became of it."""
    proposal: str = ""
    """Rules, as TOML, that would allow what is asked for: for a person to look at and to edit."""


class ApprovalsReply(Message):
    """Answer to `approval.list`; `more` when `after` would bring further ones."""

    type: Literal["approvals"] = "approvals"
    re: RequestId
    approvals: Annotated[list[ApprovalInfo], Field(max_length=MAX_PAGE)]
    """Oldest first."""
    more: bool = False
    """Whether there are further ones."""


class ApprovalEvent(Message):
    """There is a question, or something became of it."""

    type: Literal["approval.event"] = "approval.event"
    approval: ApprovalInfo
    """As it is now."""


class Ok(Message):
    """Done; there is nothing more to say."""

    type: Literal["ok"] = "ok"
    re: RequestId


class Pong(Message):
    """Answer to `ping`."""

    type: Literal["pong"] = "pong"
    re: RequestId


class Error(Message):
    """What went wrong, with what, and what to do. A reply with `re`, an event without."""

    type: Literal["error"] = "error"
    re: RequestId | None = None
    session: Identifier | None = None
    command: Identifier | None = None
    code: ErrorCode
    """What kind of error."""
    message: str
    """What happened, for people."""
    hint: str = ""
    """What to do about it, for people."""
    rule: str | None = None
    """The policy rule that decided, when it was denied."""


class Output(Message):
    """Output bytes of a followed command. Offsets run over both streams together, without holes."""

    type: Literal["output"] = "output"
    session: Identifier
    command: Identifier
    offset: Offset
    """Of the first byte of `data`."""
    stream: StreamName
    """Which of the two it was written to."""
    data: Annotated[bytes, Field(max_length=MAX_DATA)]


class Gap(Message):
    """Output in [from, to) is not kept any more; `output` goes on at `to`."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["gap"] = "gap"
    session: Identifier
    command: Identifier
    start: Offset = Field(alias="from")
    """First byte that is missing."""
    end: Offset = Field(alias="to")
    """First byte that is there again."""


class Exited(Message):
    """A followed command ended; sent after the last byte that it wrote before."""

    type: Literal["exited"] = "exited"
    re: RequestId | None = None
    """The `command.start` that wanted its answer only now; no event then."""
    session: Identifier
    command: Identifier
    exit: Exit
    """How it ended."""


class Failed(Message):
    """A followed command will not end by itself any more: it could not be spawned, or its sandbox is lost."""

    type: Literal["failed"] = "failed"
    session: Identifier
    command: Identifier
    failure: Failure
    """Why."""


class StdinAck(Message):
    """Standard input below `offset` has reached the command; up to `offset + window` may be sent.

    Window 0: it reads no more.
    """

    type: Literal["stdin.ack"] = "stdin.ack"
    session: Identifier
    command: Identifier
    offset: Offset
    """Every byte below has reached the command."""
    window: Offset
    """How many bytes from `offset` on may be sent."""


class SessionEvent(Message):
    """An attached session changed state."""

    type: Literal["session.event"] = "session.event"
    session: SessionInfo
    """Its state now."""
    reason: str
    """Why it changed, for people."""


ServerMessage = Annotated[
    Welcome
    | SessionReply
    | SessionsReply
    | CommandReply
    | CommandsReply
    | Started
    | Awaiting
    | Recorded
    | ApprovalReply
    | ApprovalsReply
    | ApprovalEvent
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
