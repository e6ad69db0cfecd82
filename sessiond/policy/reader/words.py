"""Makes a Word of the pieces that a reader found: what is known of it, with quotes resolved."""

from __future__ import annotations

import re

from sessiond.policy.reading import UnreadableError, Word

_SPECIAL = re.compile(r"[\\*?\[{~]")
_ESCAPED_IN_QUOTES = re.compile(r'\\(?:([$`"\\])|\n)')
_ESCAPED_IN_DOCUMENT = re.compile(r"\\([$`\\])")
_ANSI_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_ANSI_LETTERS = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "?": "?",
}


def names(text: str) -> frozenset[str]:
    """A table of names, written as one text with blanks between them."""
    return frozenset(text.split())


class WordBuilder:
    """Collects one word's pieces from left to right."""

    __slots__ = (
        "_alternatives",
        "_braces",
        "_brackets",
        "_known",
        "_opaque",
        "_pattern",
        "_quoted",
        "_splits",
        "_texts",
        "source",
    )

    def __init__(self, source: str) -> None:
        """Begin the word that stands as `source` in the text."""
        self.source = source
        self._texts: list[str] = []
        self._known = True
        self._pattern = False
        self._opaque = False
        self._splits = False
        self._quoted = False
        self._alternatives: tuple[str, ...] = ()
        self._brackets = "]" in source
        self._braces = "}" in source and ("," in source or ".." in source)

    def bare(self, text: str) -> None:
        """Add text that stands outside quotes: escapes, globs, braces and tildes mean something."""
        if not _SPECIAL.search(text):
            self._add(text)
            return
        position = 0
        while position < len(text):
            character = text[position]
            if character == "\\":
                position += 1
                if position == len(text):
                    raise UnreadableError("syntax", "a backslash with nothing after it")
                self.quoted(text[position])
            elif character in "*?" or (character == "[" and self._brackets) or (character == "{" and self._braces):
                self._pattern = True
                self._known = False
            elif character == "~" and (position == 0 or text[position - 1] in "=:"):
                self.unknown(splits=False)
            else:
                self._add(character)
            position += 1

    def quoted(self, text: str) -> None:
        """Add text that means itself."""
        self._quoted = True
        self._add(text)

    def in_quotes(self, text: str) -> None:
        """Add text that stands between double quotes."""
        self.quoted(_ESCAPED_IN_QUOTES.sub(r"\1", text) if "\\" in text else text)

    def in_document(self, text: str) -> None:
        """Add text of a here-document that is expanded."""
        self._add(_ESCAPED_IN_DOCUMENT.sub(r"\1", text) if "\\" in text else text)

    def ansi(self, text: str) -> None:
        """Add what stands between `$'` and `'`."""
        self.quoted(_ANSI_ESCAPE.sub(_resolve_ansi, text))

    def unknown(self, *, splits: bool) -> None:
        """Add what only running can tell; `splits` if it may become several words, or none."""
        self._known = False
        self._opaque = True
        self._splits |= splits

    def one_of(self, values: tuple[str, ...]) -> None:
        """Add what is unknown, but surely begins with one of `values`, and does not split."""
        if self._known:
            if not any(self._texts) and all(values):
                self._alternatives = values
            self._add(_common_beginning(values))
        self._known = False
        self._pattern = True

    def _add(self, text: str) -> None:
        if self._known:
            self._texts.append(text)

    def done(self) -> Word:
        """The word."""
        text = "".join(self._texts)
        if self._known:
            return Word(self.source, text, quoted=self._quoted)
        if self._splits:
            return Word(self.source, None, quoted=self._quoted, splits=True)
        pattern = self._pattern and not self._opaque
        return Word(self.source, None, text, pattern, self._quoted, alternatives=self._alternatives)


def _resolve_ansi(match: re.Match[str]) -> str:
    """What an escape in `$'..'` stands for; only those that mean the same in every locale and version."""
    if match[3] is not None:
        letter = _ANSI_LETTERS.get(match[3])
        if letter is None:
            raise UnreadableError("syntax", f"the escape \\{match[3]} in $'..'; write the character itself")
        return letter
    code = int(match[1], 8) if match[1] else int(match[2], 16)
    if not 0 < code < 128:
        raise UnreadableError("syntax", f"the byte {code} written as an escape in $'..'")
    return chr(code)


def _common_beginning(values: tuple[str, ...]) -> str:
    """What all of them begin with."""
    low, high = min(values), max(values)
    length = next((index for index, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), len(low))
    return low[:length]
