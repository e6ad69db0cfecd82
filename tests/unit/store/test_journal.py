"""The journal: what `append` returned for is found again, whatever happens to the file's end."""

import errno
import os
import shutil
import tracemalloc

import pytest

from sessiond.store import frames, journal, segments
from sessiond.store.errors import StoreError, StoreVersionError
from sessiond.store.journal import Journal
from sessiond.store.reader import Reader
from tests.unit.store.support import arm, files, found, journal_with

BODIES = [b"first", b"second" * 20, b"third\x92\xcf"]


def test_records_are_found_without_close(tmp_path):
    journal_with(tmp_path, BODIES)
    assert found(tmp_path) == BODIES
    assert found(tmp_path, after=2) == BODIES[2:]


def test_files_are_private(tmp_path):
    journal_with(tmp_path / "journal", BODIES).close()
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
    assert files(tmp_path / "journal")[0].stat().st_mode & 0o777 == 0o600


def test_a_tail_torn_at_any_byte_costs_the_last_record_only(tmp_path):
    journal_with(tmp_path / "whole", BODIES).close()
    data = files(tmp_path / "whole")[0].read_bytes()
    begin = len(data) - len(BODIES[-1]) - frames.OVERHEAD_BYTES
    for cut in range(begin, len(data)):
        for tail in (b"", bytes(30), data[cut:][:-1] + bytes([data[-1] ^ 1])):
            torn = tmp_path / "torn"
            shutil.copytree(tmp_path / "whole", torn)
            files(torn)[0].write_bytes(data[:cut] + tail)
            assert found(torn) == BODIES[:2], cut
            assert files(torn)[0].read_bytes() == data[:begin]
            after = Journal(torn, power=False)
            after.open()
            after.begin(0)
            assert after.append(b"next") == 3
            after.close()
            assert found(torn) == [*BODIES[:2], b"next"]
            shutil.rmtree(torn)


def test_a_damaged_record_with_valid_ones_behind_it_is_named_and_nothing_is_skipped(tmp_path):
    journal_with(tmp_path, BODIES).close()
    path = files(tmp_path)[0]
    data = path.read_bytes()
    begin = frames.HEADER_BYTES + len(BODIES[0]) + frames.OVERHEAD_BYTES
    for at in range(begin, begin + len(BODIES[1]) + frames.OVERHEAD_BYTES):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(StoreError, match=f"{path} has no valid record at byte {begin},"):
            found(tmp_path)
    path.write_bytes(data)
    assert found(tmp_path) == BODIES


def test_damage_in_an_older_segment_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100)
    journal_with(tmp_path, [bytes([n]) * 40 for n in range(20)]).close()
    first, second, *_ = files(tmp_path)
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"{second} has no valid record at byte"):
        found(tmp_path)
    second.unlink()
    with pytest.raises(StoreError, match=f"{first} has no valid record at byte"):
        found(tmp_path)
    first.write_bytes(b"")
    with pytest.raises(StoreError, match=f"{first} has no valid record at byte 0"):
        found(tmp_path)


def test_a_journal_without_what_the_database_lacks_is_refused(tmp_path):
    made = journal_with(tmp_path, [])
    made.close()
    later = Journal(tmp_path, power=False)
    later.open()
    later.begin(50)
    later.append(b"fifty-one")
    later.release(50)
    later.close()
    assert found(tmp_path, after=50) == [b"fifty-one"]
    with pytest.raises(StoreError, match=r"database ends with record 3 and the journal begins with 51"):
        found(tmp_path, after=3)


def test_a_newer_format_is_refused(tmp_path):
    journal_with(tmp_path, BODIES).close()
    path = files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[8] += 1
    path.write_bytes(data)
    with pytest.raises(
        StoreVersionError, match=r"version 2 of the journal's format; this sessiond knows 1: use a newer"
    ):
        found(tmp_path)
    assert path.read_bytes() == data


def test_a_segment_that_never_began_is_no_loss(tmp_path):
    journal_with(tmp_path, BODIES).close()
    (tmp_path / "00000002.log").write_bytes(b"")
    (tmp_path / "00000003.new").write_bytes(b"half")
    assert found(tmp_path) == BODIES
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.log"]


@pytest.mark.parametrize("power", [False, True])
def test_segments_follow_each_other_and_go_when_applied(tmp_path, monkeypatch, power):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 300)
    bodies = [bytes([n]) * 50 for n in range(40)]
    made = journal_with(tmp_path, bodies, power=power)
    before = files(tmp_path)
    assert len(before) == 10
    assert found(tmp_path) == bodies
    made.release(10)
    assert files(tmp_path) == before[2:]
    assert found(tmp_path, after=10) == bodies[10:]
    made.release(40)
    assert files(tmp_path) == before[-1:]
    made.append(b"more")
    made.close()
    assert found(tmp_path, after=40) == [b"more"]


def test_a_reader_follows_a_journal_that_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 500)
    made = journal_with(tmp_path, [])
    reader = Reader(made, 0)
    expected, read = [], []
    for number in range(200):
        body = b"%d" % number * (1 + number % 50)
        expected.append(body)
        made.append(body)
        if number % 7 == 0:
            while some := reader.take(3, 64):
                assert len(some) <= 3
                read += some
            made.release(reader.seq)
    while some := reader.take(1000, 1 << 20):
        read += some
    assert read == expected
    reader.close()
    made.close()


