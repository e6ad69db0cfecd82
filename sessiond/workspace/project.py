"""A volume limited by its file system's project quota: a directory like any other, at no cost.

The owner of a file may move it to another project, and stop a directory from passing its own on: the seccomp list
refuses both to sandboxes.

The numbers are the kernel's (include/uapi/linux/fs.h, quota.h); its C library has no name for most of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from sessiond.workspace.host import VolumeError
from sessiond.workspace.place import Place
from sessiond.workspace.quota import Quota, bind_over_itself, make_directory

FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FSXATTR = struct.Struct("=IIIII8x")
"""Flags, extent size, extents, project, copy-on-write extent size."""
PROJECT_FLAG = 0x200
"""FS_XFLAG_PROJINHERIT: what is made in the directory belongs to its project."""

QUOTACTL_FD = 443
"""The system call, on every architecture; since Linux 5.14."""
Q_GETQUOTA, Q_SETQUOTA, PRJQUOTA = 0x800007, 0x800008, 2
DQBLK = struct.Struct("=8QI4x")
"""Block limits (KiB) hard, soft, bytes in use, inode limits hard and soft, inodes in use, two times, valid fields."""
LIMITS_VALID = 1 | 4
KIB = 1024

BYTES_AN_INODE = 1024
"""Files of no size take inodes from the host; this is how many a volume may have."""

FIRST_PROJECT, PROJECTS = 0x5E550000, 0x10000
"""The range of project numbers that are tried. One that is in use, by whomever, is passed over."""


class ProjectQuota(Quota):
    """XFS mounted with `prjquota`. ext4 has them too, but not for root, and is therefore passed over when tried."""

    name = "project"
    hard = True

    def __init__(self) -> None:
        self._choosing = threading.Lock()

    def make(self, place: Place, size: int) -> None:
        """Make the directory, a project of its own, and limit that."""
        make_directory(place.files)
        with self._choosing, _opened(place.files) as descriptor:
            project = _unused(descriptor)
            _set_quota(descriptor, project, size)
            _set_project(descriptor, project)
            if _quota(descriptor, project)[0] != size // KIB:
                raise VolumeError(f"the project quota of {place.files} does not take effect")
        self.mount(place)

    def mount(self, place: Place) -> None:
        """Mount it over itself without set-user-id bits and devices. The quota is on the disk."""
        bind_over_itself(place.files)

    def used(self, place: Place) -> int:
        """As the quota counts."""
        with _opened(place.files) as descriptor:
            return _quota(descriptor, _project(descriptor))[2]

    def unmake(self, place: Place) -> None:
        """Remove it, and the limit."""
        project = 0
        with contextlib.suppress(VolumeError, FileNotFoundError), _opened(place.files) as descriptor:
            project = _project(descriptor)
        super().unmake(place)
        if project != 0:
            with _opened(place.root.parent) as descriptor:
                _set_quota(descriptor, project, 0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unused(descriptor: int) -> int:
    """A project that has no limits and no files."""
    for project in range(FIRST_PROJECT, FIRST_PROJECT + PROJECTS):
        hard, soft, used, inode_hard, inode_soft, inodes = _quota(descriptor, project)
        if not (hard or soft or used or inode_hard or inode_soft or inodes):
            return project
    raise VolumeError(f"all {PROJECTS} project numbers for volumes are in use")


def _attributes(descriptor: int) -> tuple[int, ...]:
    try:
        said = fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, bytes(FSXATTR.size))
    except OSError as error:
        raise VolumeError(f"the file system knows no projects: {error.strerror}") from error
    return FSXATTR.unpack(said)


def _project(descriptor: int) -> int:
    return _attributes(descriptor)[3]


def _set_project(descriptor: int, project: int) -> None:
    flags, extent, extents, _, copy_extent = _attributes(descriptor)
    try:
        fcntl.ioctl(
            descriptor,
            FS_IOC_FSSETXATTR,
            FSXATTR.pack(flags | PROJECT_FLAG, extent, extents, project, copy_extent),
        )
    except OSError as error:
        raise VolumeError(f"a directory cannot be put into a project: {error.strerror}") from error


def _quota(descriptor: int, project: int) -> tuple[int, ...]:
    """Block limits (KiB) hard and soft, bytes in use, inode limits hard and soft, inodes in use; zeros for a project
    that was never used."""
    record = ctypes.create_string_buffer(DQBLK.size)
    try:
        _call(descriptor, Q_GETQUOTA, project, record)
    except FileNotFoundError:
        return (0,) * 6
    except OSError as error:
        raise VolumeError(f"the file system has no project quotas: {error.strerror}") from error
    return DQBLK.unpack(record.raw)[:6]


def _set_quota(descriptor: int, project: int, size: int) -> None:
    inodes = size // BYTES_AN_INODE
    fields = (size // KIB, size // KIB, 0, inodes, inodes, 0, 0, 0, LIMITS_VALID)
    record = ctypes.create_string_buffer(DQBLK.pack(*fields))
    try:
        _call(descriptor, Q_SETQUOTA, project, record)
    except OSError as error:
        raise VolumeError(f"the file system sets no project quotas: {error.strerror}") from error


def _call(descriptor: int, command: int, project: int, record: ctypes.Array[ctypes.c_char]) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    arguments = (QUOTACTL_FD, descriptor, ctypes.c_uint(command << 8 | PRJQUOTA), ctypes.c_uint(project), record)
    if library.syscall(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
