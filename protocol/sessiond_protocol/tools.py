"""Requests that start a command of the daemon's own: its program is the guest's, inside the sandbox.

Each is a command like others: it is followed, resumed, signalled and looked up by its name, and the same one sent again
runs once. docs/files.md says what each writes to its standard output, and how it ends.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sessiond_protocol.fields import (
    MAX_INPUT,
    FileMode,
    Identifier,
    Message,
    Offset,
    RequestId,
    TunnelTarget,
    WorkspacePath,
)

MAX_MATCHES = 100_000
"""Lines that one search may find."""

Words = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]+$")]


class ToolStart(Message):
    """What all of them have."""

    type: str
    id: RequestId
    session: Identifier
    command: Identifier
    """Its name, chosen by the client."""
    window: Offset = 0
    answer: Literal["started", "exited"] = "started"


class SessionExport(ToolStart):
    """Start a command that writes a directory of the workspace as a tar archive to its standard output.

    Its exit code: 0 all is in it, 5 the archive is good and lacks what standard error names, 1 the system refused it,
    3 the path leads out of the workspace.
    """

    type: Literal["session.export"] = "session.export"
    path: WorkspacePath = ""
    """The directory, relative to the workspace; empty: all of it."""


class SessionImport(ToolStart):
    """Start a command that reads a tar archive from its standard input into a directory of the workspace.

    Its exit code: 0 all is there, 1 the system refused something, 3 a member leads out of the directory, 4 the archive
    is malformed. Standard error says which member; those before it are there.
    """

    type: Literal["session.import"] = "session.import"
    path: WorkspacePath = ""
    """The directory, relative to the workspace; made if it is missing."""


class FileRead(ToolStart):
    """Write a piece of a file to standard output."""

    type: Literal["file.read"] = "file.read"
    path: WorkspacePath
    offset: Offset = 0
    """First byte of the piece."""
    length: Offset | None = None
    """Most bytes of it; nil: up to the end."""


class FileWrite(ToolStart):
    """Write standard input to a file. Standard output then holds how many bytes came, and their SHA-256."""

    type: Literal["file.write"] = "file.write"
    path: WorkspacePath
    how: Literal["replace", "create", "append", "at"] = "replace"
    """`replace`: at once, when all of it is there; `create`: only a new file; `at`: from `offset` on."""
    offset: Offset = 0
    """With `at`, where to begin."""
    mode: FileMode | None = None
    """Permissions; nil: those that it has, or 0644."""
    input: Annotated[bytes, Field(max_length=MAX_INPUT)] = b""
    """First bytes of standard input."""
    stdin: bool = False
    """Whether standard input stays open after `input`."""


class FileStat(ToolStart):
    """What a path is; a link itself, not what it leads to."""

    type: Literal["file.stat"] = "file.stat"
    path: WorkspacePath


class FileList(ToolStart):
    """What a directory holds."""

    type: Literal["file.list"] = "file.list"
    path: WorkspacePath = ""
    recursive: bool = False
    """Whether directories in it are listed as well. No link is followed."""
    pattern: WorkspacePath = ""
    """Only paths, relative to the directory, that fit: `*`, `?`, `[a-z]`, and `**` for any number of directories."""


class FileSearch(ToolStart):
    """Lines of text files below a directory that hold some words."""

    type: Literal["file.search"] = "file.search"
    path: WorkspacePath = ""
    text: Words
    """The words, as they are."""
    any_case: bool = False
    """Whether capital and small letters of ASCII are the same."""
    pattern: WorkspacePath = ""
    """Only in files whose path fits, as in `file.list`."""
    limit: Annotated[int, Field(ge=1, le=MAX_MATCHES)] = 1000
    """Most lines."""


class FileChecksum(ToolStart):
    """The SHA-256 of what is in a file."""

    type: Literal["file.checksum"] = "file.checksum"
    path: WorkspacePath


class FileMkdir(ToolStart):
    """Make a directory."""

    type: Literal["file.mkdir"] = "file.mkdir"
    path: WorkspacePath
    parents: bool = False
    """Whether those above it are made as well, and it may be there already."""


class FileRename(ToolStart):
    """Give a file or directory another name, over a file that has it."""

    type: Literal["file.rename"] = "file.rename"
    path: WorkspacePath
    to: WorkspacePath
    """The new path."""


class FileRemove(ToolStart):
    """Remove a file, a link or a directory."""

    type: Literal["file.remove"] = "file.remove"
    path: WorkspacePath
    recursive: bool = False
    """Whether a directory may hold something, which goes with it."""


class FileChmod(ToolStart):
    """Change permissions."""

    type: Literal["file.chmod"] = "file.chmod"
    path: WorkspacePath
    mode: FileMode
    """The nine bits of permissions."""


class FileWatch(ToolStart):
    """Tell of changes below a directory, until it is signalled."""

    type: Literal["file.watch"] = "file.watch"
    path: WorkspacePath = ""


class TunnelOpen(ToolStart):
    """Connect standard input and output with a socket that listens inside the sandbox.

    Standard error says `connected` in a line of its own once it is.
    """

    type: Literal["tunnel.open"] = "tunnel.open"
    target: TunnelTarget
    """A port of the loopback interface, or a path of a unix socket."""
