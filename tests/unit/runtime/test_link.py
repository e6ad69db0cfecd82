"""The daemon's end of the channel, with a guest that the test plays over a real socket."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from sessiond_protocol import guest as wire

from sessiond.runtime.command import Command
from sessiond.runtime.link import GuestLink, LinkError
from sessiond.runtime.outbox import Outbox
from tests.unit.runtime.keeper import Keeper, make_command

DEADLINE = 10.0
BOOT = bytes(range(16))


class Guest:
    """The other end: says what it is told to say, remembers what it hears."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._decoder = reader, writer, wire.DaemonDecoder()
        self.heard: list[wire.Frame] = []

    def say(self, *frames: wire.Frame) -> None:
        self._writer.write(b"".join(map(wire.encode, frames)))

    async def hear(self, kind: type) -> wire.Frame:
        async with asyncio.timeout(DEADLINE):
            while True:
                for frame in self.heard:
                    if isinstance(frame, kind):
                        self.heard.remove(frame)
                        return frame
                data = await self._reader.read(65536)
                assert data, f"connection ended before {kind.__name__}"
                self.heard += self._decoder.feed(data)

    async def closed(self) -> None:
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                while await self._reader.read(65536):
                    pass

    def close(self) -> None:
        self._writer.close()


class Setting:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults: list[str] = []
        self.link = GuestLink("sandbox", self.faults.append, Outbox())
        self.guests: list[Guest] = []

    async def dial(self, *, boot: bytes = BOOT, ring: int = 1 << 20, version: int = wire.VERSION) -> Guest:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(self.link.connection, sock=ours)
        guest = Guest(*await asyncio.open_connection(sock=theirs))
        self.guests.append(guest)
        guest.say(wire.Hello(version=version, features=0, boot=boot, ring=ring, commands=256))
        return guest

    async def greet(self, *replay: wire.Frame) -> Guest:
        guest = await self.dial()
        await guest.hear(wire.Welcome)
        guest.say(*replay, wire.Synced())
        await self.link.ready(DEADLINE)
        return guest

    def start(self) -> tuple[Command, int]:
        handle = 2
        command = make_command(self.directory, Keeper(lambda ended: self.link.unregister(ended.handle)))
        self.link.register(handle, command)
        command.launch(self.link, wire.Start(handle, (b"true",), b"/"))
        return command, handle


@pytest.fixture
async def setting(tmp_path):
    setting = Setting(tmp_path)
    yield setting
    setting.link.close()
    for guest in setting.guests:
        guest.close()
    await asyncio.sleep(0)


async def test_a_guest_is_ready_once_it_has_told_all_it_knows(setting):
    guest = await setting.dial()
    await guest.hear(wire.Welcome)
    with pytest.raises(LinkError, match="did not dial"):
        await setting.link.ready(0.05)
    guest.say(wire.Synced())
    await setting.link.ready(DEADLINE)


async def test_a_ping_is_answered_or_it_is_an_error(setting):
    guest = await setting.greet()
    ping = asyncio.create_task(setting.link.ping(DEADLINE))
    guest.say(wire.Pong((await guest.hear(wire.Ping)).token))
    await ping
    with pytest.raises(LinkError, match="did not answer"):
        await setting.link.ping(0.05)


async def test_a_restriction_is_answered_once_or_it_is_an_error(setting):
    guest = await setting.greet()
    frame = wire.Restrict(wire.RESTRICT_READ, b"/bin", ((wire.ACCESS_READ, b"/etc"),))
    asked = asyncio.create_task(setting.link.restrict(frame, DEADLINE))
    assert await guest.hear(wire.Restrict) == frame
    guest.say(wire.Restricted(7, 4))
    assert await asked == wire.Restricted(7, 4)
    guest.say(wire.Restricted(7, 4))
    await guest.closed()
    assert "nobody asked" in setting.faults[0]


async def test_a_restriction_without_an_answer_is_an_error(setting):
    """Also where the guest is away: nothing is known of what holds, so nobody may have the sandbox."""
    frame = wire.Restrict(wire.RESTRICT_READ)
    guest = await setting.greet()
    with pytest.raises(LinkError, match="did not restrict"):
        await setting.link.restrict(frame, 0.05)
    guest.say(wire.Restricted(7, 1))  # too late, and no fault
    guest.say(wire.Pong(1))
    guest.close()
    await guest.closed()
    with pytest.raises(LinkError, match="did not restrict"):
        await setting.link.restrict(frame, 0.05)


async def test_a_ping_while_the_guest_redials_is_answered_after_it(setting):
    """A healthy sandbox used to be given up when its guest happened to be redialing."""
    guest = await setting.greet()
    guest.close()
    await guest.closed()
    ping = asyncio.create_task(setting.link.ping(DEADLINE))
    await asyncio.sleep(0)
    guest = await setting.greet()
    guest.say(wire.Pong((await guest.hear(wire.Ping)).token))
    await ping


