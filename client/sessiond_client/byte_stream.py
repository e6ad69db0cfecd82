"""A stream of bytes both ways, to what runs or listens inside the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiond_client.command import Command, abandon_command
from sessiond_client.errors import TunnelError
from sessiond_client.file_records import tunnel_error
from sessiond_client.results import Gap

if TYPE_CHECKING:
    from types import TracebackType

_MOST_STDERR = 64 * 1024
_CONNECTED = b"connected\n"


class ByteStream:
    """From `Session.connect` and `Session.spawn_stdio`. `async with stream:` closes it at the end.

    Flow is controlled both ways, and all of it survives a lost connection to the daemon, and the daemon's restart.
    """

    def __init__(self, command: Command, *, tunnel: bool = False) -> None:
        self._command = command
        self._tunnel = tunnel
        self._rest = b""
        self._stderr = bytearray()
        self._ended = False

    @property
    def stderr(self) -> bytes:
        """The last 64 KiB of standard error that came so far; it comes as the stream is read."""
        return bytes(self._stderr)

    async def __aenter__(self) -> ByteStream:
        """The stream itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def connected(self) -> None:
        """Wait until the other end of a tunnel is reached. Raises TunnelError."""
        while not self._rest and _CONNECTED not in self._stderr:
            piece = await self._next()
            if piece is None:
                status = await self._command.wait()
                raise tunnel_error(status.exit_code, self.stderr, status.describe())
            self._rest = piece

    async def read(self, most: int = 65536) -> bytes:
        """Some bytes, as soon as there are any; none at the end. Raises TunnelError when a tunnel broke."""
        while not self._rest:
            piece = await self._next()
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    async def read_exactly(self, size: int) -> bytes:
        """So many bytes. Raises EOFError when the end comes before."""
        data = bytearray()
        while len(data) < size:
            piece = await self.read(size - len(data))
            if not piece:
                raise EOFError(f"the stream ended {size - len(data)} bytes too early")
            data += piece
        return bytes(data)

    async def read_until(self, separator: bytes, most: int = 65536) -> bytes:
        """All up to the separator, with it. Raises EOFError when it does not come before the end or in `most` bytes."""
        data = bytearray()
        while separator not in data:
            piece = await self.read()
            if not piece or len(data) > most:
                raise EOFError(f"no {separator!r} within {len(data)} bytes")
            data += piece
        end = data.index(separator) + len(separator)
        self._rest = bytes(data[end:]) + self._rest
        return bytes(data[:end])

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the other end does not take them."""
        await self._command.write(data)

    async def close_write(self) -> None:
        """Let the other end read the end of what was sent. It may go on sending."""
        await self._command.close_stdin()

    async def close(self) -> None:
        """End it, and the command that it belongs to. Again does nothing."""
        if not self._ended:
            self._ended = True
            self._rest = b""
            abandon_command(self._command)

    async def _next(self) -> bytes | None:
        """The next piece of output; empty for one of standard error, None at the end."""
        if self._ended:
            return None
        piece = await self._command.next()
        if piece is None:
            self._ended = True
            status = await self._command.wait()
            if self._tunnel and not status.ok and _CONNECTED in self._stderr:
                raise tunnel_error(status.exit_code, self.stderr, status.describe())
            return None
        if isinstance(piece, Gap):
            abandon_command(self._command)
            self._ended = True
            raise TunnelError("broken", f"bytes {piece.start} to {piece.end} are not kept any more")
        if piece.stream == "stdout":
            return piece.data
        self._stderr += piece.data
        del self._stderr[:-_MOST_STDERR]
        return b""


def target_of(where: int | str) -> str:
    """How the protocol names a port or a unix socket's path."""
    return f"tcp:{where}" if isinstance(where, int) else f"unix:{where}"
