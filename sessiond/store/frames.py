"""How the journal's records lie in a file: pure encoding and checking.

A segment is a header and then records. A record is the payload's length and its CRC-32, both u32 little-endian, and the
payload: msgpack `[seq, [kind, field, ...]]`. `seq` always takes msgpack's nine bytes for an unsigned 64-bit number, so
that every payload begins alike and a valid record can be looked for behind a damaged one. The CRC begins with the
segment's salt, a random number that no sandbox knows: output that imitates a record is not taken for one.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

FORMAT = 1
"""Version of this layout and of the records' fields."""
RECORD_BYTES = 8 * 1024 * 1024
"""Longest payload. A request is at most one frame of 1 MiB, small output less."""

_MAGIC = b"sessiond"
_VERSION = struct.Struct("<8sI")
_REST = struct.Struct("<QI")
"""The first record's seq, and the salt."""
_CHECK = struct.Struct("<I")
"""CRC-32 of everything before."""
HEADER_BYTES = _VERSION.size + _REST.size + _CHECK.size
_FRAME = struct.Struct("<II")
_PREFIX = struct.Struct(">2sQ")
_MARK = b"\x92\xcf"
"""msgpack: an array of two, whose first is an unsigned 64-bit number."""
OVERHEAD_BYTES = _FRAME.size + _PREFIX.size
"""What a record adds to its body."""


class Header(NamedTuple):
    """What a segment begins with. Only `version` is known of one that another sessiond wrote."""

    version: int
    first: int
    """Seq of its first record."""
    salt: int


class Record(NamedTuple):
    """A valid record: its seq, its body's msgpack `[kind, field, ...]`, and the offset just behind it."""

    seq: int
    body: bytes
    end: int


def header(first: int, salt: int) -> bytes:
    """The header of a segment whose first record is to be `first`."""
    start = _VERSION.pack(_MAGIC, FORMAT) + _REST.pack(first, salt)
    return start + _CHECK.pack(crc32(start))


def read_header(data: bytes) -> Header | None:
    """The header at the beginning of `data`, or None when it is damaged."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version = _VERSION.unpack_from(data)
    if magic != _MAGIC:
        return None
    if version != FORMAT:
        return Header(version, 0, 0)
    first, salt = _REST.unpack_from(data, _VERSION.size)
    if data[:HEADER_BYTES] != header(first, salt):
        return None
    return Header(version, first, salt)


def encode(seq: int, body: bytes, salt: int) -> bytes:
    """A record, as it is written."""
    payload = _PREFIX.pack(_MARK, seq) + body
    return _FRAME.pack(len(payload), crc32(payload, salt)) + payload


def length(data: bytes, offset: int) -> int:
    """How long the record at `offset` says it is, all told; 0 when it does not even say that."""
    return _FRAME.size + _FRAME.unpack_from(data, offset)[0] if offset + _FRAME.size <= len(data) else 0


def decode(data: bytes, offset: int, salt: int) -> Record | None:
    """The record at `offset`, or None when what lies there is none."""
    if offset + OVERHEAD_BYTES > len(data):
        return None
    size, checksum = _FRAME.unpack_from(data, offset)
    start = offset + _FRAME.size
    end = start + size
    if not _PREFIX.size < size <= RECORD_BYTES or end > len(data) or data[start : start + 2] != _MARK:
        return None
    if crc32(memoryview(data)[start:end], salt) != checksum:
        return None
    return Record(_PREFIX.unpack_from(data, start)[1], data[start + _PREFIX.size : end], end)


def find(data: bytes, offset: int, after: int, salt: int) -> int | None:
    """Offset of a valid record with a seq above `after` that begins at or behind `offset`."""
    place = data.find(_MARK, offset + _FRAME.size)
    while place >= 0:
        record = decode(data, place - _FRAME.size, salt)
        if record is not None and record.seq > after:
            return place - _FRAME.size
        place = data.find(_MARK, place + 1)
    return None
