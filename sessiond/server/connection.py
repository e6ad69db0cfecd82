"""One client's conversation: each message to what it asks for, each answer back.

Nothing here waits but the opening of a session: a request is carried out where it is read, and what takes time
answers later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import structlog
from sessiond_protocol import limits
from sessiond_protocol.codec import decode_client, encode
from sessiond_protocol.errors import InvalidMessageError, MalformedFrameError
from sessiond_protocol.messages import (
    MAX_INTEGER,
    PROTOCOL_VERSION,
    Ack,
    ApprovalAnswer,
    ApprovalList,
    ApprovalShow,
    ApprovalWatch,
    ApproverEnter,
    CommandCloseStdin,
    CommandFollow,
    CommandList,
    CommandReply,
    CommandResize,
    CommandSignal,
    CommandsReply,
    CommandStart,
    CommandStdin,
    CommandWait,
    Error,
    Hello,
    Message,
    Ok,
    Ping,
    PolicyReload,
    Pong,
    Record,
    Recorded,
    ServerLimits,
    SessionAttach,
    SessionClose,
    SessionDetach,
    SessionInfoRequest,
    SessionList,
    SessionOpen,
    SessionReply,
    SessionsReply,
    ToolStart,
    Welcome,
)

from sessiond.core.errors import RequestError
from sessiond.policy.decide import Verdict
from sessiond.runtime.command import Command
from sessiond.runtime.follower import Follower
from sessiond.runtime.manager import SessionManager
from sessiond.runtime.session import Session
from sessiond.runtime.tools import as_command
from sessiond.server.approver import ApproverDesk, ApproverMessage
from sessiond.version import VERSION

if TYPE_CHECKING:
    from sessiond.server.websocket import WebSocketConnection

log = structlog.get_logger()

WINDOW_BYTES = 16 * 1024 * 1024
"""Largest output window that counts; a larger one is taken as this."""
MOST_OPENS = 32
"""Sessions that one connection may be opening at once."""
MOST_WAITS = 1024
"""`command.wait` requests of one connection without an answer yet."""
MOST_REASON = 2048
"""Characters of a reason or a hint: one that quotes a long command is cut."""
CAPABILITIES: list[str] = []
"""Names of what this server can do beyond version 1's core."""

_Change = CommandStdin | CommandCloseStdin | CommandSignal | CommandResize | CommandFollow
"""What changes a command: of `command.follow` the part that takes its standard input over."""


