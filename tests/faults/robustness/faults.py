"""What is done while clients work: to the network, the daemon, its sandboxes, the engine and the disk.

Each fault writes itself into the history before it happens, with the sessions whose sandboxes it kills, and again when
it is undone. They happen one after the other: what a checker forgives one of them, it does not forgive the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sessiond_client import Client, SessiondError

from sessiond.failpoint import NAMES
from tests.daemon import DaemonProcess
from tests.engines import PrivateDockerd
from tests.faults.robustness.history import Fault, FaultOver, History
from tests.faults.robustness.traffic import Traffic
from tests.proxy import CuttingProxy

LONGEST_STOP = 2.0
"""Seconds for which something is stopped at most."""
LONGEST_ABSENCE = 1.0
"""Seconds between a death and the new start at most."""

WHEN = ("1", "7", "40", "0.02", "0.3")
"""At which hit a failpoint acts, or with which probability at each."""


@dataclass
class World:
    """What can be harmed."""

    daemon: DaemonProcess
    history: History
    traffic: Traffic
    proxy: CuttingProxy
    client: Client
    """For looking at things: not cut."""
    dockerd: PrivateDockerd | None = None
    """One that may be killed."""
    disk: Path | None = None
    """Mount point of the small file system on which the state is."""

    @contextlib.asynccontextmanager
    async def during(self, kind: str, details: str = "", kills: tuple[str, ...] = ()) -> AsyncIterator[None]:
        """Write down that it happens, and that it is over."""
        self.history.add(Fault(kind, details, kills))
        try:
            yield
        finally:
            self.history.add(FaultOver(kind))

    async def victim(self, chance: random.Random) -> tuple[str, str] | None:
        """A session and its sandbox; None when there is none just now."""
        names = sorted(self.traffic.sessions)
        if not names:
            return None
        name = chance.choice(names)
        try:
            session = await self.client.session(name)
            return name, (await session.run(["cat", "/proc/sys/kernel/hostname"], check=True)).text.strip()
        except SessiondError:
            return None


async def cut(world: World, chance: random.Random) -> None:
    """Connections break, now and after some bytes more."""
    up = [chance.randrange(4000) for _ in range(chance.randrange(3))]
    down = [chance.randrange(1_000_000) for _ in range(chance.randrange(4))]
    async with world.during("cut", f"down {down}, up {up}"):
        world.proxy.cut()
        world.proxy.cut_after(down=down, up=up)
        await asyncio.sleep(chance.random())
        world.proxy.cut_after()


async def freeze_network(world: World, chance: random.Random) -> None:
    """Nothing passes for a while, and nobody is told; then everything is cut."""
    async with world.during("freeze-network"):
        world.proxy.frozen.clear()
        await asyncio.sleep(chance.random() * LONGEST_STOP)
        world.proxy.cut()
        world.proxy.frozen.set()


async def stop_daemon(world: World, chance: random.Random) -> None:
    """SIGSTOP to the daemon, and after a while SIGCONT."""
    async with world.during("stop-daemon"), _stopped(world.daemon.pid):
        await asyncio.sleep(chance.random() * LONGEST_STOP)


async def kill_daemon(world: World, chance: random.Random) -> None:
    """SIGKILL to the daemon, and a new one on the same state."""
    async with world.during("kill-daemon"):
        world.daemon.kill()
        await asyncio.sleep(chance.random() * LONGEST_ABSENCE)
        await asyncio.to_thread(world.daemon.start)


async def terminate_daemon(world: World, chance: random.Random) -> None:
    """SIGTERM to the daemon, and a new one on the same state."""
    async with world.during("terminate-daemon"):
        code = await asyncio.to_thread(world.daemon.terminate)
        assert code == 0, f"the daemon ended with {code} at SIGTERM:\n{world.daemon.log[-4000:]}"
        await asyncio.sleep(chance.random() * LONGEST_ABSENCE)
        await asyncio.to_thread(world.daemon.start)


async def kill_sandbox(world: World, chance: random.Random) -> None:
    """SIGKILL to PID 1 of a sandbox."""
    victim = await world.victim(chance)
    if victim is not None:
        name, sandbox = victim
        pid = await asyncio.to_thread(world.daemon.first_process, sandbox)
        async with world.during("kill-sandbox", sandbox, (name,)):
            os.kill(pid, signal.SIGKILL)


async def docker_kill(world: World, chance: random.Random) -> None:
    """`docker kill` of a sandbox."""
    victim = await world.victim(chance)
    if victim is not None:
        name, sandbox = victim
        async with world.during("docker-kill", sandbox, (name,)):
            await asyncio.to_thread(world.daemon.docker_kill, sandbox)


async def stop_guest(world: World, chance: random.Random) -> None:
    """SIGSTOP to PID 1 of a sandbox, and after a while SIGCONT."""
    victim = await world.victim(chance)
    if victim is not None:
        name, sandbox = victim
        pid = await asyncio.to_thread(world.daemon.first_process, sandbox)
        async with world.during("stop-guest", name), _stopped(pid):
            await asyncio.sleep(chance.random() * LONGEST_STOP)


async def docker_pause(world: World, chance: random.Random) -> None:
    """`docker pause` behind the daemon's back, and after a while `docker unpause`."""
    victim = await world.victim(chance)
    if victim is not None:
        name, sandbox = victim
        async with world.during("docker-pause", name):
            await asyncio.to_thread(world.daemon.docker_pause, sandbox)
            try:
                await asyncio.sleep(chance.random() * LONGEST_STOP)
            finally:
                await asyncio.to_thread(world.daemon.docker_unpause, sandbox)


