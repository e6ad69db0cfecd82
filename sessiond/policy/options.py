"""Splits a program's arguments into options and operands, as its own option parser would.

Only listed options are known, and an abbreviation is not one: `--outp` may be short for what is not listed. What an
unknown word (a variable, a glob) may become counts: one that may begin with a dash is refused unless the rule says that
no option of the program does harm, or `--` came before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sessiond.policy.errors import MisfitError, shown
from sessiond.policy.reading import Word

Style = Literal["gnu", "single"]
"""`gnu`: letters may be clustered, long names have two dashes. `single`: names of any length with one or two."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what its values must be."""

    kinds: tuple[str, ...] = ()
    """Kinds of its values; more than one are words of their own. None: it takes no value."""
    optional: bool = False
    """Whether the value may be missing; it is then always glued on."""
    last: bool = False
    """Whether all words after it and its value are operands, as after `python -m X`."""


@dataclass(frozen=True, slots=True)
class Given:
    """An option as it was given."""

    name: str
    option: Option
    values: tuple[Word, ...] = ()
    clustered: bool = False
    """Whether other letters stood in the same word."""


@dataclass(slots=True)
class Arguments:
    """A program's arguments, taken apart."""

    options: list[Given] = field(default_factory=list)
    operands: list[Word] = field(default_factory=list)

    def has(self, names: frozenset[str]) -> bool:
        """Whether one of the options `names` was given."""
        return any(given.name in names for given in self.options)

    def value(self, name: str) -> Word | None:
        """The last value of the option `name`."""
        for given in reversed(self.options):
            if given.name == name and given.values:
                return given.values[0]
        return None


