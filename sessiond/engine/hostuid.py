"""Host uids for jails that root makes: one each, so that what leaves one jail still cannot touch another.

A registry directory shared by all daemons of the machine holds one file a uid in use, with the path of the sandbox's
directory in it. A file whose sandbox is gone (its daemon was killed in between) is free again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sessiond.engine.port import EngineError

FIRST_UID = 231072
"""After the range that Debian's /etc/subuid gives to the first two users (100000 and 65536 each)."""

UIDS = 65536

LOCK = "lock"


class HostUids:
    """The registry in one directory. Uids are users and groups alike."""

    def __init__(self, registry: Path, first: int = FIRST_UID, count: int = UIDS) -> None:
        """`first` to `first + count - 1` may be used."""
        self._registry = registry
        self._range = range(first, first + count)

    def take(self, owner: Path) -> int:
        """A uid for the sandbox with this directory, which exists already. Raises EngineError when all are in use."""
        self._registry.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            for uid in self._range:
                record = self._registry / str(uid)
                if record.exists() and Path(record.read_text()).exists():
                    continue
                record.write_text(str(owner))
                return uid
        raise EngineError(f"all {len(self._range)} host uids for sandboxes are in use, see {self._registry}")

    def give_back(self, uid: int, owner: Path) -> None:
        """The sandbox is gone and left nothing behind that belongs to the uid."""
        record = self._registry / str(uid)
        with self._locked():
            if record.exists() and record.read_text() == str(owner):
                record.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._registry / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
