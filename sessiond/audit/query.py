"""Questions to a log: which records are meant, and how they are shown. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from sessiond.audit.chain import Record

COLUMNS = (
    *("seq", "time", "event", "who", "tenant", "session", "command", "profile", "policy", "sha256"),
    *("argv", "text", "cwd", "env", "verdict", "rule", "reason"),
    *("exit_code", "signal", "cause", "seconds", "output_bytes", "truncated", "timed_out", "oom", "details"),
)
"""Of an exported table."""
_CHAIN_FIELDS = ("segment", "after", "records", "torn_bytes")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell for a formula by."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a record must be to be meant; None is anything."""

    session: str | None = None
    command: str | None = None
    verdict: str | None = None
    event: str | None = None
    who: str | None = None
    since: str | None = None
    """A timestamp as records have it; a record of that very moment is meant."""
    until: str | None = None
    """A timestamp as records have it; a record of that very moment is not meant."""

    def meant(self, record: Record) -> bool:
        """Whether the record is."""
        fields = record.fields
        for name in ("session", "command", "verdict", "event", "who"):
            wanted = getattr(self, name)
            if wanted is not None and fields.get(name) != wanted:
                return False
        time = str(fields["time"])
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)


def summary(record: Record) -> str:
    """A record in a line for people. What it quotes may hold any character."""
    fields = record.fields
    subject = "/".join(part for part in (_text(fields, "session"), _text(fields, "command")) if part)
    parts = (_text(fields, "time"), str(record.sequence), _text(fields, "who"), subject, record.event, _what(record))
    return " ".join(part for part in parts if part)


def row(record: Record) -> list[str]:
    """A record as cells for `COLUMNS`. A cell that a spreadsheet would take for a formula begins with a quote."""
    cells = [_cell(record.fields.get(column)) for column in COLUMNS]
    return [f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells]


def _what(record: Record) -> str:
    fields = record.fields
    match record.event:
        case "decision":
            asked = _text(fields, "text") if "text" in fields else _cell(fields.get("argv"))
            return f"{_text(fields, 'verdict')} ({_text(fields, 'rule')}): {asked}"
        case "end":
            code, signal = fields.get("exit_code"), fields.get("signal")
            how = f"exit {code}" if code is not None else f"signal {signal}" if signal is not None else ""
            cause = _text(fields, "cause")
            return f"{how or cause}, {cause}, {fields.get('seconds')} s, {fields.get('output_bytes')} bytes"
        case _:
            return _cell(fields.get("details", {name: fields[name] for name in _CHAIN_FIELDS if name in fields}))


def _text(fields: dict[str, Any], name: str) -> str:
    return str(fields.get(name, ""))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={shlex.quote(str(inner))}" for name, inner in value.items() if inner is not None)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
