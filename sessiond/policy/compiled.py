"""Rules as they are matched: options and operands compiled, found by program and subcommand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sessiond.policy.errors import MisfitError, shown
from sessiond.policy.options import Arguments, OptionTable
from sessiond.policy.paths import Trees, climbs
from sessiond.policy.reading import Word
from sessiond.policy.rule import RuleTable
from sessiond.policy.scene import Scene
from sessiond.policy.values import check_value, find_kind

_TIMES = re.compile(r"[*+?]$")
_HERE = Word(".", ".")


@dataclass(frozen=True, slots=True)
class Operands:
    """How many operands there may be, and of which kinds: some first, many of one kind, some last."""

    first: tuple[str, ...]
    optional: tuple[str, ...]
    many: str | None
    least: int
    last: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Operands:
        """Read the notation `KIND KIND? KIND* KIND+`. Raises ValueError."""
        first: list[str] = []
        optional: list[str] = []
        last: list[str] = []
        many, least = None, 0
        for item in text.split():
            times = "" if item.startswith("~") and not item.endswith(("~*", "~+", "~?")) else item[-1]
            kind = item[:-1].removesuffix("~") if times and _TIMES.search(item) else item
            find_kind(kind)
            if times in ("*", "+") and kind != item:
                if many is not None:
                    raise ValueError(f"{text!r} has two kinds of which there may be many")
                many, least = kind, int(times == "+")
            elif times == "?" and kind != item:
                optional.append(kind)
            else:
                (first if many is None else last).append(kind)
        if optional and last:
            raise ValueError(f"{text!r} has optional operands before others")
        return cls(tuple(first), tuple(optional), many, least, tuple(last))

    def pair(self, words: Sequence[Word], *, skip: bool) -> list[tuple[str, Word]]:
        """Each word with its kind; `skip` leaves the first kind out. Raises MisfitError."""
        first = self.first[1:] if skip else self.first
        count = len(words)
        fixed = len(first) + len(self.last)
        if count < fixed + self.least:
            raise MisfitError("operand", "an operand is missing", "otherwise")
        middle = count - fixed
        kinds = [*first, *self.optional[:middle]]
        rest = middle - min(middle, len(self.optional))
        if rest and self.many is None:
            raise MisfitError("operand", f"the operand {shown(words[len(kinds)].source)} is one too many", "otherwise")
        kinds += [self.many or ""] * rest
        return list(zip([*kinds, *self.last], words, strict=True))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be matched."""

    table: RuleTable
    options: OptionTable
    operands: Operands
    instead: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    env: dict[str, str] = field(default_factory=dict)
    subcommands: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, table: RuleTable) -> Rule:
        """Compile `table`. Raises ValueError that names the key."""
        try:
            key = "options"
            options = OptionTable.read(
                table.options, style=table.style, permute=table.permute and not table.wraps, dashes=table.dashes
            )
            for option in options.options.values():
                for kind in option.kinds:
                    find_kind(kind)
            key = "operands"
            operands = Operands.read(table.operands)
            key = "env"
            env = dict(item.partition("=")[::2] for item in table.env.split())
            for kind in env.values():
                find_kind(kind)
            key = "implicit"
            if table.implicit:
                find_kind(table.implicit)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        return cls(
            table,
            options,
            operands,
            frozenset(table.instead.split()),
            frozenset(table.writes.split()),
            frozenset(table.requires.split()),
            env,
            tuple(tuple(name.split()) for name in table.subcommands),
        )

    def fit(self, words: Sequence[Word], scene: Scene) -> Sequence[Word]:
        """Check the arguments; the words of the command that a wrapper runs. Raises MisfitError."""
        if self.table.any:
            return ()
        found = self.options.split(words)
        self.check_options(found, scene)
        if self.requires and not found.has(self.requires):
            raise MisfitError("option", f"one of {self.table.requires} must be given", "otherwise")
        operands, rest = found.operands, []
        if self.table.wraps:
            count = len(self.operands.first)
            operands, rest = operands[:count], operands[count:]
        _check_other_directory(found)
        pairs = self.operands.pair(operands, skip=found.has(self.instead))
        writes = found.has(self.writes)
        seen_path = False
        for kind, word in pairs:
            real = "write" if writes and kind == "read" else kind
            check_value(real, word, scene)
            seen_path = seen_path or kind in ("read", "write", "code")
        if self.table.implicit and not seen_path:
            check_value("write" if writes else self.table.implicit, _HERE, scene)
        return rest

    @staticmethod
    def check_options(found: Arguments, scene: Scene) -> None:
        """Check the options' values. Raises MisfitError."""
        for given in found.options:
            for kind, value in zip(given.option.kinds, given.values, strict=False):
                check_value(kind, value, scene)


def _check_other_directory(found: Arguments) -> None:
    """After `-C DIR` the other paths count from there, so that none may climb."""
    moved = [
        given for given in found.options if given.name in ("-C", "--directory") and given.option.kinds != ("number",)
    ]
    if not moved:
        return
    words = [*found.operands, *(value for given in found.options for value in given.values if given not in moved)]
    for word in words:
        if climbs(word.text if word.text is not None else word.source):
            raise MisfitError("path", f"{shown(word.source)} counts from another directory", "ask")


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All the rules of one policy."""

    programs: dict[str, tuple[Rule, ...]]
    """By program; those without subcommands and with them together."""
    trees: Trees
    trusted: frozenset[str]
    otherwise: str = "deny"
    open: bool = False

    def name_of(self, program: str) -> str | None:
        """The name by which rules know `program`: bare, or in a trusted directory. None if it is neither."""
        if "/" not in program:
            return program
        if program in self.programs:
            return program
        directory, _, base = program.rpartition("/")
        return base if directory in self.trusted else None
