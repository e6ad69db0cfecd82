"""From a record of the journal to a change of the database. Applying in order, each exactly once, is the caller's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from msgpack import unpackb  # type: ignore[import-untyped]

from sessiond.failpoint import hit
from sessiond.store.errors import StoreError
from sessiond.store.records import ApprovalRow, Kind, SessionRow

SESSION_COLUMNS = tuple(field.name for field in fields(SessionRow))
APPROVAL_COLUMNS = tuple(field.name for field in fields(ApprovalRow))
_ENVIRONMENT = SESSION_COLUMNS.index("image_env")


def _put(table: str, columns: tuple[str, ...]) -> str:
    """The statement that puts a whole row, of which the first column is the key."""
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608  # names of fields
        f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in columns[1:])}"
    )


WHOLE = 0
"""A command's start and end in one; no record has this kind."""

_STATEMENTS: dict[int, str] = {
    WHOLE: (
        "INSERT INTO commands (session, id, number, generation, request, state, result, started, ended, output, "
        "output_end, settled) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session, id) DO UPDATE SET "
        "state = excluded.state, result = excluded.result, started = excluded.started, ended = excluded.ended, "
        "output = excluded.output, output_end = excluded.output_end, settled = excluded.settled "
        "WHERE commands.state = 'starting'"
    ),
    Kind.SESSION: _put("sessions", SESSION_COLUMNS),
    Kind.APPROVAL: _put("approvals", APPROVAL_COLUMNS),
    Kind.STARTED: (
        "INSERT INTO commands (session, id, number, generation, request, state, result, output, output_end, settled) "
        "VALUES (?, ?, ?, ?, ?, 'starting', x'', x'', 0, 0) ON CONFLICT DO NOTHING"
    ),
    Kind.ENDED: (
        "UPDATE commands SET state = ?3, result = ?4, started = ?5, ended = ?6, output = ?7, output_end = ?8, "
        "settled = ?9 WHERE session = ?1 AND id = ?2 AND state = 'starting'"
    ),
    Kind.SETTLED: (
        "UPDATE commands SET output = ?3, output_end = ?4, settled = 1 WHERE session = ?1 AND id = ?2 AND settled = 0"
    ),
}


def apply(connection: sqlite3.Connection, bodies: Iterable[bytes], last: int) -> None:
    """Commit the changes that `bodies` describe, of which `last` is the seq of the last, in one transaction.

    Raises sqlite3.Error, OSError (from a failpoint) and StoreError; nothing is then changed, or all of it when it was
    the commit that failed: the database says which.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for kind, values in fold(unpackb(body) for body in bodies):
            _change(connection, kind, values)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'applied'", (last,))
        hit("store.commit")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    hit("store.committed")


def fold(changes: Iterable[list[Any]]) -> Iterator[tuple[int, list[Any]]]:
    """The same changes, with a command's start and end in one where both are there: most commands are short."""
    started: dict[tuple[str, str], list[Any]] = {}
    for kind, *values in changes:
        key = (values[0], values[1] if len(values) > 1 else "")
        if kind == Kind.STARTED and key not in started:
            started[key] = values
            continue
        if kind == Kind.ENDED and key in started:
            yield WHOLE, started.pop(key) + values[2:]
            continue
        for waiting in started.values():  # a change of another kind may build on them
            yield Kind.STARTED, waiting
        started.clear()
        yield kind, values
    for waiting in started.values():
        yield Kind.STARTED, waiting


def _change(connection: sqlite3.Connection, kind: int, values: list[Any]) -> None:
    if kind == Kind.FORGOTTEN:
        connection.execute("DELETE FROM commands WHERE session = ?", values)
        connection.execute("DELETE FROM approvals WHERE session = ?", values)
        connection.execute("DELETE FROM sessions WHERE id = ?", values)
        return
    if kind == Kind.SESSION:
        values[_ENVIRONMENT] = json.dumps(values[_ENVIRONMENT])
        values += [""] * (len(SESSION_COLUMNS) - len(values))  # a sessiond before schema 2 recorded no policy
    statement = _STATEMENTS.get(kind)
    if statement is None:
        raise StoreError(f"the journal has a record of unknown kind {kind}: use the sessiond that wrote it")
    connection.execute(statement, values)