@pytest.mark.parametrize("point", ["journal.write=enospc:1", "journal.written=eio:1"])
def test_a_failed_write_records_nothing_and_the_next_may_succeed(tmp_path, monkeypatch, point):
    made = journal_with(tmp_path, BODIES)
    arm(monkeypatch, point)
    with pytest.raises(StoreError, match=r"00000001\.log cannot be written: (No space|Input/output)"):
        made.append(b"refused")
    assert made.append(b"next") == 4
    made.close()
    assert found(tmp_path) == [*BODIES, b"next"]


def test_a_short_write_is_cut_off(tmp_path, monkeypatch):
    made = journal_with(tmp_path, BODIES)
    size = files(tmp_path)[0].stat().st_size
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(StoreError, match="only a part"):
        made.append(b"refused")
    assert files(tmp_path)[0].stat().st_size == size
    monkeypatch.setattr(os, "write", write)
    made.append(b"next")
    made.close()
    assert found(tmp_path) == [*BODIES, b"next"]


def test_what_cannot_be_cut_off_is_left_behind_in_its_segment(tmp_path, monkeypatch):
    made = journal_with(tmp_path, BODIES)
    arm(monkeypatch, "journal.written=eio:1")

    def ftruncate(descriptor, size):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    with pytest.raises(StoreError):
        made.append(b"refused")
    made.append(b"next")
    made.close()
    assert len(files(tmp_path)) == 2
    assert found(tmp_path) == [*BODIES, b"next"]


def test_a_new_segment_that_cannot_be_made_records_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    made = journal_with(tmp_path, BODIES)
    write = segments.write

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments, "write", full)
    with pytest.raises(StoreError, match=r"a new file in .* cannot be written: No space"):
        made.append(b"refused")
    assert not list(tmp_path.glob("*.new"))
    monkeypatch.setattr(segments, "write", write)
    made.append(b"next")
    made.close()
    assert found(tmp_path) == [*BODIES, b"next"]


def test_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "JOURNAL_BYTES", 1000)
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 300)
    made = journal_with(tmp_path, [b"x" * 100] * 7)
    with pytest.raises(StoreError, match="wait for the database"):
        made.append(b"x" * 200)
    made.release(7)
    made.append(b"x" * 200)
    with pytest.raises(StoreError, match="too large"):
        made.append(bytes(frames.RECORD_BYTES))
    made.close()
    with pytest.raises(StoreError, match="closed"):
        made.append(b"late")


def test_what_waits_for_the_disk_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "UNSYNCED_BYTES", 1000)
    made = journal_with(tmp_path, [b"x" * 400] * 2, power=True)
    with pytest.raises(StoreError, match="wait for the disk"):
        made.append(b"x" * 400)
    made.sync()
    assert (made.synced, made.unsynced_bytes) == (2, 0)
    made.append(b"x" * 400)
    made.close()


def test_a_file_whose_fsync_failed_is_not_trusted_again(tmp_path, monkeypatch):
    """What the failed fsync was to save is gone from the old file, as after a crash of the machine."""
    made = journal_with(tmp_path, BODIES, power=True)
    made.sync()
    saved = files(tmp_path)[0].stat().st_size
    made.append(b"fourth")
    arm(monkeypatch, "journal.fsync=eio")
    with pytest.raises(StoreError, match=r"does not reach the disk: Input/output error"):
        made.sync()
    with pytest.raises(StoreError, match="does not reach the disk"):
        made.append(b"refused")
    with pytest.raises(OSError):
        made.recover()
    assert made.failure is not None
    with pytest.raises(StoreError):
        made.sync()
    assert (made.synced, made.last) == (3, 4)
    arm(monkeypatch, "")
    made.recover()
    assert (made.failure, made.synced, made.unsynced_bytes) == (None, 4, 0)
    made.append(b"fifth")
    made.close()
    old, fresh = files(tmp_path)
    for lost in (b"", bytes(25)):
        old.write_bytes(old.read_bytes()[:saved] + lost)
        assert found(tmp_path) == [*BODIES, b"fourth", b"fifth"]
    assert b"fourth" in fresh.read_bytes()


def test_a_failed_fsync_before_a_new_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    made = journal_with(tmp_path, BODIES[:1], power=True)
    arm(monkeypatch, "journal.fsync=eio:1")
    with pytest.raises(StoreError, match=r"00000002|a new file in"):
        made.append(b"refused")
    assert made.failure is not None
    made.recover()
    made.append(b"next")
    made.close()
    assert found(tmp_path) == [BODIES[0], b"next"]


def test_records_lost_across_several_files_come_from_the_fresh_one(tmp_path, monkeypatch):
    """The fresh file begins before one that already existed: that one no longer counts."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100)
    made = journal_with(tmp_path, [b"a" * 100, b"b" * 100, b"c" * 100], power=True)
    arm(monkeypatch, "journal.fsync=eio:1")
    with pytest.raises(StoreError):
        made.sync()
    made.recover()
    made.append(b"d")
    made.close()
    for path in files(tmp_path)[:3]:
        path.write_bytes(path.read_bytes()[: frames.HEADER_BYTES + 5])
    assert found(tmp_path) == [b"a" * 100, b"b" * 100, b"c" * 100, b"d"]


def test_waiting_records_cost_disk_and_no_memory(tmp_path):
    made = journal_with(tmp_path, [])
    body = b"x" * 65536
    tracemalloc.start()
    try:
        for _ in range(1000):
            made.append(body)
        reader = Reader(made, 0)
        while reader.take(1000, 1 << 20):
            pass
        assert reader.seq == 1000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    reader.close()
    made.close()
    assert sum(path.stat().st_size for path in files(tmp_path)) > 60 << 20
