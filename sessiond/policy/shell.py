"""Reads shell text, but only the plain part of the language: literal simple commands in lists and pipelines.

Two readers must agree. `_scan` accepts a small grammar character by character, in which bash, dash and
busybox cannot differ; tree-sitter-bash then has to find the same words in the same places, with no node
outside a short list. Whatever else the text holds is refused with a reason: nothing is guessed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

MAX_TEXT_BYTES = 16 * 1024
MAX_COMMANDS = 256
MAX_WORDS = 2048
"""Bounds of one text, so that deciding takes a few milliseconds at most."""

_PARSER = Parser(Language(tree_sitter_bash.language()))

_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t]+ )
    | (?P<comment> \# [^\n]* )
    | (?P<operator> && | \|\| | [;&|\n] )
    | (?P<word>
        (?! [#~] )
        (?: [A-Za-z0-9_./,:=+@%^!\#\x80-\xff-]  # means itself, wherever it stands
          | (?<= [A-Za-z0-9_-] ) ~              # HEAD~1; elsewhere a tilde may become a directory
          | \\ [^\n]
          | ' [^']* '
          | " (?: [^"\\$`] | \\ [^\n] )* "
        )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
"""The whole grammar, over the text's UTF-8 bytes as Latin-1, so that its offsets are tree-sitter's."""

_QUOTING = re.compile(r"""\\(.)|'([^']*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_ESCAPE_IN_QUOTES = re.compile(r'\\([$`"\\])')

_SYNTAX = "! if then else elif fi for while until do done case esac in select function time coproc"
_ASSIGNING = "declare export local readonly typeset unset"
_RESERVED = frozenset(f"{_SYNTAX} {_ASSIGNING}".split())
"""Words that are no program's name where a command begins. `{`, `[[` and the like are refused character by
character."""

_SEPARATORS = frozenset(["&&", "||", "|", ";", "&", "\n", "comment"])

_REFUSED_CHARACTERS = {
    "$": "an expansion ($)",
    "`": "a command substitution (`)",
    "<": "a redirection (<); give the command its input as stdin",
    ">": "a redirection (>)",
    "(": "a subshell, function or array",
    ")": "a subshell, function or array",
    "{": "a brace ({); quote it if it is meant literally",
    "}": "a brace (}); quote it if it is meant literally",
    "*": "a pattern (*); quote it if it is meant literally",
    "?": "a pattern (?); quote it if it is meant literally",
    "[": "a pattern or a test ([); quote it if it is meant literally, test with `test`",
    "]": "a pattern (]); quote it if it is meant literally",
    "~": "a tilde; write the whole path",
    "'": "a quotation that does not end",
    '"': "a quotation that does not end or holds an expansion",
    "\\": "a backslash with nothing after it",
}


class NotPlainError(Exception):
    """The text is outside the plain subset. `rule` is `lexical` or `syntax`; the message is the reason."""

    def __init__(self, rule: str, reason: str) -> None:
        """Refuse by `rule`, with a reason for the client."""
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text that is nothing but literal simple commands."""

    commands: tuple[tuple[str, ...], ...]
    """Each command's words, quotes resolved, in the order of the text."""
    single: bool
    """Whether the text is one simple command and nothing else, so that it needs no shell."""


def parse(text: str) -> PlainText:
    """Read `text`, or raise NotPlainError."""
    check_characters(text)
    data = text.encode()
    if len(data) > MAX_TEXT_BYTES:
        raise NotPlainError("lexical", f"the text is longer than {MAX_TEXT_BYTES} bytes")
    commands, operators = _scan(data.decode("latin-1"))
    if not commands:
        raise NotPlainError("syntax", "there is no command in the text")
    if _second_opinion(data) != [[(start, end) for start, end, _ in words] for words in commands]:
        raise NotPlainError("syntax", "the text could be read in more than one way")
    return PlainText(
        tuple(tuple(word.encode("latin-1").decode() for _, _, word in words) for words in commands),
        single=not operators and len(commands) == 1,
    )


