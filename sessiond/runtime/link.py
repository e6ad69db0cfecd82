"""The daemon's end of a guest's channel: one connection after another, the same commands throughout.

Frames are dispatched from `data_received` itself: no task, queue or poll stands between a guest's report and the
client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import cast

from sessiond_protocol import guest as wire
from typing_extensions import override

from sessiond.core.errors import SessiondError
from sessiond.runtime.command import Command
from sessiond.runtime.outbox import Outbox
from sessiond.runtime.reports import GuestFault

HELLO_SECONDS = 5.0
"""Within this time a new connection must have said HELLO."""
MOST_UNSENT_BYTES = 32 * 1024 * 1024
"""A guest that lets more than this wait unread is faulty: windows and limits keep an honest one far below."""
LAZY_SECONDS = 0.05
"""How long a frame that nobody waits for may wait for company."""
MOST_RING_BYTES = 1024 * 1024
"""The ring that docs/guest.md promises; a guest that claims more is faulty."""


Report = wire.Output | wire.OutputEof | wire.Started | wire.Exited | wire.Failed | wire.StdinAck
"""What a guest says of one command."""


class LinkError(SessiondError):
    """The guest did not answer in time, or cannot answer any more."""


class GuestLink:
    """One sandbox's guest, through all its connections."""

    def __init__(self, sandbox: str, on_fault: Callable[[str], None], outbox: Outbox) -> None:
        self.sandbox = sandbox
        self.outbox = outbox
        self._on_fault = on_fault
        self._connection: _Connection | None = None
        self._commands: dict[int, Command] = {}
        self._mentioned: set[int] = set()
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._restricted: asyncio.Future[wire.Restricted] | None = None
        self._tokens = count(1)
        self._last_handle = 0
        self._boot: bytes | None = None
        self._ring = MOST_RING_BYTES
        self._ready = asyncio.Event()
        self._faulty = False

    # --- for the engine ---------------------------------------------------------------------------------------------

    def connection(self) -> asyncio.Protocol:
        """A protocol for the guest's next connection."""
        return _Connection(self)

    # --- for the daemon ---------------------------------------------------------------------------------------------

    async def ready(self, seconds: float) -> None:
        """Return when the guest has dialed and told all it knows. Raises LinkError after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            raise LinkError(f"the guest of sandbox {self.sandbox} did not dial within {seconds:g} s") from None

    def ask(self) -> asyncio.Future[None]:
        """Send the guest a ping at once, or as soon as it is there; done when it has answered."""
        token = next(self._tokens)
        answer = self._pings[token] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._pings.pop(token, None))
        self.send_now(wire.Ping(token))
        return answer

    async def answered(self, answer: asyncio.Future[None], seconds: float) -> None:
        """Return when the guest has answered what `ask` asked. Raises LinkError after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await answer
        except TimeoutError:
            raise LinkError(f"the guest of sandbox {self.sandbox} did not answer within {seconds:g} s") from None

    async def ping(self, seconds: float) -> None:
        """One round trip to the guest, once it is there. Raises LinkError after `seconds`."""
        await self.answered(self.ask(), seconds)

    async def restrict(self, frame: wire.Restrict, seconds: float) -> wire.Restricted:
        """Have the guest restrict the session, once and before its first command. Raises LinkError after `seconds`:
        what holds is then unknown."""
        answer: asyncio.Future[wire.Restricted] = asyncio.get_running_loop().create_future()
        self._restricted = answer
        self.send_now(frame)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise LinkError(f"the guest of sandbox {self.sandbox} did not restrict it within {seconds:g} s") from None

    def register(self, handle: int, command: Command) -> None:
        """Let the command hear what the guest reports of the handle. Handles of a sandbox only grow."""
        self._commands[handle] = command
        self.used(handle)

    def unregister(self, handle: int) -> None:
        """Nothing more can come of the handle."""
        self._commands.pop(handle, None)

    def used(self, handle: int) -> None:
        """Handles up to this one have been used, be it in an earlier life of the daemon."""
        self._last_handle = max(self._last_handle, handle)

    def send(self, frame: wire.DaemonFrame, *, soon: bool = True) -> None:
        """Queue a frame; one that is not needed soon may wait `LAZY_SECONDS` for another to travel with.

        While the guest is away it is dropped, and until it has told all it knows so is what asks it to do something:
        resynchronisation repeats what commands owe it.
        """
        connection = self._connection
        if connection is not None and (self._ready.is_set() or isinstance(frame, wire.OutputAck | wire.Forget)):
            connection.write(frame, soon=soon)

    def send_now(self, frame: wire.DaemonFrame) -> None:
        """Send a frame without waiting for what else there may be to write."""
        self.send(frame)
        if self._connection is not None:
            self._connection.flush()

    def close(self) -> None:
        """End the present connection and accept no further one."""
        self._faulty = True
        if self._connection is not None:
            self._connection.abort()

    # --- from a connection ------------------------------------------------------------------------------------------

    def greeted(self, connection: _Connection, hello: wire.Hello) -> None:
        """A new connection said who it is. The newest one counts: the guest redials only when the old one is over."""
        if self._faulty:
            connection.abort()
            return
        if hello.version != wire.VERSION:
            raise GuestFault(f"guest speaks version {hello.version} of the channel, this daemon {wire.VERSION}")
        if self._boot not in (None, hello.boot):
            raise GuestFault("another guest took the first one's place")
        if hello.ring > MOST_RING_BYTES:
            raise GuestFault(f"guest claims a ring of {hello.ring} bytes")
        if self._connection is not None:
            self._connection.abort()
        self._boot, self._ring = hello.boot, hello.ring
        self._ready.clear()
        self._mentioned.clear()
        self._connection = connection
        connection.write(wire.Welcome(wire.VERSION), soon=True)

    def received(self, connection: _Connection, frame: wire.Frame) -> None:
        """A frame of the present connection; those of a replaced one are dropped."""
        if connection is not self._connection:
            return
        match frame:
            case wire.Output() | wire.OutputEof() | wire.Started() | wire.Exited() | wire.Failed() | wire.StdinAck():
                command = self._commands.get(frame.command)
                if command is not None:
                    if command.handle != frame.command:
                        self._known_as(command, frame.command)
                    self._report(command, frame)
                elif frame.command <= self._last_handle:
                    self._forget_again(frame)
                else:
                    raise GuestFault(f"report of command {frame.command}, which was never started")
            case wire.Pong():
                answer = self._pings.get(frame.token)
                if answer is not None and not answer.done():
                    answer.set_result(None)
            case wire.Restricted():
                restricted = self._restricted
                if restricted is None or (restricted.done() and not restricted.cancelled()):
                    raise GuestFault("RESTRICTED, which nobody asked for")
                if not restricted.done():
                    restricted.set_result(frame)
            case wire.Synced():
                self._synchronised()
            case wire.Goodbye():
                pass
            case wire.GuestError():
                raise GuestFault(f"guest refused what it was sent: {frame.text}")
            case _:
                raise GuestFault(f"{type(frame).__name__} is not for a guest to send")

    def _report(self, command: Command, frame: Report) -> None:
        match frame:
            case wire.Output():
                self._mentioned.add(frame.command)
                command.on_output(frame, self._ring)
            case wire.OutputEof():
                command.on_eof(frame)
            case wire.Started():
                self._mentioned.add(frame.command)
                command.on_started(frame)
            case wire.Exited():
                self._mentioned.add(frame.command)
                command.on_exited(frame)
            case wire.Failed():
                self._mentioned.add(frame.command)
                command.on_failed(frame)
                if command.handle != frame.command:  # it goes on under another one
                    self.unregister(frame.command)
            case wire.StdinAck():
                command.on_stdin_ack(frame)

    def _known_as(self, command: Command, handle: int) -> None:
        """The guest has a command of an earlier life under one of the handles that it may have been given."""
        self._commands.pop(command.handle, None)
        command.handle = handle

    def _forget_again(self, frame: Report) -> None:
        """A command that is over here, but whose guest was away when it was told so."""
        if isinstance(frame, wire.Output):
            self.send(wire.OutputAck(frame.command, frame.offset + len(frame.data)), soon=False)
        elif isinstance(frame, wire.Exited | wire.Failed):
            self.send(wire.Forget(frame.command), soon=False)

    def lost(self, connection: _Connection) -> None:
        """A connection ended; the guest redials."""
        if connection is self._connection:
            self._connection = None
            self._ready.clear()

    def fault(self, reason: str) -> None:
        """The guest broke the rules: nothing it says counts any more."""
        if not self._faulty:
            self.close()
            self._on_fault(reason)

    def _synchronised(self) -> None:
        self._ready.set()
        for handle, command in tuple(self._commands.items()):
            if handle == command.handle:
                command.resynchronise(known=handle in self._mentioned)
            else:
                del self._commands[handle]
        self._mentioned.clear()
        for token in self._pings:
            self.send(wire.Ping(token))


