"""The bubblewrap engine: jails of namespaces on this machine's own programs, without any daemon and without root."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sessiond.engine import cgroup, jail
from sessiond.engine.bubblewrap_options import (
    TOOLS,
    Descriptors,
    Surroundings,
    capabilities,
    etc_files,
    jail_arguments,
)
from sessiond.engine.bubblewrap_try import TRY_SECONDS, bwrap_version, look_around, try_jail
from sessiond.engine.calls import Calls
from sessiond.engine.channel import Channel
from sessiond.engine.deaths import describe
from sessiond.engine.directory import SandboxDirectory, check_id, copy_guest, make_base
from sessiond.engine.hostuid import FIRST_UID, UIDS, HostUids
from sessiond.engine.jail_state import Jail, Record, reap
from sessiond.engine.port import (
    GUEST_DIRECTORY,
    Capabilities,
    Engine,
    EngineError,
    EngineTimeoutError,
    Limits,
    SandboxGoneError,
    SandboxSpec,
    SandboxState,
    SandboxStats,
    SandboxStatus,
)
from sessiond.engine.volume import HAND_OVER_SECONDS, hand_over, within_reach

log = logging.getLogger(__name__)

ROOTS_DIRECTORY = Path("/run/sessiond-jails")
"""Where root's jails have their directories: a jail's host user must be able to reach its own, and a state directory
may lie in a home that is closed to others. Like the jails it is gone after a reboot."""

KILL_SECONDS = 10.0
"""From SIGKILL to the end of the last process in the jail; the kernel frees their memory meanwhile."""

PAUSE_SECONDS = 2.0
POLL_SECONDS = 0.001
"""Stopping by signals. It takes effect when a process next leaves the kernel."""

CALL_SECONDS = 15.0
"""Above jail.START_SECONDS, which says more precisely what took too long."""

THREADS = 4
"""Starts at once; a start is mostly the kernel's work."""

PATH = "/usr/local/bin:/usr/bin:/bin"


