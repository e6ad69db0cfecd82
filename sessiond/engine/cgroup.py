"""Control groups, versions 1 and 2 and the mixture of both: limits, use and freezing of a sandbox, where this process
may.

Everything here is a few reads or writes of small kernel files; none of them blocks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sessiond.engine.port import EngineError, EngineTimeoutError, Limits, SandboxGoneError, SandboxStats

FREEZE_SECONDS = 2.0
"""How long a freeze may take. Measured: 0.25 ms; a process in an uninterruptible sleep can hold it up."""

REMOVE_SECONDS = 2.0
"""How long a group may stay busy after its last process has died."""

POLL_SECONDS = 0.001

GONE = frozenset({errno.ENOENT, errno.ENODEV})
"""What files of a group that was removed answer."""

PERIOD_MICROSECONDS = 100_000
"""The kernel's default period for processor quotas."""

UNIFIED = "unified"
"""Key of the version 2 hierarchy among the controllers of version 1."""

WANTED = ("memory", "pids", "cpu", "cpuacct", "freezer")
"""Controllers of version 1 that are used here."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the machine's hierarchies are mounted: version 1 by controller, version 2 as `unified`. Second: the mount's
    root group."""

    mounts: dict[str, tuple[Path, str]]

    @property
    def v2(self) -> bool:
        """Whether version 2 has the controllers; in the mixture of both it is mounted without any."""
        mount = self.mounts.get(UNIFIED)
        return mount is not None and "memory" in _read(mount[0] / "cgroup.controllers").split()

    def usable(self) -> tuple[str, ...]:
        """The keys of `mounts` that matter here."""
        return (UNIFIED,) if self.v2 else tuple(name for name in WANTED if name in self.mounts)


def hierarchies(mountinfo: str | None = None) -> Hierarchies:
    """Read them from /proc/self/mountinfo (proc(5)), or from the given text of it."""
    mounts: dict[str, tuple[Path, str]] = {}
    for line in (_read(Path("/proc/self/mountinfo")) if mountinfo is None else mountinfo).splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _source, options = tail.split(" ", 2)
        root, where = fields.split(" ")[3:5]
        if kind == "cgroup2":
            mounts.setdefault(UNIFIED, (Path(where), root))
        elif kind == "cgroup":
            for option in options.split(","):
                if option in WANTED:
                    mounts.setdefault(option, (Path(where), root))
    return Hierarchies(mounts)