async def kill_dockerd(world: World, chance: random.Random) -> None:
    """SIGKILL to dockerd, and a new one. Without live-restore every container dies."""
    dockerd = world.dockerd
    assert dockerd is not None
    kills = () if dockerd.live_restore else tuple(world.traffic.sessions)
    async with world.during("kill-dockerd", f"live_restore={dockerd.live_restore}", kills):
        dockerd.kill()
        await asyncio.sleep(chance.random() * LONGEST_ABSENCE)
        await asyncio.to_thread(dockerd.start)


async def fill_disk(world: World, chance: random.Random) -> None:
    """The file system with the state has no room for a while."""
    assert world.disk is not None
    ballast = world.disk / "ballast"
    async with world.during("fill-disk"):
        try:
            await asyncio.to_thread(_fill, ballast)
            await asyncio.sleep(chance.random() * LONGEST_STOP)
        finally:
            ballast.unlink()


def failpoint(action: str) -> Inject:
    """A daemon with a failpoint somewhere, for a while."""

    async def inject(world: World, chance: random.Random) -> None:
        name = chance.choice(failpoints())
        spec = f"{name}={action}:{chance.choice(WHEN)}"
        async with world.during(f"failpoint-{action}", spec):
            world.daemon.kill()
            seed = str(chance.randrange(2**31))
            with world.daemon.variables(SESSIOND_FAILPOINTS=spec, SESSIOND_FAILPOINT_SEED=seed):
                with contextlib.suppress(AssertionError):  # One that dies, or cannot write, before it is ready.
                    await asyncio.to_thread(world.daemon.start)
                until = asyncio.get_running_loop().time() + 0.5 + chance.random() * LONGEST_STOP
                while world.daemon.alive and asyncio.get_running_loop().time() < until:
                    await asyncio.sleep(0.05)
            world.daemon.kill()
            await asyncio.to_thread(world.daemon.start)

    return inject


def failpoints() -> list[str]:
    """The names of all failpoints in the daemon."""
    return sorted(NAMES)


@contextlib.asynccontextmanager
async def _stopped(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _fill(ballast: Path) -> None:
    """Take what is free, though others write at the same time."""
    with ballast.open("wb", buffering=0) as file:
        size, piece = 0, _free(ballast)
        while piece:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size, piece = size + piece, _free(ballast)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece = min(piece // 2, _free(ballast))


def _free(path: Path) -> int:
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize


Inject = Callable[[World, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """One kind of fault, and how often it is chosen."""

    inject: Inject
    weight: int = 2
    engines: tuple[str, ...] = ("docker", "bubblewrap")


KINDS: Mapping[str, Kind] = {
    "cut": Kind(cut, 4),
    "freeze-network": Kind(freeze_network),
    "stop-daemon": Kind(stop_daemon),
    "kill-daemon": Kind(kill_daemon, 6),
    "terminate-daemon": Kind(terminate_daemon, 2),
    "kill-sandbox": Kind(kill_sandbox),
    "docker-kill": Kind(docker_kill, 1, ("docker",)),
    "stop-guest": Kind(stop_guest),
    "docker-pause": Kind(docker_pause, 2, ("docker",)),
    "kill-dockerd": Kind(kill_dockerd, 1, ("docker",)),
    "fill-disk": Kind(fill_disk),
    "failpoint-kill": Kind(failpoint("kill"), 4),
    "failpoint-eio": Kind(failpoint("eio")),
    "failpoint-enospc": Kind(failpoint("enospc")),
}