@dataclass(frozen=True, slots=True)
class OptionTable:
    """The options that a rule allows."""

    options: dict[str, Option]
    style: Style = "gnu"
    permute: bool = True
    """Whether options may follow operands."""
    dashes: bool = False
    """Whether a word that is not known may begin with a dash."""
    number: bool = False
    """Whether `-20` is an option, as `head` has it."""

    @classmethod
    def read(cls, text: str, *, style: Style = "gnu", permute: bool = True, dashes: bool = False) -> OptionTable:
        """Read the notation of the rule files: `-n --name -o=KIND --color?=KIND -m!=KIND --arg=KIND,KIND -NUM`.

        Raises ValueError.
        """
        options: dict[str, Option] = {}
        for item in text.split():
            name, equals, kinds = item.partition("=")
            optional, last = name.endswith("?"), name.endswith("!")
            name = name.rstrip("?!") if len(name) > len("-x") else name
            if not name.startswith(("-", "+")) or len(name) < len("-x"):
                raise ValueError(f"{item!r} does not begin with a dash")
            if name in options:
                raise ValueError(f"{name} is listed twice")
            values = () if not equals else (kinds,) if kinds.startswith("~") else tuple(kinds.split(","))
            options[name] = Option(("any",) if equals and not kinds else values, optional, last)
        number = options.pop("-NUM", None) is not None
        return cls(options, style, permute, dashes, number)

    def split(self, words: Sequence[Word]) -> Arguments:
        """Take `words`, the program's name not among them, apart. Raises MisfitError."""
        found = Arguments()
        words = [_counted(word) for word in words]
        position = 0
        while position < len(words):
            word = words[position]
            text = word.text
            if text is None:
                if word.prefix.startswith("-"):
                    position = self._partly_known(word, words, position, found)
                    continue
                if not self.dashes and may_begin_with_dash(word):
                    raise MisfitError("computed", f"{shown(word.source)} may become an option", "otherwise")
            elif text == "--":
                found.operands += words[position + 1 :]
                return found
            elif text[:1] in ("-", "+") and len(text) > 1:
                after = self._option(text, words, position, found)
                if after is not None:
                    position = after
                    if found.options and found.options[-1].option.last:
                        found.operands += words[position:]
                        return found
                    continue
            if not self.permute:
                found.operands += words[position:]
                return found
            found.operands.append(word)
            position += 1
        return found

    def _option(self, text: str, words: Sequence[Word], position: int, found: Arguments) -> int | None:
        """Take the option in `text`; the position after it, or None if it is an operand (`+x` that is not listed)."""
        if self.number and text[0] == "-" and text[1:].isascii() and text[1:].isdigit():
            found.options.append(Given("-NUM", Option()))
            return position + 1
        name, equals, glued = text.partition("=")
        known = self._find(name)
        if known is not None and (name.startswith("--") or self.style == "single" or not equals):
            return self._long(name, known, glued if equals else None, words, position, found)
        if text.startswith("+"):
            return None
        if text.startswith("--") or self.style == "single":
            raise MisfitError("option", f"the option {shown(name)} is not listed", "otherwise")
        return self._cluster(text, words, position, found)

    def _find(self, name: str) -> Option | None:
        option = self.options.get(name)
        if option is None and self.style == "single" and name.startswith("--"):
            option = self.options.get(name[1:])
        return option

    def _long(
        self, name: str, option: Option, glued: str | None, words: Sequence[Word], position: int, found: Arguments
    ) -> int:
        if glued is not None:
            if not option.kinds or len(option.kinds) > 1:
                raise MisfitError("option", f"{name} takes no value after =", "otherwise")
            found.options.append(Given(name, option, (_literal(glued),)))
            return position + 1
        if not option.kinds or option.optional:
            found.options.append(Given(name, option))
            return position + 1
        return _take(name, option, words, position, found)

    def _cluster(self, text: str, words: Sequence[Word], position: int, found: Arguments) -> int:
        for index in range(1, len(text)):
            name = f"-{text[index]}"
            option = self.options.get(name)
            if option is None:
                raise MisfitError("option", f"the option {shown(name)} is not listed", "otherwise")
            clustered = len(text) > len("-x") and index > 1
            if not option.kinds:
                found.options.append(Given(name, option, (), clustered))
                continue
            rest = text[index + 1 :]
            if rest and len(option.kinds) == 1:
                found.options.append(Given(name, option, (_literal(rest),), clustered))
            elif option.optional and not rest:
                found.options.append(Given(name, option, (), clustered))
            elif rest:
                raise MisfitError("option", f"{name} takes its values as words of their own", "otherwise")
            else:
                return _take(name, option, words, position, found, clustered=clustered)
            break
        return position + 1

    def _partly_known(self, word: Word, words: Sequence[Word], position: int, found: Arguments) -> int:
        """`--name=$x` or `-n$x`: the option is known, its value is not."""
        prefix = word.prefix
        name, equals, start = prefix.partition("=")
        option = self._find(name)
        if (
            equals
            and option is not None
            and len(option.kinds) == 1
            and (name.startswith("--") or self.style == "single")
        ):
            found.options.append(
                Given(name, option, (Word(word.source, None, start, word.pattern, word.quoted, word.splits),))
            )
            return position + 1
        option = self.options.get(prefix[:2])
        if self.style == "gnu" and option is not None and len(option.kinds) == 1 and not prefix.startswith("--"):
            value = Word(word.source, None, prefix[2:], word.pattern, word.quoted, word.splits)
            found.options.append(Given(prefix[:2], option, (value,)))
            return position + 1
        if self.dashes and not prefix.startswith("--"):
            return position + 1
        raise MisfitError("computed", f"{shown(word.source)} is an option that is not wholly known", "otherwise")


_COUNT = re.compile(r'(-[A-Za-z]|--[a-z-]+=)?"?\$\(nproc\)"?')


def _counted(word: Word) -> Word:
    """`-j$(nproc)` with some number for what `nproc` prints; no function may hide that program."""
    match = _COUNT.fullmatch(word.source) if word.text is None else None
    return word if match is None else _literal(f"{match[1] or ''}1")


def may_begin_with_dash(word: Word) -> bool:
    """Whether a word that is not known may become, or be split into, an option."""
    if word.alternatives:
        return any(prefix[:1] in ("", "-") for prefix in word.alternatives)
    if word.source.startswith(("<(", ">(")):
        return False
    return word.prefix[:1] in ("", "-") or word.splits


def _take(
    name: str, option: Option, words: Sequence[Word], position: int, found: Arguments, *, clustered: bool = False
) -> int:
    end = position + 1 + len(option.kinds)
    values = tuple(words[position + 1 : end])
    if len(values) < len(option.kinds):
        raise MisfitError("option", f"{name} lacks its value", "otherwise")
    if any(value.text is None and value.splits for value in values):
        raise MisfitError("computed", f"the value of {name} may become more than one word", "otherwise")
    found.options.append(Given(name, option, values, clustered))
    return end


def _literal(text: str) -> Word:
    return Word(text, text)
