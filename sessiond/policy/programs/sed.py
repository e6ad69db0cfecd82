"""The safe subset of sed: all that prints, edits and jumps; nothing that runs a program or names a file.

Read as GNU sed reads it. Where versions differ in where a command ends, the text is cut at the earliest place, so that
all that may be a command is looked at.
"""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"\s*(?:\d+(?:~\d+)?|\$|[+~]\d+)")
_SIMPLE = frozenset("=dDgGhHlnNpPxzF")
_JUMPS = frozenset("btT:")
_TEXTS = frozenset("aic")
_FLAGS = re.compile(r"[gpiImM0-9]*")
_END = re.compile(r"[ \t]*(?:[;\n]|(?=[}#])|$)")
_LABEL = re.compile(r"[ \t]*[\w.-]*")


class _RefusedError(Exception):
    pass


def check_sed(script: str) -> str | None:
    """What of the script is not in the safe subset; None if all is."""
    try:
        _Script(script).check()
    except _RefusedError as error:
        return str(error)
    return None


class _Script:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def check(self) -> None:
        while True:
            self._skip(" \t\n;")
            if self.at >= len(self.text):
                return
            self._addresses()
            self._command()

    def _skip(self, characters: str) -> None:
        while self.at < len(self.text) and self.text[self.at] in characters:
            self.at += 1

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise _RefusedError("the sed script ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def _addresses(self) -> None:
        while True:
            match = _ADDRESS.match(self.text, self.at)
            if match is not None:
                self.at = match.end()
            elif self.text[self.at : self.at + 1] in ("/", "\\"):
                delimiter = self._next()
                if delimiter == "\\":
                    delimiter = self._next()
                self._until(delimiter)
                while self.text[self.at : self.at + 1] in ("I", "M"):
                    self.at += 1
            else:
                break
            self._skip(" \t")
            if self.text[self.at : self.at + 1] != ",":
                break
            self.at += 1
            self._skip(" \t")
        self._skip(" \t")
        while self.text[self.at : self.at + 1] == "!":
            self.at += 1
            self._skip(" \t")

    def _until(self, delimiter: str) -> None:
        if delimiter in "\\\n":
            raise _RefusedError("an odd delimiter in the sed script")
        while (character := self._next()) != delimiter:
            if character == "\\":
                self._next()

    def _command(self) -> None:
        name = self._next()
        if name == "#":
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end
        elif name in "{}":
            return
        elif name in "sy":
            delimiter = self._next()
            self._until(delimiter)
            self._until(delimiter)
            if name == "s":
                match = _FLAGS.match(self.text, self.at)
                self.at = match.end() if match else self.at
            self._end(name)
        elif name in _TEXTS:
            self._inserted()
        elif name in _JUMPS:
            match = _LABEL.match(self.text, self.at)
            self.at = match.end() if match else self.at
            self._end(name)
        elif name in _SIMPLE or name in "qQ":
            if name in "lqQ":
                self._skip(" \t0123456789")
            self._end(name)
        else:
            raise _RefusedError(f"the sed command {name!r} runs a program, or reads or writes a file")

    def _end(self, name: str) -> None:
        match = _END.match(self.text, self.at)
        if match is None:
            raise _RefusedError(f"the sed command {name!r} has a flag or an end that is not known")
        self.at = match.end()

    def _inserted(self) -> None:
        """Text up to a line's end that no backslash escapes."""
        while self.at < len(self.text):
            character = self.text[self.at]
            self.at += 1
            if character == "\\" and self.at < len(self.text):
                self.at += 1
            elif character == "\n":
                return
