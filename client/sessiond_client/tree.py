"""Trees of this machine as tar archives on their way, through a pipe and a thread, so that none is ever stored whole.

What comes out of a sandbox is not trusted: nothing is written outside the directory, through a link, or as a device.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sessiond_client.errors import TransferError

_MOST_LINKS = 100_000
"""Symbolic links of one archive: they are remembered until all else is there."""


class Counted:
    """A file that tells how much went through it."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._progress = progress
        self.size = 0
        """Bytes so far."""

    def read(self, size: int = -1) -> bytes:
        """Read, and count."""
        return self._count(self._file.read(size))

    def write(self, data: bytes) -> int:
        """Write, and count."""
        self._file.write(data)
        return len(self._count(data))

    def _count(self, data: bytes) -> bytes:
        self.size += len(data)
        if self._progress is not None and data:
            self._progress(self.size)
        return data


class Piped:
    """One end of a pipe whose other end a thread works on."""

    def __init__(
        self, work: Callable[[BinaryIO], None], *, reads: bool, progress: Callable[[int], None] | None
    ) -> None:
        ends = os.pipe()
        ours, theirs = ends if reads else ends[::-1]
        self._raw: BinaryIO = os.fdopen(ours, "rb" if reads else "wb", buffering=0)
        self.file: BinaryIO = Counted(self._raw, progress)  # type: ignore[assignment]
        """To read the archive from, or to write it to."""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work, theirs, "wb" if reads else "rb"), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[BinaryIO], None], end: int, mode: str) -> None:
        try:
            with os.fdopen(end, mode) as file:
                work(file)  # type: ignore[arg-type]
        except BrokenPipeError:
            pass  # the other side has given up, and says why
        except Exception as error:
            self._error = error

    def __enter__(self) -> Piped:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the thread see the end. Raises what went wrong there, but for what only follows from another error."""
        if kind is not None:
            self._raw.close()
            self._thread.join()
        else:
            self.finish()

    def finish(self) -> None:
        """Close this end, wait for the thread, and raise what went wrong there."""
        self._raw.close()
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def pack_tree(source: Path, progress: Callable[[int], None] | None) -> Piped:
    """An archive of a directory, to be read."""

    def work(sink: BinaryIO) -> None:
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            tar.add(source, arcname=".")

    return Piped(work, reads=True, progress=progress)


def unpack_tree(target: Path, progress: Callable[[int], None] | None) -> Piped:
    """A directory that takes an archive, to be written."""

    def work(source: BinaryIO) -> None:
        try:
            _unpack(source, target)
        except tarfile.TarError as error:
            raise TransferError(f"what came is no good archive: {error}") from error
        finally:
            while source.read(
                1024 * 1024
            ):  # whoever writes must not be stopped in the middle: the error comes at its end
                pass

    return Piped(work, reads=False, progress=progress)


def _unpack(source: BinaryIO, target: Path) -> None:
    """Directories and files first, links last: so no link that the archive brings is on the way of anything."""
    target.mkdir(parents=True, exist_ok=True)
    links: list[tuple[Path, str]] = []
    modes: list[tuple[Path, int]] = []
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise TransferError(f"{member.name!r} in the archive leads out of the directory")
            path = target / name
            _check_way(target, path)
            if member.isdir():
                path.mkdir(exist_ok=True)
                modes.append((path, member.mode & 0o777))
            elif member.isreg():
                _unpack_file(tar, member, path)
            elif member.issym() and _stays(name, member.linkname) and len(links) < _MOST_LINKS:
                links.append((path, member.linkname))
    for path, to in links:
        _check_way(target, path)
        if path.is_symlink() or path.is_file():
            path.unlink()
        path.symlink_to(to)
    for path, mode in reversed(modes):
        if not path.is_symlink():
            path.chmod(mode | 0o700)


def _unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        return
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file)
        os.fchmod(descriptor, member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime))


def _check_way(target: Path, path: Path) -> None:
    """What is above the path must be directories, and no links."""
    for parent in path.relative_to(target).parents:
        if (target / parent).is_symlink() and target / parent != target:
            raise TransferError(f"{str(path)!r} would be written through a link")


def _stays(name: PurePosixPath, to: str) -> bool:
    """Whether a link at `name` that says `to` leads to a place within the tree, by its words alone."""
    depth = len(name.parts) - 1
    for part in PurePosixPath(to).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            return False
    return True
