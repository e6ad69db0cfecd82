"""`sessiond serve`: settings, log, daemon, exit code."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sessiond.audit.log import AuditError
from sessiond.core.errors import SessiondError
from sessiond.engine.port import EngineError
from sessiond.policy.errors import PolicyError
from sessiond.server.daemon import Daemon
from sessiond.server.logging import configure
from sessiond.settings import SettingsError, load


def serve(config: Path | None, overrides: dict[str, Any]) -> int:
    """Run the daemon until it is told to stop.

    `overrides` are values of `[daemon]` from the command line. Returns the exit code.
    """
    try:
        settings = load(config, overrides)
    except SettingsError as error:
        print(f"sessiond: {error}", file=sys.stderr)
        return 2
    configure(settings.daemon.log_level, settings.daemon.log_format)
    try:
        asyncio.run(Daemon(settings, partial(load, config, overrides)).run(announce))
    except (SessiondError, EngineError, AuditError, PolicyError) as error:
        print(f"sessiond: {error}", file=sys.stderr)
        return 1
    return 0


def announce(addresses: list[str]) -> None:
    """The line that scripts wait for."""
    print(f"sessiond ready {' '.join(addresses)}", flush=True)
