"""Row 63: a guest that lies. The daemon is the real one, in this process; only its engine makes puppets of sandboxes.

Beside the real path on purpose: an honest guest cannot be made to lie, and a sandbox's own code cannot speak for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from sessiond_client import Client, CommandLostError, SessiondError, connect
from sessiond_protocol import guest as wire

from sessiond.engine.port import Capabilities, Engine, Limits, SandboxSpec, SandboxStats, SandboxStatus
from sessiond.server.daemon import Daemon
from sessiond.settings import Settings
from tests.daemon import DEADLINE, eventually

BOOT = b"b" * 16
HELLO = wire.Hello(version=wire.VERSION, features=0, boot=BOOT, ring=1 << 20, commands=64)

Script = Callable[["Puppet"], Awaitable[None]]


class Puppet:
    """The guest's end of a channel. It is honest until its script takes over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = wire.DaemonDecoder()
        self._frames: list[wire.Frame] = []

    async def frame(self) -> wire.Frame:
        """The next frame but pings, which are answered. Raises ConnectionError at the end."""
        while True:
            while not self._frames:
                data = await self._reader.read(65536)
                if not data:
                    raise ConnectionResetError
                self._frames += self._decoder.feed(data)
            frame = self._frames.pop(0)
            if isinstance(frame, wire.Ping):
                await self.say(wire.Pong(frame.token))
            else:
                return frame

    async def say(self, *frames: wire.Frame | bytes) -> None:
        """Frames, or bytes that are none."""
        for frame in frames:
            self._writer.write(frame if isinstance(frame, bytes) else wire.encode(frame))
            await self._writer.drain()

    async def begin(self) -> None:
        """Say HELLO and finish the replay."""
        await self.say(HELLO)
        assert isinstance(await self.frame(), wire.Welcome)
        await self.say(wire.Synced())

    async def start(self) -> wire.Start:
        """The next START."""
        while not isinstance(frame := await self.frame(), wire.Start):
            pass
        return frame

    async def closed(self) -> None:
        """Read until the daemon hangs up."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self.frame()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def honest(puppet: Puppet) -> None:
    """Every command says `ok` and ends with 0."""
    await puppet.begin()
    while True:
        await end_well(puppet, await puppet.start())


async def end_well(puppet: Puppet, start: wire.Start) -> None:
    handle = start.command
    streams = (wire.STDOUT,) if start.merge_stderr else (wire.STDOUT, wire.STDERR)
    await puppet.say(
        wire.Started(handle, 5),
        wire.Output(handle, wire.STDOUT, 0, b"ok"),
        *(wire.OutputEof(handle, stream, 2) for stream in streams),
        ended(handle, output_bytes=2),
    )


def ended(handle: int, *, code: int = 0, number: int = 0, output_bytes: int = 0) -> wire.Exited:
    return wire.Exited(
        command=handle,
        code=code,
        signal=number,
        timed_out=False,
        oom=False,
        killed=False,
        output_bytes=output_bytes,
        wall_ns=1,
        user_us=1,
        system_us=1,
        max_rss_kib=1,
    )


class PuppetEngine(Engine):
    """Sandboxes that are nothing but a socket pair. Those of profile "hostile" follow the script."""

    name = "puppet"

    def __init__(self) -> None:
        self.script: Script = honest
        self.links: dict[str, Callable[[], asyncio.Protocol]] = {}
        self.profiles: dict[str, str] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.puppets: dict[str, list[Puppet]] = {}
        self.deaths: dict[str, asyncio.Future[str]] = {}

    async def open(self) -> Capabilities:
        return Capabilities(
            "puppet", "1", "image", frozenset(), frozenset(), seccomp=False, pause=False, survives_daemon=False
        )

    async def close(self) -> None:
        assert not self.links, "sandboxes are left"

    async def prepare(self, image: str) -> Mapping[str, str]:
        return {}

    async def create(self, spec: SandboxSpec, link: Callable[[], asyncio.Protocol]) -> None:
        self.links[spec.id] = link
        self.profiles[spec.id] = spec.profile
        self.deaths[spec.id] = asyncio.get_running_loop().create_future()

    async def start(self, sandbox: str) -> None:
        script = self.script if self.profiles[sandbox] == "hostile" else honest
        self.tasks[sandbox] = asyncio.create_task(self._play(sandbox, script))

    async def dial(self, sandbox: str) -> Puppet:
        """Another connection of the sandbox's guest."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(self.links[sandbox], theirs)
        puppet = Puppet(reader, writer)
        self.puppets.setdefault(sandbox, []).append(puppet)
        return puppet

    async def _play(self, sandbox: str, script: Script) -> None:
        with contextlib.suppress(ConnectionError):
            await script(await self.dial(sandbox))

    async def channel(self, sandbox: str, link: Callable[[], asyncio.Protocol]) -> None:
        raise NotImplementedError

    async def tighten(self, sandbox: str, limits: Limits) -> None:
        raise NotImplementedError

    async def pause(self, sandbox: str) -> None:
        raise NotImplementedError

    async def resume(self, sandbox: str) -> None:
        raise NotImplementedError

    async def remove(self, sandbox: str) -> None:
        del self.links[sandbox]
        task = self.tasks.pop(sandbox, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        for puppet in self.puppets.pop(sandbox, []):
            await puppet.close()

    async def list(self) -> list[SandboxStatus]:
        return []

    async def stats(self, sandbox: str) -> SandboxStats:
        return SandboxStats()

    async def wait(self, sandbox: str) -> str:
        return await asyncio.shield(self.deaths[sandbox])


@pytest.fixture
def puppets(monkeypatch: pytest.MonkeyPatch) -> PuppetEngine:
    """What the daemon takes for its engine."""
    engine = PuppetEngine()

    async def open_engine(name: str, **_: object) -> tuple[Engine, Capabilities, str]:
        return engine, await engine.open(), "for this test"

    monkeypatch.setattr("sessiond.server.daemon.open_engine", open_engine)
    return engine


@pytest.fixture
async def daemon(puppets: PuppetEngine, tmp_path: Path) -> AsyncIterator[Daemon]:
    """The daemon. At the end it must stop by itself and have asked for every sandbox to be removed."""
    pool = {"min": 0, "max": 4}
    settings = Settings.model_validate(
        {
            "daemon": {"state": str(tmp_path / "state"), "listen": [f"unix:{tmp_path}/run/s.sock"], "on_stop": "close"},
            "profiles": {
                name: {
                    "policy": {"open": True},
                    "pool": pool,
                    "on_loss": "close",
                    "output": {"command_bytes": "4MiB"},
                }
                for name in ("hostile", "honest")
            },
        }
    )
    daemon = Daemon(settings)
    ready = asyncio.Event()
    running = asyncio.create_task(daemon.run(lambda _: ready.set()))
    await asyncio.wait({running, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield daemon
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(running, DEADLINE)


@pytest.fixture
async def client(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Client]:
    """A client, and after the test: the other session still works, and everything of the hostile one is gone."""
    async with connect(f"unix:{tmp_path}/run/s.sock") as client:
        other = await client.open("honest")
        yield client
        assert (await other.run(["true"])).stdout == b"ok"
        for info in await client.sessions():
            await (await client.session(info.session)).close()
        assert (await (await client.open("honest")).run(["true"])).stdout == b"ok"


def after_start(*lies: Callable[[int], wire.Frame | bytes]) -> Script:
    """A script that is honest up to its first command, and then says these."""

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        start = await puppet.start()
        await puppet.say(wire.Started(start.command, 5))
        await puppet.say(*(lie(start.command) for lie in lies))
        await puppet.closed()

    return script


def header(size: int, kind: int, stream: int = 0, reserved: int = 0, command: int = 0) -> bytes:
    return struct.pack("<IBBHI", size, kind, stream, reserved, command)


LIES: dict[str, list[Callable[[int], wire.Frame | bytes]]] = {
    "a length of 4 GiB": [lambda h: header(2**32 - 1, 0x84, 1, 0, h)],
    "a length just over the limit": [lambda h: header(wire.MOST_PAYLOAD + 1, 0x84, 1, 0, h)],
    "a type that does not exist": [lambda h: header(0, 0x99, 0, 0, h)],
    "a type of the daemon's": [lambda h: header(2, 0x01) + b"\1\0"],
    "a reserved field that is not 0": [lambda h: header(0, 0x88, 0, 1)],
    "a payload of the wrong length": [lambda h: header(3, 0x86, 0, 0, h) + b"abc"],
    "output without bytes": [lambda h: header(8, 0x84, 1, 0, h) + b"\0" * 8],
    "output of a stream that does not exist": [lambda h: header(9, 0x84, 3, 0, h) + b"\0" * 8 + b"x"],
    "noise": [lambda h: bytes(range(256)) * 16],
    "output with a hole": [lambda h: wire.Output(h, wire.STDOUT, 1, b"x")],
    "output at the end of all offsets": [lambda h: wire.Output(h, wire.STDOUT, 2**64 - 2, b"x")],
    "output of a command that never was": [lambda h: wire.Output(h + 1, wire.STDOUT, 0, b"x")],
    "output of the sandbox itself": [lambda h: wire.Output(0, wire.STDOUT, 0, b"x")],
    "the end of a command that never was": [lambda h: ended(h + 1)],
    "the start of a command that never was": [lambda h: wire.Started(h + 1, 7)],
    "an end after output that never came": [lambda h: ended(h, output_bytes=1)],
    "an exit code that cannot be": [lambda h: ended(h, code=256)],
    "a signal that cannot be": [lambda h: ended(h, number=65)],
    "a failure after the start": [lambda h: wire.Failed(h, 2, wire.STAGE_EXEC)],
    "standard input that was not sent": [lambda h: wire.StdinAck(h, 1)],
    "HELLO again": [lambda h: HELLO],
    "an error": [lambda h: wire.GuestError(1, "I do not like you")],
}


@pytest.mark.parametrize("what", LIES)
async def test_lie_in_mid_command(puppets: PuppetEngine, client: Client, what: str) -> None:
    """The session is lost with a typed error, its command has no exit code, and the sandbox is erased."""
    puppets.script = after_start(*LIES[what])
    session = await client.open("hostile")
    with pytest.raises(CommandLostError) as lost:
        await session.run(["true"])
    assert lost.value.code == "gone"
    assert (await session.info()).state == "lost"
    await eventually(
        "the sandbox is erased", lambda: "hostile" not in {puppets.profiles[name] for name in puppets.links}
    )


async def test_end_before_the_start(puppets: PuppetEngine, client: Client) -> None:
    """An exit of what was never said to have started is not believed."""

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        start = await puppet.start()
        await puppet.say(ended(start.command))
        await puppet.closed()

    puppets.script = script
    session = await client.open("hostile")
    with pytest.raises(SessiondError):
        await session.run(["true"])
    assert (await session.info()).state == "lost"


async def test_two_ends(puppets: PuppetEngine, client: Client) -> None:
    """The first one counts; the second changes nothing that was told."""
    puppets.script = after_start(lambda h: ended(h, code=3), lambda h: ended(h, code=4))
    session = await client.open("hostile")
    assert (await session.run(["true"], command_id="c")).exit_code == 3
    await client.ping()
    (info,) = await session.commands()
    assert info.exit is not None
    assert info.exit.code == 3


async def test_endless_output_beyond_the_window(puppets: PuppetEngine, client: Client) -> None:
    """More than the ring that it announced without waiting for an acknowledgement: cut off before memory is spent."""
    sent = 0

    async def script(puppet: Puppet) -> None:
        nonlocal sent
        await puppet.begin()
        start = await puppet.start()
        await puppet.say(wire.Started(start.command, 5))
        while True:
            await puppet.say(wire.Output(start.command, wire.STDOUT, sent, b"x" * wire.MOST_DATA))
            sent += wire.MOST_DATA

    puppets.script = script
    session = await client.open("hostile")
    command = await session.start(["true"])  # nobody reads: the daemon keeps 4 MiB and stops acknowledging
    with pytest.raises(CommandLostError):
        await command.wait()
    assert sent < 16 << 20


@pytest.mark.parametrize(
    "first",
    [
        wire.Synced(),
        wire.Started(1, 1),
        wire.Output(1, wire.STDOUT, 0, b"x"),
        wire.Pong(1),
        header(36, 0x81) + b"\0" * 36,
        wire.encode(HELLO)[:-1] + b"\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        wire.Hello(version=2, features=0, boot=BOOT, ring=1 << 20, commands=64),
        wire.Hello(version=wire.VERSION, features=0, boot=BOOT, ring=1 << 30, commands=64),
    ],
    ids=repr,
)
async def test_lie_at_the_door(puppets: PuppetEngine, client: Client, first: wire.Frame | bytes) -> None:
    """A guest that does not begin with a right HELLO makes no session: opening fails with a typed error."""

    async def script(puppet: Puppet) -> None:
        await puppet.say(first)
        await puppet.closed()

    puppets.script = script
    if isinstance(first, bytes) and first.endswith(b"\xff"):
        puppets.script = honest  # a number of commands is the guest's own affair
        await client.open("hostile")
        return
    with pytest.raises(SessiondError) as refused:
        await client.open("hostile")
    assert getattr(refused.value, "code", None) == "unavailable"


async def test_report_that_crosses_the_end(puppets: PuppetEngine, client: Client) -> None:
    """An honest guest may say that standard input has no reader after the command is over."""

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        while True:
            start = await puppet.start()
            await end_well(puppet, start)
            await puppet.say(wire.StdinAck(start.command, wire.NO_MORE_STDIN))

    puppets.script = script
    session = await client.open("hostile")
    for _ in range(5):
        assert (await session.run(["true"], stdin=b"x")).stdout == b"ok"


@pytest.mark.parametrize("merge", [False, True])
async def test_nothing_is_kept_of_what_is_over(
    puppets: PuppetEngine, daemon: Daemon, client: Client, merge: bool
) -> None:
    """After its end and the end of its streams a command's handle means nothing any more."""
    puppets.script = honest
    session = await client.open("hostile")
    for _ in range(20):
        assert (await session.run(["true"], merge_stderr=merge)).stdout == b"ok"
    assert daemon._manager is not None
    held = daemon._manager.get(session.id).sandbox
    assert held is not None
    await eventually("the link forgets them", lambda: held.link._commands == {})


async def test_redial_in_mid_command(puppets: PuppetEngine, client: Client) -> None:
    """The connection breaks and the guest comes back: what it repeats is skipped, what it had not said goes on."""
    again = asyncio.Event()

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        start = await puppet.start()
        await puppet.say(wire.Started(start.command, 5), wire.Output(start.command, wire.STDOUT, 0, b"one"))
        await again.wait()
        (name,) = [name for name in puppets.links if puppets.profiles[name] == "hostile"]
        await puppet.close()
        puppet = await puppets.dial(name)
        await puppet.say(HELLO)
        assert isinstance(await puppet.frame(), wire.Welcome)
        handle = start.command
        await puppet.say(wire.Started(handle, 5), wire.Output(handle, wire.STDOUT, 0, b"one"), wire.Synced())
        await puppet.say(wire.Output(handle, wire.STDOUT, 3, b"two"), ended(handle, code=9, output_bytes=6))
        await puppet.closed()
        await puppet.close()

    puppets.script = script
    session = await client.open("hostile")
    command = await session.start(["true"])
    piece = await command.next()
    assert piece is not None
    again.set()
    assert (await command.wait()).exit_code == 9
    assert [piece.data async for piece in command] == [b"two"]  # type: ignore[union-attr]


async def test_another_guest_takes_its_place(puppets: PuppetEngine, client: Client) -> None:
    """A connection with another boot id is another life: what ran is lost, not continued."""

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        await puppet.start()
        (name,) = [name for name in puppets.links if puppets.profiles[name] == "hostile"]
        other = await puppets.dial(name)
        await other.say(wire.Hello(version=wire.VERSION, features=0, boot=b"o" * 16, ring=1 << 20, commands=64))
        await other.closed()
        await other.close()

    puppets.script = script
    session = await client.open("hostile")
    with pytest.raises(SessiondError):
        await session.run(["true"])
    assert (await session.info()).state == "lost"


async def test_guest_that_comes_back_without_the_command(puppets: PuppetEngine, client: Client) -> None:
    """After a redial it does not name a command that ran: that one is lost, the session goes on."""

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        start = await puppet.start()
        await puppet.say(wire.Started(start.command, 5))
        (name,) = [name for name in puppets.links if puppets.profiles[name] == "hostile"]
        await puppet.close()
        puppet = await puppets.dial(name)
        await puppet.begin()
        while True:
            await end_well(puppet, await puppet.start())

    puppets.script = script
    session = await client.open("hostile")
    with pytest.raises(CommandLostError):
        await session.run(["true"])
    assert (await session.run(["true"])).stdout == b"ok"


async def test_end_is_replayed_after_the_connection_broke(puppets: PuppetEngine, client: Client) -> None:
    """FORGET was lost with the connection: the guest repeats an end that is on record, which is no lie."""

    async def script(puppet: Puppet) -> None:
        await puppet.begin()
        start = await puppet.start()
        await end_well(puppet, start)
        (name,) = [name for name in puppets.links if puppets.profiles[name] == "hostile"]
        await puppet.frame()
        await puppet.close()
        puppet = await puppets.dial(name)
        await puppet.say(HELLO)
        assert isinstance(await puppet.frame(), wire.Welcome)
        await end_well(puppet, start)
        await puppet.say(wire.Synced())
        while True:
            await end_well(puppet, await puppet.start())

    puppets.script = script
    session = await client.open("hostile")
    for _ in range(3):
        assert (await session.run(["true"])).stdout == b"ok"
    assert (await session.info()).state == "open"
