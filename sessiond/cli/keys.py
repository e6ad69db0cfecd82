"""What passes between two terminals: the keys that detach, and the modes that must be undone. Pure."""

from __future__ import annotations

import re

PREFIX = 0x1D
"""Ctrl-], which few programs use; it is typed twice to reach them."""
DETACH = ord("d")

_MODE = re.compile(rb"\x1b\[\?([0-9;]+)([hl])")
_LONGEST = 32
"""Bytes of a sequence that may be cut into two pieces of output."""
_OFF_AT_FIRST = (1049, 1047, 47, 1, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 2004)
"""Private modes of xterm (its ctlseqs): other screens, cursor keys, mouse, focus, bracketed paste."""
_CURSOR = 25


class Keys:
    """Finds the detach key in what is typed, however it is cut."""

    def __init__(self) -> None:
        self._prefixed = False

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What of it goes to the command, and whether it is to be left then."""
        passed = bytearray()
        for key in typed:
            if self._prefixed:
                self._prefixed = False
                if key == DETACH:
                    return bytes(passed), True
                if key != PREFIX:
                    passed.append(PREFIX)
                passed.append(key)
            elif key == PREFIX:
                self._prefixed = True
            else:
                passed.append(key)
        return bytes(passed), False


class Modes:
    """Remembers which modes of the terminal the output has changed."""

    def __init__(self) -> None:
        self._set: dict[int, bool] = {}
        self._end = b""

    def feed(self, output: bytes) -> None:
        """Take note of a piece of output."""
        data = self._end + output
        for numbers, change in _MODE.findall(data):
            for number in numbers.split(b";"):
                if number and len(number) <= 4:
                    self._set[int(number)] = change == b"h"
        self._end = data[-_LONGEST:]

    def undo(self) -> bytes:
        """What brings the terminal back to how programs expect it, colours and keypad included."""
        changed = [b"\x1b[?%dl" % number for number in _OFF_AT_FIRST if self._set.get(number)]
        if self._set.get(_CURSOR) is False:
            changed.append(b"\x1b[?25h")
        return b"".join(changed) + b"\x1b>\x1b[0m"
