"""A volume on its way into a sandbox: whose it is there, and where a jail's host user reaches it. All of it blocks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sessiond.core.paths import WORKSPACE
from sessiond.engine.port import EngineError
from sessiond.engine.programs import run

HAND_OVER_SECONDS = 60.0
"""For a million files. A fresh volume is empty, and one that comes back mostly has the same owner as before."""

MOUNT_SECONDS = 10.0


def hand_over(volume: Path, uid: int) -> None:
    """Make everything in the volume the host user's `uid`. No sandbox may be using it. Raises EngineError."""
    try:
        owner = volume.stat()
    except OSError as error:
        raise EngineError(f"volume {volume} cannot be used: {error.strerror}") from error
    if (owner.st_uid, owner.st_gid) == (uid, uid):
        return
    if os.geteuid() != 0:
        raise EngineError(
            f"volume {volume} belongs to user {owner.st_uid}, and only root can give it to the sandbox's user {uid}:"
            " run the daemon as root, or let the workspace be a tmpfs"
        )
    # Of any depth, over no link, and the top last: a change of owner that was cut off is done again.
    options = ("--recursive", "--no-dereference", f"{uid}:{uid}", "--")
    run(f"give {volume} to user {uid}", "chown", *options, str(volume), seconds=HAND_OVER_SECONDS)


@contextlib.contextmanager
def within_reach(volume: Path | None, point: Path | None) -> Iterator[Path | None]:
    """The volume's path while a jail is made: mounted at `point`, if given, since a jail's host user need not be able
    to reach where it lies."""
    if volume is None or point is None:
        yield volume
        return
    take_away(point)
    point.mkdir(mode=0o755)
    try:
        run(f"mount {volume}", "mount", "--bind", str(volume), str(point), seconds=MOUNT_SECONDS)
        yield point
    finally:
        take_away(point)


def check_workspace(pid: int, volume: Path) -> None:
    """Check that the sandbox with this PID 1 sees as its workspace what is at this path here: an engine that lives in
    another mount namespace, in which the volume is not mounted, shows what lies beneath. Raises EngineError."""
    try:
        inside = Path(f"/proc/{pid}/root{WORKSPACE}").stat()
        ours = volume.stat()
    except PermissionError:
        return  # an ordinary user's: nothing of it is mounted anywhere
    except OSError as error:
        raise EngineError(f"the workspace of the sandbox with pid {pid} cannot be seen: {error.strerror}") from error
    if (inside.st_dev, inside.st_ino) != (ours.st_dev, ours.st_ino):
        raise EngineError(
            f"the engine does not see what is mounted at {volume}, so that its sandbox has another workspace: run the"
            " daemon in the engine's mount namespace (in systemd's terms without PrivateTmp= and ProtectSystem=)"
        )


def take_away(point: Path) -> None:
    """Undo what a daemon that was killed meanwhile left of `within_reach`. Raises EngineError rather than leave it."""
    if not point.is_dir():
        return
    with contextlib.suppress(EngineError):
        run(f"unmount {point}", "umount", "--lazy", str(point), seconds=MOUNT_SECONDS)
    try:
        point.rmdir()  # refused while anything is mounted there, so that no volume is erased with a sandbox
    except OSError as error:
        raise EngineError(f"a volume is still mounted at {point}: {error.strerror}; unmount it") from error
