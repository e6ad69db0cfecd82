"""The store, as the daemon sees it: what was recorded is there after the daemon's death.

Every change is in the journal when its method returns (`journal.py`); the database that answers questions follows
within a tenth of a second (`writer.py`). With durability "process" that survives the death of the daemon; with "power"
it survives the machine's too, once `durable()` is done.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Literal, TypeVar

import structlog
from msgpack import Packer  # type: ignore[import-untyped]

from sessiond.store import queries, schema
from sessiond.store.changes import APPROVAL_COLUMNS, SESSION_COLUMNS
from sessiond.store.errors import StoreError, StoreVersionError
from sessiond.store.journal import Journal
from sessiond.store.records import ApprovalRow, CommandRow, Kind, SessionRow
from sessiond.store.syncer import Syncer
from sessiond.store.writer import Writer

__all__ = ["Store", "StoreError", "StoreVersionError"]

READ_SECONDS = 5.0
"""How long a question waits for the database to contain what was recorded before."""
CLOSE_SECONDS = 10.0
"""How long closing waits for each thread."""
QUEUED_SESSIONS = 1024
"""So many sessions are remembered as waiting for the database before those that do not wait any more are forgotten."""

SESSION, STARTED, ENDED, SETTLED, FORGOTTEN, APPROVAL = map(int, Kind)

T = TypeVar("T")
log = structlog.get_logger()
_session_values = attrgetter(*SESSION_COLUMNS)
_approval_values = attrgetter(*APPROVAL_COLUMNS)


class Store:
    """The record of sessions and commands under `directory`, whose lock the caller holds.

    For one thread. Every method that records raises StoreError when it cannot, and then nothing was recorded. Every
    method that reads sees what was recorded before, and raises StoreError when the database fails or is too far behind.
    """

    def __init__(self, directory: Path, *, durability: Literal["process", "power"] = "process") -> None:
        self._directory = directory
        self.power = durability == "power"
        """Whether what is recorded has to survive the machine."""
        self._journal = Journal(directory / "journal", power=self.power)
        self._syncer = Syncer(self._journal) if self.power else None
        self._writer: Writer | None = None
        self._connections: list[sqlite3.Connection] = []
        self._queued: dict[str, int] = {}
        self._pack: Callable[[object], bytes] = Packer().pack

    @property
    def failure(self) -> str | None:
        """Why nothing can be recorded at present, because the disk failed; None while it can."""
        return self._journal.failure

    def open(self) -> None:
        """Find what was recorded before. Raises StoreError and StoreVersionError; the store is then closed."""
        path = self._directory / "store.sqlite"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connections = [schema.connect(path, power=self.power) for _ in range(2)]
            schema.migrate(self._connections[0], path, schema.MIGRATIONS)
            self._journal.open()
            self._writer = Writer(self._journal, self._connections[0])
            self._writer.replay()
            self._journal.begin(self._writer.applied)
            self._journal.release(self._writer.applied)
        except StoreError:
            self._let_go()
            raise
        except (OSError, sqlite3.Error) as error:
            self._let_go()
            raise StoreError(f"the store in {self._directory} cannot be opened: {error}") from error
        self._writer.start()
        if self._syncer is not None:
            self._syncer.start()

    def close(self) -> None:
        """Put everything into the database, as far as it takes it: the rest stays in the journal. Idempotent."""
        self._let_go()

    def _let_go(self) -> None:
        """End the threads and close the files, unless a thread hangs in one."""
        ended = [thread.stop(CLOSE_SECONDS) for thread in (self._syncer, self._writer) if thread is not None]
        self._writer = None
        if not all(ended):
            log.error("the disk hangs; what is not in the database is in the journal", seconds=CLOSE_SECONDS)
            return
        self._journal.close()
        for connection in self._connections:
            connection.close()
        self._connections = []

    def session(self, row: SessionRow) -> None:
        """Record a session that is new or has changed."""
        self._append(row.id, (SESSION, *_session_values(row)))

    def started(self, session: str, command: str, number: int, generation: int, request: bytes) -> None:
        """Record that a command is about to be started. Recorded again, the first record stays."""
        self._append(session, (STARTED, session, command, number, generation, request))

    def ended(
        self,
        session: str,
        command: str,
        *,
        state: str,
        result: bytes,
        started: float | None,
        ended: float,
        output: bytes,
        output_end: int,
        settled: bool,
    ) -> None:
        """Record how a command ended. Recorded again, the first end stays."""
        self._append(session, (ENDED, session, command, state, result, started, ended, output, output_end, settled))

    def settled(self, session: str, command: str, *, output: bytes, output_end: int) -> None:
        """Record that nothing more can come of a command. Recorded again, the first record stays."""
        self._append(session, (SETTLED, session, command, output, output_end))

    def approval(self, row: ApprovalRow) -> None:
        """Record a question to an approver that is new, or what became of it."""
        self._append(row.session, (APPROVAL, *_approval_values(row)))

    def forget(self, session: str) -> None:
        """Erase a session, its commands and approvals."""
        self._append(session, (FORGOTTEN, session))

    def durable(self) -> asyncio.Future[None] | None:
        """None with durability "process". With "power" a future, done when all recorded so far is on the disk.

        It fails with StoreError when the disk does; what was recorded may then be lost with the machine.
        """
        return None if self._syncer is None else self._syncer.durable()

    def _append(self, session: str, record: tuple[object, ...]) -> None:
        if self._writer is None:
            raise StoreError("the store is closed")
        try:
            seq = self._journal.append(self._pack(record))
        except StoreError:
            if self._syncer is not None and self._journal.failure is not None:
                self._syncer.wake()
            raise
        self._queued[session] = seq
        if len(self._queued) > QUEUED_SESSIONS:
            self._forget_applied()
        self._writer.appended(seq)
        if self._syncer is not None:
            self._syncer.appended()

    def _forget_applied(self) -> None:
        applied = self._writer.applied if self._writer is not None else 0
        self._queued = {session: seq for session, seq in self._queued.items() if seq > applied}

    def sessions(self) -> list[SessionRow]:
        """All that are kept, oldest first."""
        return self._read(self._journal.last, queries.sessions)

    def find_session(self, session: str) -> SessionRow | None:
        """One session, when it is kept."""
        return self._of(session, lambda connection: queries.session(connection, session))

    def command(self, session: str, command: str) -> CommandRow | None:
        """One command, when it is kept."""
        return self._of(session, lambda connection: queries.command(connection, session, command))

    def unsettled(self, session: str) -> list[CommandRow]:
        """The commands of which more may come, by number."""
        return self._of(session, lambda connection: queries.unsettled(connection, session))

    def commands(self, session: str, after: str | None, limit: int) -> list[CommandRow]:
        """At most `limit` commands by number, behind the command `after`; none when that is not known."""
        return self._of(session, lambda connection: queries.commands(connection, session, after, limit))

    def approvals(self, session: str) -> list[ApprovalRow]:
        """The questions to approvers about a session's commands, oldest first."""
        return self._of(session, lambda connection: queries.approvals(connection, session))

    def find_approval(self, approval: str) -> ApprovalRow | None:
        """One question to an approver, when it is kept."""
        return self._read(self._journal.last, lambda connection: queries.approval(connection, approval))

    def known(self, session: str) -> Iterator[tuple[int, str]]:
        """Number and id of every command, by number."""
        last: tuple[int, str] | None = None
        while page := self._of(session, lambda connection: queries.known(connection, session, last)):  # noqa: B023
            yield from page
            last = page[-1]

    def _of(self, session: str, query: Callable[[sqlite3.Connection], T]) -> T:
        seq = self._queued.get(session, 0)
        found = self._read(seq, query)
        if seq and self._queued.get(session) == seq:
            del self._queued[session]
        return found

    def _read(self, seq: int, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise StoreError("the store is closed")
        self._writer.wait(seq, READ_SECONDS)
        try:
            return query(self._connections[1])
        except sqlite3.Error as error:
            raise StoreError(f"the database in {self._directory} cannot be read: {error}") from error
