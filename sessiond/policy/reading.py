"""What a command does, as facts: the reader makes them of a text, the rules judge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command."""

    source: str
    """As it stands in the text."""
    text: str | None
    """What the program gets, quotes resolved; None when that is not known without running something."""
    prefix: str = ""
    """What an unknown word surely begins with."""
    pattern: bool = False
    """Whether the unknown part is only a glob or a brace: it becomes names of files that exist, or itself."""
    quoted: bool = False
    """Whether any of it was quoted or escaped."""
    splits: bool = False
    """Whether an unknown word may become several, or none at all, of which nothing is known."""
    alternatives: tuple[str, ...] = ()
    """Prefixes one of which an unknown word surely has, where that says more than `prefix`: a loop's values."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A variable that is set: before a command (its environment), alone (the shell's own), by `export` and its like, by
    a loop (once for each word), by `${NAME:=value}` or in arithmetic (with an unknown value)."""

    name: str
    value: Word


@dataclass(frozen=True, slots=True)
class Redirection:
    """A file that the shell opens for a command. Copies of descriptors (`2>&1`) are not listed: they open nothing."""

    kind: Literal["read", "write", "append", "readwrite", "text"]
    """`text` is a here-document or here-string: `target` is then its content."""
    descriptor: int
    target: Word


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """One simple command, wherever in the text it stands: a program or builtin with its words."""

    words: tuple[Word, ...]
    """The program's name first; empty when there are only assignments or redirections."""
    assignments: tuple[Assignment, ...] = ()
    redirections: tuple[Redirection, ...] = ()
    piped: bool = False
    """Whether the text decides what it reads from standard input, by other means than its own redirections: another
    command's output, a file that a construct around it opens, a call of the function that it stands in."""
    place: tuple[str, ...] = ()
    """Constructs that it stands in, outermost first: "pipeline", "substitution", "process substitution", "function f",
    "expansion", "loop", "if", "case", "group", "subshell"."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All that a text may run."""

    commands: tuple[SimpleCommand, ...]
    """Every simple command, in the order of the text; those of a function where it is defined."""
    functions: frozenset[str] = frozenset()
    """Names that the text defines as functions."""
    plain: bool = True
    """Whether the text is in the subset that one reader alone may decide."""
    single: bool = False
    """Whether it is one simple command of known words and nothing else, so that it needs no shell."""


class UnreadableError(Exception):
    """The text cannot be read without doubt, hence is never allowed. `rule` is `lexical` or `syntax`."""

    def __init__(self, rule: Literal["lexical", "syntax"], reason: str) -> None:
        """Refuse by `rule`, with a reason for the client."""
        super().__init__(reason)
        self.rule = rule
        self.reason = reason
