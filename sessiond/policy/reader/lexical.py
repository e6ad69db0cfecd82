"""What is refused before any parser sees it: what a shell, a parser and a person could take for different things."""

from __future__ import annotations

import re
import unicodedata

from sessiond.policy.reading import UnreadableError

MAX_TEXT_BYTES = 16 * 1024
MAX_COMMANDS = 256
MAX_WORDS = 2048
MAX_DEPTH = 48
"""Constructs in each other. These bounds keep reading to a few milliseconds, and every recursion shallow."""


def check(text: str) -> bytes:
    """The text's bytes, or UnreadableError by the rule `lexical`."""
    if text.isascii():
        suspicious = _SUSPICIOUS_ASCII.search(text)
        found = suspicious[0] if suspicious else ""
    else:
        found = next((character for character in text if _is_suspicious(character)), "")
    if found:
        raise UnreadableError("lexical", f"the text holds the character U+{ord(found):04X}")
    if "\\\n" in text:
        _check_continuations(text)
    data = text.encode()
    if len(data) > MAX_TEXT_BYTES:
        raise UnreadableError("lexical", f"the text is longer than {MAX_TEXT_BYTES} bytes; put it into a script")
    return data


_SUSPICIOUS_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def _is_suspicious(character: str) -> bool:
    """Whether it is a control, format (bidi, zero width) or unassigned character, or an odd space."""
    return character not in " \t\n" and unicodedata.category(character)[0] in "CZ"


_BETWEEN_WORDS = re.compile(r"(?<!\\)[ \t]\\\n(?![#\\])")
"""A line's end escaped where no word is, and where no comment begins: it means a blank, to every shell."""


def _check_continuations(text: str) -> None:
    """Refuse a backslash before a line's end, but between two words of a line without a `#`."""
    if len(_BETWEEN_WORDS.findall(text)) != text.count("\\\n"):
        raise UnreadableError("lexical", "a backslash before a line's end inside a word; put a blank before it")
    if any(line.endswith("\\") and "#" in line for line in text.split("\n")):
        raise UnreadableError("lexical", "a backslash before a line's end after a #; a comment does not go on there")
