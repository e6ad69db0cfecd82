"""What volumes need to know of the machine: its table of mounts."""

from __future__ import annotations

import re
from pathlib import Path

from sessiond.engine.port import EngineError


class VolumeError(EngineError):
    """A volume cannot be made, found or measured: what happened, to which, and why."""


def mounted(path: Path) -> str | None:
    """The options of what is mounted at `path`, or None. Read from the kernel: a bind mount looks like a directory
    otherwise."""
    wanted = str(path)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if _unescaped(fields[4]) == wanted:
            return f"{fields[5]},{after.split(' ')[-1]}"
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
