"""Reads the plain part of the language, which one parser may decide: simple commands in lists and pipelines.

A small grammar of our own has to accept the text, and tree-sitter has to find the same words in the same places.
What it accepts means the same to bash, dash and busybox, and runs no code to expand a word.
"""

from __future__ import annotations

import re

from sessiond.policy.reader import evaluating, grammar
from sessiond.policy.reader.lexical import MAX_COMMANDS, MAX_WORDS
from sessiond.policy.reader.words import WordBuilder, names
from sessiond.policy.reading import Assignment, Reading, Redirection, SimpleCommand, UnreadableError, Word

_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\}|[0-9?\#$!@*])"

_TOKEN = re.compile(
    rf"""
      (?P<blank> (?: [ \t] | \\\n )+ )
    | (?P<comment> \# [^\n]* )
    | (?P<operator> && | \|\|? (?!&) | [;&\n] (?!>) )
    | (?P<copy> [0-9]? [<>]& (?: [0-9] | - ) (?= [\s;&|] | $ ) )
    | (?P<redirect> [0-9]? (?: >> | >\| | > (?![(>&|]) | < (?![(<>&]) ) )
    | (?P<word>
        (?! \# )
        (?: [A-Za-z0-9_./,:=+@%^!\#~*?\[\]{{}}\x80-\xff-]
          | \\ [^\n]
          | ' [^']* '
          | " (?: [^"\\$`] | \\ [^\n] | {_VARIABLE} )* "
          | {_VARIABLE}
        )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
"""The whole grammar, over the text's UTF-8 bytes as Latin-1, so that its offsets are tree-sitter's."""

_PIECE = re.compile(
    rf"""'([^']*)'|"((?:[^"\\$`]|\\.|{_VARIABLE})*)"|({_VARIABLE})|((?:[^'"$\\]|\\.)+)""", re.VERBOSE | re.DOTALL
)
_QUOTED_PIECE = re.compile(rf"({_VARIABLE})|((?:[^$\\]|\\.)+)", re.VERBOSE | re.DOTALL)
_LITERAL = re.compile(r"[A-Za-z0-9_./,:=+@%^!#\]}-]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")

_SYNTAX = "! { } [ [[ ]] if then else elif fi for while until do done case esac in select function time coproc let"
_DECLARING = "declare export local readonly typeset unset"
_RESERVED = names(f"{_SYNTAX} {_DECLARING}")
"""Words after which, where a command begins, the plain grammar does not hold."""
_KINDS = {">": "write", ">|": "write", ">>": "append", "<": "read"}


class _NotPlainError(Exception):
    """The text needs the other reader."""


