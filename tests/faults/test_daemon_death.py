"""The daemon dies, or is told to stop, while clients work: for them only time passes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sessiond_client.backoff
from sessiond_client import Client, CommandLostError, Output, RemoteError, Session, connect
from sessiond_client.command import Command

from sessiond.failpoint import NAMES
from tests.daemon import DaemonProcess, eventually
from tests.faults.robustness import programs

KEEP = {"on_stop": "keep"}
DEATHS = 5
GIBIBYTE = 1024**3

OFFSET_CLOCK = """
import os, time
real = time.time
def jumping():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return real() + float(file.read())
time.time = jumping
"""
"""A `sitecustomize` that moves the daemon's wall clock, and nobody else's."""

bubblewrap = pytest.mark.parametrize("engine", ["bubblewrap"], indirect=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients come back as soon as there is a daemon."""
    monkeypatch.setattr(sessiond_client.backoff, "LONGEST", 0.2)


@pytest.fixture
def lasting(make_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A daemon that leaves its sessions to the next one."""
    return make_daemon(settings=KEEP).start()


@contextlib.asynccontextmanager
async def session_of(daemon: DaemonProcess) -> AsyncIterator[tuple[Client, Session]]:
    """A session that is closed in the end, for the daemon would keep it."""
    async with connect(daemon.url) as client, await client.open("open") as session:
        yield client, session


async def text(session: Session, file: str) -> str:
    return (await session.run(["cat", file], check=True)).text


async def die_often(daemon: DaemonProcess, due: Callable[[int], bool]) -> None:
    """Die when each next death is due."""
    for death in range(DEATHS):
        while not due(death):
            await asyncio.sleep(0.005)
        daemon.kill()
        await asyncio.to_thread(daemon.start)


async def test_a_gibibyte_is_streamed_while_the_daemon_dies_five_times(lasting: DaemonProcess) -> None:
    """The right SHA-256, contiguous offsets, one exit record, run once."""
    async with session_of(lasting) as (_, session):
        program = programs.flood("big", GIBIBYTE, seed=1)
        command = await session.start(program.argv, command_id="big", stdin=False)
        digest, received = hashlib.sha256(), 0
        deaths = asyncio.create_task(
            die_often(lasting, lambda death: received >= (death + 1) * GIBIBYTE // (DEATHS + 2))
        )
        async for piece in command:
            assert isinstance(piece, Output)
            assert piece.offset == received
            digest.update(piece.data)
            received += len(piece.data)
        await deaths
        status = await command.wait()
        assert (status.exit_code, status.output_bytes, received) == (0, GIBIBYTE, GIBIBYTE)
        assert await text(session, programs.WROTE) == f"big {GIBIBYTE} {digest.hexdigest()}\n"
        assert await text(session, programs.COUNTER) == "big\n"
        (record,) = [info for info in await session.commands() if info.command == "big"]
        assert record.exit is not None
        assert (record.state, record.exit.code, record.exit.output_bytes) == ("exited", 0, GIBIBYTE)


async def test_a_command_that_counts_to_a_million_runs_once(lasting: DaemonProcess) -> None:
    async with session_of(lasting) as (_, session):
        command = await session.start(programs.count("c", 1_000_000).argv, command_id="c")
        await die_often(lasting, lambda _: True)
        assert (await command.wait()).exit_code == 0
        assert await text(session, programs.COUNTER) == "c\n"
        counted = await session.run("sort -n count-c | uniq -d | wc -l; wc -l < count-c; tail -n 1 count-c", check=True)
        assert counted.text.split() == ["0", "1000000", "999999"]


@bubblewrap
@pytest.mark.parametrize("hit", [1, 7])
@pytest.mark.parametrize("point", sorted(NAMES))
async def test_death_at_each_failpoint(make_daemon: Callable[..., DaemonProcess], point: str, hit: int) -> None:
    """Row 48: what was acknowledged ran at most once and has one record; the next daemon goes on."""
    settings = {**KEEP, "durability": "power" if point == "journal.fsync" else "process"}
    daemon = make_daemon(settings=settings).start()
    async with connect(daemon.url) as client, await client.open("open") as session:
        daemon.kill()
        with daemon.variables(SESSIOND_FAILPOINTS=f"{point}=kill:{hit}"), contextlib.suppress(AssertionError):
            daemon.start()  # It may die before it is ready.
        names: list[str] = []
        back = asyncio.Event()

        async def work(worker: str) -> None:
            """One command after the other, as many as it takes, and one more."""
            for number in itertools.count():
                last, name = back.is_set(), f"{worker}-{number}"
                names.append(name)
                result = await session.run(programs.say(name, "so").argv, command_id=name)
                assert (result.exit_code, result.stdout) == (0, f"{name} says so\n".encode())
                if last:
                    break

        working = asyncio.gather(*(work(worker) for worker in ("a", "b", "c")))
        await eventually("it dies at the failpoint", lambda: not daemon.alive)
        await asyncio.to_thread(daemon.restart)
        back.set()
        await working
        assert sorted((await text(session, programs.COUNTER)).split()) == sorted(names)
        records = [info.command for info in await session.commands() if info.command in names]
        assert sorted(records) == sorted(names)


async def test_a_sandbox_that_is_killed_in_mid_command(lasting: DaemonProcess) -> None:
    """Row 50: the command is lost, what it said can be read, the session goes on in its next generation."""
    async with session_of(lasting) as (client, session):
        sandbox = (await text(session, "/proc/sys/kernel/hostname")).strip()
        command = await session.start("echo said; sleep 3600", command_id="c")
        assert await command.next() == Output("stdout", b"said\n", 0)
        os.kill(lasting.first_process(sandbox), signal.SIGKILL)
        with pytest.raises(CommandLostError):
            await command.wait()
        assert (await session.run(["echo", "on"])).stdout == b"on\n"
        assert (await session.info()).generation == 2
        again: Command = await (await client.session(session.id)).command("c")
        assert await again.next() == Output("stdout", b"said\n", 0)
        with pytest.raises(CommandLostError):
            await again.next()


@bubblewrap
async def test_a_torn_record_at_the_journals_end(lasting: DaemonProcess) -> None:
    """Row 57: it is dropped, and nothing before it."""
    async with session_of(lasting) as (_, session):
        assert (await session.run(programs.say("c", "so").argv, command_id="c")).exit_code == 0
        lasting.kill()
        newest = max((lasting.state / "journal").iterdir())
        with newest.open("ab") as file:
            file.write(b"\x00\x00\x01\x00half of a record")
        lasting.start()
        assert (await session.run(programs.say("c", "so").argv, command_id="c")).stdout == b"c says so\n"
        assert await text(session, programs.COUNTER) == "c\n"


@bubblewrap
@pytest.mark.parametrize("days", [1, -1])
async def test_a_clock_that_jumps(make_daemon: Callable[..., DaemonProcess], tmp_path: Path, days: int) -> None:
    """Row 58: what runs on, and what ends in time, does so all the same.

    The machine's clock is everybody's, so only the daemon's view of it is moved.
    """
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(OFFSET_CLOCK)
    offset = tmp_path / "offset"
    offset.write_text("0")
    path = f"{tmp_path}/shim:{os.environ.get('PYTHONPATH', '')}"
    daemon = make_daemon(environment={"PYTHONPATH": path, "CLOCK_OFFSET": str(offset)}).start()
    async with connect(daemon.url) as client:
        long, short = await client.open("open", ttl=600, idle_timeout=600), await client.open("open", ttl=4)
        events = short.events()
        waiting = asyncio.create_task(events.next())
        command = await long.start(["sleep", "3600"], timeout=3, grace=0.1)
        offset.write_text(str(days * 86400))
        assert (await command.wait()).timed_out
        while (event := await waiting) is not None and event.session.state != "closed":
            waiting = asyncio.create_task(events.next())
        assert (await long.run(["echo", "on"])).stdout == b"on\n"
        assert abs((await long.info()).created - (await client.open("open")).snapshot.created) > 80_000


async def test_sigterm_under_load(lasting: DaemonProcess) -> None:
    """Row 61: it ends within its grace; commands run on and all their outcomes are recorded."""
    async with session_of(lasting) as (_, session):
        names = [f"c{number}" for number in range(60)]
        turn = asyncio.Semaphore(8)
        refused: list[str] = []

        async def work(name: str) -> None:
            async with turn:
                try:
                    result = await session.run(programs.flood(name, 300_000, 1).argv, command_id=name)
                except RemoteError as error:
                    assert error.code == "unavailable"
                    refused.append(name)
                else:
                    assert (result.exit_code, len(result.stdout)) == (0, 300_000)

        working = asyncio.gather(*(work(name) for name in names))
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(lasting.terminate) == 0
        await asyncio.to_thread(lasting.start)
        await working
        ran = sorted(set(names) - set(refused))
        assert ran
        assert sorted((await text(session, programs.COUNTER)).split()) == ran
        states = {info.command: info.state for info in await session.commands()}
        assert {states[name] for name in ran} == {"exited"}


async def test_death_while_sandboxes_are_created(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 49: whatever was half made is erased by the next daemon: directories, containers, and processes."""
    chance = random.Random(1)
    daemon = make_daemon(profiles={"open": {"policy": {"open": True}, "pool": {"min": 3, "max": 6}}}, settings=KEEP)
    for _ in range(12):
        await asyncio.to_thread(daemon.start)
        await asyncio.sleep(chance.random() * 0.15)
        daemon.kill()
    await asyncio.to_thread(daemon.start)
    await eventually("the pool is full, and no sandbox is too many", lambda: daemon.settled())