class ClientConnection:
    """A client that came through the door."""

    def __init__(self, manager: SessionManager, desk: ApproverDesk, socket: WebSocketConnection) -> None:
        self._manager = manager
        self._desk = desk
        self._role: Literal["client", "approver"] | None = None
        """Who it has shown to be: one that uses sessions, or an approver, which must not be the same."""
        self._socket = socket
        self._greeted = False
        self._closed = False
        self._body = b""
        """The message being dealt with, as it came: what goes on record."""
        self._followers: dict[tuple[str, str], Follower] = {}
        self._attached: set[str] = set()
        self._opens: set[asyncio.Task[None]] = set()
        self._waits: dict[int, Callable[[Command], None]] = {}
        self._waited: dict[int, Command] = {}
        # A client acknowledges when half of its window is used. If that were more than is kept, both would wait.
        self._window = min((WINDOW_BYTES, *(profile.rules.command_bytes for profile in manager.profiles.values())))
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            SessionOpen: self._session_open,
            SessionAttach: self._session_attach,
            SessionDetach: self._session_detach,
            SessionClose: self._session_close,
            SessionList: self._session_list,
            SessionInfoRequest: self._session_info,
            **dict.fromkeys(ToolStart.__subclasses__(), self._tool_start),
            CommandStart: self._command_start,
            CommandFollow: self._command_follow,
            CommandStdin: self._command_stdin,
            CommandCloseStdin: self._command_close_stdin,
            CommandSignal: self._command_signal,
            CommandResize: self._command_resize,
            CommandWait: self._command_wait,
            CommandList: self._command_list,
            Record: self._record,
            ApproverEnter: self._approver_enter,
            ApprovalList: self._approve,
            ApprovalShow: self._approve,
            ApprovalAnswer: self._approve,
            ApprovalWatch: self._approve,
            PolicyReload: self._approve,
            Ack: self._ack,
            Ping: self._ping,
        }

    # --- Sink: where sessions and followers send --------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether output should be sent now."""
        return self._socket.writable and not self._closed

    def send(self, message: Message) -> None:
        """Queue a message; one for a client that is gone is dropped."""
        if not self._closed:
            self._socket.send(encode(message))  # type: ignore[arg-type]

    def finished(self, follower: Follower) -> None:
        """A follower has told everything."""
        key = (follower.command.session_id, follower.command.id)
        if self._followers.get(key) is follower:
            del self._followers[key]

    # --- Conversation: what the socket hands over -------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """One message. Raises RemoteProtocolError when the connection cannot go on."""
        try:
            message = decode_client(data)
        except InvalidMessageError as error:
            if not self._greeted:
                raise
            self.send(Error(re=error.request, code="invalid", message=str(error), hint="see docs/protocol.md"))
            return
        if not self._greeted or isinstance(message, Hello):
            self._hello(message)
            return
        self._body = data
        try:
            self._handlers[type(message)](message)
        except RequestError as error:
            self._refuse(message, error)
        except Exception:
            log.exception("request failed", request=message.type)
            self._refuse(message, RequestError("internal", "the daemon failed to do this; its log says why"))

    def writable_again(self) -> None:
        """Output that waited goes on."""
        for follower in tuple(self._followers.values()):
            if not self._socket.writable:
                return
            follower.pump()
            follower.command.acknowledge()

    def closed(self) -> None:
        """The client is gone. Its sessions do not care."""
        self._closed = True
        self._desk.leave(self)
        for follower in tuple(self._followers.values()):
            follower.command.unfollow(self)
        for session_id in self._attached:
            session = self._manager.find(session_id)
            if session is not None:
                session.detach(self)
        for re, command in self._waited.items():
            command.waiters.remove(self._waits[re])
        self._followers.clear()
        self._attached.clear()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _hello(self, message: Message) -> None:
        if self._greeted or not isinstance(message, Hello):
            raise MalformedFrameError("hello comes first, and once")
        if message.version < PROTOCOL_VERSION:
            self.send(
                Error(
                    re=message.id,
                    code="version",
                    message=f"this server speaks version {PROTOCOL_VERSION}, the client only {message.version}",
                    hint="use a newer client",
                )
            )
            self._socket.close(1002, "no common protocol version")
            return
        self._greeted = True
        self.send(
            Welcome(
                re=message.id,
                version=PROTOCOL_VERSION,
                server=f"sessiond/{VERSION}",
                capabilities=CAPABILITIES,
                profiles=sorted(self._manager.profiles),
                limits=ServerLimits(
                    frame_bytes=limits.FRAME_BYTES,
                    control_bytes=limits.CONTROL_BYTES,
                    depth=limits.DEPTH,
                    elements=limits.ELEMENTS,
                    window_bytes=self._window,
                    commands=max((p.rules.commands for p in self._manager.profiles.values()), default=0),
                ),
            )
        )

    def _session_open(self, message: SessionOpen) -> None:
        self._become("client")
        if len(self._opens) >= MOST_OPENS:
            raise RequestError("limit", f"{MOST_OPENS} sessions are being opened on this connection", "wait for them")
        task = asyncio.create_task(self._open(message, self._body))
        self._opens.add(task)
        task.add_done_callback(self._opens.discard)

    async def _open(self, message: SessionOpen, body: bytes) -> None:
        try:
            session = await self._manager.open(message, body, self._socket.who)
        except RequestError as error:
            self._refuse(message, error)
        except Exception:
            log.exception("request failed", request=message.type)
            self._refuse(
                message, RequestError("internal", "the session could not be opened; the daemon's log says why")
            )
        else:
            self.send(SessionReply(re=message.id, session=session.info()))
        self._socket.flush()  # a turn of the loop sooner than it would by itself

    def _session_attach(self, message: SessionAttach) -> None:
        if message.mode == "writer":
            self._become("client")
        session = self._manager.get(message.session)
        session.attach(self, writer=message.mode == "writer", epoch=message.epoch)
        self._attached.add(session.id)
        self.send(SessionReply(re=message.id, session=session.info()))

    def _session_detach(self, message: SessionDetach) -> None:
        session = self._manager.get(message.session)
        session.detach(self)
        self._attached.discard(session.id)
        for key in [key for key in self._followers if key[0] == session.id]:
            del self._followers[key]
        self.send(Ok(re=message.id))

    def _session_close(self, message: SessionClose) -> None:
        self._become("client")
        session = self._manager.find(message.session)
        if session is not None:
            session.check_writer(self)
        ended = self._manager.close_session(message.session, "a client closed it", self._socket.who)
        self.send(SessionReply(re=message.id, session=ended))

    def _session_list(self, message: SessionList) -> None:
        found, more = self._manager.list(message)
        self.send(SessionsReply(re=message.id, sessions=found, more=more))

    def _session_info(self, message: SessionInfoRequest) -> None:
        self.send(SessionReply(re=message.id, session=self._manager.info(message.session)))

    def _tool_start(self, message: ToolStart) -> None:
        command, verdict = as_command(message, self._manager.get(message.session).rules.tools)
        self._command_start(command, verdict)

    def _command_start(self, message: CommandStart, verdict: Verdict | None = None) -> None:
        self._become("client")
        session = self._manager.get(message.session)
        session.check_writer(self)
        if message.window > self._window:
            message = message.model_copy(update={"window": self._window})
        follower = session.start(message, self._body, self, self._socket.who, verdict)
        if follower is not None:
            self._followers[message.session, message.command] = follower
            follower.pump()

    def _command_follow(self, message: CommandFollow) -> None:
        command = self._command(message)
        key = (message.session, message.command)
        if message.window == 0:
            self._followers.pop(key, None)
            command.unfollow(self)
            self.send(CommandReply(re=message.id, command=command.info()))
            return
        if message.offset > command.spool.end and command.state == "exited":
            raise RequestError("invalid", f"command {command.id} has {command.spool.end} bytes of output so far")
        if message.stdin:
            self._command_to_change(message).take_stdin(self, lambda: self._follow(command, message))
        else:
            self._follow(command, message)

    def _follow(self, command: Command, message: CommandFollow) -> None:
        if self._closed:
            command.unfollow(self)
            return
        self.send(CommandReply(re=message.id, command=command.info()))
        if message.stdin:
            command.tell_stdin(MAX_INTEGER)
        follower = command.follow(self, message.offset, min(message.window, self._window))
        self._followers[message.session, message.command] = follower
        follower.pump()

    def _command_stdin(self, message: CommandStdin) -> None:
        command = self._command_to_change(message)
        command.check_stdin(self)
        command.write(message.offset, message.data)
        if command.stdin_sink is not self:
            command.stdin_sink = self
            command.tell_stdin(message.offset + len(message.data))

    def _command_close_stdin(self, message: CommandCloseStdin) -> None:
        command = self._command_to_change(message)
        command.check_stdin(self)
        command.close_stdin(message.offset)

    def _command_signal(self, message: CommandSignal) -> None:
        self._session_to_change(message).signal(message.command, message.signal, tree=message.scope == "tree")
        self.send(Ok(re=message.id))

    def _command_resize(self, message: CommandResize) -> None:
        self._command_to_change(message).resize(message.rows, message.columns)
        self.send(Ok(re=message.id))

    def _command_wait(self, message: CommandWait) -> None:
        command = self._command(message)
        if not command.running:
            self.send(CommandReply(re=message.id, command=command.info()))
            return
        if message.id in self._waits or len(self._waits) >= MOST_WAITS:
            raise RequestError(
                "limit", f"{len(self._waits)} waits of this connection are open", "wait on fewer commands"
            )

        def answer(ended: Command) -> None:
            del self._waits[message.id], self._waited[message.id]
            self.send(CommandReply(re=message.id, command=ended.info()))

        self._waits[message.id], self._waited[message.id] = answer, command
        command.waiters.append(answer)

    def _command_list(self, message: CommandList) -> None:
        found, more = self._manager.commands(message.session, message.after, message.limit)
        self.send(CommandsReply(re=message.id, commands=found, more=more))

    def _record(self, message: Record) -> None:
        self.send(Recorded(re=message.id, body=self._manager.recorded(message.session, message.command)))

    def _approver_enter(self, message: ApproverEnter) -> None:
        self._desk.check(message.token, self._socket.who)
        self._become("approver")
        self.send(Ok(re=message.id))

    def _approve(self, message: ApproverMessage) -> None:
        if self._role != "approver":
            raise RequestError("unauthorized", "only an approver may do this", "enter with the approver's token first")
        self._desk.handle(message, self, self._socket.who, lambda error: self._refuse(message, error))

    def _ack(self, message: Ack) -> None:
        follower = self._followers.get((message.session, message.command))
        if follower is not None:  # an acknowledgement may cross the end
            follower.ack(message.offset, min(message.window, self._window))
            follower.pump()
            follower.command.acknowledge()

    def _ping(self, message: Ping) -> None:
        self.send(Pong(re=message.id))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _command(self, message: CommandFollow | CommandWait) -> Command:
        return self._manager.command(message.session, message.command)

    def _command_to_change(self, message: _Change) -> Command:
        return self._session_to_change(message).shelf.get(message.command)

    def _session_to_change(self, message: _Change) -> Session:
        self._become("client")
        session = self._manager.get(message.session)
        session.check_writer(self)
        session.touch()
        return session

    def _become(self, role: Literal["client", "approver"]) -> None:
        """Take a role, for as long as the connection lives. Raises RequestError when it has the other one."""
        if self._role not in (None, role):
            raise RequestError(
                "unauthorized", "a connection either uses sessions or approves commands", "use another connection"
            )
        self._role = role

    def _refuse(self, message: Any, error: RequestError) -> None:
        self.send(
            Error(
                re=getattr(message, "id", None),
                session=getattr(message, "session", None),
                command=getattr(message, "command", None),
                code=error.code,
                message=error.message[:MOST_REASON],
                hint=error.hint[:MOST_REASON],
                rule=error.rule,
            )
        )
