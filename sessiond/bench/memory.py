"""How much memory processes and sandboxes take, seen from the host."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sessiond_client import Session

from sessiond.engine import cgroup

KIB = 1024


async def first_process(session: Session) -> int | None:
    """The pid, out here, of the PID 1 of the session's sandbox; None where this user may not see it."""
    return _first_of(await _read(session, "readlink", "/proc/self/ns/pid"))


def _first_of(namespace: str) -> int | None:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                inside = str((path / "ns" / "pid").readlink()) == namespace
                if inside and _field(path / "status", "NSpid:").split()[-1] == "1":
                    return int(path.name)
    return None


def pss_kb(pid: int) -> int | None:
    """Proportional set size; None where this user may not read it."""
    try:
        return int(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:").split()[0])
    except (OSError, IndexError):
        return None


def resident_mb(pid: int) -> float:
    """Proportional set size where it may be read, else resident set size."""
    kib = pss_kb(pid) or int(_field(Path(f"/proc/{pid}/status"), "VmRSS:").split()[0])
    return kib * KIB / 1e6


def sandbox_mb(pid: int) -> float | None:
    """What the control group of a sandbox's PID 1 uses; None where there is none."""
    group = cgroup.of_process(pid)
    used = None if group is None else group.usage().memory_bytes
    return None if used is None else used / 1e6


async def _read(session: Session, *argv: str) -> str:
    result = await session.run(argv, check=True)
    return result.stdout.decode().strip()


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return line.removeprefix(name).strip()
    return ""
