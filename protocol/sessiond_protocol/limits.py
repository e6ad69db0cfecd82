"""What a frame may hold, checked on its raw bytes: nothing is built before it is known to be small.

msgpack alone is no guard. 1 MiB of empty maps becomes 72 MiB of objects; a thousand nested arrays that each
claim a million items are allocated before their items are read; and the hooks of an unpacker run only after
the children of a container exist. So one pass over the bytes comes first. Strings and binaries are stepped
over, so its cost grows with the number of elements and not with their size.
"""

from __future__ import annotations

import math
import struct
from typing import NoReturn

from sessiond_protocol.errors import FrameTooLargeError, MalformedFrameError

MAX_INTEGER = 2**53 - 1
"""Largest integer on the wire: what every language's JSON-like number holds exactly."""

FRAME_BYTES = 1024 * 1024
"""Longest frame of all."""
CONTROL_BYTES = 64 * 1024
"""Longest frame of a message that is not bulk."""
BULK_TYPES = (
    *("output", "command.stdin", "command", "commands", "sessions"),
    *("approval", "approvals", "approval.event", "approval.answer", "recorded"),
)
"""The messages that carry data in quantity, or repeat whole commands, so that only `FRAME_BYTES` bounds them."""
DEPTH = 8
"""Maps and arrays within each other; the message itself is the first."""
ELEMENTS = 16_384
"""Map entries and array items of a frame, counted together over all its levels."""

_FLOATS = {0xCA: (">f", 5), 0xCB: (">d", 9)}
_WIDE_INTEGERS = {0xCF: False, 0xD3: True}
"""The 64-bit integers, and whether they are signed."""

_SHORT_STRINGS = range(0xA0, 0xC0)
# By first byte, how many bytes of length or count follow it.
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_SIZED = _STRINGS | {0xC4: 1, 0xC5: 2, 0xC6: 4}
_MAPS = dict.fromkeys(range(0x80, 0x90), 0) | {0xDE: 2, 0xDF: 4}
_ARRAYS = dict.fromkeys(range(0x90, 0xA0), 0) | {0xDC: 2, 0xDD: 4}


def _steps() -> bytes:
    """For each first byte, the bytes of a value that needs no closer look; 0 for all others."""
    steps = bytearray(256)
    steps[0x00:0x80] = b"\x01" * 0x80  # positive fixint
    steps[0xE0:0x100] = b"\x01" * 0x20  # negative fixint
    for first in _SHORT_STRINGS:
        steps[first] = first - 0x9F
    steps[0xC0] = steps[0xC2] = steps[0xC3] = 1  # nil, false, true
    steps[0xCC:0xCF] = steps[0xD0:0xD3] = b"\x02\x03\x05"  # integers of 8, 16 and 32 bits
    return bytes(steps)


_STEPS = _steps()
_KEY_STEPS = bytes(step if first in _SHORT_STRINGS else 0 for first, step in enumerate(_STEPS))
"""The same for a map key, of which only a short string needs no closer look."""


class _Scan:
    """One pass over a frame. Positions may run past its end: the next look, or the caller, notices."""

    __slots__ = ("data", "elements")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.elements = 0

    def map(self, position: int, depth: int) -> int:
        """Step over the map at `position`."""
        data = self.data
        count, position = self.count(position, _MAPS[data[position]], depth)
        for _ in range(count):
            step = _KEY_STEPS[data[position]]
            position = position + step if step else self.key(position)
            step = _STEPS[data[position]]
            position = position + step if step else self.value(position, depth)
        return position

    def array(self, position: int, depth: int) -> int:
        """Step over the array at `position`."""
        data = self.data
        count, position = self.count(position, _ARRAYS[data[position]], depth)
        for _ in range(count):
            step = _STEPS[data[position]]
            position = position + step if step else self.value(position, depth)
        return position

    def count(self, position: int, width: int, depth: int) -> tuple[int, int]:
        """The entries or items of the container at `position`, and where they begin."""
        if depth > DEPTH:
            _refuse(f"maps and arrays nested deeper than {DEPTH}")
        if width:
            count, position = self.size(position, width)
        else:
            count, position = self.data[position] & 0x0F, position + 1
        self.elements += count
        if self.elements > ELEMENTS:
            _refuse(f"more than {ELEMENTS} map entries and array items")
        return count, position

    def key(self, position: int) -> int:
        """Step over a map key that `_KEY_STEPS` leaves open."""
        first = self.data[position]
        if first not in _STRINGS:
            _refuse("a map key is not a string")
        size, position = self.size(position, _STRINGS[first])
        return position + size

    def value(self, position: int, depth: int) -> int:
        """Step over a value that `_STEPS` leaves open."""
        first = self.data[position]
        if first in _SIZED:
            size, position = self.size(position, _SIZED[first])
            return position + size
        if first in _MAPS:
            return self.map(position, depth + 1)
        if first in _ARRAYS:
            return self.array(position, depth + 1)
        if first in _FLOATS:
            layout, width = _FLOATS[first]
            if not math.isfinite(struct.unpack_from(layout, self.data, position + 1)[0]):
                _refuse("a number is not finite")
            return position + width
        if first not in _WIDE_INTEGERS:
            _refuse(f"type byte 0x{first:02x} is not allowed")
        eight = self.data[position + 1 : position + 9]
        if abs(int.from_bytes(eight, "big", signed=_WIDE_INTEGERS[first])) > MAX_INTEGER:
            _refuse("an integer is beyond 2**53 - 1")
        return position + 9

    def size(self, position: int, width: int) -> tuple[int, int]:
        """The number of `width` bytes after the type byte, and where what it measures begins."""
        start = position + 1
        return int.from_bytes(self.data[start : start + width], "big"), start + width


def _refuse(reason: str) -> NoReturn:
    raise MalformedFrameError(reason)


def check_frame(data: bytes) -> None:
    """Raise unless `data` is one msgpack map within the limits.

    Duplicate keys and bad UTF-8 pass: the decoder sees those for nothing.
    """
    check_size(len(data), FRAME_BYTES)
    if not data or data[0] not in _MAPS:
        _refuse("not a map")
    try:
        end = _Scan(data).map(0, 1)
    except (IndexError, struct.error):
        end = len(data) + 1
    if end > len(data):
        _refuse("truncated")
    if end < len(data):
        _refuse(f"{len(data) - end} bytes after the map")


def check_size(size: int, most: int) -> None:
    """Raise when a frame of `size` bytes is longer than `most`."""
    if size > most:
        raise FrameTooLargeError(f"{size} bytes where {most} are allowed")
