"""Reads shell text: every simple command that it may run, as facts, or UnreadableError.

Two readers that share no code have to agree. A text in the plain subset is decided in microseconds by a small grammar
of our own and tree-sitter-bash (`read_plain`). For everything else a second parser is asked, which is a process and
takes milliseconds (`read_full`), and tree-sitter has to find the same programs in the same places.
docs/policy-reading.md tells what is read and what is refused.
"""

from __future__ import annotations

from typing import Literal

from sessiond.policy.reader import grammar, lexical, plain, second
from sessiond.policy.reader.tree import TreeReader
from sessiond.policy.reading import Reading, UnreadableError

__all__ = ["read", "read_full", "read_plain"]

Dialect = Literal["bash", "sh"]


def read(text: str, dialect: Dialect = "bash") -> Reading:
    """All that `text` may run in that shell. Blocks while the second parser is asked. Raises UnreadableError."""
    reading = read_plain(text)
    return read_full(text, dialect) if reading is None else reading


def read_plain(text: str) -> Reading | None:
    """The same, but None where `read_full` must be asked. Never blocks. Raises UnreadableError."""
    data = lexical.check(text)
    try:
        return plain.read(data)
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError("syntax", f"the reader failed ({type(error).__name__})") from error


def read_full(text: str, dialect: Dialect = "bash") -> Reading:
    """The same for any text, by both parsers; blocks, for `second.DEADLINE_SECONDS` at most.

    May be called in any thread. Raises UnreadableError.
    """
    data = lexical.check(text)
    try:
        found = grammar.programs(data, bash=dialect == "bash")
        reader = TreeReader(data, second.parse(data, dialect), dialect)
        reading = reader.reading()
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError("syntax", f"the reader failed ({type(error).__name__})") from error
    if found != reader.programs:
        raise UnreadableError("syntax", "the text could be read in more than one way")
    return reading
