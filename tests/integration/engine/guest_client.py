"""The daemon's end of a channel, as small as tests of engines need it."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

from sessiond_protocol import guest as wire

RUN_SECONDS = 30.0
HELLO_SECONDS = 15.0

PATH = b"PATH=/usr/local/bin:/usr/bin:/bin:/run/sessiond/bin"
ENVIRONMENT = (PATH, b"HOME=/workspace", b"LANG=C.UTF-8")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    signal: int
    output: str
    oom: bool = False


class Link(asyncio.Protocol):
    """One connection of a guest."""

    def __init__(self, owner: Guest) -> None:
        self.owner = owner
        self.decoder = wire.GuestDecoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.owner.connections += 1

    def data_received(self, data: bytes) -> None:
        for frame in self.decoder.feed(data):
            self.owner.take(self, frame)

    def connection_lost(self, error: Exception | None) -> None:
        self.owner.lost.set()


class Guest:
    """A sandbox's guest as seen through all its connections."""

    _handles = itertools.count(1)
    """Never the same twice, also when several ends talk to one guest in turn."""

    def __init__(self) -> None:
        self.connections = 0
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.hello: wire.Hello | None = None
        self._link: Link | None = None
        self._output: dict[int, bytearray] = {}
        self._ends: dict[int, asyncio.Future[wire.Exited | wire.Failed]] = {}

    def link(self) -> Link:
        """For the engine: a protocol for the next connection."""
        return Link(self)

    async def meet(self) -> wire.Hello:
        """Wait until the guest has said hello and all that it remembers."""
        await asyncio.wait_for(self.ready.wait(), HELLO_SECONDS)
        assert self.hello is not None
        return self.hello

    def take(self, link: Link, frame: wire.GuestFrame) -> None:
        if isinstance(frame, wire.Hello):
            self.hello = frame
            self._link = link
            self._send(wire.Welcome())
        elif isinstance(frame, wire.Synced):
            self.ready.set()
        elif isinstance(frame, wire.Output):
            self._output.setdefault(frame.command, bytearray()).extend(frame.data)
            self._send(wire.OutputAck(frame.command, frame.offset + len(frame.data)))
        elif isinstance(frame, wire.Exited | wire.Failed):
            end = self._ends.pop(frame.command, None)
            if end is not None:
                end.set_result(frame)
            self._send(wire.Forget(frame.command))

    async def run(self, *argv: str, cwd: str = "/workspace") -> Outcome:
        """Run a command to its end, stdout and stderr together."""
        handle, end = self.start(*argv, cwd=cwd)
        frame = await asyncio.wait_for(end, RUN_SECONDS)
        assert isinstance(frame, wire.Exited), frame
        output = bytes(self._output.pop(handle, b"")).decode(errors="replace")
        return Outcome(frame.code, frame.signal, output, frame.oom)

    def start(self, *argv: str, cwd: str = "/workspace") -> tuple[int, asyncio.Future[wire.Exited | wire.Failed]]:
        """Start a command; its handle and its end."""
        handle = next(self._handles)
        end = self._ends[handle] = asyncio.get_running_loop().create_future()
        words = tuple(word.encode() for word in argv)
        self._send(wire.Start(handle, words, cwd.encode(), ENVIRONMENT, merge_stderr=True))
        return handle, end

    def output(self, handle: int) -> str:
        """What a running command has said so far."""
        return bytes(self._output.get(handle, b"")).decode(errors="replace")

    def _send(self, frame: wire.DaemonFrame) -> None:
        assert self._link is not None
        self._link.transport.write(wire.encode(frame))
