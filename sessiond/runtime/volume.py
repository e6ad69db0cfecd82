"""The volume of one sandbox: made with it, erased with it, or handed on to the sandbox that replaces it."""

from __future__ import annotations

from pathlib import Path

from sessiond.workspace.volumes import Volumes


class Volume:
    """A session's workspace on disk, as the sandbox holds it that has it now."""

    def __init__(self, volumes: Volumes, name: str, size: int, *, new: bool) -> None:
        """`new` has yet to be made; one that is not belongs to a session already."""
        self.name = name
        self._volumes = volumes
        self._size = size
        self._new = new
        self._ours = True

    async def ready(self) -> Path:
        """Make it, or find it again; returns what to mount. Raises EngineError."""
        if self._new:
            return await self._volumes.create(self.name, self._size)
        return await self._volumes.adopt(self.name)

    def hand_on(self) -> None:
        """Another sandbox gets it: this one's end does not erase it."""
        self._ours = False

    async def erase(self) -> None:
        """Its sandbox is gone: erase it, unless it was handed on. Raises EngineError."""
        if self._ours:
            await self._volumes.remove(self.name)
