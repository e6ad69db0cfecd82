"""Standard input of one command, on its way from a client to the guest: each byte once, never more than there is room.

What the guest has not acknowledged is kept here, at most a window of it, and sent again when it has redialed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sessiond_protocol import guest as wire

from sessiond.core.errors import RequestError
from sessiond.runtime.reports import GuestFault


class Stdin:
    """The daemon's end. `send` queues a frame for the guest, or drops it while the guest is away."""

    def __init__(self, command: str, send: Callable[[wire.DaemonFrame], None]) -> None:
        self._command = command
        self._send = send
        self._kept: deque[tuple[int, bytes]] = deque()
        self._sent = 0
        self.acked = 0
        self.gone = False
        """Whether its reading end is gone."""
        self._closed: int | None = None
        self._unknown = False
        self._waits: list[Callable[[], None]] = []

    def expect_guest(self) -> None:
        """An earlier life of the daemon sent some of it: only the guest knows how much."""
        self._unknown = True

    @property
    def window(self) -> int:
        """Bytes beyond `acked` that a client may send."""
        return 0 if self.gone else wire.STDIN_WINDOW

    @property
    def position(self) -> int | None:
        """Where it goes on; None while only the guest knows."""
        return None if self._unknown else self._sent

    def when_known(self, then: Callable[[], None]) -> None:
        """Call it once `position` is known, or nothing is read any more."""
        if self._unknown and not self.gone:
            self._waits.append(then)
        else:
            then()

    def write(self, handle: int, offset: int, data: bytes) -> None:
        """Pass bytes on. What was passed on before is ignored; a hole or too much is refused."""
        self._go_on_at(offset)
        if offset > self._sent:
            raise RequestError("invalid", f"standard input of {self._command} goes on at {self._sent}, not {offset}")
        data = data[self._sent - offset :]
        if not data:
            return
        if self._closed is not None:
            raise RequestError("invalid", f"standard input of {self._command} is closed")
        if self._sent + len(data) > self.acked + wire.STDIN_WINDOW:
            raise RequestError(
                "limit", f"more than the window of standard input of {self._command}", "wait for stdin.ack"
            )
        self._kept.append((self._sent, data))
        self._send(wire.Stdin(handle, self._sent, data))
        self._sent += len(data)

    def close(self, handle: int, offset: int) -> None:
        """End it at `offset`, which must be what was written."""
        if self._closed is not None:
            return
        self._go_on_at(offset)
        if offset != self._sent:
            raise RequestError("invalid", f"standard input of {self._command} is at {self._sent}, not {offset}")
        self._closed = offset
        self._send(wire.StdinClose(handle, offset))

    def acknowledged(self, offset: int) -> None:
        """The guest has written it to the pipe up to `offset`. Raises GuestFault when that cannot be."""
        self.gone = gone = offset == wire.NO_MORE_STDIN
        if self._unknown and not gone:
            self._unknown = False
            self._sent = max(self._sent, offset)
        if not gone and not self.acked <= offset <= self._sent:
            raise GuestFault(f"standard input of command {self._command} acknowledged at {offset}")
        self.acked = self._sent if gone else offset
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= self.acked:
            self._kept.popleft()
        self._tell_waiting()

    def repeat(self, handle: int) -> None:
        """Send again what may not have reached the guest."""
        for offset, data in self._kept:
            self._send(wire.Stdin(handle, offset, data))
        if self._closed is not None:
            self._send(wire.StdinClose(handle, self._closed))

    def start_again(self) -> None:
        """The command starts under another handle, which has seen none of it."""
        self.acked = 0

    def forget(self) -> None:
        """Nobody reads it any more."""
        self._kept.clear()
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        waits, self._waits = self._waits, []
        for then in waits:
            then()

    def _go_on_at(self, offset: int) -> None:
        """A client goes on behind what is known here: it knows from an earlier life of the daemon."""
        if self._unknown and offset > self._sent:
            self._kept.clear()
            self._sent = self.acked = offset
