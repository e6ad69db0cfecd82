"""The guest's frames: every frame survives the wire however it is cut, and nothing else gets through."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sessiond_protocol.guest import (
    MOST_DATA,
    MOST_PAYLOAD,
    NO_MORE_STDIN,
    DaemonDecoder,
    Exited,
    Failed,
    Forget,
    Frame,
    Goodbye,
    GuestDecoder,
    GuestError,
    GuestProtocolError,
    Hello,
    Output,
    OutputAck,
    OutputEof,
    Ping,
    Pong,
    Resize,
    Restrict,
    Restricted,
    Shutdown,
    Signal,
    Start,
    Started,
    Stdin,
    StdinAck,
    StdinClose,
    Synced,
    Welcome,
    encode,
)

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
handles = st.integers(1, 2**32 - 1)
data = st.binary(min_size=1, max_size=300)
words = st.binary(max_size=20).map(lambda word: word.replace(b"\0", b"_"))
entries = st.tuples(words, words).map(lambda pair: pair[0] + b"=" + pair[1])
streams = st.sampled_from([1, 2])

daemon_frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Welcome, u16),
    st.builds(
        lambda kind, **fields: Start(**kind, **fields),
        st.one_of(
            st.fixed_dictionaries({"merge_stderr": st.booleans()}),
            st.fixed_dictionaries({"pty": st.tuples(u16, u16)}),
        ),
        command=handles,
        argv=st.lists(words, min_size=1, max_size=5).map(tuple),
        cwd=words,
        env=st.lists(entries, max_size=5).map(tuple),
        timeout_ms=u32,
        grace_ms=u32,
        stdin=st.booleans(),
        rlimits=st.lists(st.tuples(u32, u64), max_size=4).map(tuple),
    ),
    st.builds(Stdin, handles, u64, data),
    st.builds(StdinClose, handles, u64),
    st.builds(Signal, handles, st.integers(1, 64), st.integers(0, 1)),
    st.builds(Resize, handles, u16, u16),
    st.builds(OutputAck, handles, u64),
    st.builds(Forget, handles),
    st.builds(Ping, u64),
    st.just(Shutdown()),
    st.builds(
        Restrict,
        st.integers(1, 63),
        words,
        st.lists(
            st.one_of(
                st.tuples(st.integers(1, 15), words.map(lambda path: b"/" + path)),
                st.tuples(st.just(16), words.filter(lambda name: name and b"/" not in name)),
            ),
            max_size=5,
        ).map(tuple),
    ),
)
codes = st.one_of(
    st.tuples(st.integers(0, 255), st.just(0)),
    st.tuples(st.just(0), st.integers(1, 64)),
)
guest_frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, u16, u16, st.binary(min_size=16, max_size=16), u32, u32),
    st.builds(Started, handles, st.integers(1, 2**31 - 1)),
    st.builds(Failed, handles, st.integers(1, 4095), st.integers(1, 7)),
    st.builds(Output, handles, streams, u64, data),
    st.builds(OutputEof, handles, streams, u64),
    st.builds(
        lambda command, status, numbers, flags: Exited(command, *status, *numbers, *flags),
        handles,
        codes,
        st.tuples(u64, u64, u64, u64, u64),
        st.tuples(st.booleans(), st.booleans(), st.booleans()),
    ),
    st.builds(StdinAck, handles, u64),
    st.just(Synced()),
    st.builds(Pong, u64),
    st.just(Goodbye()),
    st.builds(GuestError, u32, st.text(max_size=50)),
    st.builds(Restricted, st.integers(1, 99), st.integers(0, 63), u32, u32),
    st.builds(Restricted, u32, st.just(0), u32, u32, st.integers(0, 4095)),
)
directions = pytest.mark.parametrize(
    ("decoder", "strategy"),
    [(GuestDecoder, guest_frames), (DaemonDecoder, daemon_frames)],
    ids=["guest", "daemon"],
)
AnyDecoder = type[GuestDecoder] | type[DaemonDecoder]


def header(length: int, kind: int, *, stream: int = 0, reserved: int = 0, command: int = 0) -> bytes:
    return struct.pack("<IBBHI", length, kind, stream, reserved, command)


def decode(decoder: GuestDecoder | DaemonDecoder, chunks: Sequence[bytes]) -> tuple[list[Frame], str | None]:
    """All frames of the chunks, and how it ended if it ended badly."""
    frames: list[Frame] = []
    for chunk in chunks:
        try:
            frames += decoder.feed(chunk)
        except GuestProtocolError as error:
            return [*frames, *error.frames], str(error)
    return frames, None


@directions
def test_every_frame_survives_the_wire(decoder: AnyDecoder, strategy: st.SearchStrategy[Frame]) -> None:
    @given(st.lists(strategy, max_size=8))
    def check(frames: list[Frame]) -> None:
        assert decoder().feed(b"".join(encode(frame) for frame in frames)) == frames

    check()


@directions
def test_it_does_not_matter_where_the_bytes_are_cut(decoder: AnyDecoder, strategy: st.SearchStrategy[Frame]) -> None:
    @given(st.lists(strategy, min_size=1, max_size=6), st.lists(st.integers(0, 2000), max_size=8))
    def check(frames: list[Frame], cuts: list[int]) -> None:
        wire = b"".join(encode(frame) for frame in frames)
        places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
        chunks = [wire[start:end] for start, end in itertools.pairwise(places)]
        assert decode(decoder(), chunks) == (frames, None)
        assert decode(decoder(), [wire[i : i + 1] for i in range(len(wire))]) == (frames, None)

    check()


@directions
def test_damage_is_refused_or_is_another_frame_and_the_same_wherever_it_is_cut(
    decoder: AnyDecoder, strategy: st.SearchStrategy[Frame]
) -> None:
    @given(st.lists(strategy, min_size=1, max_size=4), st.lists(st.tuples(u16, st.integers(0, 255)), max_size=6))
    def check(frames: list[Frame], damage: list[tuple[int, int]]) -> None:
        wire = bytearray(b"".join(encode(frame) for frame in frames))
        for place, value in damage:
            wire[place % len(wire)] = value
        whole = decode(decoder(), [bytes(wire)])
        assert decode(decoder(), [bytes(wire[i : i + 1]) for i in range(len(wire))]) == whole

    check()


@directions
def test_rubbish_raises_nothing_but_the_documented_error(
    decoder: AnyDecoder, strategy: st.SearchStrategy[Frame]
) -> None:
    @given(st.lists(st.binary(max_size=100), max_size=5))
    def check(chunks: list[bytes]) -> None:
        decode(decoder(), chunks)

    check()


@given(
    st.sampled_from([*range(0x81, 0x8C), 0xC0]),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.sampled_from([0, 1, 7]),
    st.binary(max_size=80),
)
def test_a_well_formed_header_with_any_payload(kind: int, stream: int, command: int, payload: bytes) -> None:
    wire = header(len(payload), kind, stream=stream, command=command) + payload
    frames, error = decode(GuestDecoder(), [wire])
    assert len(frames) == (error is None)
    if frames and not isinstance(frames[0], GuestError):  # whose text may not have been UTF-8
        assert encode(frames[0]) == wire


@pytest.mark.parametrize(
    "wire",
    [
        header(MOST_PAYLOAD + 1, 0x84, stream=1, command=1),
        header(2**32 - 1, 0x84, stream=1, command=1),
        header(0, 0x88, reserved=1),
        header(0, 0x88, stream=1),
        header(0, 0x88, command=1),
        header(0, 0x80),
        header(0, 0x90),
        header(8, 0x09) + bytes(8),
        header(8, 0x84, stream=1, command=1),
        header(9, 0x84, stream=0, command=1),
        header(9, 0x84, stream=3, command=1),
        header(9, 0x84, stream=1, command=0),
        header(8 + MOST_DATA + 1, 0x84, stream=1, command=1),
        header(7, 0x85, stream=1, command=1) + bytes(7),
        header(32, 0x81) + bytes(32),
        header(31, 0x81) + bytes(31),
        header(8, 0x82, command=1) + struct.pack("<II", 0, 0),
        header(8, 0x82, command=1) + struct.pack("<II", 5, 1),
        header(8, 0x82, command=1) + struct.pack("<II", 2**31, 0),
        header(8, 0x83, command=1) + struct.pack("<II", 2, 0),
        header(8, 0x83, command=1) + struct.pack("<II", 2, 8),
        header(8, 0x83, command=1) + struct.pack("<II", 0, 6),
        header(56, 0x86, command=1) + struct.pack("<IIII40x", 256, 0, 0, 0),
        header(56, 0x86, command=1) + struct.pack("<IIII40x", 0, 65, 0, 0),
        header(56, 0x86, command=1) + struct.pack("<IIII40x", 1, 9, 0, 0),
        header(56, 0x86, command=1) + struct.pack("<IIII40x", 0, 0, 32, 0),
        header(56, 0x86, command=1) + struct.pack("<IIII40x", 0, 0, 0, 1),
        header(3, 0x8B) + bytes(3),
        header(205, 0x8B) + bytes(205),
        header(20, 0xC0, command=1) + bytes(20),
        header(16, 0xC0) + bytes(16),
        header(20, 0xC0) + struct.pack("<IIIII", 7, 64, 0, 0, 0),
        header(20, 0xC0) + struct.pack("<IIIII", 7, 0, 0, 0, 4096),
        header(20, 0xC0) + struct.pack("<IIIII", 7, 1, 0, 0, 13),
        header(20, 0xC0) + struct.pack("<IIIII", 0, 1, 0, 0, 0),
    ],
)
def test_what_a_guest_may_not_send(wire: bytes) -> None:
    decoder = GuestDecoder()
    with pytest.raises(GuestProtocolError) as first:
        decoder.feed(wire)
    with pytest.raises(GuestProtocolError, match=str(first.value)[:10]):
        decoder.feed(encode(Synced()))  # it stays dead


def test_frames_in_front_of_a_bad_one_are_not_lost() -> None:
    with pytest.raises(GuestProtocolError) as caught:
        GuestDecoder().feed(encode(Pong(1)) + encode(Pong(2)) + header(0, 0x7F))
    assert list(caught.value.frames) == [Pong(1), Pong(2)]


def test_no_more_than_one_frame_is_kept() -> None:
    decoder = GuestDecoder()
    big = encode(Output(1, 1, 0, bytes(MOST_DATA)))
    for _ in range(3):
        assert decoder.feed(big[:-1]) == []
        assert len(decoder._partial) < len(big)
        assert len(decoder.feed(big[-1:] + big + big[:5])) == 2
        assert len(decoder._partial) == 5
        assert len(decoder.feed(big[5:])) == 1


def test_the_largest_frames_pass() -> None:
    assert GuestDecoder().feed(encode(Output(1, 2, 2**64 - 1, bytes(MOST_DATA)))) == [
        Output(1, 2, 2**64 - 1, bytes(MOST_DATA))
    ]
    assert DaemonDecoder().feed(encode(Stdin(1, 0, bytes(MOST_DATA)))) == [Stdin(1, 0, bytes(MOST_DATA))]
    assert GuestDecoder().feed(encode(StdinAck(1, NO_MORE_STDIN))) == [StdinAck(1, NO_MORE_STDIN)]


@pytest.mark.parametrize(
    "frame",
    [
        Stdin(1, 0, b""),
        Output(1, 1, 0, bytes(MOST_DATA + 1)),
        Start(command=1, argv=(), cwd=b"/"),
        Start(command=1, argv=(b"a\0b",), cwd=b"/"),
        Start(command=1, argv=(b"a",), cwd=b"/\0"),
        Start(command=1, argv=(b"a",), cwd=b"/", env=(b"NAME",)),
        Start(command=1, argv=(b"a",), cwd=b"/", timeout_ms=2**32),
        Start(command=1, argv=(b"x" * MOST_PAYLOAD,), cwd=b"/"),
        Start(command=1, argv=(b"a",) * 65536, cwd=b"/"),
        Start(command=1, argv=(b"a",), cwd=b"/", rlimits=((0, 0),) * 256),
        Restrict(0),
        Restrict(64),
        Restrict(1, b"/bin\0"),
        Restrict(1, grants=((1, b"/"),) * 4097),
        Restrict(1, grants=((0, b"/"),)),
        Restrict(1, grants=((17, b"/"),)),
        Restrict(1, grants=((32, b"/"),)),
        Restrict(1, grants=((1, b"etc"),)),
        Restrict(1, grants=((16, b"a/b"),)),
        Restrict(1, grants=((16, b""),)),
        Restrict(1, grants=((1, b"/\0"),)),
        Restrict(1, grants=((1, b"/" * 4096),) * 64),
    ],
)
def test_what_no_frame_can_say_is_the_callers_mistake(frame: Frame) -> None:
    with pytest.raises(ValueError):
        encode(frame)


def test_the_bytes_are_those_of_the_specification() -> None:
    assert encode(Hello(1, 0, bytes(range(16)), 1 << 20, 256)) == bytes.fromhex(
        "20000000 81 00 0000 00000000  53534e44 0100 0000 000102030405060708090a0b0c0d0e0f 00001000 00010000"
    )
    assert encode(Output(7, 2, 258, b"hi")) == bytes.fromhex("0a000000 84 02 0000 07000000  0201000000000000 6869")
    assert encode(
        Start(command=3, argv=(b"ls", b"-l"), cwd=b"/w", env=(b"A=1",), timeout_ms=1000, grace_ms=5, stdin=True)
    ) == bytes.fromhex(
        "21000000 02 00 0000 03000000  e8030000 05000000 01000000 00 00 0200 0100 0000  2f7700 6c7300 2d6c00 413d3100"
    )
    assert encode(Restrict(3, b"/bin", ((5, b"/w"), (16, b"ls")))) == bytes.fromhex(
        "15000000 40 00 0000 00000000  03000000 0200 0000  2f62696e00 05 2f7700 10 6c7300"
    )
    assert encode(Restricted(7, 3, 40, 1)) == bytes.fromhex(
        "14000000 c0 00 0000 00000000  07000000 03000000 28000000 01000000 00000000"
    )
