"""The checks: each lock and limit is tried by the guest's own probe, run as a command in a live sandbox."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sessiond_client import Session, SessiondError

from sessiond.engine.port import Capabilities, Limits

GUEST = "/run/sessiond/guest"
MIB = 1024**2
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one probe found."""

    name: str
    held: bool
    promised: bool
    """Whether the engine claims it on this machine."""
    detail: str

    @property
    def good(self) -> bool:
        """Whether it holds, or nobody said that it would."""
        return self.held or not self.promised


@dataclass(frozen=True, slots=True)
class Limited:
    """A probe that takes a number: the `Limits` field that it tries, and that number."""

    field: str
    value: Callable[[Limits], float]


LIMITED = {
    "pids_limit": Limited("pids", lambda limits: limits.pids),
    "memory_limit": Limited("memory_bytes", lambda limits: limits.memory_bytes / MIB),
    "nofile_limit": Limited("open_files", lambda limits: limits.open_files),
    "file_size_limit": Limited("file_bytes", lambda limits: limits.file_bytes),
    "cpu_limit": Limited("cpus", lambda limits: limits.cpus),
    "tmp_size": Limited("tmp_bytes", lambda limits: limits.tmp_bytes / MIB),
    "shm_size": Limited("tmp_bytes", lambda limits: limits.tmp_bytes / MIB),
    "workspace_size": Limited("workspace_bytes", lambda limits: limits.workspace_bytes / MIB),
}
"""By the probe's name. The guest lists its probes itself; what is not here takes no number."""


async def examine(session: Session, limits: Limits, capabilities: Capabilities) -> AsyncIterator[Check]:
    """Run all probes of the session's guest, one after another."""
    listed = await session.run([GUEST, "probe", "list"], check=True)
    for line in listed.stdout.decode().splitlines():
        yield await probe(session, line.split()[0], limits, capabilities)


async def probe(session: Session, name: str, limits: Limits, capabilities: Capabilities) -> Check:
    """Run one. A probe that gives no clear answer has not held."""
    limited = LIMITED.get(name)
    number = [] if limited is None else [f"{limited.value(limits):.15g}"]
    promised = is_promised(name, capabilities)
    try:
        result = await session.run([GUEST, "probe", name, *number], timeout=PROBE_SECONDS)
    except SessiondError as error:
        return Check(name, held=False, promised=promised, detail=f"could not be tried: {error}")
    try:
        answer = json.loads(result.stdout)
        held, detail = answer["held"] is True and result.exit_code == 0, str(answer["detail"])
    except (ValueError, KeyError, TypeError):
        held, detail = False, f"the probe {result.describe()} and said {result.text.strip()[:200]!r}"
    return Check(name, held=held, promised=promised, detail=detail)


def is_promised(name: str, capabilities: Capabilities) -> bool:
    """Whether the engine says that it holds here. All but limits and seccomp is a promise of every engine."""
    if name == "seccomp":
        return capabilities.seccomp
    limited = LIMITED.get(name)
    return limited is None or limited.field in capabilities.limits | capabilities.process_limits
