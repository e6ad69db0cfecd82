"""A network that fails: passes bytes between clients and a daemon, and cuts connections where it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_PIECE = 64 * 1024


class CuttingProxy:
    """`async with CuttingProxy(path, target) as proxy:`; clients connect to `proxy.url`."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self._down: deque[int] = deque()
        self._up: deque[int] = deque()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self.cuts = 0
        self.down = 0
        """Bytes passed from the daemon to clients."""
        self.refusing = False
        """Whether new connections are cut at once."""
        self.deaf = False
        """Whether what the daemon sends disappears."""
        self.frozen = asyncio.Event()
        """Cleared, nothing passes, and nobody is told."""
        self.frozen.set()

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    def cut_after(self, down: Iterable[int] = (), up: Iterable[int] = ()) -> None:
        """Cut when so many bytes more have passed in a direction; then the next number counts, from there on."""
        self._down, self._up = deque(down), deque(up)

    def cut(self) -> None:
        """Cut every connection now."""
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.frozen.set()
        self.cut()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            daemon_reader, daemon_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, daemon_writer}
        await asyncio.gather(self._pass(reader, daemon_writer, False), self._pass(daemon_reader, writer, True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while writer in self._writers:
                limits = self._down if down else self._up
                data = b"" if limits and limits[0] == 0 else await reader.read(limits[0] if limits else _PIECE)
                await self.frozen.wait()
                limits = self._down if down else self._up
                if not data and not (limits and limits[0] == 0):
                    break
                if down and self.deaf:
                    continue
                if limits:
                    data = data[: limits[0]]
                    limits[0] -= len(data)
                self.down += len(data) if down else 0
                writer.write(data)
                await writer.drain()
                if limits and limits[0] == 0:
                    limits.popleft()
                    for other in self._writers:  # What was passed before is delivered.
                        other.close()
                    self._writers.clear()
                    self.cuts += 1
                    return
        writer.transport.abort()
