"""How a volume can be kept to its size: the port, and the way that works everywhere.

Quota
├── ProjectQuota    (project.py)  the file system's own: XFS mounted with project quotas; root only
├── ImageQuota      (image.py)    a file system of its own in a file; root only
└── MeasuredQuota                 a directory that is looked at now and then: a writer is stopped after the fact
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from sessiond.engine.port import SANDBOX_UID
from sessiond.engine.programs import run
from sessiond.workspace.host import VolumeError, mounted
from sessiond.workspace.place import Place

MOUNT_SECONDS = 10.0
"""Mounting and unmounting take milliseconds; a file system that was not unmounted replays its journal first."""

MEASURE_SECONDS = 10.0
"""For counting all files of a volume: two million take about that long. What takes longer counts as full."""

INODE_BYTES = 256
"""What a file takes on the host beside its contents (ext4): else a volume could have any number of empty ones."""

ERASE_SECONDS = 120.0
"""For a directory with millions of files."""


class Quota(ABC):
    """Makes volumes that keep to a size. All methods block and raise EngineError."""

    name: str
    hard: bool
    """Whether the kernel refuses the byte that is too much."""

    @abstractmethod
    def make(self, place: Place, size: int) -> None:
        """Make `place.files`, empty and mounted, the sandbox's user's. The directory around it exists."""

    @abstractmethod
    def mount(self, place: Place) -> None:
        """Mount it, unless it is: after a reboot it is not."""

    @abstractmethod
    def used(self, place: Place) -> int:
        """Bytes in use."""

    def unmake(self, place: Place) -> None:
        """Remove it with all that is in it, however far it was made."""
        unmount(place.files)
        erase(place.root)


class MeasuredQuota(Quota):
    """A plain directory. Nothing refuses the byte that is too much: somebody has to look."""

    name = "measured"
    hard = False

    def __init__(self, *, bind: bool) -> None:
        """With `bind` it is mounted over itself, so that set-user-id bits and devices mean nothing in it; for root."""
        self._bind = bind

    def make(self, place: Place, size: int) -> None:
        """Make the directory; the size is the watcher's business."""
        make_directory(place.files)
        self.mount(place)

    def mount(self, place: Place) -> None:
        """Mount it over itself, if that is to be."""
        if self._bind:
            bind_over_itself(place.files)

    def used(self, place: Place) -> int:
        """Count it."""
        return measure(place.files)


def make_directory(path: Path) -> None:
    """An empty directory of the sandbox's user, or of this one who cannot give it away."""
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(path, SANDBOX_UID, SANDBOX_UID)


def bind_over_itself(path: Path) -> None:
    """Mount a directory over itself, so that it can have mount options of its own."""
    mount = mounted(path)
    if mount is None:
        run(f"mount {path}", "mount", "--bind", str(path), str(path), seconds=MOUNT_SECONDS)
    elif {"nosuid", "nodev"} <= mount.options:
        return
    run(f"mount {path}", "mount", "-o", "remount,bind,nosuid,nodev", str(path), seconds=MOUNT_SECONDS)


def unmount(path: Path) -> None:
    """Undo all mounts at a path; a sandbox that still runs keeps its own. Nothing happens when there are none."""
    while mounted(path) is not None:
        # Lazily: whoever just measures it is no reason to keep it.
        run(f"unmount {path}", "umount", "--lazy", str(path), seconds=MOUNT_SECONDS)


def measure(path: Path) -> int:
    """Bytes on disk of all files beneath a directory, those of no size included, whatever a sandbox changes
    meanwhile."""
    return _count(path, "--block-size=1") + INODE_BYTES * _count(path, "--inodes")


def _count(path: Path, what: str) -> int:
    # du, because it walks trees of any depth in constant memory; 1: something vanished while it looked.
    said = run(f"measure {path}", "du", "-sx", what, "--", str(path), seconds=MEASURE_SECONDS, codes=(0, 1))
    digits = said.partition("\t")[0]
    if not digits.isdigit():
        raise VolumeError(f"cannot measure {path}: du said {said[:100]!r}")
    return int(digits)


def erase(path: Path) -> None:
    """Remove a directory that a sandbox has filled: of any depth, and never what is mounted in it."""
    # rm, because a tree that is deeper than Python's recursion is easily made.
    run(f"remove {path}", "rm", "-rf", "--one-file-system", "--", str(path), seconds=ERASE_SECONDS)
