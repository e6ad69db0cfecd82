"""The files of a session: `session.files`. Paths are relative to the workspace, or absolute within it or `/tmp`.

Each operation is a command in the sandbox, done by the guest as the sandbox's user: the kernel checks every path, and
none leads out. They are bytes as they are; names are text, as `os.fsdecode` makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sessiond_protocol import messages
from sessiond_protocol.messages import MAX_INPUT

from sessiond_client import file_records as records
from sessiond_client.command import Command, abandon_command
from sessiond_client.errors import ProtocolViolationError, RemoteError, StdinClosedError, UsageError
from sessiond_client.file_records import FileChange, FileEntry, Match, Written
from sessiond_client.results import Gap, Result, result
from sessiond_client.transfer import whole_file
from sessiond_client.tree import Counted, pack_tree, unpack_tree

if TYPE_CHECKING:
    from types import TracebackType

    from sessiond_client.session import Session
    from sessiond_client.tools import Tools

Progress = Callable[[int], None]
"""Called with the bytes that went so far."""
LocalPath = str | os.PathLike[str]
Entries = list[FileEntry]
Matches = list[Match]

_PIECE = 256 * 1024
_MOST_STDERR = 64 * 1024
DEFAULT_MAX_READ = 64 * 1024 * 1024
_ROOM_FOR_NAMES = 16 * 1024
"""Of a frame, what the path and the rest of a request may take beside the data."""


class Files:
    """Files of one session. Errors are FileError, whose `name` says why."""

    def __init__(self, session: Session, tools: Tools) -> None:
        self._session = session
        self._tools = tools

    # --- what is in a file

    async def read(
        self, path: str, offset: int = 0, length: int | None = None, *, max_bytes: int = DEFAULT_MAX_READ
    ) -> bytes:
        """A file, or `length` bytes of it from `offset` on. Raises OutputLimitError beyond `max_bytes`."""
        ended = await self._done(messages.FileRead, path, max_output=max_bytes, offset=offset, length=length)
        return ended.stdout

    async def write(
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
        if append + create + (offset is not None) > 1:
            raise UsageError("append, create and offset exclude each other")
        how = "append" if append else "create" if create else "replace" if offset is None else "at"
        fields: dict[str, Any] = {"how": how, "offset": offset or 0, "mode": mode}
        if len(data) <= MAX_INPUT - _ROOM_FOR_NAMES:
            ended = await self._done(messages.FileWrite, path, input=data, **fields)
            return records.written(ended.stdout)
        view = memoryview(data)
        pieces = (bytes(view[at : at + _PIECE]) for at in range(0, len(data), _PIECE))
        return await self._pour(path, lambda: next(pieces, b""), fields)

    async def checksum(self, path: str) -> str:
        """The SHA-256 of a file, in hexadecimal, computed in the sandbox."""
        ended = await self._done(messages.FileChecksum, path)
        return ended.stdout.decode("ascii", "replace").strip()

    # --- what there is

    async def stat(self, path: str) -> FileEntry:
        """What a path is; a link itself, not what it leads to."""
        found = records.entries((await self._done(messages.FileStat, path)).stdout)
        if len(found) != 1:
            raise ProtocolViolationError(f"{len(found)} entries for one path")
        return found[0]

    async def list(self, path: str = "", *, recursive: bool = False) -> Entries:
        """What a directory holds, by name; with `recursive` also what its directories hold."""
        return await self._list(path, recursive=recursive, pattern="")

    async def glob(self, pattern: str, path: str = "") -> Entries:
        """All below a directory whose relative path fits: `*`, `?`, `[a-z]`, and `**` for any number of directories."""
        return await self._list(path, recursive="/" in pattern or "**" in pattern, pattern=pattern)

    async def search(
        self, text: str, path: str = "", *, glob: str = "", any_case: bool = False, limit: int = 1000
    ) -> Matches:
        """Lines below a directory that hold `text`. Binary files and `.git` are left out."""
        ended = await self._done(messages.FileSearch, path, text=text, pattern=glob, any_case=any_case, limit=limit)
        return records.matches(ended.stdout)

    def watch(self, path: str = "") -> Watch:
        """Changes below a directory, as they happen: `async with session.files.watch() as watch: async for ...`."""
        return Watch(self._tools, path)

    # --- names

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        """Make a directory; with `parents` also those above it, and it may be there already."""
        await self._done(messages.FileMkdir, path, parents=parents)

    async def rename(self, path: str, to: str) -> None:
        """Give it another name, over a file that has it."""
        await self._done(messages.FileRename, path, to=to)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty directory; with `recursive` also one that holds something."""
        await self._done(messages.FileRemove, path, recursive=recursive)

    async def chmod(self, path: str, mode: int) -> None:
        """Change permissions."""
        await self._done(messages.FileChmod, path, mode=mode)

    # --- between here and there

    async def upload(self, local: LocalPath, remote: str, *, progress: Progress | None = None) -> int:
        """Copy a file, or a directory with all below it, into the session; bytes that went.

        A file is replaced whole or not at all. Of a directory, `remote` is made if it is missing, and what is there
        stays; its errors are TransferError.
        """
        source = Path(local)
        if await asyncio.to_thread(source.is_dir):
            with await asyncio.to_thread(pack_tree, source, progress) as packed:
                return (await self._session.import_workspace(packed.file, path=remote)).size
        with await asyncio.to_thread(source.open, "rb") as file:
            counted = Counted(file, progress)
            mode = os.fstat(file.fileno()).st_mode & 0o777
            fields = {"how": "replace", "mode": mode}
            return (await self._pour(remote, lambda: counted.read(_PIECE), fields)).size

    async def download(self, remote: str, local: LocalPath, *, progress: Progress | None = None) -> int:
        """Copy a file, or a directory with all below it, out of the session; bytes that came.

        A file is replaced whole or not at all. Links of a directory that would lead out of `local` are left out.
        """
        target = Path(local)
        if (await self.stat(remote)).kind == "directory":
            with await asyncio.to_thread(unpack_tree, target, progress) as unpacked:
                size = (await self._session.export_workspace(unpacked.file, path=remote)).size
                await asyncio.to_thread(unpacked.finish)
            return size
        with whole_file(target) as file:
            counted = Counted(file, progress)
            async with self._tools.running(messages.FileRead, path=remote) as command:
                await _end(command, remote, counted.write)
            return counted.size

    # --- inside

    async def _done(self, model: type[messages.ToolStart], path: str, **fields: Any) -> Result:
        ended = await self._tools.collect(model, path=path, **fields)
        if not ended.ok:
            raise records.file_error(ended, path)
        return ended

    async def _list(self, path: str, *, recursive: bool, pattern: str) -> Entries:
        ended = await self._done(messages.FileList, path, recursive=recursive, pattern=pattern)
        return sorted(records.entries(ended.stdout), key=lambda entry: entry.path)

    async def _pour(self, path: str, read: Callable[[], bytes], fields: dict[str, Any]) -> Written:
        """Write what `read` gives, piece by piece, to the file."""
        async with self._tools.running(messages.FileWrite, feed=True, stdin=True, path=path, **fields) as command:
            with contextlib.suppress(StdinClosedError, RemoteError):  # it has ended: how, its end tells
                while data := await asyncio.to_thread(read):
                    await command.write(data)
                await command.close_stdin()
            return records.written((await _end(command, path)).stdout)


