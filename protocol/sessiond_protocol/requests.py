"""What a client sends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from sessiond_protocol.fields import (
    MAX_ARGUMENTS,
    MAX_DATA,
    MAX_INPUT,
    MAX_PAGE,
    Argument,
    Environment,
    Identifier,
    Labels,
    Message,
    Offset,
    RequestId,
    Seconds,
    Text,
    WorkspacePath,
)
from sessiond_protocol.limits import MAX_INTEGER
from sessiond_protocol.parts import CommandLimits, SessionLimits, Terminal
from sessiond_protocol.tools import (
    FileChecksum,
    FileChmod,
    FileList,
    FileMkdir,
    FileRead,
    FileRemove,
    FileRename,
    FileSearch,
    FileStat,
    FileWatch,
    FileWrite,
    SessionExport,
    SessionImport,
    TunnelOpen,
)


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
    """Which of the server's profiles."""
    session: Identifier | None = None
    """Its name; the server chooses one when it is absent."""
    name: Text | None = None
    """A title for people."""
    labels: Labels = Field(default={})
    """For finding it again."""
    env: Environment = Field(default={})
    """Added to the environment of every command of the session."""
    limits: SessionLimits = SessionLimits()
    """Lower limits than the profile's."""
    ttl: Seconds | None = None
    """Seconds until it is closed whatever happens."""
    idle_timeout: Seconds | None = None
    """Seconds without a command or a connection after which it is closed."""


class SessionAttach(Message):
    """Follow a session's events; as a writer, also take it over from any earlier writer."""

    type: Literal["session.attach"] = "session.attach"
    id: RequestId
    session: Identifier
    mode: Literal["writer", "reader"] = "writer"
    """Whether to steer the session or only to look on."""
    epoch: Offset | None = None
    """Of a writer that comes back after its connection was lost: the epoch that it had. It takes over from nobody."""


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
    labels: Labels = Field(default={})
    """Only sessions that carry all of these."""
    after: Identifier | None = None
    """Continue a listing after this session."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE
    """Most sessions in the answer."""


class SessionInfoRequest(Message):
    """One session's state."""

    type: Literal["session.info"] = "session.info"
    id: RequestId
    session: Identifier


class CommandStart(Message):
    """Run a command: `argv` as it is, or `text` as a shell would read it.

    The same `command` with the same body runs once.
    """

    type: Literal["command.start"] = "command.start"
    id: RequestId
    session: Identifier
    command: Identifier
    """Its name, chosen by the client."""
    argv: Annotated[list[Argument], Field(min_length=1, max_length=MAX_ARGUMENTS)] | None = None
    """Program and arguments, passed on as they are."""
    text: Argument | None = None
    """A command line for the sandbox's shell."""
    env: Environment = Field(default={})
    """Added to the session's environment."""
    cwd: WorkspacePath = ""
    """Relative to the workspace; resolved inside the sandbox."""
    input: Annotated[bytes, Field(max_length=MAX_INPUT)] = b""
    """First bytes of standard input."""
    stdin: bool = False
    """Whether standard input stays open after `input`; without either it is /dev/null."""
    timeout: Seconds | None = None
    """Seconds until it is ended."""
    grace: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5.0
    """Seconds between TERM and KILL when the timeout strikes."""
    merge_stderr: bool = False
    """Whether standard error goes into the same stream as standard output."""
    pty: Terminal | None = None
    """Run it on a terminal: needs `stdin`, goes with neither `input` nor `merge_stderr`; all output is `stdout`."""
    limits: CommandLimits = CommandLimits()
    """Lower limits than the session's."""
    window: Offset = 0
    """Output bytes that may be sent to this connection before it acknowledges; 0 does not follow."""
    answer: Literal["started", "exited"] = "started"
    """When the reply comes: `started` once it runs, or only `exited` once it has ended, which saves a message."""

    @model_validator(mode="after")
    def _one_body(self) -> CommandStart:
        if (self.argv is None) == (self.text is None):
            raise ValueError("a command has either argv or text")
        if self.argv is not None and not self.argv[0]:
            raise ValueError("argv[0] is empty")
        if self.pty is not None and (not self.stdin or self.input or self.merge_stderr):
            raise ValueError("a terminal needs stdin, and goes with neither input nor merge_stderr")
        return self


class CommandFollow(Message):
    """Send this connection the command's output from `offset` on; again to move, with window 0 to stop."""

    type: Literal["command.follow"] = "command.follow"
    id: RequestId
    session: Identifier
    command: Identifier
    offset: Offset = 0
    """Where to begin."""
    window: Offset
    """Output bytes that may be sent before an acknowledgement."""
    stdin: bool = False
    """Also take standard input over: `stdin` in the answer tells where it goes on, and nobody else may write any more
    as long as this connection follows."""


class CommandStdin(Message):
    """Bytes of standard input at their offset. No reply; `stdin.ack` moves the window."""

    type: Literal["command.stdin"] = "command.stdin"
    session: Identifier
    command: Identifier
    offset: Offset
    """Where the data belongs: how many bytes came before it."""
    data: Annotated[bytes, Field(min_length=1, max_length=MAX_DATA)]


