"""Sessions outlast the daemon: killed or told to stop, the next one goes on with them as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from sessiond_client import (
    Client,
    Command,
    CommandLostError,
    ConflictError,
    FencedError,
    Gap,
    GoneError,
    NotFoundError,
    Output,
    Session,
    connect,
)

from tests.daemon import DaemonProcess, eventually, python

KEEP = {"on_stop": "keep"}

COUNTING = """
import sys, time
with open("/workspace/starts", "a") as starts:
    starts.write("x")
for number in range(200):
    print(number, flush=True)
    time.sleep(0.02)
sys.exit(7)
"""


def die(daemon: DaemonProcess) -> None:
    daemon.kill()


def stop(daemon: DaemonProcess) -> None:
    assert daemon.terminate() == 0, daemon.log[-4000:]


@pytest.fixture(params=[die, stop], ids=["killed", "stopped"])
def end(request: pytest.FixtureRequest) -> Callable[[DaemonProcess], None]:
    """How the daemon ends."""
    chosen: Callable[[DaemonProcess], None] = request.param
    return chosen


@pytest.fixture
def lasting(make_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A daemon that leaves its sessions to the next one; at the test's end it must be told to close them."""
    return make_daemon(settings=KEEP)


async def read(command: Command, *, until: bytes = b"") -> bytes:
    """Its output to the end, or until it holds something."""
    output = b""
    async for piece in command:
        assert isinstance(piece, Output)
        output += piece.data
        if until and until in output:
            break
    return output


async def clear(client: Client) -> None:
    for info in await client.sessions():
        await (await client.session(info.session)).close()


async def heard_of(session: Session, command: str, size: int) -> None:
    """Return when a command has so much output; no event tells that of one that has ended."""
    while not any(info.command == command and info.output_to == size for info in await session.commands()):
        await asyncio.sleep(0.1)


async def sandbox_of(session: Session) -> str:
    return (await session.run(["cat", "/proc/sys/kernel/hostname"])).stdout.decode().strip()


async def test_everything_goes_on(lasting: DaemonProcess, end: Callable[[DaemonProcess], None]) -> None:
    """A restart with every state populated: the same client, the same objects, the same results."""
    lasting.start()
    async with connect(lasting.url) as client:
        session = await client.open("open", name="kept", labels={"a": "b"}, env={"E": "1"}, ttl=600)
        ended = await session.start("echo out; echo err >&2; exit 3")
        assert (await ended.wait()).exit_code == 3
        counting = await session.start(python(COUNTING))
        first = await read(counting, until=b"5\n")
        cat = await session.start(["cat"])
        await cat.write(b"before ")
        assert await read(cat, until=b"before ") == b"before "
        behind = await session.start("(sleep 3; echo late) & exit 4")
        assert (await behind.wait()).exit_code == 4
        before = await session.info()

        end(lasting)
        lasting.start()

        await cat.write(b"after")
        await cat.close_stdin()
        assert await read(cat) == b"after"
        assert (await cat.wait()).exit_code == 0
        assert first + await read(counting) == b"".join(b"%d\n" % number for number in range(200))
        assert (await counting.wait()).exit_code == 7
        assert (await session.run(["cat", "starts"])).stdout == b"x"
        await heard_of(session, behind.id, 5)
        assert await read(await session.command(behind.id)) == b"late\n"
        assert (await session.run("echo $E; hostname > /dev/null")).stdout == b"1\n"
        after = await session.info()
        same = ("session", "state", "generation", "name", "labels", "created", "expires", "pooled")
        assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}

        async with connect(lasting.url) as other:
            again = await other.attach(session.id, mode="reader")
            listed = {info.command: info for info in await again.commands()}
            assert listed[ended.id].exit is not None
            assert listed[ended.id].exit.code == 3
            looked_up = await again.command(ended.id)
            assert await read(looked_up) in (b"out\nerr\n", b"err\nout\n")
        await clear(client)


async def test_terminals_go_on(lasting: DaemonProcess, end: Callable[[DaemonProcess], None]) -> None:
    """What was typed counts once, a new size that came meanwhile is set, and another client can take the keyboard."""
    lasting.start()
    async with connect(lasting.url) as client:
        session = await client.open("open")
        terminal = await session.terminal("stty raw -echo; echo ready; cat; stty size", rows=10, columns=20)
        await read(terminal, until=b"ready\n")
        await terminal.write(b"before ")
        assert await read(terminal, until=b"before ") == b"before "

        end(lasting)
        resizing = asyncio.create_task(terminal.resize(30, 40))
        lasting.start()

        await resizing
        await terminal.write(b"after ")
        assert await read(terminal, until=b"after ") == b"after "
        async with connect(lasting.url) as other:
            (listed,) = await (await other.session(session.id)).commands()
            assert (listed.terminal, listed.stdin) == (True, len("before after "))
            taken = await (await other.session(session.id)).command(terminal.id, offset=listed.output_to, stdin=True)
            end(lasting)
            lasting.start()
            await taken.write(b"taken ")
            assert await read(taken, until=b"taken ") == b"taken "
            await terminal.signal(signal.SIGTERM)
            assert (await terminal.wait()).signal == signal.SIGTERM
        await clear(client)


