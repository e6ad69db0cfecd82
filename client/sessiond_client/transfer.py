"""A workspace as a tar archive on its way between a command in the sandbox and a file here, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sessiond_client.command import Command
from sessiond_client.errors import RemoteError, StdinClosedError, TransferError
from sessiond_client.results import Gap, Transfer

File = str | os.PathLike[str] | BinaryIO
"""A path, or a file that is open for bytes."""

_PIECE = 256 * 1024
_MOST_NOTES = 64 * 1024
"""Bytes of the command's standard error that are kept."""
_INCOMPLETE = 5


async def export_to(command: Command, target: File) -> Transfer:
    """Write the command's standard output to the target. A path is written whole or not at all."""
    if isinstance(target, str | os.PathLike):
        with whole_file(Path(target)) as file:
            return await _receive(command, file)
    return await _receive(command, target)


async def import_from(command: Command, source: File) -> Transfer:
    """Write the source to the command's standard input."""
    if isinstance(source, str | os.PathLike):
        with await asyncio.to_thread(open, source, "rb") as file:
            return await _send(command, file)
    return await _send(command, source)


async def _receive(command: Command, file: BinaryIO) -> Transfer:
    size, notes = 0, bytearray()
    async for piece in command:
        if isinstance(piece, Gap):
            raise TransferError(f"bytes {piece.start} to {piece.end} of the archive are not kept any more")
        if piece.stream == "stderr":
            notes += piece.data[: _MOST_NOTES - len(notes)]
        else:
            await asyncio.to_thread(file.write, piece.data)
            size += len(piece.data)
    return await _result(command, size, notes)


async def _send(command: Command, file: BinaryIO) -> Transfer:
    size, notes = 0, bytearray()
    with contextlib.suppress(StdinClosedError, RemoteError):  # it has ended: how, its end tells
        while data := await asyncio.to_thread(file.read, _PIECE):
            await command.write(data)
            size += len(data)
        await command.close_stdin()
    async for piece in command:
        if not isinstance(piece, Gap):
            notes += piece.data[: _MOST_NOTES - len(notes)]
    return await _result(command, size, notes)


async def _result(command: Command, size: int, notes: bytearray) -> Transfer:
    status = await command.wait()
    lines = tuple(notes.decode("utf-8", "replace").splitlines())
    if status.exit_code in (0, _INCOMPLETE):
        return Transfer(size, status.exit_code == 0, lines)
    raise TransferError(lines[-1] if lines else f"the guest {status.describe()}", status.exit_code)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is complete."""
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    with draft.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