async def test_an_end_reported_while_the_guest_was_redialing_is_forgotten_and_no_fault(setting):
    """The FORGET used to be lost during the replay, and the next replay then was taken for a lie."""
    guest = await setting.greet()
    command, handle = setting.start()
    await guest.hear(wire.Start)
    guest.say(wire.Started(handle, 2))
    guest.close()
    await guest.closed()
    over = [
        wire.Started(handle, 2),
        wire.Output(handle, 1, 0, b"x"),
        wire.OutputEof(handle, 1, 1),
        wire.OutputEof(handle, 2, 1),
        wire.Exited(handle, 0, 0, output_bytes=1),
    ]
    guest = await setting.greet(*over)
    assert command.state == "exited"
    assert await guest.hear(wire.OutputAck) == wire.OutputAck(handle, 1)
    assert await guest.hear(wire.Forget) == wire.Forget(handle)
    guest.close()
    await guest.closed()
    guest = await setting.greet(*over)
    assert await guest.hear(wire.OutputAck) == wire.OutputAck(handle, 1)
    assert await guest.hear(wire.Forget) == wire.Forget(handle)
    assert setting.faults == []


async def test_a_command_that_the_guest_does_not_name_is_lost(setting):
    guest = await setting.greet()
    command, handle = setting.start()
    guest.say(wire.Started(handle, 2))
    ping = asyncio.create_task(setting.link.ping(DEADLINE))
    guest.say(wire.Pong((await guest.hear(wire.Ping)).token))
    await ping
    guest.close()
    await setting.greet()
    assert command.state == "lost"


async def test_a_start_that_was_cut_off_is_sent_again(setting):
    guest = await setting.greet()
    guest.close()
    await guest.closed()
    command, handle = setting.start()
    guest = await setting.greet()
    assert (await guest.hear(wire.Start)).command == handle
    assert command.state == "starting"


@pytest.mark.parametrize(
    "lie",
    [
        [wire.Started(99, 1)],
        [wire.Output(99, 1, 0, b"x")],
        [wire.Exited(99, 0, 0)],
        [wire.Welcome()],
        [wire.Hello(1, 0, bytes(16), 1 << 20, 256)],
        [wire.GuestError(1, "no")],
        [wire.Restricted(7, 1)],
    ],
)
async def test_a_guest_that_breaks_the_rules_is_cut_off_and_reported_once(setting, lie):
    guest = await setting.greet()
    guest.say(*lie)
    await guest.closed()
    assert len(setting.faults) == 1
    again = await setting.dial()
    await again.closed()
    assert len(setting.faults) == 1


async def test_another_guest_in_the_first_ones_place_is_refused(setting):
    guest = await setting.greet()
    other = await setting.dial(boot=bytes(16))
    await other.closed()
    assert "another guest" in setting.faults[0]
    await guest.closed()


@pytest.mark.parametrize("claim", [{"ring": 1 << 30}, {"version": 99}])
async def test_a_guest_that_claims_too_much_is_refused(setting, claim):
    guest = await setting.dial(**claim)
    await guest.closed()
    assert len(setting.faults) == 1


async def test_rubbish_is_a_fault_after_the_good_frames_before_it(setting):
    guest = await setting.greet()
    command, handle = setting.start()
    await guest.hear(wire.Start)
    guest._writer.write(wire.encode(wire.Started(handle, 2)) + b"\xff" * 40)
    await guest.closed()
    assert command.state == "running"
    assert len(setting.faults) == 1


async def test_whoever_says_something_else_than_hello_is_cut_off(setting):
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().create_connection(setting.link.connection, sock=ours)
    guest = Guest(*await asyncio.open_connection(sock=theirs))
    setting.guests.append(guest)
    guest.say(wire.Pong(1))
    await guest.closed()
    assert setting.faults


async def test_after_a_restart_the_guest_says_by_which_handle_it_knows_a_command(setting):
    """It has two: the second is another shell's, should the first shell be missing."""
    command = make_command(setting.directory, Keeper(lambda ended: setting.link.unregister(ended.handle)))
    command.expect(setting.link, 2, wire.Start(2, (b"true",), b"/"))
    for handle in (2, 3):
        setting.link.register(handle, command)
    guest = await setting.greet(wire.Started(3, 9))
    assert (command.state, command.handle) == ("running", 3)
    guest.say(wire.Exited(3, 0, 0, stdout_eof=True, stderr_eof=True))
    assert await guest.hear(wire.Forget) == wire.Forget(3)
    assert not [frame for frame in guest.heard if isinstance(frame, wire.Start)]
    assert setting.faults == []


async def test_after_a_restart_what_has_ended_before_is_forgotten_and_no_fault(setting):
    setting.link.used(7)
    guest = await setting.greet(wire.Started(6, 9), wire.Exited(6, 0, 0))
    assert await guest.hear(wire.Forget) == wire.Forget(6)
    assert setting.faults == []