class _Connection(asyncio.Protocol):
    """One connection of the guest."""

    def __init__(self, link: GuestLink) -> None:
        self._link = link
        self._decoder = wire.GuestDecoder()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._unsent: list[bytes] = []
        self._flushing = False
        self._lazy: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(HELLO_SECONDS, transport.abort)

    @override
    def data_received(self, data: bytes) -> None:
        outbox = self._link.outbox
        outbox.hold()
        try:
            self._take(data)
        except GuestFault as fault:
            self._link.fault(str(fault))
            self.abort()
        finally:
            outbox.flush()

    def _take(self, data: bytes) -> None:
        try:
            frames: Sequence[wire.Frame] = self._decoder.feed(data)
            broken: Exception | None = None
        except wire.GuestProtocolError as error:
            frames, broken = error.frames, error
        for frame in frames:
            self._received(frame)
        if broken is not None:
            raise GuestFault(str(broken))

    def _received(self, frame: wire.Frame) -> None:
        if self._greeted:
            self._link.received(self, frame)
        elif isinstance(frame, wire.Hello):
            self._greeted = True
            if self._deadline is not None:
                self._deadline.cancel()
            self._link.greeted(self, frame)
        else:
            raise GuestFault(f"{type(frame).__name__} before HELLO")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._lazy):
            if timer is not None:
                timer.cancel()
        self._link.lost(self)

    def write(self, frame: wire.DaemonFrame, *, soon: bool) -> None:
        self._unsent.append(wire.encode(frame))
        if soon and not self._flushing:
            self._flushing = True
            self._link.outbox.add(self)
        elif not soon and self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_SECONDS, self._flush_lazily)

    def flush(self) -> None:
        self._flushing = False
        transport, unsent = self._transport, self._unsent
        self._unsent = []
        if not unsent or transport is None or transport.is_closing():
            return
        transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
        if transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            self._link.fault("guest does not read what it is sent")

    def _flush_lazily(self) -> None:
        self._lazy = None
        self.flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