class _Scanner:
    """Reads a text from left to right into simple commands, in characters that are bytes."""

    def __init__(self, text: str) -> None:
        self.commands: list[SimpleCommand] = []
        self.words_at: list[grammar.Span] = []
        self.programs_at: list[grammar.Span] = []
        self.operators = False
        self._text = text
        self._words: list[Word] = []
        self._assignments: list[Assignment] = []
        self._redirections: list[Redirection] = []
        self._pending: tuple[str, int] | None = None
        """A redirection that waits for its target."""
        self._pipe = ""
        """The operator before the command that is being read."""
        self._count = 0

    def run(self) -> None:
        """Read it all. Raises _NotPlainError, and UnreadableError for what is too much."""
        text, position = self._text, 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _NotPlainError
            kind, found, position = match.lastgroup, match[0], match.end()
            if kind == "word":
                self._word(found, match.start(), position)
            elif kind == "operator":
                self._operator(found)
            elif kind == "redirect":
                if self._pending:
                    raise _NotPlainError
                self._pending = _redirection(found)
            elif kind == "copy":
                self._copy(found, match.end())
        self._end()
        if self._pipe in ("&&", "||", "|"):
            raise UnreadableError("syntax", f"there is no command after {self._pipe}")

    def _word(self, found: str, start: int, end: int) -> None:
        self._count += 1
        if self._count > MAX_WORDS or len(self.commands) >= MAX_COMMANDS:
            raise UnreadableError("lexical", f"the text has more than {MAX_COMMANDS} commands or {MAX_WORDS} words")
        self.words_at.append((start, end))
        if self._pending:
            kind, descriptor = self._pending
            self._redirections.append(Redirection(kind, descriptor, _resolve(found)))  # type: ignore[arg-type]
            self._pending = None
        elif self._words:
            self._words.append(_resolve(found))
        elif "=" in found and (name := _ASSIGNMENT.match(found)):
            self._assignments.append(Assignment(name[1], _resolve(found[name.end() :])))
        elif found in _RESERVED or "=" in found:
            raise _NotPlainError
        else:
            self.programs_at.append((start, end))
            self._words.append(_resolve(found))
        if end < len(self._text) and self._text[end] in "<>" and (found[-1] == "}" or found.isdigit()):
            raise _NotPlainError

    def _copy(self, found: str, end: int) -> None:
        if self._pending or found[:1] in "<0":
            raise _NotPlainError
        if found[-1] != "-":
            self.words_at.append((end - 1, end))

    def _operator(self, found: str) -> None:
        if self._pending:
            raise _NotPlainError
        if self._end(found):
            self._pipe = found
        elif found != "\n":
            raise UnreadableError("syntax", f"there is no command before {found}")
        if found != "\n":
            self.operators = True

    def _end(self, following: str = "") -> bool:
        """End the command that is being read, before the operator `following`; whether there was one."""
        if self._pending:
            raise _NotPlainError
        if not (self._words or self._assignments or self._redirections):
            return False
        if self._words:
            evaluating.check(self._words)
            if self._redirections and any(word.text == "exec" for word in self._words):
                raise _NotPlainError
        self.commands.append(
            SimpleCommand(
                tuple(self._words),
                tuple(self._assignments),
                tuple(self._redirections),
                piped=self._pipe == "|",
                place=("pipeline",) if "|" in (self._pipe, following) else (),
            )
        )
        self._words, self._assignments, self._redirections = [], [], []
        self._pipe = ""
        return True


def read(data: bytes) -> Reading | None:
    """What a plain text runs; None if it is not plain. Raises UnreadableError."""
    scanner = _Scanner(data.decode("latin-1"))
    try:
        scanner.run()
    except _NotPlainError:
        return None
    if not scanner.commands:
        raise UnreadableError("syntax", "there is no command in the text")
    if grammar.plain_spans(data) != (scanner.words_at, scanner.programs_at):
        return None
    commands = tuple(scanner.commands)
    return Reading(commands, single=not scanner.operators and _is_single(commands))


def _is_single(commands: tuple[SimpleCommand, ...]) -> bool:
    """Whether that is one command of known words only."""
    if len(commands) != 1:
        return False
    command = commands[0]
    bare = not command.assignments and not command.redirections
    return bare and all(word.text is not None for word in command.words)


def _redirection(found: str) -> tuple[str, int]:
    descriptor, operator = (int(found[0]), found[1:]) if found[0].isdigit() else (None, found)
    return _KINDS[operator], int(operator[0] == ">") if descriptor is None else descriptor


def _resolve(written: str) -> Word:
    """The word that a shell makes of `written`, which the grammar has accepted."""
    source = written if written.isascii() else written.encode("latin-1").decode()
    if _LITERAL.fullmatch(source):
        return Word(source, source)
    builder = WordBuilder(source)
    for match in _PIECE.finditer(source):
        single, double, variable, bare = match.groups()
        if bare is not None:
            builder.bare(bare)
        elif single is not None:
            builder.quoted(single)
        elif double is not None:
            _resolve_double(builder, double)
        else:
            builder.unknown(splits=variable[1] not in "?#$!")
    return builder.done()


def _resolve_double(builder: WordBuilder, inside: str) -> None:
    builder.quoted("")
    for variable, literal in _QUOTED_PIECE.findall(inside):
        if variable:
            builder.unknown(splits=variable in ("$@", "$*"))
        else:
            builder.in_quotes(literal)