class Watch:
    """Changes below a directory, from when it is entered on. It ends with `close`, or with its `async with`."""

    def __init__(self, tools: Tools, path: str) -> None:
        self._tools = tools
        self._path = path
        self._command: Command | None = None
        self._rest = b""
        self._ready: list[FileChange] = []

    async def __aenter__(self) -> Watch:
        """Itself, when all that happens from now on will be told."""
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        await self.close()

    def __aiter__(self) -> Watch:
        """Itself."""
        return self

    async def __anext__(self) -> FileChange:
        """The next change. Raises FileError when it cannot be watched any more."""
        change = await self.next()
        if change is None:
            raise StopAsyncIteration
        return change

    async def next(self) -> FileChange | None:
        """The next change; None after `close`."""
        if self._command is None:
            await self._begin()
        while not self._ready:
            if not await self._receive():
                return None
        return self._ready.pop(0)

    async def close(self) -> None:
        """Stop watching. Again does nothing."""
        if self._command is not None and not self._command.ended:
            abandon_command(self._command)

    async def _begin(self) -> None:
        self._command = await self._tools.start(messages.FileWatch, path=self._path)
        while not self._ready:
            await self._receive()
        self._ready.pop(0)  # that it is ready

    async def _receive(self) -> bool:
        """Take what comes; False at the end."""
        assert self._command is not None  # noqa: S101 - callers begin first
        piece = await self._command.next()
        if piece is None or isinstance(piece, Gap):
            status = await self._command.wait()
            if status.signal is not None:
                return False
            raise records.file_error(result(status, b"", self._rest, b"", ()), self._path)
        if piece.stream == "stderr":
            self._rest = piece.data
            return True
        *whole, self._rest = (self._rest + piece.data).split(b"\0")
        self._ready += map(records.change, whole)
        return True


async def _end(command: Command, path: str, take: Callable[[bytes], object] | None = None) -> Result:
    """Read all of a command, which must end well; `take` gets its standard output, instead of the result."""
    stdout, stderr = bytearray(), bytearray()
    async for piece in command:
        if isinstance(piece, Gap):
            raise ProtocolViolationError(f"bytes {piece.start} to {piece.end} are not kept any more")
        if piece.stream == "stderr":
            stderr += piece.data[: _MOST_STDERR - len(stderr)]
        elif take is None:
            stdout += piece.data
        else:
            await asyncio.to_thread(take, piece.data)
    ended = result(await command.wait(), bytes(stdout), bytes(stderr), b"", ())
    if not ended.ok:
        raise records.file_error(ended, path)
    return ended
