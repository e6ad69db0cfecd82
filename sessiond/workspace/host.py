"""What volumes need to know of the machine: its table of mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sessiond.engine.port import EngineError


class VolumeError(EngineError):
    """A volume cannot be made, found or measured: what happened, to which, and why."""


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted somewhere."""

    source: str
    """The device, for a file system on one."""
    options: frozenset[str]


def mounted(path: Path) -> Mount | None:
    """What is mounted at `path`. Read from the kernel: a bind mount looks like a directory otherwise."""
    wanted = str(path)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if _unescaped(fields[4]) == wanted:
            _kind, source, _options = after.split(" ", 2)
            return Mount(_unescaped(source), frozenset(fields[5].split(",")))
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
