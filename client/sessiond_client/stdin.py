"""Standard input of one command: in order, and never more than the daemon has room for.

What the daemon has not acknowledged, at most a window of it, is kept: over a new connection it is sent again.
"""

from __future__ import annotations

import asyncio

from sessiond_protocol import messages
from sessiond_protocol.messages import MAX_DATA

from sessiond_client.errors import (
    ProtocolViolationError,
    SessiondError,
    StdinClosedError,
    UsageError,
)
from sessiond_client.link import Link

FIRST_WINDOW = 256 * 1024
"""Bytes that a command has room for from its start, before the daemon has acknowledged any."""


class StdinPipe:
    """The writing end. Writes are sent whole and in the order in which they began."""

    def __init__(self, link: Link, key: tuple[str, str], offset: int) -> None:
        self._link = link
        self._key = key
        self.offset = offset
        """Bytes sent so far, by whomever."""
        self._limit = FIRST_WINDOW if offset <= FIRST_WINDOW else offset
        self._kept = bytearray()
        """The last bytes up to `offset`: those that were not acknowledged."""
        self._closed = False
        self._broken: SessiondError | None = None
        self._turn = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None

    # --- what the command calls

    async def write(self, data: bytes) -> None:
        """Send `data` as the command makes room. When cancelled, `offset` tells how much was sent."""
        async with self._turn:
            position = 0
            while position < len(data):
                room = await self._room()
                piece = data[position : position + min(room, MAX_DATA)]
                session, command = self._key
                self._link.send(messages.CommandStdin(session=session, command=command, offset=self.offset, data=piece))
                self.offset += len(piece)
                self._kept += piece
                position += len(piece)
                await self._link.drain()

    async def close(self) -> None:
        """Let the command read the end of its input after all that was written. Again does nothing."""
        async with self._turn:
            if self._closed or self._broken is not None:
                return
            self._send_end()
            self._closed = True

    # --- what the stream calls

    def on_ack(self, ack: messages.StdinAck) -> None:
        """Take the new window."""
        if ack.offset > self.offset:
            raise ProtocolViolationError(
                f"the daemon acknowledged {ack.offset} bytes of the input of command {self._key[1]}, "
                f"of which {self.offset} were sent"
            )
        del self._kept[: max(0, ack.offset - self.offset + len(self._kept))]
        if ack.window == 0:
            self.break_off(StdinClosedError(f"command {self._key[1]} reads no more standard input"))
        else:
            self._limit = max(self._limit, ack.offset + ack.window)
            self._wake()

    def on_reconnected(self) -> None:
        """Send again what may have been lost. The daemon says where it stands."""
        if self._broken is not None:
            return
        session, command = self._key
        acknowledged = self.offset - len(self._kept)
        for start in range(0, len(self._kept), MAX_DATA):
            piece = bytes(self._kept[start : start + MAX_DATA])
            self._link.send(
                messages.CommandStdin(session=session, command=command, offset=acknowledged + start, data=piece)
            )
        if self._closed:
            self._send_end()

    def break_off(self, reason: SessiondError) -> None:
        """Let writes fail with `reason` from now on."""
        if self._broken is None:
            self._broken = reason
            self._kept.clear()
            self._wake()

    # --- inside

    def _send_end(self) -> None:
        session, command = self._key
        self._link.send(messages.CommandCloseStdin(session=session, command=command, offset=self.offset))

    async def _room(self) -> int:
        """Bytes that may be sent now; waits until there are some."""
        loop = asyncio.get_running_loop()
        while True:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise UsageError("standard input was closed already")
            if self._limit > self.offset:
                return self._limit - self.offset
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
