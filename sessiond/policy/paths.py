"""Paths as the policy sees them: resolved by their letters alone, against the directory where a command runs.

Links are not followed: what a link leads to is for the kernel layer, and the rules let no link lead outside.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

_STREAMS = frozenset(["/dev/null", "/dev/stdout", "/dev/stderr"])
_REPOSITORY = ".git"


@dataclass(frozen=True, slots=True)
class Trees:
    """Where files may be read, written, and taken for code: trees, or single files."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    code: tuple[str, ...] = ()

    def readable(self, path: str) -> bool:
        """Whether the resolved `path` may be read."""
        return path in _STREAMS or _inside(path, self.read) or _inside(path, self.write)

    def writable(self, path: str) -> bool:
        """Whether the resolved `path` may be written: in a tree, and not what git obeys."""
        return path in _STREAMS or (_inside(path, self.write) and _REPOSITORY not in path.lower().split("/"))

    def removable(self, path: str) -> bool:
        """Whether the resolved `path` may be removed: what may be written, but not a whole tree."""
        return self.writable(path) and path not in self.write and path not in _STREAMS

    def runnable(self, path: str) -> bool:
        """Whether the resolved `path` may hold code or settings that a program obeys."""
        return _inside(path, self.code) and _REPOSITORY not in path.lower().split("/")


def resolve(path: str, directory: str) -> str:
    """`path` as an absolute one without `.` and `..`."""
    joined = posixpath.normpath(posixpath.join(directory, path))
    return "/" + joined.lstrip("/")


def climbs(path: str) -> bool:
    """Whether a component of `path` is `..`."""
    return ".." in path and ".." in path.split("/")


_TAME = re.compile(r"[A-Za-z0-9_+@%=:~^!?*\[\]{},./-]*", re.ASCII)
_WILD = re.compile(r"\.\.|[/{,\[]\.|[{,]/|~")


def tame_pattern(source: str, prefix: str) -> bool:
    """Whether a glob or brace can only become names below what `prefix` says: no `..`, no root, no hidden file."""
    if not source.startswith(prefix):
        return False
    tail = source[len(prefix) :]
    if _TAME.fullmatch(tail) is None or _WILD.search(tail):
        return False
    if not prefix or prefix.endswith("/"):
        return not tail.startswith((".", "/", "~")) if not prefix else not tail.startswith(".")
    last = prefix.rpartition("/")[2]
    return not (_REPOSITORY.startswith(last) or last.startswith((_REPOSITORY, "..")))


def _inside(path: str, trees: tuple[str, ...]) -> bool:
    return any(path == tree or path.startswith(tree if tree.endswith("/") else f"{tree}/") for tree in trees)
