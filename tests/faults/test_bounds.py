"""What must not grow, whoever does not read and however many sessions come and go; and a disk that takes nothing."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sessiond_client import Client, RemoteError, connect

from tests.daemon import UNDEBUGGED, DaemonProcess, eventually
from tests.faults.robustness import programs

MEBIBYTE = 1024**2
FLAT = 32 * MEBIBYTE
FLOODERS = 20
SMALL = {"memory_bytes": "64MiB", "pids": 32}

bubblewrap = pytest.mark.parametrize("engine", ["bubblewrap"], indirect=True)


@bubblewrap
async def test_memory_while_twenty_sessions_flood(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Flat within 32 MiB: half of the readers are slow, half are absent."""
    profile = {
        "policy": {"open": True},
        "pool": {"min": 0, "max": FLOODERS + 2},
        "output": {"command_bytes": "8MiB"},
        "limits": SMALL,
    }
    daemon = make_daemon(profiles={"open": profile}, environment=UNDEBUGGED).start()
    async with connect(daemon.url) as client:
        sessions = [await client.open("open") for _ in range(FLOODERS)]
        before = most = daemon.memory()
        stopping = asyncio.Event()

        async def flood(number: int) -> None:
            command = await sessions[number].start(["yes"], window=256 * 1024, stdin=False)
            if number % 2:
                await command.detach()
                return
            while not stopping.is_set():
                await command.next()
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            for number in range(FLOODERS):
                group.create_task(flood(number))
            for _ in range(60):
                await asyncio.sleep(0.1)
                most = max(most, daemon.memory())
            stopping.set()
        print(f"memory grew by {(most - before) / MEBIBYTE:.1f} MiB")
        assert most - before <= FLAT
        for session in sessions:
            await session.close()


async def churn(client: Client, sessions: int) -> None:
    """Sessions come, do something, and go, four at a time."""
    turn = asyncio.Semaphore(4)

    async def live() -> None:
        async with turn, await client.open("open") as session:
            assert (await session.run(["echo", "here"])).stdout == b"here\n"

    await asyncio.gather(*(live() for _ in range(sessions)))


@bubblewrap
async def test_sessions_that_come_and_go_leave_nothing(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 62, shortened: after as many sessions again there is no sandbox, descriptor or memory more."""
    profile = {"policy": {"open": True}, "pool": {"min": 2, "max": 8}, "limits": SMALL}
    daemon = make_daemon(profiles={"open": profile}, settings={"retention": 0.001}, environment=UNDEBUGGED).start()
    async with connect(daemon.url) as client:
        await churn(client, 60)
        await eventually("all are gone", lambda: daemon.settled())
        descriptors, memory = daemon.descriptors(), daemon.memory()
        await churn(client, 120)
        await eventually("all are gone again", lambda: daemon.settled())
        await eventually("descriptors are closed", lambda: daemon.descriptors() <= descriptors)
        assert daemon.memory() - memory <= 120 * 16 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    where = tmp_path / "own" / "state"
    where.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0711", "sessiond-faults", str(where)], check=True)
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


@bubblewrap
async def test_a_full_disk(small_disk: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 56: nothing is acknowledged that is not on record; with room again all goes on."""
    daemon = make_daemon().start()
    assert daemon.state == small_disk
    async with connect(daemon.url) as client:
        session = await client.open("open")
        await eventually("warm", daemon.full)
        fill = ["dd", "if=/dev/zero", f"of={small_disk}/ballast", "bs=4k", "status=none"]
        subprocess.run(fill, check=False, stderr=subprocess.DEVNULL)
        refused = []
        for number in range(200):
            try:
                await session.run(programs.say(f"c{number}", "so").argv, command_id=f"c{number}")
            except RemoteError as error:
                assert error.code == "unavailable", error
                refused.append(f"c{number}")
                break
        assert refused
        with pytest.raises(RemoteError) as unavailable:
            await client.open("open", env={"MORE": "x" * 20_000})  # Than the rest of a page.
        assert unavailable.value.code == "unavailable"
        (small_disk / "ballast").unlink()
        assert (await session.run(["echo", "on"])).stdout == b"on\n"
        ran = (await session.run(["cat", programs.COUNTER])).text.split()
        assert not set(refused) & set(ran)
        assert len(ran) == len(set(ran))


@bubblewrap
async def test_an_fsync_that_fails(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 56: with durability "power" nothing runs whose start is not on the disk."""
    daemon = make_daemon(settings={"durability": "power", "on_stop": "keep"}).start()
    async with connect(daemon.url) as client, await client.open("open") as session:
        daemon.kill()
        with daemon.variables(SESSIOND_FAILPOINTS="journal.fsync=eio"):
            await asyncio.to_thread(daemon.start)
        running = asyncio.create_task(session.run(programs.say("c", "so").argv, command_id="c"))
        await eventually("it is noticed", lambda: "does not reach the disk" in daemon.log)
        with pytest.raises(RemoteError) as unavailable:
            await client.open("open")
        assert unavailable.value.code == "unavailable"
        assert not running.done()
        await asyncio.to_thread(daemon.restart)
        told = (await asyncio.gather(running, return_exceptions=True))[0]
        ran = (await session.run(f"cat {programs.COUNTER} 2>/dev/null || true")).text
        assert ran == ("" if isinstance(told, BaseException) else "c\n"), told