def check_characters(text: str) -> None:
    """Refuse what a shell, a parser and a human could take for different things."""
    if text.isascii():
        suspicious = _SUSPICIOUS_ASCII.search(text)
        found = suspicious[0] if suspicious else ""
    else:
        found = next((character for character in text if _is_suspicious(character)), "")
    if found:
        raise NotPlainError("lexical", f"the text holds the character U+{ord(found):04X}")
    if "\\\n" in text:
        raise NotPlainError("lexical", "a backslash before a line's end; write the command on one line")


_SUSPICIOUS_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def _is_suspicious(character: str) -> bool:
    """Whether it is a control, format (bidi, zero width) or unassigned character, or an odd space."""
    return character not in " \t\n" and unicodedata.category(character)[0] in "CZ"


_Word = tuple[int, int, str]


def _scan(text: str) -> tuple[list[list[_Word]], list[str]]:
    """The commands with their words' places and values, and the operators between and after them."""
    commands: list[list[_Word]] = []
    operators: list[str] = []
    words: list[_Word] = []
    dangling = ""
    position = count = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotPlainError("syntax", f"the text holds {_REFUSED_CHARACTERS[text[position]]}")
        kind, found, position = match.lastgroup, match[0], match.end()
        if kind == "word":
            if not words:
                _check_first(found)
                dangling = ""
            words.append((match.start(), position, _resolve(found)))
            count += 1
            if count > MAX_WORDS or len(commands) >= MAX_COMMANDS:
                raise NotPlainError("lexical", f"the text has more than {MAX_COMMANDS} commands or {MAX_WORDS} words")
        elif kind == "operator":
            if words:
                commands.append(words)
                words = []
            elif found != "\n":
                raise NotPlainError("syntax", f"there is no command before {found}")
            if found != "\n":
                operators.append(found)
                dangling = found if found in ("&&", "||", "|") else ""
    if words:
        commands.append(words)
    if dangling:
        raise NotPlainError("syntax", f"there is no command after {dangling}")
    return commands, operators


def _check_first(written: str) -> None:
    """Refuse a word, as written, that is not a program's name where a command begins."""
    if written in _RESERVED:
        raise NotPlainError("syntax", f"{written} is shell syntax, not a program")
    if "=" in written:
        raise NotPlainError("syntax", "the text sets a variable; put it into the command's env")


def _resolve(written: str) -> str:
    """The word that bash makes of `written`, which the grammar has accepted."""
    if "'" not in written and '"' not in written and "\\" not in written:
        return written
    return _QUOTING.sub(_unquote, written)


def _unquote(match: re.Match[str]) -> str:
    if match[1] is not None:
        return match[1]
    if match[2] is not None:
        return match[2]
    return _ESCAPE_IN_QUOTES.sub(r"\1", match[3])


def _second_opinion(data: bytes) -> list[list[tuple[int, int]]] | None:
    """The places of the words of each command as tree-sitter sees them, or None if it sees anything else."""
    root = _PARSER.parse(data).root_node
    if root.has_error:
        return None
    commands: list[list[tuple[int, int]]] = []
    waiting = list(reversed(root.children))
    while waiting:
        node = waiting.pop()
        kind = node.type
        if kind == "command":
            words = node.children
            if not all(_is_literal(word) for word in words):
                return None
            commands.append([(word.start_byte, word.end_byte) for word in words])
        elif kind in ("list", "pipeline"):
            waiting.extend(reversed(node.children))
        elif kind not in _SEPARATORS:
            return None
    return commands


def _is_literal(node: Node) -> bool:
    kind = node.type
    if kind in ("word", "number", "raw_string"):
        return True
    if kind in ("command_name", "string", "concatenation"):
        return all(_is_literal(child) for child in node.named_children)
    return kind == "string_content"
