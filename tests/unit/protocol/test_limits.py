"""The limits hold on the raw bytes, before anything is built from them."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sessiond_protocol import limits
from sessiond_protocol.codec import decode_client, decode_server
from sessiond_protocol.errors import FrameTooLargeError, MalformedFrameError, RemoteProtocolError

from .strategies import plain_values, wide_frames

MEBIBYTE = 1024 * 1024
ENTRY = b"\x81\xa1a"
"""The beginning of a map with one entry, the key `a`."""
PING = msgpack.packb({"type": "ping", "id": 1})


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that Python had allocated at most during `call`, beyond those before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(frame: bytes) -> type[RemoteProtocolError]:
    """With which error both sides refuse a frame."""
    errors = set()
    for decode in (decode_client, decode_server):
        with pytest.raises(RemoteProtocolError) as caught:
            decode(frame)
        errors.add(caught.type)
    [error] = errors
    return error


@pytest.mark.parametrize("end", range(len(PING)))
def test_a_frame_truncated_at_any_byte_is_malformed(end: int) -> None:
    assert refused(PING[:end]) is MalformedFrameError


def test_a_frame_with_trailing_bytes_is_malformed() -> None:
    assert refused(PING + b"\xc0") is MalformedFrameError
    assert refused(PING + PING) is MalformedFrameError


def test_the_reserved_byte_0xc1_is_malformed() -> None:
    assert refused(b"\xc1") is MalformedFrameError
    assert refused(ENTRY + b"\xc1") is MalformedFrameError
    assert MalformedFrameError.close_code == 1007


@pytest.mark.parametrize("level", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", ENTRY])
def test_nesting_100000_deep_is_refused(level: bytes) -> None:
    assert refused(ENTRY + level * 100_000 + b"\xc0") is MalformedFrameError


def test_nesting_up_to_the_limit_passes_and_one_more_does_not() -> None:
    limits.check_frame(ENTRY * limits.DEPTH + b"\xc0")
    with pytest.raises(MalformedFrameError, match="deeper"):
        limits.check_frame(ENTRY * (limits.DEPTH + 1) + b"\xc0")


@pytest.mark.parametrize(
    "head",
    [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"],
)
def test_a_claim_of_2_to_the_32_minus_1_is_refused_without_memory(head: bytes) -> None:
    def attempt() -> None:
        assert refused(ENTRY + head) is MalformedFrameError

    assert peak_of(attempt) < 64 * 1024


def test_a_mebibyte_of_empty_maps_is_refused_before_memory_grows() -> None:
    flat = ENTRY + b"\xdd" + struct.pack(">I", MEBIBYTE - 9)
    flat += b"\x80" * (MEBIBYTE - len(flat))
    row = b"\xdc\x3f\xff" + b"\x80" * 0x3FFF
    count = (MEBIBYTE - 16) // len(row)
    nested = ENTRY + b"\xdc" + struct.pack(">H", count) + row * count

    def attempt() -> None:
        assert refused(flat) is MalformedFrameError
        assert refused(nested) is MalformedFrameError

    assert len(flat) == MEBIBYTE
    assert peak_of(attempt) < 64 * 1024


def test_nested_arrays_that_each_claim_the_most_are_refused_before_memory_grows() -> None:
    frame = ENTRY + b"\xdc\x3f\xff" * 300_000

    def attempt() -> None:
        assert refused(frame) is MalformedFrameError

    assert peak_of(attempt) < 64 * 1024


@pytest.mark.parametrize("filler", [b"\x80", b"\x90", b"\xa0", b"\xc0", b"\x00", b"\xc4\x00"])
def test_the_most_elements_that_pass_cost_bounded_memory(filler: bytes) -> None:
    count = limits.ELEMENTS - 1
    frame = ENTRY + b"\xdc" + struct.pack(">H", count) + filler * count

    def attempt() -> None:
        with pytest.raises(RemoteProtocolError):
            decode_client(frame)

    limits.check_frame(frame)
    assert peak_of(attempt) < 4 * MEBIBYTE


def test_elements_are_counted_over_all_levels() -> None:
    def frame_with(items: int) -> bytes:
        return msgpack.packb({"a": [0] * 8000, "b": {"c": [0] * items}})

    rest = limits.ELEMENTS - 8000 - 3  # the entries a, b and c
    limits.check_frame(frame_with(rest))
    with pytest.raises(MalformedFrameError, match="more than"):
        limits.check_frame(frame_with(rest + 1))


def test_a_frame_over_the_size_limit_is_too_large() -> None:
    assert refused(b"\x80" * (limits.FRAME_BYTES + 1)) is FrameTooLargeError
    assert FrameTooLargeError.close_code == 1009


def test_a_control_message_over_its_limit_is_too_large() -> None:
    frame = msgpack.packb({"type": "ping", "id": 1, "filler": "x" * limits.CONTROL_BYTES})
    assert refused(frame) is FrameTooLargeError


@pytest.mark.parametrize("type_", [["output"], {"output": 1}, None, 1, b"output"])
def test_a_large_frame_of_no_bulk_type_is_too_large_whatever_its_type_is(type_: object) -> None:
    assert refused(msgpack.packb({"type": type_, "filler": "x" * limits.CONTROL_BYTES})) is FrameTooLargeError


def test_duplicate_keys_are_refused_at_every_level() -> None:
    assert refused(b"\x83\xa4type\xa4ping\xa2id\x01\xa2id\x01") is MalformedFrameError
    assert refused(b"\x81\xa1a\x82\xa1b\x01\xa1b\x02") is MalformedFrameError
    assert refused(b"\x81\xa1a\x91\x82\xa1b\x01\xd9\x01b\x02") is MalformedFrameError


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("first", "layout"), [(0xCA, ">f"), (0xCB, ">d")])
def test_numbers_that_are_not_finite_are_refused(first: int, layout: str, number: float) -> None:
    assert refused(ENTRY + bytes([first]) + struct.pack(layout, number)) is MalformedFrameError


@pytest.mark.parametrize(
    "ext",
    [
        *(bytes([0xD4 + power]) + b"\x01" + b"\x00" * (1 << power) for power in range(5)),
        b"\xc7\x00\x01",
        b"\xc8\x00\x00\x01",
        b"\xc9\x00\x00\x00\x00\x01",
        msgpack.packb(msgpack.Timestamp(1, 0)),
        msgpack.packb(msgpack.Timestamp(1, 1)),
        msgpack.packb(msgpack.Timestamp(2**40, 1)),
    ],
    ids=bytes.hex,
)
def test_ext_types_and_timestamps_are_refused(ext: bytes) -> None:
    assert refused(ENTRY + ext) is MalformedFrameError


@pytest.mark.parametrize(
    "key", [b"\x01", b"\xc0", b"\xc3", b"\xc4\x01a", b"\x90", b"\x80", b"\xcb" + b"\0" * 8], ids=bytes.hex
)
def test_keys_that_are_not_strings_are_refused(key: bytes) -> None:
    assert refused(b"\x81" + key + b"\x01") is MalformedFrameError


@pytest.mark.parametrize("value", [2**53, 2**64 - 1, -(2**53), -(2**63)])
def test_integers_beyond_53_bits_are_refused(value: int) -> None:
    assert refused(msgpack.packb({"a": value})) is MalformedFrameError


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1])
def test_integers_of_53_bits_pass(value: int) -> None:
    limits.check_frame(msgpack.packb({"a": value}))


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"], ids=bytes.hex
)
def test_strings_that_are_not_utf8_are_refused_as_keys_and_values(bad: bytes) -> None:
    text = bytes([0xA0 + len(bad)]) + bad
    assert refused(ENTRY + text) is MalformedFrameError
    assert refused(b"\x81" + text + b"\x01") is MalformedFrameError


@pytest.mark.parametrize("frame", [b"\x90", b"\x91\x80", b"\xc0", b"\x01", b"\xa1a", b"\xc4\x00", b""], ids=bytes.hex)
def test_a_frame_that_is_no_map_is_malformed(frame: bytes) -> None:
    assert refused(frame) is MalformedFrameError


@given(st.dictionaries(st.text(max_size=40), plain_values(), max_size=10), st.data())
def test_what_is_within_the_limits_passes_in_any_width(value: dict[str, object], data: st.DataObject) -> None:
    frame = data.draw(wide_frames(value))
    try:
        limits.check_frame(frame)
    except MalformedFrameError as error:
        assert "deeper" in str(error)
    else:
        assert msgpack.unpackb(frame) == value


@given(st.binary(max_size=400).map(lambda tail: b"\x82\xa4type" + tail) | st.binary(max_size=400))
def test_what_passes_is_what_the_decoder_can_read(data: bytes) -> None:
    try:
        limits.check_frame(data)
    except RemoteProtocolError:
        return
    try:
        msgpack.unpackb(data)
    except UnicodeDecodeError:
        return
