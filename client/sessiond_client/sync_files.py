"""`Files` and `Watch` without `await`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sessiond_client.file_records import FileChange, FileEntry, Written
from sessiond_client.files import DEFAULT_MAX_READ, Entries, LocalPath, Matches, Progress
from sessiond_client.files import Files as AsyncFiles
from sessiond_client.files import Watch as AsyncWatch
from sessiond_client.portal import Portal


class Watch:
    """Changes below a directory, from when it is entered on. It ends with `close`, or with its `with`."""

    def __init__(self, portal: Portal, watch: AsyncWatch) -> None:
        self._portal = portal
        self._watch = watch

    def __enter__(self) -> Self:
        """Itself, when all that happens from now on will be told."""
        self._portal.call(self._watch.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self.close()

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> FileChange:
        """The next change."""
        change = self.next()
        if change is None:
            raise StopIteration
        return change

    def next(self) -> FileChange | None:
        """The next change; None after `close`."""
        return self._portal.call(self._watch.next())

    def close(self) -> None:
        """Stop watching. Again does nothing."""
        self._portal.call(self._watch.close())


class Files:
    """Files of one session. Errors are FileError, whose `name` says why."""

    def __init__(self, portal: Portal, files: AsyncFiles) -> None:
        self._portal = portal
        self._files = files

    def read(
        self, path: str, offset: int = 0, length: int | None = None, *, max_bytes: int = DEFAULT_MAX_READ
    ) -> bytes:
        """A file, or `length` bytes of it from `offset` on."""
        return self._portal.call(self._files.read(path, offset, length, max_bytes=max_bytes))

    def write(
        self,
        path: str,
        data: bytes,
        *,
        append: bool = False,
        create: bool = False,
        offset: int | None = None,
        mode: int | None = None,
    ) -> Written:
        """Write a file: all of it at once, whole or not at all; or at its end, at an offset, or only if it is new."""
        return self._portal.call(self._files.write(path, data, append=append, create=create, offset=offset, mode=mode))

    def checksum(self, path: str) -> str:
        """The SHA-256 of a file, in hexadecimal, computed in the sandbox."""
        return self._portal.call(self._files.checksum(path))

    def stat(self, path: str) -> FileEntry:
        """What a path is; a link itself, not what it leads to."""
        return self._portal.call(self._files.stat(path))

    def list(self, path: str = "", *, recursive: bool = False) -> Entries:
        """What a directory holds, by name; with `recursive` also what its directories hold."""
        return self._portal.call(self._files.list(path, recursive=recursive))

    def glob(self, pattern: str, path: str = "") -> Entries:
        """All below a directory whose relative path fits."""
        return self._portal.call(self._files.glob(pattern, path))

    def search(
        self, text: str, path: str = "", *, glob: str = "", any_case: bool = False, limit: int = 1000
    ) -> Matches:
        """Lines below a directory that hold `text`. Binary files and `.git` are left out."""
        return self._portal.call(self._files.search(text, path, glob=glob, any_case=any_case, limit=limit))

    def watch(self, path: str = "") -> Watch:
        """Changes below a directory, as they happen: `with session.files.watch() as watch: for change in watch`."""
        return Watch(self._portal, self._files.watch(path))

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        """Make a directory; with `parents` also those above it, and it may be there already."""
        self._portal.call(self._files.mkdir(path, parents=parents))

    def rename(self, path: str, to: str) -> None:
        """Give it another name, over a file that has it."""
        self._portal.call(self._files.rename(path, to))

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty directory; with `recursive` also one that holds something."""
        self._portal.call(self._files.remove(path, recursive=recursive))

    def chmod(self, path: str, mode: int) -> None:
        """Change permissions."""
        self._portal.call(self._files.chmod(path, mode))

    def upload(self, local: LocalPath, remote: str, *, progress: Progress | None = None) -> int:
        """Copy a file, or a directory with all below it, into the session; bytes that went."""
        return self._portal.call(self._files.upload(local, remote, progress=progress))

    def download(self, remote: str, local: LocalPath, *, progress: Progress | None = None) -> int:
        """Copy a file, or a directory with all below it, out of the session; bytes that came."""
        return self._portal.call(self._files.download(remote, local, progress=progress))
