"""The tables of the database, and how an older database gets them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sessiond.store.errors import StoreError, StoreVersionError

BUSY_SECONDS = 5.0
"""How long a connection waits for another's lock."""
WAL_BYTES = 64 * 1024 * 1024
"""What the write-ahead log is cut down to after it had to grow."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO meta VALUES ('schema', 0), ('applied', 0)",
        """CREATE TABLE sessions (
            id TEXT PRIMARY KEY, state TEXT NOT NULL, profile TEXT NOT NULL, engine TEXT NOT NULL,
            sandbox TEXT NOT NULL, generation INTEGER NOT NULL, request BLOB NOT NULL, image_env TEXT NOT NULL,
            created REAL NOT NULL, expires REAL, idle_timeout REAL, epoch INTEGER NOT NULL, pooled INTEGER NOT NULL,
            workspace TEXT NOT NULL, kernel TEXT NOT NULL, ended REAL, reason TEXT NOT NULL
        )""",
        """CREATE TABLE commands (
            session TEXT NOT NULL, id TEXT NOT NULL, number INTEGER NOT NULL, generation INTEGER NOT NULL,
            request BLOB NOT NULL, state TEXT NOT NULL, started REAL, ended REAL, result BLOB NOT NULL,
            output BLOB NOT NULL, output_end INTEGER NOT NULL, settled INTEGER NOT NULL, PRIMARY KEY (session, id)
        )""",
        "CREATE INDEX commands_by_number ON commands (session, number, id)",
        "CREATE INDEX commands_unsettled ON commands (session, number) WHERE settled = 0",
    ),
    (
        "ALTER TABLE sessions ADD COLUMN policy TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE approvals (
            id TEXT PRIMARY KEY, session TEXT NOT NULL, command TEXT NOT NULL, digest TEXT NOT NULL,
            policy TEXT NOT NULL, rule TEXT NOT NULL, reason TEXT NOT NULL, profile TEXT NOT NULL, who TEXT NOT NULL,
            request BLOB NOT NULL,
            asked REAL NOT NULL, expires REAL NOT NULL, state TEXT NOT NULL, answered REAL, approver TEXT NOT NULL,
            scope TEXT NOT NULL, times_left INTEGER NOT NULL, until REAL, note TEXT NOT NULL
        )""",
        "CREATE INDEX approvals_of_session ON approvals (session)",
    ),
)
"""The statements that lead from schema version 0, 1, ... to the next. Append only: databases with each exist."""


def connect(path: Path, *, power: bool) -> sqlite3.Connection:
    """A connection without implicit transactions, for one thread at a time. Raises sqlite3.Error and OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if power else 'NORMAL'}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Bring the database at `path` to the newest schema, all or nothing. Raises StoreError and sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
        if version > len(migrations):
            raise StoreVersionError(
                f"{path} has schema version {version}; this sessiond knows up to {len(migrations)}: "
                f"use a newer sessiond"
            )
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (len(migrations),))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() if "meta" in tables else None
    if row is None:
        raise StoreError(f"{path} is not a database of sessiond: move it away")
    return int(row[0])


def applied(connection: sqlite3.Connection) -> int:
    """Seq of the last record of the journal that the database contains. Raises sqlite3.Error."""
    return int(connection.execute("SELECT value FROM meta WHERE key = 'applied'").fetchone()[0])
