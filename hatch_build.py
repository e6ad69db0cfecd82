"""Builds the guest into the wheel, for every architecture: to the wheel it is data, so one wheel serves all."""

from __future__ import annotations

import platform
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuestBuildHook(BuildHookInterface[Any]):
    """Runs before a wheel is put together; for an editable install it builds for this machine alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and add the binaries, which git ignores, to the wheel."""
        guest = runpy.run_path(str(Path(self.root) / "sessiond" / "guest" / "build.py"))  # nothing is installed yet
        if version == "editable":
            if platform.machine() in guest["ARCHITECTURES"]:
                guest["build"](platform.machine())
            return
        for arch in guest["ARCHITECTURES"]:
            binary = guest["build"](arch)
            build_data["force_include"][str(binary)] = f"sessiond/guest/bin/{binary.name}"
