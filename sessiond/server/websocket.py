"""One WebSocket of one client: websockets' sans-I/O protocol on an asyncio transport, below uvicorn's HTTP.

uvicorn hands an upgraded connection to a protocol class. This one skips ASGI: a frame goes from `data_received` to
its handler and
back without a task or queue between, and the transport's flow control is in reach (ARCHITECTURE.md has the figures).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog
from sessiond_protocol.address import ENDPOINT_PATH
from sessiond_protocol.errors import RemoteProtocolError
from sessiond_protocol.limits import FRAME_BYTES
from sessiond_protocol.messages import SUBPROTOCOL
from typing_extensions import override
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from sessiond.runtime.outbox import Outbox
from sessiond.server.door import Door, check_request
from sessiond.server.peer import peer_name, peer_uid

log = structlog.get_logger()

HIGH_WATER_BYTES = 64 * 1024
"""Above so much unsent the connection counts as not writable, and output waits where it is kept: copied once less."""
SEND_BUFFER_BYTES = 1024 * 1024
"""Asked of the kernel, which may give less: room for a whole output message, so that it leaves in one system call."""
MOST_UNSENT_BYTES = 16 * 1024 * 1024
"""A client that lets so much wait unread is disconnected: replies and events cannot wait elsewhere."""
MOST_FRAGMENTS = 256
"""Fragments of one message. Honest libraries send one; a drip of tiny ones is an attack."""
MOST_PINGS = 256
"""Pings of the client between two of ours."""
CLOSE_SECONDS = 2.0
"""How long a closing handshake may take."""


class Conversation(Protocol):
    """What is said on a connection, apart from how it travels."""

    def receive(self, data: bytes) -> None:
        """A whole message. Raises RemoteProtocolError when the connection is to be closed."""

    def writable_again(self) -> None:
        """Output may be sent again."""

    def closed(self) -> None:
        """The connection is over."""


class WebSocketConnection(asyncio.Protocol):
    """From the upgrade request to the end of the connection."""

    def __init__(
        self,
        door: Door,
        converse: Callable[[WebSocketConnection], Conversation],
        others: set[WebSocketConnection],
        outbox: Outbox,
        *,
        most_connections: int,
        ping_interval: float,
        ping_timeout: float,
        open_timeout: float,
    ) -> None:
        self._door = door
        self._converse = converse
        self._others = others
        self._outbox = outbox
        self._most_connections = most_connections
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._open_timeout = open_timeout
        self._opening: asyncio.TimerHandle | None = None
        self._protocol = ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=FRAME_BYTES)
        self._conversation: Conversation | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._fragments: list[bytes] = []
        self._pings = 0
        self._keepalive: asyncio.TimerHandle | None = None
        self._flushing = False
        self._queued = 0
        """Bytes of messages since the last flush."""
        self._ending = False
        self._deaf = False
        """Whether we have ended it: what comes now does not count. What came before the client's own goodbye does."""
        self.writable = True
        self.who = ""
        """The peer, as the audit log says it."""

    # --- for the conversation ---------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Queue one message; it leaves with the outbox."""
        if self._protocol.state is not State.OPEN:
            return
        self._protocol.send_binary(frame)
        self._queued += len(frame)
        if self._queued > MOST_UNSENT_BYTES:  # all of it from one read: it must not wait until that is dealt with
            self.flush()
        if not self._flushing:
            self._flushing = True
            self._outbox.add(self)

    def close(self, code: int, reason: str) -> None:
        """Say goodbye; the transport ends when the client answers, or after `CLOSE_SECONDS`."""
        self._deaf = True
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason[:120])
            self.flush()

    # --- asyncio ----------------------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._transport = transport
        self.who = peer_name(peer_uid(transport) if self._door.uids is not None else None)

    @override
    def data_received(self, data: bytes) -> None:
        self._outbox.hold()
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._frame(event)
                elif isinstance(event, Request):
                    self._handshake(event)
            self.flush()
        finally:
            self._outbox.flush()
            self._outbox.tidy()

    @override
    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self.flush()

    @override
    def pause_writing(self) -> None:
        self.writable = False

    @override
    def resume_writing(self) -> None:
        self.writable = True
        if self._conversation is not None:
            self._conversation.writable_again()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._keepalive, self._opening):
            if timer is not None:
                timer.cancel()
        if self._conversation is not None:
            self._conversation.closed()
            self._conversation = None
        self._others.discard(self)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _handshake(self, request: Request) -> None:
        refusal = check_request(self._door, plain_headers(request.headers))
        if refusal is not None:
            log.warning("connection refused", door=self._door.name, reason=refusal.reason)
            response = self._protocol.reject(refusal.status, refusal.reason + "\n")
        elif len(self._others) >= self._most_connections:
            log.warning("connection refused", door=self._door.name, reason="too many connections")
            response = self._protocol.reject(503, "too many connections; close one\n")
        elif request.path != ENDPOINT_PATH:
            response = self._protocol.reject(404, f"the endpoint is {ENDPOINT_PATH}\n")
        else:
            response = self._protocol.accept(request)
            if response.status_code == 101 and self._protocol.subprotocol != SUBPROTOCOL:
                response = self._protocol.reject(400, f"the subprotocol is {SUBPROTOCOL}\n")
        self._protocol.send_response(response)
        if response.status_code == 101:
            self._others.add(self)
            self._conversation = self._converse(self)
            self._schedule_ping()
            self._opening = self._loop.call_later(self._open_timeout, self._silent)

    def _frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.BINARY if frame.fin:
                self._message(bytes(frame.data))
            case Opcode.BINARY | Opcode.CONT:
                self._fragment(frame)
            case Opcode.TEXT:
                self._fail(CloseCode.INVALID_DATA, "messages are binary")
            case Opcode.PING:
                self._pings += 1
                if self._pings > MOST_PINGS:
                    self._fail(CloseCode.POLICY_VIOLATION, "too many pings")
            case Opcode.PONG:
                if self._keepalive is not None:
                    self._keepalive.cancel()
                self._schedule_ping()

    def _fragment(self, frame: Frame) -> None:
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > MOST_FRAGMENTS:
            self._fail(CloseCode.POLICY_VIOLATION, "too many fragments")
        elif frame.fin:
            whole, self._fragments = b"".join(self._fragments), []
            self._message(whole)

    def _message(self, data: bytes) -> None:
        if self._conversation is None or self._deaf:
            return
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        try:
            self._conversation.receive(data)
        except RemoteProtocolError as error:
            self._fail(error.close_code, str(error))

    def _fail(self, code: int, reason: str) -> None:
        self._deaf = True
        log.warning("connection closed", door=self._door.name, code=int(code), reason=reason)
        self._fragments.clear()
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, reason[:120])

    def flush(self) -> None:
        """Write what is queued."""
        self._flushing = False
        self._queued = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        frames = self._protocol.data_to_send()
        if frames:
            transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if not self._ending and self._protocol.close_expected():
            self._ending = True
            self._loop.call_later(CLOSE_SECONDS, self._abort)
        if frames and frames[-1] == SEND_EOF:
            transport.close()
        if transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            log.warning("client does not read", door=self._door.name)
            self._deaf = True
            self._protocol.fail(CloseCode.TRY_AGAIN_LATER, "too much waits unread")
            transport.abort()

    def _schedule_ping(self) -> None:
        self._pings = 0
        self._keepalive = self._loop.call_later(self._ping_interval, self._ping)

    def _ping(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")
            self.flush()
            self._keepalive = self._loop.call_later(self._ping_timeout, self._unanswered)

    def _silent(self) -> None:
        log.info("client says nothing", door=self._door.name)
        self._abort()

    def _unanswered(self) -> None:
        log.info("client does not answer", door=self._door.name)
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def plain_headers(headers: Headers) -> dict[str, str]:
    """Headers by lower-case name.

    Of one that comes twice all values, so that a second one cannot hide behind the first.
    """
    plain: dict[str, str] = {}
    for name, value in headers.raw_items():
        key = name.lower()
        plain[key] = f"{plain[key]}, {value}" if key in plain else value
    return plain


def websocket_factory(make: Callable[[], WebSocketConnection]) -> Callable[..., Any]:
    """What uvicorn calls with its own arguments, of which none is needed."""
    return lambda **_: make()
