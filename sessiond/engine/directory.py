"""Where a sandbox's channel lives on the host.

    <base>/                        the engine's directory
        guest-<digest>             one copy of the guest's binary, so that an upgrade cannot change a running sandbox's
        <sandbox>/                 traversable by the daemon, and by the sandbox's own host uid where it has one
            volume/                a volume is mounted here while a jail that gets it is made (see volume.py)
            mount/                 seen by the sandbox, read-only, as /run/sessiond
                guest              hard link to the copy
                channel.sock       the daemon listens here

`mount/` is open to all because the sandbox's user differs from the daemon's; what closes it to everybody else on the
host is the directory above, which the sandbox does not see.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sessiond.engine.port import EngineError
from sessiond.engine.volume import take_away

GUEST = "guest"
SOCKET = "channel.sock"

SANDBOX_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
"""What a sandbox's id and an instance's name may look like: also a host name, a directory name and a part of a
container's name."""


def check_id(value: str, what: str) -> str:
    """`value`, if it can name a sandbox or an instance. Raises EngineError."""
    if not SANDBOX_ID.match(value):
        raise EngineError(f"{what} {value!r} is not of the form {SANDBOX_ID.pattern}")
    return value


@dataclass(frozen=True, slots=True)
class SandboxDirectory:
    """The paths of one sandbox."""

    root: Path

    @property
    def mount(self) -> Path:
        """The part that the sandbox sees."""
        return self.root / "mount"

    @property
    def volume(self) -> Path:
        """Where a volume is mounted for a moment."""
        return self.root / "volume"

    def create(self, guest: Path) -> None:
        """Make the directory, with `guest` (a copy as `copy_guest` makes it) in it.

        Raises EngineError when it exists: an id is used once.
        """
        try:
            self.root.mkdir(mode=0o700)
        except FileExistsError:
            raise EngineError(f"sandbox {self.root.name} exists already, in {self.root}") from None
        self.mount.mkdir()
        self.mount.chmod(0o755)
        (self.mount / GUEST).hardlink_to(guest)

    def open_to(self, group: int) -> None:
        """Let a host group traverse it, which `mount`ing it takes when the daemon's user and the sandbox's differ."""
        os.chown(self.root, -1, group)
        self.root.chmod(0o710)

    def erase(self) -> None:
        """Remove it with all that is in it, but for a volume; nothing happens when it is gone."""
        take_away(self.volume)
        try:
            shutil.rmtree(self.root)
        except FileNotFoundError:
            return


def make_base(base: Path) -> None:
    """Make the engine's directory, which others may traverse but not list."""
    base.mkdir(mode=0o711, parents=True, exist_ok=True)


def copy_guest(guest: Path, base: Path) -> Path:
    """A copy of the guest's binary on the base's file system, named by its digest. Safe when two daemons do it at
    once."""
    content = guest.read_bytes()
    copy = base / f"{GUEST}-{hashlib.sha256(content).hexdigest()[:16]}"
    if not copy.exists():
        draft = base / f".{copy.name}.{os.getpid()}"
        draft.write_bytes(content)
        draft.chmod(0o555)
        draft.rename(copy)
    return copy