class BubblewrapEngine(Engine):
    """Sandboxes as jails that `bwrap` makes. Run by root, each jail has a host uid of its own and cgroups; else it is
    the user's own."""

    name = "bubblewrap"

    def __init__(
        self, *, instance: str, directory: Path, guest: Path, first_uid: int = FIRST_UID, uids: int = UIDS
    ) -> None:
        """For root, jails run as host users `first_uid` to `first_uid + uids - 1`, which no account may have."""
        self._instance = check_id(instance, "instance")
        self._root = os.geteuid() == 0
        top = ROOTS_DIRECTORY if self._root else directory / "bubblewrap"
        self._base = top / self._instance
        self._uids = HostUids(ROOTS_DIRECTORY / ".uids", first_uid, uids) if self._root else None
        self._first_uid = first_uid
        self._guest = guest
        self._calls = Calls(self.name, THREADS, lambda _what, _error: None)
        self._jails: dict[str, Jail] = {}
        self._channels: dict[str, Channel] = {}
        self._parents: dict[str, Path] | None = None
        self._around_: Surroundings | None = None

    async def open(self) -> Capabilities:
        """Find bwrap, and make a jail to see whether it can. Raises EngineUnavailableError."""
        reap()
        self._around_ = await self._calls.run("look around", TRY_SECONDS, look_around, self._base)
        version = await self._calls.run("ask for bwrap's version", TRY_SECONDS, bwrap_version, self._around)
        uid = self._first_uid if self._root else None
        await self._calls.run("try a jail", TRY_SECONDS, try_jail, self._around, uid)
        if self._root:
            make_base(ROOTS_DIRECTORY)
        make_base(self._base)
        for name, text in etc_files().items():
            (self._base / f"etc-{name}").write_text(text)
            (self._base / f"etc-{name}").chmod(0o644)
        self._guest = copy_guest(self._guest, self._base)
        self._parents = cgroup.own_parent("sessiond")
        held = await self._try_cgroup()
        return capabilities(version, held=held, root=self._root)

    async def close(self) -> None:
        """Close channels, threads and descriptors; remove the directory when no sandbox is in it."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        for known in self._jails.values():
            known.leave()
        self._jails.clear()
        self._calls.close()
        if self._base.is_dir() and not any(path.is_dir() for path in self._base.iterdir()):
            shutil.rmtree(self._base)

    async def prepare(self, image: str) -> Mapping[str, str]:
        """There are no images: whatever the profile says, it is this machine's /usr. The environment is its PATH."""
        return {"PATH": f"{PATH}:{GUEST_DIRECTORY}/{TOOLS}"}

    async def create(self, spec: SandboxSpec, link: Callable[[], asyncio.Protocol]) -> None:
        """Make its directory, uid, cgroups and channel."""
        place = self._place(spec.id)
        place.create(self._guest)
        uid = None
        group = self._group(spec.id)
        channel = Channel(spec.id, place.mount, link)
        try:
            if self._uids is not None:
                uid = self._uids.take(place.root)
                place.open_to(uid)
            self._add_tools(place)
            if spec.volume is not None:
                owner = os.geteuid() if uid is None else uid
                what = f"give a volume to sandbox {spec.id}"
                await self._calls.run(what, HAND_OVER_SECONDS + 1, hand_over, spec.volume, owner)
            if group is not None:
                group.create()
                group.limit(spec.limits)
            channel.open()
            record = Record(spec, uid)
            record.save(place)
        except BaseException:
            channel.close()
            if group is not None:
                await group.remove()
            if self._uids is not None and uid is not None:
                self._uids.give_back(uid, place.root)
            place.erase()
            raise
        self._jails[spec.id] = Jail(place, record, group)
        self._channels[spec.id] = channel

    async def start(self, sandbox: str) -> None:
        """Run bwrap and, when the jail is complete, the guest in it."""
        known = self._known(sandbox)
        async with known.changing:
            if known.pidfd is not None or known.died.done():
                raise EngineError(f"bubblewrap: sandbox {sandbox} was started before")
            started = await self._calls.run(f"start sandbox {sandbox}", CALL_SECONDS, self._start, known)
            known.monitor = started.monitor
            known.watch(started.pidfd)
            if sandbox in self._channels:
                self._channels[sandbox].expect(started.pid)

    async def channel(self, sandbox: str, link: Callable[[], asyncio.Protocol]) -> None:
        """Listen again for a sandbox that an earlier daemon made."""
        known = self._known(sandbox)
        old = self._channels.pop(sandbox, None)
        if old is not None:
            old.close()
        channel = Channel(sandbox, known.place.mount, link)
        channel.open()
        self._channels[sandbox] = channel
        channel.expect(known.pid)

    async def tighten(self, sandbox: str, limits: Limits) -> None:
        """By its cgroup; without one by the rlimits of its PID 1, which new processes inherit, and processor time not
        at all."""
        known = self._known(sandbox)
        if known.group is not None:
            known.group.limit(limits)
            return
        if limits.cpus != known.record.spec.limits.cpus:
            raise EngineError(f"bubblewrap: sandbox {sandbox} has no cgroup, which limits cpus")
        try:
            jail.tighten(known.pid, limits)
        except OSError as error:
            raise EngineError(f"bubblewrap: cannot tighten sandbox {sandbox}: {error.strerror}") from error

    async def pause(self, sandbox: str) -> None:
        """By the freezer, or by SIGSTOP to every process where there is none."""
        known = self._known(sandbox)
        pid = known.pid
        if known.group is not None and known.group.can_freeze:
            await known.group.freeze()
        else:
            await self._stop(pid)

    async def resume(self, sandbox: str) -> None:
        """Undo it."""
        known = self._known(sandbox)
        pid = known.pid
        if known.group is not None and known.group.can_freeze:
            known.group.thaw()
        else:
            jail.go_on(pid)

    async def remove(self, sandbox: str) -> None:
        """Kill its PID 1, with which the kernel kills all others, and erase what is left."""
        channel = self._channels.pop(sandbox, None)
        if channel is not None:
            channel.close()
        try:
            known = self._known(sandbox)
        except SandboxGoneError:
            jail.end_unfinished(self._place(sandbox))
            group = self._group(sandbox)
            if group is not None:
                await group.remove()
            self._place(sandbox).erase()
            return
        async with known.changing:
            if known.group is not None:
                known.group.thaw()
            if known.pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(known.pidfd, signal.SIGKILL)
                await self._dead(known)
            else:
                jail.end_unfinished(known.place)
            if known.group is not None:
                await known.group.remove()
            known.place.erase()
            if self._uids is not None and known.record.uid is not None:
                self._uids.give_back(known.record.uid, known.place.root)
            if not known.died.done():
                known.died.set_result("removed")
            self._jails.pop(sandbox, None)
            reap()

    async def list(self) -> list[SandboxStatus]:
        """All sandboxes in this instance's directory; one without a record is what a killed daemon left half made."""
        found = []
        for path in sorted(self._base.iterdir()):
            with contextlib.suppress(EngineError):
                if path.is_dir():
                    found.append(self._status(path.name))
        return found

    def _status(self, sandbox: str) -> SandboxStatus:
        try:
            known = self._known(sandbox)
        except SandboxGoneError:
            return SandboxStatus(check_id(sandbox, "sandbox"), SandboxState.CREATED, {})
        return SandboxStatus(sandbox, self._state(known), known.record.spec.labels)

    async def stats(self, sandbox: str) -> SandboxStats:
        """From its cgroup; without one only the number of processes is known."""
        known = self._known(sandbox)
        if known.group is not None:
            return known.group.usage()
        return SandboxStats(pids=len(jail.tree(known.pid)))

    async def wait(self, sandbox: str) -> str:
        """Return at its death, which its pidfd tells."""
        return await asyncio.shield(self._known(sandbox).died)

    @property
    def _around(self) -> Surroundings:
        if self._around_ is None:
            raise EngineError("bubblewrap: not open")
        return self._around_

    def _place(self, sandbox: str) -> SandboxDirectory:
        return SandboxDirectory(self._base / check_id(sandbox, "sandbox"))

    def _group(self, sandbox: str) -> cgroup.Group | None:
        if self._parents is None:
            return None
        name = f"{self._instance}.{sandbox}"
        return cgroup.Group({key: parent / name for key, parent in self._parents.items()})

    def _known(self, sandbox: str) -> Jail:
        """The jail, looked up on disk and in the process table when an earlier daemon made it. Raises
        SandboxGoneError."""
        known = self._jails.get(sandbox)
        if known is None:
            place = self._place(sandbox)
            try:
                record = Record.load(place)
            except FileNotFoundError:
                raise SandboxGoneError(f"bubblewrap: there is no sandbox {sandbox}") from None
            known = self._jails[sandbox] = Jail(place, record, self._group(sandbox))
            pidfd = jail.find(place)
            if pidfd is not None:
                known.watch(pidfd)
            elif (place.root / jail.STATUS).exists():
                code = jail.exit_code(place)
                known.died.set_result(
                    "it died while no daemon was looking" if code is None else describe(code, oom=False)
                )
        return known

    def _state(self, known: Jail) -> SandboxState:
        if known.died.done():
            return SandboxState.DEAD
        if known.pidfd is None:
            return SandboxState.CREATED
        with contextlib.suppress(SandboxGoneError):
            frozen = known.group is not None and known.group.frozen()
            return SandboxState.PAUSED if frozen or jail.stopped(known.pid) else SandboxState.RUNNING
        return SandboxState.DEAD

    async def _stop(self, pid: int) -> None:
        """SIGSTOP, and wait until all have stopped."""
        jail.stop(pid)
        try:
            async with asyncio.timeout(PAUSE_SECONDS):
                while jail.running(pid):  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            jail.go_on(pid)
            raise EngineTimeoutError(f"bubblewrap: pid {pid} and its children did not stop in time") from None

    async def _dead(self, known: Jail) -> None:
        """Wait for the end that was just caused."""
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await asyncio.shield(known.died)
        except TimeoutError:
            name = known.record.spec.id
            raise EngineTimeoutError(
                f"bubblewrap: sandbox {name} did not die within {KILL_SECONDS:g} s of SIGKILL; remove it again later"
            ) from None

    def _start(self, known: Jail) -> jail.Started:
        """Blocking part of `start`."""
        group = known.group

        def arguments(fds: Descriptors) -> Sequence[str]:
            return jail_arguments(
                known.record.spec,
                self._around,
                mount=known.place.mount,
                volume=volume,
                memory=None if group is None else group.memory,
                fds=fds,
            )

        confine = None if group is None else group.add
        point = known.place.volume if self._root else None
        with within_reach(known.record.spec.volume, point) as volume:
            return jail.start_jail(known.place, arguments, known.record.uid, confine)

    def _add_tools(self, place: SandboxDirectory) -> None:
        tools = place.mount / TOOLS
        tools.mkdir(mode=0o755)
        if shutil.which("python", path=PATH) is None:
            (tools / "python").symlink_to("/usr/bin/python3")

    async def _try_cgroup(self) -> frozenset[str]:
        """Make a cgroup with limits; the names of those that hold. When that fails, no cgroups are used."""
        group = self._group("_try")
        if group is None:
            return frozenset()
        try:
            group.create()
            held = group.limit(Limits())
        except OSError as error:
            log.warning("cgroups cannot be used: %s", error)
            held = frozenset()
        await group.remove()
        if not {"memory_bytes", "pids"} <= held:
            self._parents = None
            return frozenset()
        return held
