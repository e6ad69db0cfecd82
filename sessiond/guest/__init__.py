"""The guest: PID 1 of every sandbox, a static C program. Here is only where to find its binary."""

from __future__ import annotations

import platform
from pathlib import Path

_BINARIES = Path(__file__).parent / "bin"
_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


class GuestMissingError(Exception):
    """There is no guest binary for the architecture."""


def guest_path(arch: str | None = None) -> Path:
    """Return the guest's binary for `arch` (this machine's by default). Raises GuestMissingError."""
    arch = arch or platform.machine()
    path = _BINARIES / f"guest-{_NAMES.get(arch, arch)}"
    if not path.is_file():
        raise GuestMissingError(f"no guest for {arch} at {path}; build it: make guest")
    return path