class CommandCloseStdin(Message):
    """Standard input ends at `offset`. No reply."""

    type: Literal["command.close_stdin"] = "command.close_stdin"
    session: Identifier
    command: Identifier
    offset: Offset
    """How many bytes there were."""


class CommandSignal(Message):
    """Signal the command's process group, or all its descendants."""

    type: Literal["command.signal"] = "command.signal"
    id: RequestId
    session: Identifier
    command: Identifier
    signal: Annotated[int, Field(ge=1, le=64)]
    """Linux's number of the signal."""
    scope: Literal["group", "tree"] = "group"
    """`tree`: every descendant, wherever it moved."""


class CommandResize(Message):
    """New size of the command's terminal; `invalid` when it has none."""

    type: Literal["command.resize"] = "command.resize"
    id: RequestId
    session: Identifier
    command: Identifier
    rows: Annotated[int, Field(ge=1, le=65535)]
    """Lines of text."""
    columns: Annotated[int, Field(ge=1, le=65535)]
    """Characters of a line."""


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
    """Continue a listing after this command."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE
    """Most commands in the answer."""


class Record(Message):
    """What opened a session, or began one of its commands: the request as it is on record."""

    type: Literal["record"] = "record"
    id: RequestId
    session: Identifier
    command: Identifier | None = None
    """Which command; the session itself when it is absent."""


class ApproverEnter(Message):
    """Become an approver: with the token from the daemon's state directory. Not for a connection that uses sessions."""

    type: Literal["approver.enter"] = "approver.enter"
    id: RequestId
    token: Text
    """What the file `approver.token` holds."""


class ApprovalList(Message):
    """Questions without an answer, oldest first. Approvers only."""

    type: Literal["approval.list"] = "approval.list"
    id: RequestId
    after: Identifier | None = None
    """Continue a listing after this question."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE
    """Most questions in the answer."""


class ApprovalShow(Message):
    """One question, answered or not, and a rule that would make it unnecessary. Approvers only."""

    type: Literal["approval.show"] = "approval.show"
    id: RequestId
    approval: Identifier
    """Which question."""


class ApprovalAnswer(Message):
    """Allow or deny a command that waits. Approvers only."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["approval.answer"] = "approval.answer"
    id: RequestId
    approval: Identifier
    """Which question."""
    verdict: Literal["allow", "deny"]
    """What becomes of the command."""
    scope: Literal["once", "times", "until", "session", "rule"] = Field(default="once", alias="for")
    """How far the consent goes: this command; so many equal ones of its session, it included; equal ones of its session
    until a time, or until the session ends; or a rule of the policy."""
    times: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """With `times`: how many."""
    until: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """With `until`: when it ends, in seconds since the epoch."""
    rule: Annotated[str, Field(max_length=32 * 1024)] | None = None
    """With `rule`: TOML of `[[rule]]` tables, appended to the policy's file."""
    reason: Text = ""
    """What to say about it, on record and to who wanted the command."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> ApprovalAnswer:
        for name in ("times", "until", "rule"):
            if (getattr(self, name) is None) == (self.scope == name):
                raise ValueError(f"{name} goes with for={name} only, which needs it")
        if self.verdict == "deny" and self.scope != "once":
            raise ValueError("a denial is for once")
        return self


class ApprovalWatch(Message):
    """Send this connection each question and what becomes of it, those without an answer first. Approvers only."""

    type: Literal["approval.watch"] = "approval.watch"
    id: RequestId


class PolicyReload(Message):
    """Read the policy files again, all or none; sessions opened from now on are bound to them. Approvers only."""

    type: Literal["policy.reload"] = "policy.reload"
    id: RequestId


class Ack(Message):
    """Output below `offset` is consumed; up to `offset + window` may be sent. No reply."""

    type: Literal["ack"] = "ack"
    session: Identifier
    command: Identifier
    offset: Offset
    """Every byte below is consumed."""
    window: Offset
    """How many bytes from `offset` on may be sent."""


class Ping(Message):
    """Answered at once, to measure or to keep alive."""

    type: Literal["ping"] = "ping"
    id: RequestId


ClientMessage = Annotated[
    Hello
    | SessionOpen
    | SessionAttach
    | SessionDetach
    | SessionClose
    | SessionList
    | SessionInfoRequest
    | SessionExport
    | SessionImport
    | FileRead
    | FileWrite
    | FileStat
    | FileList
    | FileSearch
    | FileChecksum
    | FileMkdir
    | FileRename
    | FileRemove
    | FileChmod
    | FileWatch
    | TunnelOpen
    | CommandStart
    | CommandFollow
    | CommandStdin
    | CommandCloseStdin
    | CommandSignal
    | CommandResize
    | CommandWait
    | CommandList
    | Record
    | ApproverEnter
    | ApprovalList
    | ApprovalShow
    | ApprovalAnswer
    | ApprovalWatch
    | PolicyReload
    | Ack
    | Ping,
    Field(discriminator="type"),
]
