"""Reading rows out of the database."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from typing import Any

from sessiond.store.changes import APPROVAL_COLUMNS, SESSION_COLUMNS
from sessiond.store.records import ApprovalRow, CommandRow, SessionRow

COMMAND_COLUMNS = tuple(field.name for field in fields(CommandRow))
KNOWN_PAGE = 1000
"""Rows that are held at a time, so that no transaction stays open while the caller works."""

_SESSIONS = f"SELECT {', '.join(SESSION_COLUMNS)} FROM sessions"  # noqa: S608  # names of fields
_COMMANDS = f"SELECT {', '.join(COMMAND_COLUMNS)} FROM commands WHERE session = ?"  # noqa: S608
_APPROVALS = f"SELECT {', '.join(APPROVAL_COLUMNS)} FROM approvals"  # noqa: S608
_BEHIND = "(number, id) > (SELECT number, id FROM commands WHERE session = ? AND id = ?)"


def sessions(connection: sqlite3.Connection) -> list[SessionRow]:
    """All, in the order in which they were first recorded."""
    return [_session(row) for row in connection.execute(f"{_SESSIONS} ORDER BY rowid")]


def session(connection: sqlite3.Connection, identity: str) -> SessionRow | None:
    """One, when it is known."""
    row = connection.execute(f"{_SESSIONS} WHERE id = ?", (identity,)).fetchone()
    return None if row is None else _session(row)


def command(connection: sqlite3.Connection, of: str, identity: str) -> CommandRow | None:
    """One, when it is known."""
    row = connection.execute(f"{_COMMANDS} AND id = ?", (of, identity)).fetchone()
    return None if row is None else _command(row)


def unsettled(connection: sqlite3.Connection, of: str) -> list[CommandRow]:
    """Those of which more may come, by number."""
    return [_command(row) for row in connection.execute(f"{_COMMANDS} AND settled = 0 ORDER BY number, id", (of,))]


def commands(connection: sqlite3.Connection, of: str, after: str | None, limit: int) -> list[CommandRow]:
    """At most `limit` by number, behind the command `after`; none when that is not known."""
    if after is None:
        rows = connection.execute(f"{_COMMANDS} ORDER BY number, id LIMIT ?", (of, limit))
    else:
        rows = connection.execute(
            f"{_COMMANDS} AND {_BEHIND} ORDER BY number, id LIMIT ?",
            (of, of, after, limit),
        )
    return [_command(row) for row in rows]


def approvals(connection: sqlite3.Connection, of: str) -> list[ApprovalRow]:
    """Those of a session, in the order in which they were first recorded."""
    return [ApprovalRow(*row) for row in connection.execute(f"{_APPROVALS} WHERE session = ? ORDER BY rowid", (of,))]


def approval(connection: sqlite3.Connection, identity: str) -> ApprovalRow | None:
    """One, when it is known."""
    row = connection.execute(f"{_APPROVALS} WHERE id = ?", (identity,)).fetchone()
    return None if row is None else ApprovalRow(*row)


def known(connection: sqlite3.Connection, of: str, after: tuple[int, str] | None) -> list[tuple[int, str]]:
    """Number and id of the next commands by number, behind the pair `after`; none at the end."""
    return connection.execute(
        "SELECT number, id FROM commands WHERE session = ? AND (number, id) > (?, ?) ORDER BY number, id LIMIT ?",
        (of, *(after or (-1, "")), KNOWN_PAGE),
    ).fetchall()


def _session(row: tuple[Any, ...]) -> SessionRow:
    values = dict(zip(SESSION_COLUMNS, row, strict=True))
    values["image_env"] = json.loads(values["image_env"])
    values["pooled"] = bool(values["pooled"])
    return SessionRow(**values)


def _command(row: tuple[Any, ...]) -> CommandRow:
    values = dict(zip(COMMAND_COLUMNS, row, strict=True))
    values["settled"] = bool(values["settled"])
    return CommandRow(**values)
