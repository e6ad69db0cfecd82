"""`ByteStream` without `await`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sessiond_client.byte_stream import ByteStream as AsyncByteStream
from sessiond_client.portal import Portal


class ByteStream:
    """From `Session.connect` and `Session.spawn_stdio`. `with stream:` closes it at the end."""

    def __init__(self, portal: Portal, stream: AsyncByteStream) -> None:
        self._portal = portal
        self._stream = stream

    @property
    def stderr(self) -> bytes:
        """The last 64 KiB of standard error that came so far; it comes as the stream is read."""
        return self._stream.stderr

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def read(self, most: int = 65536) -> bytes:
        """Some bytes, as soon as there are any; none at the end."""
        return self._portal.call(self._stream.read(most))

    def read_exactly(self, size: int) -> bytes:
        """So many bytes. Raises EOFError when the end comes before."""
        return self._portal.call(self._stream.read_exactly(size))

    def read_until(self, separator: bytes, most: int = 65536) -> bytes:
        """All up to the separator, with it."""
        return self._portal.call(self._stream.read_until(separator, most))

    def write(self, data: bytes) -> None:
        """Send bytes; waits while the other end does not take them."""
        self._portal.call(self._stream.write(data))

    def close_write(self) -> None:
        """Let the other end read the end of what was sent. It may go on sending."""
        self._portal.call(self._stream.close_write())

    def close(self) -> None:
        """End it, and the command that it belongs to. Again does nothing."""
        self._portal.call(self._stream.close())
