"""The record of a command's output: offsets, bounds, files, and no silent loss."""

import errno
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessiond.store.spool import INLINE_BYTES, STREAMS_FILE, Spool, SpoolHome

MIB = 1024**2

writes_strategy = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=64)), max_size=50
)


def home(directory: Path, *, command_bytes: int = MIB, session_bytes: int = 64 * MIB, ring: bool = False) -> SpoolHome:
    return SpoolHome(directory, command_bytes=command_bytes, session_bytes=session_bytes, ring=ring)


def collect(spool: Spool, offset: int, most: int = 1 << 20) -> list[tuple[str, int]]:
    found = []
    while (chunk := spool.read(offset, most)) is not None:
        assert chunk.offset == offset
        found += [(chunk.stream, byte) for byte in bytes(chunk.data)]
        offset = chunk.end
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(writes=writes_strategy, most=st.integers(1, 100), start=st.integers(0, 100), stores=st.sets(st.integers(0, 50)))
def test_reads_back_what_was_written_from_any_offset_in_any_portions(tmp_path, writes, most, start, stores):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    spool = home(tmp_path / "s").spool(1)
    for number, (stream, data) in enumerate(writes):
        spool.append(stream, data)
        if number in stores:
            spool.store(all=True)
    whole = [(stream, byte) for stream, data in writes for byte in data]
    start = min(start, len(whole))
    assert collect(spool, start, most) == whole[start:]
    assert spool.end == len(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(writes=writes_strategy, again=writes_strategy)
def test_files_of_an_earlier_life_go_on_where_they_were(tmp_path, writes, again):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    spool = home(tmp_path / "s").spool(1)
    for stream, data in writes:
        spool.append(stream, data)
    spool.store(all=True)
    spool = home(tmp_path / "s").adopt(1)
    assert spool.end == spool.stored == sum(len(data) for _, data in writes)
    for stream, data in again:
        spool.append(stream, data)
        spool.store(all=True)
    assert collect(spool, 0) == [(stream, byte) for stream, data in writes + again for byte in data]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(writes=writes_strategy)
def test_small_output_goes_through_the_journal_and_never_touches_a_file(tmp_path, writes):
    spool = home(tmp_path / "s").spool(1)
    for stream, data in writes:
        spool.append(stream, data)
    inline = spool.inline()
    recalled = home(tmp_path / "s").recall(1, inline, spool.end)
    assert collect(recalled, 0) == collect(spool, 0)
    assert not (tmp_path / "s").exists()
    spool.recorded()
    assert spool.stored == spool.end


def test_much_output_goes_to_files_and_leaves_memory(tmp_path):
    spool = home(tmp_path).spool(1)
    for _ in range(100):
        spool.append("stdout", bytes(10_000))
        spool.store()
    assert spool.in_memory <= INLINE_BYTES
    assert spool.inline() is None
    spool.store(all=True)
    assert (spool.in_memory, spool.stored) == (0, 1_000_000)


def test_a_full_record_forgets_only_what_was_consumed(tmp_path):
    where = home(tmp_path, command_bytes=MIB)
    spool = where.spool(1)
    for _ in range(32):
        spool.append("stdout", bytes(65536))
        spool.store()
    assert spool.full
    spool.make_room(0)
    assert spool.start == 0
    spool.make_room(300_000)
    assert 0 < spool.start <= 300_000
    assert spool.full
    spool.make_room(spool.end)
    assert not spool.full
    assert where.used == spool.stored - spool.start == spool.in_files
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.name != STREAMS_FILE and path.is_file()) == (
        where.used
    )


def test_a_ring_forgets_the_oldest_whatever_was_read(tmp_path):
    spool = home(tmp_path, ring=True).spool(1)
    for number in range(64):
        spool.append("stdout", bytes([number]) * 65536)
        spool.store()
        spool.make_room(0)
        assert not spool.full
    assert spool.start > 0
    assert collect(spool, spool.start)[-1] == ("stdout", 63)


def test_a_session_that_used_up_its_share_forgets_ended_commands_first(tmp_path):
    where = home(tmp_path, command_bytes=4 * MIB, session_bytes=2 * MIB)
    spools = [where.spool(number) for number in range(1, 5)]
    for spool in spools:
        for _ in range(10):
            spool.append("stdout", bytes(65536))
            spool.store()
    assert spools[0].full
    where.ended(1, spools[0].in_files)
    where.ended(2, spools[1].in_files)
    assert not spools[3].full
    assert spools[0].read(0, 100) is None
    assert spools[0].start == spools[0].end
    assert spools[1].read(0, 100) is not None
    assert where.used == 30 * 65536
    again = home(tmp_path, command_bytes=4 * MIB, session_bytes=2 * MIB)
    again.count(frozenset({4}))
    again.adopt(4)
    assert again.used == where.used


def test_offsets_go_on_after_everything_was_forgotten(tmp_path):
    spool = home(tmp_path).spool(1)
    spool.append("stdout", b"abc")
    spool.forget()
    spool.append("stderr", b"def")
    assert collect(spool, 3) == [("stderr", byte) for byte in b"def"]
    assert (spool.start, spool.end) == (3, 6)


@pytest.mark.parametrize("failing", ["streams", "data"])
def test_what_a_full_disk_refuses_stays_until_it_is_taken(tmp_path, monkeypatch, failing):
    spool = home(tmp_path).spool(1)
    spool.append("stdout", b"a" * 20_000)
    spool.append("stderr", b"b" * 20_000)
    opened = Path.open

    def refuse(self, *args, **kwargs):
        if (self.name == STREAMS_FILE) == (failing == "streams"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        spool.store()
        assert "No space left" in (spool.error or "")
        assert spool.stored == 0
        assert len(collect(spool, 0)) == 40_000
    spool.append("stdout", b"c")
    spool.store()
    assert (spool.error, spool.stored) == (None, 40_001)
    assert collect(home(tmp_path).adopt(1), 0) == collect(spool, 0)


def test_output_that_is_gone_is_a_gap_up_to_its_end(tmp_path):
    spool = home(tmp_path).recall(1, b"", 1000)
    assert (spool.start, spool.end) == (1000, 1000)


def test_output_that_alternates_between_streams_is_bounded_by_its_changes(tmp_path):
    spool = home(tmp_path).spool(1)
    for number in range(20_000):
        spool.append(("stdout", "stderr")[number % 2], b"x")
        spool.store()
        if spool.full:
            break
    spool.store(all=True)
    assert spool.full


def test_what_went_into_the_journal_stays_readable_when_the_files_take_it_again(tmp_path, monkeypatch):
    """A full disk refused it, its end went into the journal whole, and then came the next attempt at the files."""
    spool = home(tmp_path).spool(1)
    spool.append("stdout", b"a" * 20_000)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        spool.store()
    assert spool.error is not None
    assert spool.inline()
    spool.recorded()
    spool.store()
    assert spool.error is None
    assert len(collect(spool, 0)) == 20_000
