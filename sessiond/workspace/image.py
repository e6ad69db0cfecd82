"""A volume that is a file system of its own, in a sparse file: a hard limit on any machine where root may mount."""

from __future__ import annotations

import os

from sessiond.engine.port import SANDBOX_UID
from sessiond.engine.programs import run
from sessiond.workspace.host import VolumeError, mounted
from sessiond.workspace.place import Place
from sessiond.workspace.quota import MOUNT_SECONDS, Quota

MAKE_SECONDS = 30.0
"""mkfs takes 30 ms for 256 MiB: it writes only what differs from zero."""

BLOCK = 4096
INODE_BYTES = 256
BYTES_AN_INODE = 8192
"""A file for every 8 KiB, twice ext4's default density: the average file of a source tree is that small."""

SPARE_PART = 32
FIXED_BYTES = 8 * 1024**2
"""What an image is larger than its volume and its inodes, at least what ext4 needs: a part (2 % that it keeps back,
tables), and a fixed size (a journal of 4 MiB, superblocks). What it does not need is reserved afterwards."""

OPTIONS = "loop,nosuid,nodev,noatime,discard,noinit_itable,errors=remount-ro"
"""`discard` gives the space of deleted files back to the host's file system; the inode tables of a fresh sparse file
are zero already."""


class ImageQuota(Quota):
    """ext4 in a file. The host's disk is used for what is in it, not for its size."""

    name = "image"
    hard = True

    def make(self, place: Place, size: int) -> None:
        """Make the image and mount it. Only a mounted ext4 tells what it leaves to files: what is too much of that is
        then reserved for root."""
        place.image.touch(mode=0o600, exist_ok=False)
        os.truncate(place.image, image_bytes(size))
        run(
            f"make a file system in {place.image}",
            *("mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(BLOCK), "-I", str(INODE_BYTES), "-i", str(BYTES_AN_INODE)),
            *("-J", "size=4", "-O", "^resize_inode"),
            *("-E", f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={SANDBOX_UID}:{SANDBOX_UID}"),
            str(place.image),
            seconds=MAKE_SECONDS,
        )
        # Nobody may write where it is not mounted.
        place.files.mkdir(mode=0o000)
        self.mount(place)
        (place.files / "lost+found").rmdir()
        mount = mounted(place.files)
        if mount is None:
            raise VolumeError(f"what was just mounted at {place.files} is gone")
        # By the device, whose superblock the kernel shares. In the image, beneath a mount, it would change nothing.
        excess = max(0, os.statvfs(place.files).f_bavail - size // BLOCK)
        run(f"limit {place.image}", "tune2fs", "-r", str(excess), mount.source, seconds=MAKE_SECONDS)
        if os.statvfs(place.files).f_bavail > size // BLOCK:
            raise VolumeError(f"the limit of {place.files} does not take effect")

    def mount(self, place: Place) -> None:
        """Mount it; the kernel replays its journal if need be."""
        if mounted(place.files) is None:
            where = (str(place.image), str(place.files))
            run(f"mount {place.image}", "mount", "-t", "ext4", "-o", OPTIONS, *where, seconds=MOUNT_SECONDS)

    def used(self, place: Place) -> int:
        """As its superblock counts."""
        figures = os.statvfs(place.files)
        return (figures.f_blocks - figures.f_bfree) * figures.f_frsize


def image_bytes(size: int) -> int:
    """How large an image is that holds `size` bytes of files, in whole blocks."""
    whole = size + size * INODE_BYTES // BYTES_AN_INODE + size // SPARE_PART + FIXED_BYTES
    return -(-whole // BLOCK) * BLOCK
