"""What a frame may hold, checked on its raw bytes: nothing is built from a frame before it is known to be small.

msgpack alone is no guard. 1 MiB of empty maps becomes 72 MiB of objects; a thousand nested arrays that each
claim a million items are allocated before their items are read; and the hooks of an unpacker run only after the
children of a container exist. So one pass over the bytes comes first. Strings and binaries are stepped over, so
its cost grows with the number of elements and not with their size.
"""

from __future__ import annotations

import math
import struct

from sessiond_protocol.errors import FrameTooLargeError, MalformedFrameError

MAX_INTEGER = 2**53 - 1
"""Largest integer on the wire: what every language's JSON-like number holds exactly."""

FRAME_BYTES = 1024 * 1024
"""Longest frame of all."""
CONTROL_BYTES = 64 * 1024
"""Longest frame of a message that is not bulk."""
BULK_TYPES = ("output", "command.stdin")
"""The messages that carry data in quantity, so that only `FRAME_BYTES` bounds them."""
DEPTH = 8
"""Maps and arrays within each other; the message itself is the first."""
ELEMENTS = 16_384
"""Map entries and array items of a frame, counted together over all its levels."""

_FLOATS = {0xCA: (">f", 5), 0xCB: (">d", 9)}
_WIDE_INTEGERS = {0xCF: False, 0xD3: True}
"""The 64-bit integers, and whether they are signed."""
_STRING_PREFIX = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_PREFIX = {**_STRING_PREFIX, 0xC4: 1, 0xC5: 2, 0xC6: 4}
"""Bytes of the length of a string or binary."""
_MAP_PREFIX = {0xDE: 2, 0xDF: 4}
_ARRAY_PREFIX = {0xDC: 2, 0xDD: 4}


def _steps() -> bytes:
    """For each first byte, the bytes of a value that needs no closer look; 0 for all others."""
    steps = bytearray(256)
    steps[0x00:0x80] = b"\x01" * 0x80  # positive fixint
    steps[0xE0:0x100] = b"\x01" * 0x20  # negative fixint
    steps[0xA0:0xC0] = bytes(range(1, 0x21))  # fixstr
    steps[0xC0] = steps[0xC2] = steps[0xC3] = 1  # nil, false, true
    steps[0xCC:0xCF] = steps[0xD0:0xD3] = b"\x02\x03\x05"  # integers of 8, 16 and 32 bits
    return bytes(steps)


_STEPS = _steps()


class _Scan:
    """One pass over a frame. Positions may run past its end: the next byte looked at, or the caller, sees it."""

    __slots__ = ("data", "elements")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.elements = 0

    def container(self, position: int, depth: int) -> int:
        """Step over the map or array at `position`."""
        first = self.data[position]
        is_map = 0x80 <= first < 0x90 or first in _MAP_PREFIX
        if first < 0xA0:
            count = first & 0x0F
            position += 1
        else:
            count, position = self.prefix(position, (_MAP_PREFIX if is_map else _ARRAY_PREFIX)[first])
        if depth > DEPTH:
            raise MalformedFrameError(f"maps and arrays nested deeper than {DEPTH}")
        self.elements += count
        if self.elements > ELEMENTS:
            raise MalformedFrameError(f"more than {ELEMENTS} map entries and array items")
        return self.entries(position, count, depth) if is_map else self.items(position, count, depth)

    def entries(self, position: int, count: int, depth: int) -> int:
        data = self.data
        for _ in range(count):
            first = data[position]
            if 0xA0 <= first < 0xC0:
                position += first - 0x9F
            elif first in _STRING_PREFIX:
                length, position = self.prefix(position, _STRING_PREFIX[first])
                position += length
            else:
                raise MalformedFrameError("a map key is not a string")
            step = _STEPS[data[position]]
            position = position + step if step else self.value(position, depth)
        return position

    def items(self, position: int, count: int, depth: int) -> int:
        data = self.data
        for _ in range(count):
            step = _STEPS[data[position]]
            position = position + step if step else self.value(position, depth)
        return position

    def value(self, position: int, depth: int) -> int:
        """Step over a value that `_STEPS` leaves open."""
        first = self.data[position]
        if first in _PREFIX:
            length, position = self.prefix(position, _PREFIX[first])
            return position + length
        if 0x80 <= first < 0xA0 or first in _MAP_PREFIX or first in _ARRAY_PREFIX:
            return self.container(position, depth + 1)
        if first in _FLOATS:
            layout, width = _FLOATS[first]
            if not math.isfinite(struct.unpack_from(layout, self.data, position + 1)[0]):
                raise MalformedFrameError("a number is not finite")
            return position + width
        if first in _WIDE_INTEGERS:
            integer = int.from_bytes(
                self.data[position + 1 : position + 9], "big", signed=_WIDE_INTEGERS[first]
            )
            if abs(integer) > MAX_INTEGER:
                raise MalformedFrameError("an integer is beyond 2**53 - 1")
            return position + 9
        raise MalformedFrameError(f"type byte 0x{first:02x} is not allowed")

    def prefix(self, position: int, width: int) -> tuple[int, int]:
        """The length after the type byte, and where what it measures begins."""
        start = position + 1
        return int.from_bytes(self.data[start : start + width], "big"), start + width


def check_frame(data: bytes) -> None:
    """Raise unless `data` is one msgpack map within the limits.

    Duplicate keys and bad UTF-8 pass: the decoder sees those for nothing.
    """
    if len(data) > FRAME_BYTES:
        raise FrameTooLargeError(f"{len(data)} bytes; a frame holds at most {FRAME_BYTES}")
    if not data:
        raise MalformedFrameError("empty frame")
    if not 0x80 <= data[0] < 0x90 and data[0] not in _MAP_PREFIX:
        raise MalformedFrameError("not a map")
    try:
        end = _Scan(data).container(0, 1)
    except (IndexError, struct.error):
        end = len(data) + 1
    if end > len(data):
        raise MalformedFrameError("truncated")
    if end < len(data):
        raise MalformedFrameError(f"{len(data) - end} bytes after the map")