async def test_the_keyboard_of_a_terminal_can_be_taken_at_once_after_a_start(lasting: DaemonProcess) -> None:
    """Where its input stands only the guest knows then: whoever asks before it has dialed is answered when it has."""
    lasting.start()
    async with connect(lasting.url) as client:
        session = await client.open("open")
        terminal = await session.terminal("stty raw -echo; echo ready; cat")
        await read(terminal, until=b"ready\n")
        await terminal.write(b"x" * 1000)
        await read(terminal, until=b"x" * 1000)
        for _ in range(5):
            lasting.kill()
            lasting.start()
            async with connect(lasting.url) as other:
                again = await (await other.session(session.id)).command(terminal.id, offset=terminal.offset, stdin=True)
                assert again.stdin_offset == 1000
        await clear(client)


async def test_a_start_sent_again_after_a_restart_is_the_same_command(
    lasting: DaemonProcess, end: Callable[[DaemonProcess], None]
) -> None:
    """By its id: run once, the same result; with another body `conflict`; the same for a session's opening."""
    lasting.start()
    async with connect(lasting.url) as client:
        session = await client.open("open", session_id="mine", ttl=600)
        first = await session.run("echo x >> once; wc -l < once", command_id="c-1")
        end(lasting)
        lasting.start()
        assert (await client.open("open", session_id="mine", ttl=600)).id == "mine"
        with pytest.raises(ConflictError):
            await client.open("open", session_id="mine", ttl=601)
        assert (await session.run("echo x >> once; wc -l < once", command_id="c-1")).stdout == first.stdout == b"1\n"
        with pytest.raises(ConflictError):
            await session.run("echo y >> once", command_id="c-1")
        assert (await session.run(["cat", "once"])).stdout == b"x\n"
        await clear(client)


async def test_an_old_writer_stays_fenced(lasting: DaemonProcess, end: Callable[[DaemonProcess], None]) -> None:
    """The epoch outlasts the daemon."""
    lasting.start()
    async with connect(lasting.url) as old, connect(lasting.url) as new:
        session = await old.open("open")
        await session.attach()
        taken = await new.attach(session.id)
        end(lasting)
        lasting.start()
        assert (await taken.run(["true"])).exit_code == 0
        with pytest.raises(FencedError):
            await session.run(["true"])
        await clear(new)


async def test_a_sandbox_that_died_meanwhile_is_replaced(lasting: DaemonProcess) -> None:
    """What ran there is lost, what it said is not; the session goes on in its next generation."""
    lasting.start()
    async with connect(lasting.url) as client:
        session = await client.open("open")
        process = lasting.first_process(await sandbox_of(session))
        command = await session.start("echo said; sleep 3600")
        assert await read(command, until=b"said\n") == b"said\n"
        lasting.kill()
        os.kill(process, signal.SIGKILL)
        lasting.start()
        with pytest.raises(CommandLostError):
            await command.wait()
        assert (await session.run(["echo", "on"])).stdout == b"on\n"
        assert (await session.info()).generation == 2
        with pytest.raises(CommandLostError):
            await read(await session.command(command.id))
        await clear(client)


async def test_orphans_are_erased_and_pools_filled_to_their_target(lasting: DaemonProcess) -> None:
    """Killed while it creates sandboxes: the next one ends with the sessions and the pools, not one more."""
    lasting.start()
    async with connect(lasting.url) as client:
        session = await client.open("open")
        for _ in range(4):
            lasting.kill()
            lasting.start()
        assert (await session.run(["true"])).exit_code == 0
        await eventually("pools at target, no sandbox too many", lambda: lasting.settled(sessions=1))
        await clear(client)


async def test_a_session_whose_profile_is_gone_ends(make_daemon: Callable[..., DaemonProcess]) -> None:
    """It cannot go on, but what it had can be read."""
    profiles: dict[str, Any] = {
        name: {"policy": {"open": True}, "pool": {"min": 0, "max": 2}} for name in ("stays", "goes")
    }
    daemon = make_daemon(settings=KEEP, profiles=profiles).start()
    async with connect(daemon.url) as client:
        session = await client.open("goes")
        command = await session.start(["echo", "kept"])
        await command.wait()
        daemon.kill()
        daemon.profiles = {"stays": profiles["stays"]}
        daemon.start()
        with pytest.raises(GoneError, match="profile goes is gone"):
            await session.run(["true"])
        assert await read(await session.command(command.id)) == b"kept\n"
        assert (await session.info()).state == "lost"


