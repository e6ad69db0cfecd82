"""The record of a command's output: offsets, bounds, and no silent loss."""

from hypothesis import given
from hypothesis import strategies as st

from sessiond.core.spool import COALESCE_BYTES, Spool


def collect(spool: Spool, offset: int, most: int) -> list[tuple[str, bytes]]:
    found = []
    while (chunk := spool.read(offset, most)) is not None:
        assert chunk.offset == offset
        found.append((chunk.stream, bytes(chunk.data)))
        offset = chunk.end
    return found


@given(
    writes=st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=64)), max_size=50),
    most=st.integers(1, 100),
    start=st.integers(0, 100),
)
def test_reads_back_what_was_written_from_any_offset_in_any_portions(writes, most, start):
    spool = Spool(1 << 20)
    for stream, data in writes:
        spool.append(stream, data)
    whole = [(stream, byte) for stream, data in writes for byte in data]
    start = min(start, len(whole))
    read = [(stream, byte) for stream, data in collect(spool, start, most) for byte in data]
    assert read == whole[start:]
    assert spool.end == len(whole)


def test_small_writes_are_joined_so_that_a_record_costs_about_its_bytes():
    spool = Spool(1 << 20)
    for _ in range(10_000):
        spool.append("stdout", b"0123456789")
    assert len(spool._chunks) <= 100_000 // COALESCE_BYTES + 2


def test_a_full_record_forgets_only_what_was_consumed():
    spool = Spool(100_000)
    for _ in range(5):
        spool.append("stdout", bytes(50_000))
    assert spool.full
    spool.trim(0)
    assert spool.start == 0
    spool.trim(100_000)
    assert (spool.start, spool.end) == (100_000, 250_000)
    assert spool.full
    spool.trim(250_000)
    assert spool.start == 150_000
    assert not spool.full


def test_offsets_go_on_after_everything_was_forgotten():
    spool = Spool(10)
    spool.append("stdout", b"abc")
    spool.clear()
    spool.append("stderr", b"def")
    assert (spool.start, spool.end) == (3, 6)
    assert collect(spool, 3, 10) == [("stderr", b"def")]


def test_reading_at_the_end_or_nothing_gives_nothing():
    spool = Spool(10)
    spool.append("stdout", b"abc")
    assert spool.read(3, 10) is None
    assert spool.read(0, 0) is None