def memberships(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as group path by controller."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _number, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [UNIFIED]:
            found[controller] = path
    return found


class Group:
    """One control group: a directory a controller in version 1, one directory in version 2."""

    def __init__(self, paths: dict[str, Path]) -> None:
        """`paths` by controller, or by UNIFIED alone."""
        self._paths = paths

    @property
    def memory(self) -> Path | None:
        """The directory whose files tell of memory and of OOM kills."""
        return self._paths.get(UNIFIED) or self._paths.get("memory")

    @property
    def can_freeze(self) -> bool:
        """Whether this process may freeze the group."""
        path = self._freezer()
        return path is not None and os.access(path, os.W_OK)

    @property
    def can_limit(self) -> bool:
        """Whether this process may change the group's limits."""
        if UNIFIED in self._paths:
            return os.access(self._paths[UNIFIED] / "memory.max", os.W_OK)
        return {"memory", "pids", "cpu"} <= self._paths.keys() and os.access(
            self._paths["memory"] / "memory.limit_in_bytes", os.W_OK
        )

    def frozen(self) -> bool:
        """Whether the group is frozen, or will be in a moment."""
        path = self._freezer()
        try:
            return path is not None and _read(path).strip() in {"1", "FROZEN", "FREEZING"}
        except OSError as error:
            return _still_there(error)

    async def freeze(self) -> None:
        """Stop all processes. Raises SandboxGoneError, or EngineTimeoutError when the kernel cannot stop them: they run
        again then; EngineError when it will not."""
        try:
            await self._freeze()
        except OSError as error:
            if error.errno in GONE:
                raise SandboxGoneError("its cgroup is gone: the sandbox is dead") from error
            raise EngineError(f"its cgroup's freezer cannot be written: {error.strerror}") from error

    async def _freeze(self) -> None:
        path = self._freezer()
        if path is None:
            raise EngineError("no cgroup freezer here")
        v2 = UNIFIED in self._paths
        _write(path, "1" if v2 else "FROZEN")
        deadline = time.monotonic() + FREEZE_SECONDS
        while not ("frozen 1" in _read(path.with_name("cgroup.events")) if v2 else _read(path).strip() == "FROZEN"):
            if time.monotonic() > deadline:
                self.thaw()
                raise EngineTimeoutError(f"the kernel did not freeze {path.parent} within {FREEZE_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)

    def thaw(self) -> None:
        """Let them run. Nothing happens when the group is gone or was not frozen."""
        path = self._freezer()
        try:
            if path is not None:
                _write(path, "0" if UNIFIED in self._paths else "THAWED")
        except OSError as error:
            _still_there(error)

    def usage(self) -> SandboxStats:
        """What the group uses: memory without the page cache that can be dropped at once, as Docker counts it."""
        if UNIFIED in self._paths:
            path = self._paths[UNIFIED]
            memory = _number(path / "memory.current")
            cache = _field(path / "memory.stat", "inactive_file")
            microseconds = _field(path / "cpu.stat", "usage_usec")
            seconds = None if microseconds is None else microseconds / 1e6
            pids = _number(path / "pids.current")
        else:
            nowhere = Path("/nonexistent")
            group = self._paths.get("memory", nowhere)
            memory = _number(group / "memory.usage_in_bytes")
            cache = _field(group / "memory.stat", "total_inactive_file")
            nanoseconds = _number(self._paths.get("cpuacct", nowhere) / "cpuacct.usage")
            seconds = None if nanoseconds is None else nanoseconds / 1e9
            pids = _number(self._paths.get("pids", nowhere) / "pids.current")
        return SandboxStats(None if memory is None else max(0, memory - (cache or 0)), seconds, pids)

    def oom_kills(self) -> int:
        """How many processes the OOM killer has killed in the group."""
        v2 = UNIFIED in self._paths
        directory = self.memory
        if directory is None:
            return 0
        return _field(directory / ("memory.events" if v2 else "memory.oom_control"), "oom_kill") or 0

    def create(self) -> None:
        """Make the group. OSError when this process may not."""
        for path in self._paths.values():
            path.mkdir(parents=True, exist_ok=True)

    def limit(self, limits: Limits) -> frozenset[str]:
        """Set the limits; returns the names of the `Limits` fields that hold from now on."""
        quota = round(limits.cpus * PERIOD_MICROSECONDS)
        held: set[str] = set()
        if UNIFIED in self._paths:
            path = self._paths[UNIFIED]
            wanted = [
                ("memory_bytes", path / "memory.max", str(limits.memory_bytes)),
                ("pids", path / "pids.max", str(limits.pids)),
                ("cpus", path / "cpu.max", f"{quota} {PERIOD_MICROSECONDS}"),
            ]
            swap = path / "memory.swap.max", "0"
        else:
            wanted = [
                ("memory_bytes", self._paths["memory"] / "memory.limit_in_bytes", str(limits.memory_bytes)),
                ("pids", self._paths["pids"] / "pids.max", str(limits.pids)),
                ("cpus", self._paths["cpu"] / "cpu.cfs_quota_us", str(quota)),
            ]
            swap = self._paths["memory"] / "memory.memsw.limit_in_bytes", str(limits.memory_bytes)
        for name, file, value in wanted:
            if file.exists():
                _write(file, value)
                held.add(name)
        if swap[0].exists():
            _write(*swap)
        return frozenset(held)

    def add(self, pid: int) -> None:
        """Put a process into the group. OSError when it is gone or this process may not."""
        for path in self._paths.values():
            _write(path / "cgroup.procs", str(pid))

    async def remove(self) -> None:
        """Remove the group, whose processes are dead or about to be. Nothing happens when it is gone."""
        deadline = time.monotonic() + REMOVE_SECONDS
        for path in self._paths.values():
            while True:
                try:
                    path.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise EngineTimeoutError(f"cgroup {path} is still busy: {error.strerror}") from error
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                break

    def _freezer(self) -> Path | None:
        if UNIFIED in self._paths:
            return self._paths[UNIFIED] / "cgroup.freeze"
        return self._paths["freezer"] / "freezer.state" if "freezer" in self._paths else None


def of_process(pid: int) -> Group | None:
    """The groups of a process, where they are visible from here; None when it is gone or in the root group."""
    try:
        paths = memberships(_read(Path(f"/proc/{pid}/cgroup")))
    except (FileNotFoundError, ProcessLookupError):
        return None
    machine = hierarchies()
    found: dict[str, Path] = {}
    for name in machine.usable():
        mount, root = machine.mounts[name]
        path = paths.get(name, "/")
        inside = path if root == "/" else path.removeprefix(root) if path.startswith(root + "/") else "/"
        directory = mount / inside.lstrip("/")
        if inside != "/" and directory.is_dir():
            found[name] = directory
    return Group(found) if found else None


def own_parent(name: str) -> dict[str, Path] | None:
    """Directories in which this process may make groups with limits, made if need be; None where it may not.

    As high up in each hierarchy as it may write: outside the daemon's own service, whose end would otherwise end the
    sandboxes. In version 2 that is the delegated subtree of the user, or the root for root.
    """
    machine = hierarchies()
    mine = memberships(_read(Path("/proc/self/cgroup")))
    usable = machine.usable()
    if not machine.v2 and not {"memory", "pids", "cpu"} <= set(usable):
        return None
    parents: dict[str, Path] = {}
    for key in usable:
        mount, root = machine.mounts[key]
        top = _highest_writable(mount, mine.get(key, "/").removeprefix(root).strip("/"))
        if top is None:
            return None
        parents[key] = top / name
    try:
        for parent in parents.values():
            parent.mkdir(exist_ok=True)
        if machine.v2:
            for directory in (parents[UNIFIED].parent, parents[UNIFIED]):
                available = set(_read(directory / "cgroup.controllers").split())
                wanted = [name for name in ("memory", "pids", "cpu") if name in available]
                _write(directory / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
    except OSError:
        return None
    return parents


def _highest_writable(mount: Path, own: str) -> Path | None:
    parts = own.split("/") if own else []
    for depth in range(len(parts) + 1):
        directory = mount.joinpath(*parts[:depth])
        if os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK):
            return directory
    return None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write(path: Path, value: str) -> None:
    """One write system call, unbuffered: the kernel takes each as one command."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _still_there(error: OSError) -> bool:
    """False when the error says that the group was removed, which happens at any moment; other errors are raised
    again."""
    if error.errno not in GONE:
        raise error
    return False


def _number(path: Path) -> int | None:
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int | None:
    try:
        lines: Iterable[str] = _read(path).splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None
