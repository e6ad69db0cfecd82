"""Where one volume lives on the host.

<directory>/<name>/        root's or the daemon's user's own
    volume.json            how it is limited and to what; written first, so that a half-made volume is found
    image                  the file system, for the volumes that are one
    files/                 what a sandbox sees as /workspace
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sessiond.workspace.host import VolumeError


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of one volume."""

    root: Path

    @property
    def files(self) -> Path:
        """What a sandbox gets."""
        return self.root / "files"

    @property
    def image(self) -> Path:
        """The file that holds its file system."""
        return self.root / "image"

    @property
    def record(self) -> Path:
        """What is known of it."""
        return self.root / "volume.json"


@dataclass(frozen=True, slots=True)
class Record:
    """How a volume is limited, and to how many bytes."""

    quota: str
    size: int

    def save(self, place: Place) -> None:
        """Make the volume's directory with it. Raises VolumeError when there is one already."""
        try:
            place.root.mkdir(mode=0o700)
        except FileExistsError:
            raise VolumeError(f"volume {place.root.name} exists already, in {place.root}") from None
        draft = place.root / ".volume.json"
        draft.write_text(json.dumps({"quota": self.quota, "size": self.size}))
        draft.replace(place.record)

    @classmethod
    def load(cls, place: Place) -> Record:
        """Read it. Raises VolumeError when there is none that can be read."""
        try:
            said = json.loads(place.record.read_text())
            return cls(str(said["quota"]), int(said["size"]))
        except FileNotFoundError:
            raise VolumeError(f"there is no volume {place.root.name} in {place.root.parent}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VolumeError(f"the record of volume {place.root.name} cannot be read: {error}") from error
