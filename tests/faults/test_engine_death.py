"""dockerd is killed: with live-restore nobody notices, without it commands are lost and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sessiond_client import CommandLostError, connect

from tests import engines
from tests.conftest import stop_clean
from tests.daemon import DaemonProcess, EngineUnderTest, eventually
from tests.engines import PrivateDockerd
from tests.faults.robustness import programs

PROFILES = {"open": {"policy": {"open": True}, "pool": {"min": 1, "max": 4}}}
GIVE_UP = 90.0


@pytest.fixture
def dockerd(request: pytest.FixtureRequest) -> Iterator[PrivateDockerd]:
    """One that may be killed."""
    with engines.private_dockerd(live_restore=request.param) as dockerd:
        yield dockerd


@pytest.fixture
def mortal(dockerd: PrivateDockerd, tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon on it."""
    engine = EngineUnderTest("docker", dockerd.url, engines.image(dockerd.url))
    daemon = DaemonProcess(engine, tmp_path / "own", PROFILES).start()
    yield daemon
    stop_clean(daemon)


@pytest.mark.parametrize("dockerd", [False], indirect=True)
async def test_dockerd_is_killed_without_live_restore(dockerd: PrivateDockerd, mortal: DaemonProcess) -> None:
    """Row 51: what ran is lost, the daemon stays up, session and pool are back when dockerd is."""
    async with asyncio.timeout(GIVE_UP), connect(mortal.url) as client:
        session = await client.open("open")
        command = await session.start("echo said; sleep 3600")
        assert await command.next() is not None
        dockerd.kill()
        await client.ping()
        await asyncio.to_thread(dockerd.start)
        with pytest.raises(CommandLostError):
            await command.wait()
        assert (await session.run(["echo", "on"])).stdout == b"on\n"
        assert (await session.info()).generation == 2
        await session.close()
        await eventually("the pool is back", lambda: mortal.settled())


@pytest.mark.parametrize("dockerd", [True], indirect=True)
async def test_dockerd_is_killed_with_live_restore(dockerd: PrivateDockerd, mortal: DaemonProcess) -> None:
    """Row 52: the command goes on, all its output and its exit arrive, in the same generation."""
    async with asyncio.timeout(GIVE_UP), connect(mortal.url) as client:
        session = await client.open("open")
        size = 20_000_000
        running = asyncio.create_task(session.run(programs.flood("c", size, 1, pause=0.02).argv, command_id="c"))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(dockerd.restart)
        result = await running
        assert (result.exit_code, len(result.stdout)) == (0, size)
        assert (await session.info()).generation == 1
        assert (await session.run(["cat", programs.COUNTER])).stdout == b"c\n"
        await session.close()
        await eventually("the pool is full", lambda: mortal.settled())
