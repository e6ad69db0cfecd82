"""A connection whose every byte the test chooses: real sockets, websockets' sans-I/O client, and the codec."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from sessiond_protocol.codec import decode_server, encode
from sessiond_protocol.messages import SUBPROTOCOL, Error, Hello, Message, Welcome
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.daemon import DEADLINE, DaemonProcess

M = TypeVar("M", bound=Message)


class Refused(Exception):
    """The server answered with HTTP instead of opening a WebSocket."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.status = response.status_code


class Wire:
    """One WebSocket connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.protocol = ClientProtocol(
            parse_uri(f"ws://{host}/v1"), subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=None
        )
        self.messages: deque[Message] = deque()
        self.pongs = 0
        self._reader = reader
        self._writer = writer
        self._response: Response | None = None
        self._over = False
        self._numbers = iter(range(1, 1 << 30))

    @classmethod
    async def open(
        cls, daemon: DaemonProcess | tuple[str, int], headers: Mapping[str, str] | None = None, host: str = "localhost"
    ) -> Self:
        """Connect and shake hands; no hello yet. Raises Refused."""
        if isinstance(daemon, DaemonProcess):
            reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        else:
            reader, writer = await asyncio.open_connection(*daemon)
        wire = cls(reader, writer, host)
        request = wire.protocol.connect()
        for name, value in (headers or {}).items():
            request.headers[name] = value
        wire.protocol.send_request(request)
        try:
            await wire.flush()
            while wire._response is None and wire.protocol.handshake_exc is None:
                assert await wire._read(), "the server closed the connection before it answered"
        except BaseException:
            await wire.close()
            raise
        failure = wire.protocol.handshake_exc
        if isinstance(failure, InvalidStatus):
            await wire.close()
            raise Refused(failure.response)
        assert failure is None, failure
        return wire

    @classmethod
    async def greeted(cls, daemon: DaemonProcess, version: int = 1) -> Self:
        """Connect and say hello."""
        wire = await cls.open(daemon)
        await wire.ask(Welcome, Hello, version=version, client="test")
        return wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- sending

    async def send_bytes(self, data: bytes) -> None:
        """Bytes as they are, below the WebSocket."""
        self._writer.write(data)
        await self._writer.drain()

    async def send_frame(self, data: bytes) -> None:
        """A binary WebSocket message, whatever is in it."""
        self.protocol.send_binary(data)
        await self.flush()

    async def send(self, message: Message) -> None:
        """A message."""
        await self.send_frame(encode(message))  # type: ignore[arg-type]

    async def flush(self) -> None:
        """Let go what the protocol has to send."""
        for data in self.protocol.data_to_send():
            if data:
                self._writer.write(data)
        await self._writer.drain()

    # --- receiving

    async def next(self) -> Message | None:
        """The next message; None when the server has closed."""
        while not self.messages and await self._read():
            pass
        return self.messages.popleft() if self.messages else None

    async def expect(self, model: type[M], where: Callable[[M], bool] = lambda _: True) -> M:
        """The next message of that kind; others are left for later."""
        looked_at = 0
        while True:
            for index in range(looked_at, len(self.messages)):
                message = self.messages[index]
                if isinstance(message, model) and where(message):
                    del self.messages[index]
                    return message
            looked_at = len(self.messages)
            if not await self._read() and looked_at == len(self.messages):
                raise AssertionError(f"the server closed ({self.close_code}) and sent no {model.__name__}")

    async def ask(self, reply: type[M], request: Callable[..., Any], **fields: Any) -> M:
        """Send a request and return its reply, which must be of that kind."""
        number = next(self._numbers)
        await self.send(request(id=number, **fields))
        answer = await self.expect(Message, lambda message: getattr(message, "re", None) == number)
        assert isinstance(answer, reply), answer
        return answer

    async def refused(self, request: Callable[..., Any], **fields: Any) -> Error:
        """The error that a request is answered with."""
        return await self.ask(Error, request, **fields)

    async def closed(self) -> int | None:
        """Read until the server has closed; the code that it gave, or None when the connection just ended."""
        while await self._read():
            pass
        return self.close_code

    @property
    def close_code(self) -> int | None:
        """The code in the server's close frame."""
        received = self.protocol.close_rcvd
        return received.code if received is not None else None

    async def _read(self) -> bool:
        if self._over:
            return False
        try:
            data = await asyncio.wait_for(self._reader.read(1 << 16), DEADLINE)
        except ConnectionError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self._over = True
            self.protocol.receive_eof()
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                self._response = event
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self.messages.append(decode_server(bytes(event.data)))
            elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                self.pongs += 1
        if not self._over:
            with contextlib.suppress(ConnectionError):
                await self.flush()
        return not self._over

    async def close(self) -> None:
        """Hang up, without goodbye."""
        self._over = True
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
