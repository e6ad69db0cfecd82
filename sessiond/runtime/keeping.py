"""What is left of a session that has ended: its commands and their output, until the retention is over."""

from __future__ import annotations

import sys
from pathlib import Path

from sessiond_protocol.messages import SessionInfo, SessionOpen

from sessiond.runtime.command import Command
from sessiond.runtime.shelf import Shelf
from sessiond.runtime.terms import session_info
from sessiond.store.records import SessionRow
from sessiond.store.spool import SpoolHome
from sessiond.store.store import Store


class EndedSession:
    """An ended session, to be read."""

    def __init__(self, row: SessionRow, request: SessionOpen, store: Store, spools: Path) -> None:
        self.row = row
        self._request = request
        home = SpoolHome(spools, command_bytes=0, session_bytes=sys.maxsize, ring=False)
        self.shelf = Shelf(row.id, store, home, self)
        self.shelf.restore()

    def info(self) -> SessionInfo:
        """The session as the wire shows it."""
        row = self.row
        state = "lost" if row.state == "lost" else "closed"
        return session_info(row, self._request, state=state, commands=self.shelf.count, epoch=row.epoch)  # type: ignore[arg-type]

    # --- Keeper: nothing can happen to its commands any more

    def record_end(self, command: Command) -> None:
        """Nothing ends here."""

    def ended(self, command: Command) -> None:
        """Nothing ends here."""

    def fell_silent(self, command: Command) -> None:
        """Nothing speaks here."""

    def stalled(self, command: Command) -> None:
        """Nothing writes here."""
