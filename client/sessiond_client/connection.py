"""One connection that has shaken hands: messages in and out, until it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sessiond_protocol import messages
from sessiond_protocol.codec import decode_server, encode
from sessiond_protocol.errors import RemoteProtocolError
from sessiond_protocol.messages import PROTOCOL_VERSION

from sessiond_client.address import Address
from sessiond_client.errors import (
    ConnectionLostError,
    DeadlineError,
    ProtocolViolationError,
    SessiondError,
    TransportError,
    VersionError,
    remote_error,
)
from sessiond_client.roles import expect
from sessiond_client.transport import Transport, open_transport
from sessiond_client.version import __version__

_HELLO = 1
_FINAL_CODES = (1002, 1007, 1008, 1009)
"""Close codes for what this client did wrong, and would do again."""

OnMessage = Callable[[messages.ServerMessage], None]
OnLost = Callable[[TransportError], None]


class Connection:
    """One open connection. Whatever arrives is handled in the call that brings it."""

    def __init__(self) -> None:
        self._transport: Transport
        self._greeting: asyncio.Future[messages.Welcome] = asyncio.get_running_loop().create_future()
        self._on_message: OnMessage | None = None
        self._on_lost: OnLost | None = None
        self.lost: TransportError | None = None
        """Why it is no more; None while it is."""
        self.welcome: messages.Welcome
        """What the daemon said of itself."""

    @classmethod
    async def open(
        cls, address: Address, token: str | None, *, connect_timeout: float, request_timeout: float
    ) -> Connection:
        """Connect, and agree on the protocol's version."""
        connection = cls()
        connection._transport = await open_transport(
            address, token, connection._receive, connection._take_loss, connect_timeout
        )
        try:
            connection.send(
                encode(
                    messages.Hello(id=_HELLO, version=PROTOCOL_VERSION, client=f"sessiond-client/{__version__} python")
                )
            )
            try:
                async with asyncio.timeout(request_timeout):
                    connection.welcome = await connection._greeting
            except TimeoutError:
                raise DeadlineError(f"the daemon did not answer within {request_timeout:g} s") from None
            if connection.welcome.version != PROTOCOL_VERSION:
                raise VersionError(
                    "version",
                    f"the daemon at {address} speaks protocol version {connection.welcome.version}, "
                    f"this client {PROTOCOL_VERSION}",
                    "install a client and a daemon of the same version",
                )
        except BaseException:
            await connection._transport.abort()
            raise
        return connection

    def attend(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """Hand over each message from now on, and once the reason why there will be no more."""
        self._on_message, self._on_lost = on_message, on_lost
        if self.lost is not None:
            on_lost(self.lost)

    @property
    def final(self) -> bool:
        """Whether a connection that was lost should not be tried again: one side broke the protocol."""
        return isinstance(self.lost, ProtocolViolationError) or self._transport.close_code in _FINAL_CODES

    def send(self, frame: bytes) -> None:
        """Send one encoded message. Does nothing on a connection that is ending."""
        self._transport.send(frame)

    @property
    def congested(self) -> bool:
        """Whether the daemon does not take what was sent."""
        return self._transport.congested

    async def drain(self) -> None:
        """Wait while the daemon does not take what was sent, or until the connection is lost."""
        await self._transport.drain()

    async def close(self) -> None:
        """Say goodbye, and wait for the end."""
        await self._transport.close()

    def violated(self, message: str, code: int = 1002) -> None:
        """End it, because the daemon did what the protocol forbids."""
        self._transport.fail(ProtocolViolationError(message), code)

    def _receive(self, data: bytes) -> None:
        try:
            message = decode_server(data)
        except RemoteProtocolError as error:
            self.violated(f"the daemon sent what is no message: {error}", error.close_code)
            return
        try:
            if isinstance(message, messages.Error) and message.re is None and message.session is None:
                self._transport.expect_end(ConnectionLostError(f"the daemon ended the connection: {message.message}"))
            elif not self._greeting.done():
                self._greet(message)
            elif self._on_message is not None:
                self._on_message(message)
        except ProtocolViolationError as error:
            self.violated(str(error))

    def _greet(self, message: messages.ServerMessage) -> None:
        if not isinstance(message, messages.Error | messages.Welcome) or message.re != _HELLO:
            raise ProtocolViolationError(f"the daemon sent {message.type!r} instead of welcome")
        if isinstance(message, messages.Error):
            self._fail_greeting(remote_error(message))
        else:
            self._greeting.set_result(expect(messages.Welcome, message))

    def _take_loss(self, reason: TransportError) -> None:
        self.lost = reason
        if not self._greeting.done():
            self._fail_greeting(reason)
        if self._on_lost is not None:
            self._on_lost(reason)

    def _fail_greeting(self, error: SessiondError) -> None:
        self._greeting.set_exception(error)
        self._greeting.exception()  # The opener may have given up already.
