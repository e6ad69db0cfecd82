"""Workspaces on disk: they outlive their sandbox and the daemon, keep to their size, and end with their session."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from sessiond_client import Session, connect

from tests.daemon import DaemonProcess, eventually

PROFILES: dict[str, Any] = {
    "v": {
        "policy": {"open": True},
        "pool": {"min": 1, "max": 4},
        "workspace": {"kind": "volume"},
        "limits": {"workspace_bytes": "8MiB", "memory_bytes": "256MiB"},
    }
}


async def sandbox_of(session: Session) -> str:
    return (await session.run(["cat", "/proc/sys/kernel/hostname"])).stdout.decode().strip()


def volumes(daemon: DaemonProcess) -> list[str]:
    return sorted(path.name for path in (daemon.state / "volumes").iterdir() if not path.name.startswith("."))


async def test_a_volume_outlives_its_sandbox(make_daemon: Callable[..., DaemonProcess]) -> None:
    """In the next generation the files are there; with the session they are gone."""
    daemon = make_daemon(profiles=PROFILES).start()
    async with connect(daemon.url) as client:
        session = await client.open("v")
        assert (await session.run("echo kept > file; stat -c %u file")).stdout == b"1000\n"
        for generation in (2, 3):
            os.kill(daemon.first_process(await sandbox_of(session)), signal.SIGKILL)
            while (await session.info()).generation < generation:
                await asyncio.sleep(0.05)
            assert (await session.run("cat file; echo more >> file")).stdout.startswith(b"kept\n")
        await session.close()
        await eventually("only the pool's volume is left", lambda: len(volumes(daemon)) == 1)


async def test_a_volume_outlives_the_daemon_and_its_sandbox(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Both killed: the next daemon finds the volume and gives it to a new sandbox; those of nobody are erased."""
    daemon = make_daemon(profiles=PROFILES, settings={"on_stop": "keep"}).start()
    async with connect(daemon.url) as client:
        session = await client.open("v")
        await session.run("echo kept > file")
        process = daemon.first_process(await sandbox_of(session))
        daemon.kill()
        os.kill(process, signal.SIGKILL)
        daemon.start()
        assert (await session.run("cat file")).stdout == b"kept\n"
        daemon.kill()
        daemon.start()
        assert (await session.run("cat file")).stdout == b"kept\n"
        await eventually("two volumes: the session's and the pool's", lambda: len(volumes(daemon)) == 2)
        await session.close()


async def test_a_full_volume_refuses_and_harms_nobody(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 5: ENOSPC at the promised size; another session's volume has its whole size still."""
    daemon = make_daemon(profiles=PROFILES).start()
    async with connect(daemon.url) as client:
        full, other = await client.open("v"), await client.open("v")
        result = await full.run("dd if=/dev/zero of=big bs=64k count=1000; stat -c %s big")
        assert b"No space left" in result.stderr
        assert 7 << 20 < int(result.stdout) <= 8 << 20
        assert (await other.run("head -c 7000000 /dev/zero > big && stat -c %s big")).stdout == b"7000000\n"
        await full.run("rm big")
        assert (await full.run("echo again > file && cat file")).stdout == b"again\n"
