"""The hash chain: how a line is tied to the one before, and how a line is read again. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

VERSION = 1
START = "0" * 64
"""What the first record of a log carries instead of the digest of a record before it."""
LONGEST_LINE_BYTES = 1024 * 1024
"""No record is longer: what it shows is bounded. Readers take a longer line for none, and in pieces."""
TORN_END = b"#\n"
"""Ends what is left of a torn record, and makes sure that it is no record even if only its newline was missing."""
SEALED, BEGAN, RECOVERED = "sealed", "began", "recovered"
"""Events of the chain itself: last and first of a segment, and what follows a torn record."""

_LINE = re.compile(rb'\{"v":(\d{1,9}),"seq":([1-9]\d{0,18}),"previous":"([0-9a-f]{64})","time":"[^"]{20,40}","event":"')


@dataclass(frozen=True, slots=True)
class Record:
    """A line that is a record."""

    sequence: int
    previous: str
    digest: str
    """SHA-256 (hex) of the line's bytes, its newline among them: what the next record carries."""
    fields: dict[str, Any]

    @property
    def event(self) -> str:
        """What kind of record it is."""
        return str(self.fields["event"])


def make_line(sequence: int, previous: str, time: str, event: str, fields: str) -> bytes:
    """The bytes of a record. Raises UnicodeEncodeError if anything in it is not ASCII."""
    head = f'{{"v":1,"seq":{sequence},"previous":"{previous}","time":"{time}","event":"{event}"'
    return f"{head},{fields}}}\n".encode("ascii")


def line_digest(line: bytes) -> str:
    """SHA-256 (hex) of a line's bytes."""
    return hashlib.sha256(line).hexdigest()


def read_line(line: bytes) -> Record | None:
    """The record in a line, its newline included; None when it holds none of a version that is known."""
    head = _LINE.match(line)
    if head is None or int(head[1]) != VERSION or not line.endswith(b"}\n") or len(line) > LONGEST_LINE_BYTES:
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return Record(int(head[2]), head[3].decode(), line_digest(line), fields)
