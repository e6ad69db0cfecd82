"""All volumes of one directory, and how they are kept to their sizes here."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sessiond.engine.calls import Calls
from sessiond.engine.directory import SANDBOX_ID, check_id
from sessiond.engine.port import EngineError
from sessiond.workspace.host import VolumeError
from sessiond.workspace.image import MAKE_SECONDS, ImageQuota
from sessiond.workspace.place import Place, Record
from sessiond.workspace.project import ProjectQuota
from sessiond.workspace.quota import ERASE_SECONDS, MEASURE_SECONDS, MOUNT_SECONDS, MeasuredQuota, Quota
from sessiond.workspace.watch import Watch

log = logging.getLogger(__name__)

THREADS = 4
"""Volumes made, measured or removed at once."""

SPARE_SECONDS = 5.0
"""A call's own deadline comes so much after those of the programs that it runs, which say more precisely what hung."""

TRIAL = ".trial"
TRIAL_BYTES = 1024**2
TRIAL_FILE = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """How volumes are limited here, and why not better."""

    quota: str
    """`project`, `image` or `measured`."""
    hard: bool
    """Whether the kernel refuses the byte that is too much. Else `on_exceeded` is called a moment later."""
    passed_over: tuple[str, ...]
    """What would have been better, and why it cannot be, a sentence each."""


def _nobody(name: str, used: int) -> None:
    log.warning("volume %s holds %d bytes, more than it may, and nobody stops its writers", name, used)


class Volumes:
    """Makes, finds and removes volumes. A volume's name is of the form that a sandbox's id has.

    Methods have deadlines, may be called concurrently for different volumes, and raise EngineError.
    """

    def __init__(self, directory: Path, on_exceeded: Callable[[str, int], None] = _nobody) -> None:
        """`on_exceeded(name, used)` is called in the event loop when a volume without a hard limit holds more than its
        size, and again whenever it has grown since: its writers are to be stopped."""
        self._directory = directory
        self._on_exceeded = on_exceeded
        self._calls = Calls("volumes", THREADS, lambda _what, _error: None)
        self._quotas: dict[str, Quota] = {}
        self._chosen: Quota | None = None
        self._watchers: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> Choice:
        """Find out, by trying, how volumes can be limited here. Called once, before anything else."""
        seconds = MAKE_SECONDS + 3 * MOUNT_SECONDS + SPARE_SECONDS
        return await self._calls.run("try how volumes can be limited", seconds, self._choose)

    async def close(self) -> None:
        """Look at no volume any more. They stay as they are."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        self._watchers.clear()
        self._calls.close()

    async def create(self, name: str, size: int) -> Path:
        """Make an empty volume of `size` bytes; returns what to bind-mount."""
        place, chosen = self._place(name), self._chosen
        if chosen is None:
            raise VolumeError("volumes: not open")
        seconds = MAKE_SECONDS + MOUNT_SECONDS + SPARE_SECONDS
        await self._calls.run(f"make volume {name}", seconds, _make, place, chosen, size)
        self._look_after(name, chosen, size)
        return place.files

    async def adopt(self, name: str) -> Path:
        """Take a volume up again after a restart or a reboot, mounted; returns what to bind-mount."""
        place = self._place(name)
        record = Record.load(place)
        quota = self._quota(record.quota)
        await self._calls.run(f"mount volume {name}", 2 * MOUNT_SECONDS + SPARE_SECONDS, quota.mount, place)
        self._look_after(name, quota, record.size)
        return place.files

    async def remove(self, name: str) -> None:
        """Erase a volume, which no sandbox uses any more. Nothing happens when there is none."""
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.cancel()
        place = self._place(name)
        seconds = ERASE_SECONDS + MOUNT_SECONDS + SPARE_SECONDS
        await self._calls.run(f"remove volume {name}", seconds, self._remove, place)

    async def list(self) -> list[str]:
        """The names of all volumes, those included that were only half made."""
        return await self._calls.run("list volumes", SPARE_SECONDS, _names, self._directory)

    async def usage(self, name: str) -> int:
        """Bytes that a volume holds."""
        place = self._place(name)
        quota = self._quota(Record.load(place).quota)
        return await self._calls.run(f"measure volume {name}", 2 * MEASURE_SECONDS + SPARE_SECONDS, quota.used, place)

    def _place(self, name: str) -> Place:
        return Place(self._directory / check_id(name, "volume"))

    def _quota(self, name: str) -> Quota:
        """A volume keeps the way in which it was made, whatever is chosen for new ones."""
        try:
            return self._quotas[name]
        except KeyError:
            raise VolumeError(f"volumes are not open, or none can be limited by {name!r}") from None

    def _choose(self) -> Choice:
        root = os.geteuid() == 0
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Paths are compared with the kernel's table of mounts, which knows no symbolic links.
        self._directory = self._directory.resolve()
        measured = MeasuredQuota(bind=False)
        measured.unmake(Place(self._directory / TRIAL))  # of one that was killed while it tried
        self._quotas = {quota.name: quota for quota in (measured, *((ProjectQuota(), ImageQuota()) if root else ()))}
        passed_over = []
        if not root:
            passed_over.append("Only root can set hard limits.")
        else:
            for quota in (self._quotas["project"], self._quotas["image"], MeasuredQuota(bind=True)):
                try:
                    self._try(quota)
                except (EngineError, OSError) as error:
                    passed_over.append(f"{quota.name}: {error}.")
                else:
                    self._chosen = self._quotas[quota.name] = quota
                    break
        self._chosen = self._chosen or measured
        return Choice(self._chosen.name, self._chosen.hard, tuple(passed_over))

    def _try(self, quota: Quota) -> None:
        place = Place(self._directory / TRIAL)
        try:
            _make(place, quota, TRIAL_BYTES)
            if quota.hard and not _refuses(place.files, TRIAL_BYTES):
                raise VolumeError("it does not keep its limit")
        finally:
            quota.unmake(place)

    def _remove(self, place: Place) -> None:
        try:
            quota = self._quota(Record.load(place).quota)
        except VolumeError:
            quota = MeasuredQuota(bind=False)
        if place.root.exists():
            quota.unmake(place)

    def _look_after(self, name: str, quota: Quota, size: int) -> None:
        if not quota.hard and name not in self._watchers:
            self._watchers[name] = asyncio.create_task(self._watch(name, size), name=f"volume {name}")

    async def _watch(self, name: str, size: int) -> None:
        try:
            await self._look_again_and_again(name, Watch(size))
        except Exception:
            log.exception("volume %s is not looked at any more", name)
            raise

    async def _look_again_and_again(self, name: str, watch: Watch) -> None:
        while True:
            began = time.monotonic()
            try:
                used = await self.usage(name)
            except EngineError as error:
                log.warning("volume %s counts as full: %s", name, error)
                used = max(watch.size, watch.told) + 1
            if watch.exceeded(used):
                self._on_exceeded(name, used)
            await asyncio.sleep(watch.pause(used, time.monotonic() - began))


def _refuses(directory: Path, size: int) -> bool:
    """Whether a file is refused that is larger than the volume, by more than what root may exceed it."""
    try:
        with (directory / "trial").open("wb") as file:
            file.write(bytes(TRIAL_FILE * size))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return False


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if SANDBOX_ID.match(path.name))


def _make(place: Place, quota: Quota, size: int) -> None:
    """Make a volume, or nothing."""
    Record(quota.name, size).save(place)
    try:
        quota.make(place, size)
    except BaseException:
        quota.unmake(place)
        raise
