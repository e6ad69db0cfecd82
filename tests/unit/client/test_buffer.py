"""Output between arrival and use: nothing lost, nothing twice, everything in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sessiond_client import Gap, Output
from sessiond_client.buffer import OutputBuffer

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=20)),
        st.tuples(st.just("gap"), st.integers(1, 50)),
        st.just(("pop", 0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 1000))
def test_what_goes_in_comes_out(steps: list[tuple[str, bytes | int]], offset: int) -> None:
    buffer = OutputBuffer(offset)
    expected: list[tuple[str, int]] = []
    got: list[tuple[str, int]] = []
    position = start = offset

    def take() -> bool:
        nonlocal position
        piece = buffer.pop()
        if piece is None:
            return False
        if isinstance(piece, Gap):
            assert piece.start == position
            got.extend(("gap", i) for i in range(piece.start, piece.end))
            position = piece.end
        else:
            assert piece.offset == position
            got.extend((piece.stream, byte) for byte in piece.data)
            position += len(piece.data)
        assert buffer.consumed == position
        return True

    for what, value in steps:
        if what == "pop":
            take()
        elif what == "gap":
            assert isinstance(value, int)
            expected.extend(("gap", i) for i in range(start, start + value))
            buffer.skip(start + value)
            start += value
        else:
            assert isinstance(value, bytes)
            buffer.append("stderr" if what == "stderr" else "stdout", value)
            expected.extend((what, byte) for byte in value)
            start += len(value)
    while take():
        pass
    assert got == expected
    assert buffer.consumed == buffer.received == start
    assert len(buffer) == 0


@given(STEPS)
def test_all_at_once_equals_piece_by_piece(steps: list[tuple[str, bytes | int]]) -> None:
    one, other = OutputBuffer(), OutputBuffer()
    for what, value in steps:
        for buffer in (one, other):
            if isinstance(value, bytes):
                buffer.append("stderr" if what == "stderr" else "stdout", value)
            elif what == "gap":
                buffer.skip(buffer.received + value)
    pieces = []
    while (piece := one.pop()) is not None:
        pieces.append(piece)
    outputs = [piece for piece in pieces if isinstance(piece, Output)]
    stdout, stderr, both, gaps = other.drain()
    assert stdout == b"".join(piece.data for piece in outputs if piece.stream == "stdout")
    assert stderr == b"".join(piece.data for piece in outputs if piece.stream == "stderr")
    assert both == b"".join(piece.data for piece in outputs)
    assert list(gaps) == [piece for piece in pieces if isinstance(piece, Gap)]
    assert other.pop() is None


def test_neighbours_of_one_stream_merge() -> None:
    buffer = OutputBuffer()
    for byte in b"abc":
        buffer.append("stdout", bytes([byte]))
    buffer.append("stderr", b"d")
    assert buffer.pop() == Output("stdout", b"abc", 0)
    assert buffer.pop() == Output("stderr", b"d", 3)
    assert buffer.pop() is None
