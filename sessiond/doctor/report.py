"""The whole report: the ground, facts about this machine, and the checks."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sessiond_client import connect

from sessiond.doctor.examine import GUEST, Check, examine
from sessiond.engine import cgroup, seccomp
from sessiond.engine.docker import DockerClient
from sessiond.engine.port import EngineError
from sessiond.engine.select import guest_binary
from sessiond.private_daemon import Ground, PrivateDaemon
from sessiond.settings import Profile


@dataclass(slots=True)
class Report:
    """What was found."""

    engine: str
    version: str
    why: str
    image: str
    facts: dict[str, str] = field(default_factory=dict)
    weaknesses: tuple[str, ...] = ()
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all that is promised holds."""
        return bool(self.checks) and all(check.good for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "ok": self.ok}


def begin(ground: Ground) -> Report:
    """The report as far as it is known without a sandbox. Blocks for a call to Docker."""
    capabilities = ground.capabilities
    report = Report(
        engine=ground.engine,
        version=capabilities.version,
        why=ground.why,
        image=ground.image,
        weaknesses=capabilities.weaknesses,
    )
    report.facts = {
        "kernel": f"{platform.release()}, {platform.machine()}, {os.cpu_count()} processors",
        "cgroups": cgroups(),
        "guest": _guest(),
        "system calls": f"{len(seccomp.packaged().allow)} allowed, all others refused",
    }
    if ground.docker_host is not None:
        report.facts |= docker_facts(ground.docker_host)
    return report


async def fill(report: Report, ground: Ground, profile: Profile, found: Callable[[Check], None]) -> None:
    """Open a sandbox with the profile's limits on a daemon of its own, try everything, and end clean.

    Each check is told to `found` at once.
    """
    table = {
        "limits": profile.limits.model_dump(),
        "policy": {"allow": [GUEST]},
        "pool": {"min": 1, "max": 2},
    }
    async with PrivateDaemon(ground, {"doctor": table}) as daemon, connect(daemon.url) as client:
        async with await client.open("doctor") as session:
            async for check in examine(session, profile.limits.to_limits(), ground.capabilities):
                report.checks.append(check)
                found(check)
        await daemon.settled()


def cgroups() -> str:
    """The version in use and its controllers."""
    machine = cgroup.hierarchies()
    if machine.v2:
        return "version 2"
    controllers = ", ".join(machine.usable())
    return f"version 1 ({controllers})" if controllers else "none are mounted here"


def docker_facts(url: str) -> dict[str, str]:
    """What the Docker engine says of itself."""
    client = DockerClient(url)
    try:
        info = client.info()
    finally:
        client.close()
    options = [option.removeprefix("name=") for option in info["SecurityOptions"]]
    return {
        "docker": f"{info['ServerVersion']} at {url}, storage {info['Driver']}, cgroup driver {info['CgroupDriver']}",
        "docker security": ", ".join(options) or "none",
        "runtimes": f"{', '.join(sorted(info['Runtimes']))}; default {info['DefaultRuntime']}",
        "runc": str(info.get("RuncCommit", {}).get("ID") or "unknown"),
    }


def _guest() -> str:
    try:
        path = guest_binary()
    except EngineError as error:
        return str(error)
    return f"{path.name}, {path.stat().st_size / 1000:.0f} kB"