async def test_what_a_closed_session_had_can_be_read_until_the_retention_is_over(
    make_daemon: Callable[..., DaemonProcess], end: Callable[[DaemonProcess], None]
) -> None:
    """Its commands, their ends, their output, small and large; then nothing of it is left on the disk."""
    daemon = make_daemon(settings={**KEEP, "retention": 6}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        small = await session.start(["echo", "small"])
        large = await session.start(["head", "-c", "3000000", "/dev/zero"])
        assert await read(small) == b"small\n"
        assert await read(large) == bytes(3_000_000)
        await session.close()
        end(daemon)
        daemon.start()
        assert (await session.info()).state == "closed"
        assert await read(await session.command(small.id)) == b"small\n"
        assert await read(await session.command(large.id)) == bytes(3_000_000)
        spools = daemon.state / "spools"
        assert list(spools.rglob("*"))
        await eventually("nothing is left", lambda: not list(spools.iterdir()))
        with pytest.raises(NotFoundError):
            await session.info()


async def test_a_ring_forgets_the_oldest_and_says_so(make_daemon: Callable[..., DaemonProcess]) -> None:
    """With `at_cap = "ring"` a command is never held up by who does not read."""
    output = {"command_bytes": "1MiB", "at_cap": "ring"}
    profiles = {"ring": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}, "output": output}}
    daemon = make_daemon(profiles=profiles).start()
    async with connect(daemon.url) as client:
        session = await client.open("ring")
        command = await session.start(["head", "-c", "20000000", "/dev/zero"])
        assert (await command.wait()).exit_code == 0
        async with connect(daemon.url) as other:
            pieces = [piece async for piece in await (await other.session(session.id)).command(command.id)]
        gap = pieces[0]
        assert isinstance(gap, Gap)
        assert gap.start == 0
        assert 18_000_000 < gap.end < 20_000_000
        assert gap.end + sum(len(piece.data) for piece in pieces[1:] if isinstance(piece, Output)) == 20_000_000


async def test_an_idle_session_is_paused_and_woken_by_its_next_use(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Its processes stand still meanwhile, also across a restart, and who follows it is told."""
    profiles = {"p": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}, "idle_pause": 1.0}}
    daemon = make_daemon(settings=KEEP, profiles=profiles).start()
    async with connect(daemon.url) as client, connect(daemon.url) as watcher:
        session = await client.open("p")
        watched = await watcher.attach(session.id, mode="reader")
        events = watched.events()
        await session.run("(while true; do date >> ticks; sleep 0.1; done) > /dev/null 2>&1 & true")
        assert (await anext(events)).session.state == "paused"
        assert (await session.info()).state == "paused"
        first, second = [int((await session.run("wc -l < ticks")).stdout) for _ in range(2)]
        assert second - first < 20
        assert (await anext(events)).session.state == "open"
        assert (await anext(events)).session.state == "paused"
        daemon.kill()
        daemon.start()
        assert (await session.run(["echo", "awake"])).stdout == b"awake\n"
        await clear(client)


async def test_two_commands_at_once_wake_a_session_once(make_daemon: Callable[..., DaemonProcess]) -> None:
    """However many ask for it at the moment it is paused."""
    profiles = {"p": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}, "idle_pause": 0.5}}
    daemon = make_daemon(profiles=profiles).start()
    async with connect(daemon.url) as client:
        session = await client.open("p")
        for pause in (0.9, 1.0, 1.1, 1.2):
            await asyncio.sleep(pause)
            results = await asyncio.gather(*(session.run(["true"]) for _ in range(4)))
            assert [result.exit_code for result in results] == [0] * 4


async def test_records_that_survive_the_machine(make_daemon: Callable[..., DaemonProcess]) -> None:
    """With `durability = "power"` all is as ever; what an fsync refuses is neither run nor told."""
    daemon = make_daemon(settings={**KEEP, "durability": "power"}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        small, large = await asyncio.gather(
            session.run(["echo", "small"], command_id="small"),
            session.run(["head", "-c", "3000000", "/dev/zero"], command_id="large"),
        )
        assert (small.stdout, len(large.stdout)) == (b"small\n", 3_000_000)
        behind = await session.start("(sleep 1; echo late) & exit 4", command_id="behind")
        assert (await behind.wait()).exit_code == 4
        await heard_of(session, "behind", 5)
        daemon.restart()
        assert (await session.run(["echo", "small"], command_id="small")).stdout == b"small\n"
        assert await read(await session.command("large")) == bytes(3_000_000)
        assert await read(await session.command("behind")) == b"late\n"
        await clear(client)
