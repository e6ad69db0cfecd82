"""The store: what was recorded is read, at once and later, and failures are said and survived."""

import asyncio
import subprocess
import threading

import pytest

from sessiond.store import journal, schema, store, syncer, writer
from sessiond.store.errors import StoreError
from sessiond.store.records import CommandRow
from tests.unit.store.support import approval, arm, end, files, opened, row, until

REQUEST = b"\x81\xa4kind\x00"


@pytest.fixture(params=["process", "power"])
def durability(request):
    return request.param


def test_a_command_from_its_start_to_its_last_byte(tmp_path, durability):
    kept = opened(tmp_path, durability)
    assert (kept.sessions(), kept.find_session("s"), kept.command("s", "c")) == ([], None, None)
    kept.session(row("s"))
    kept.started("s", "c", 1, 1, REQUEST)
    running = CommandRow("s", "c", 1, 1, REQUEST, "starting", None, None, b"", b"", 0, False)
    assert kept.command("s", "c") == running
    assert kept.unsettled("s") == [running]
    end(kept, "s", "c", settled=False, output=b"")
    ended = CommandRow("s", "c", 1, 1, REQUEST, "exited", 2.0, 3.5, b"\x00", b"", 3, False)
    assert kept.command("s", "c") == ended
    assert kept.unsettled("s") == [ended]
    kept.settled("s", "c", output=b"all of it", output_end=9)
    settled = CommandRow("s", "c", 1, 1, REQUEST, "exited", 2.0, 3.5, b"\x00", b"all of it", 9, True)
    assert kept.command("s", "c") == settled
    assert kept.unsettled("s") == []
    kept.close()
    kept = opened(tmp_path, durability)
    assert kept.command("s", "c") == settled
    kept.close()


def test_a_command_starts_ends_and_settles_once(tmp_path):
    kept = opened(tmp_path)
    kept.started("s", "c", 1, 1, REQUEST)
    kept.started("s", "c", 2, 2, b"other")
    end(kept, "s", "c", state="lost")
    first = kept.command("s", "c")
    assert (first.number, first.request, first.state) == (1, REQUEST, "lost")
    end(kept, "s", "c", state="exited", output=b"other")
    kept.settled("s", "c", output=b"other", output_end=5)
    assert kept.command("s", "c") == first
    kept.close()


def test_a_session_is_changed_as_a_whole_and_keeps_its_place(tmp_path):
    kept = opened(tmp_path)
    for name in "cab":
        kept.session(row(name))
    changed = row("c", "closed", image_env={}, expires=9.5, pooled=False, ended=10.25, reason="asked", workspace="vol")
    kept.session(changed)
    assert kept.find_session("c") == changed
    assert kept.sessions() == [changed, row("a"), row("b")]
    kept.close()


def test_forgetting_erases_a_session_and_its_commands_only(tmp_path):
    kept = opened(tmp_path)
    for name in "ab":
        kept.session(row(name))
        kept.started(name, "c", 1, 1, REQUEST)
    kept.forget("a")
    assert (kept.find_session("a"), kept.command("a", "c"), list(kept.known("a"))) == (None, None, [])
    assert (kept.find_session("b"), list(kept.known("b"))) == (row("b"), [(1, "c")])
    kept.session(row("a", "again"))
    assert kept.sessions() == [row("b"), row("a", "again")]
    kept.close()


def test_commands_are_listed_by_number_page_by_page(tmp_path):
    kept = opened(tmp_path)
    numbers = [(number, f"c{1000 - number}") for number in range(1, 26)]
    for number, name in reversed(numbers):
        kept.started("s", name, number, 1, REQUEST)
    kept.started("other", "x", 1, 1, REQUEST)
    assert list(kept.known("s")) == numbers
    seen, after = [], None
    while page := kept.commands("s", after, 10):
        seen += [(command.number, command.id) for command in page]
        after = page[-1].id
    assert seen == numbers
    assert kept.commands("s", "nobody", 10) == []
    kept.close()


def test_known_goes_through_many_commands_in_pages(tmp_path):
    kept = opened(tmp_path)
    for number in range(1, 2501):
        kept.started("s", f"c{number}", number, 1, b"")
    listed = kept.known("s")
    assert next(listed) == (1, "c1")
    kept.started("s", "last", 2501, 1, b"")
    assert [number for number, _ in listed] == list(range(2, 2502))
    kept.close()


def test_files_are_private(tmp_path, durability):
    kept = opened(tmp_path / "state", durability)
    kept.session(row("s"))
    assert kept.sessions() == [row("s")]
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert modes == {"journal": 0o700, "store.sqlite": 0o600, "store.sqlite-wal": 0o600, "store.sqlite-shm": 0o600}
    kept.close()


def test_a_closed_store_refuses(tmp_path, durability):
    kept = opened(tmp_path, durability)
    kept.close()
    kept.close()
    for use in (lambda: kept.session(row("s")), kept.sessions, lambda: kept.command("s", "c")):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_closing_leaves_nothing_to_replay(tmp_path):
    kept = opened(tmp_path)
    for number in range(3000):
        kept.started("s", f"c{number}", number, 1, REQUEST)
    kept.close()
    connection = schema.connect(tmp_path / "store.sqlite", power=False)
    assert schema.applied(connection) == 3000
    connection.close()


def test_the_journal_is_deleted_behind_the_database(tmp_path, monkeypatch, durability):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 4096)
    kept = opened(tmp_path, durability)
    for number in range(2000):
        kept.started("s", f"c{number}", number, 1, REQUEST)
    until(lambda: len(files(tmp_path / "journal")) == 1, "deletion")
    kept.close()
    kept = opened(tmp_path, durability)
    assert len(list(kept.known("s"))) == 2000
    assert len(files(tmp_path / "journal")) == 1
    kept.close()


@pytest.mark.parametrize("point", ["store.commit=eio:1", "store.committed=eio:1", "store.commit=enospc:0.5"])
def test_a_failing_database_is_tried_again(tmp_path, monkeypatch, point):
    monkeypatch.setattr(writer, "RETRY_SECONDS", (0.01, 0.02))
    kept = opened(tmp_path)
    arm(monkeypatch, point)
    kept.session(row("s"))
    kept.started("s", "c", 1, 1, REQUEST)
    assert kept.sessions() == [row("s")]
    for number in range(2, 12):
        kept.started("s", f"c{number}", number, 1, REQUEST)
        assert kept.command("s", f"c{number}").number == number
    assert [number for number, _ in kept.known("s")] == list(range(1, 12))
    kept.close()


def test_a_broken_database_costs_reads_only_until_the_journal_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 4096)
    monkeypatch.setattr(journal, "JOURNAL_BYTES", 40_000)
    monkeypatch.setattr(store, "READ_SECONDS", 0.3)
    kept = opened(tmp_path)
    kept.session(row("quiet"))
    assert kept.find_session("quiet") == row("quiet")
    arm(monkeypatch, "store.commit=eio")
    recorded = 0
    with pytest.raises(StoreError, match="wait for the database"):
        for number in range(1, 10_000):
            kept.started("s", f"c{number}", number, 1, REQUEST)
            recorded = number
    assert recorded > 500
    with pytest.raises(StoreError, match=r"0\.3 s behind: .*Input/output error"):
        kept.command("s", "c1")
    assert kept.find_session("quiet") == row("quiet")
    arm(monkeypatch, "")
    monkeypatch.setattr(store, "READ_SECONDS", 5)
    assert [number for number, _ in kept.known("s")] == list(range(1, recorded + 1))
    until(lambda: len(files(tmp_path / "journal")) == 1, "deletion")
    kept.started("s", "next", recorded + 1, 1, REQUEST)
    kept.close()


def test_closing_over_a_broken_database_leaves_the_rest_to_the_next_start(tmp_path, monkeypatch):
    kept = opened(tmp_path)
    arm(monkeypatch, "store.commit=eio")
    kept.session(row("s"))
    kept.close()
    arm(monkeypatch, "")
    kept = opened(tmp_path)
    assert kept.sessions() == [row("s")]
    kept.close()


def test_a_disk_that_is_full_refuses_and_keeps_what_it_took(tmp_path):
    """On a file system of 2 MiB, under journal and database alike. Mounting it takes root, as `make test` does."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True, timeout=10)
    try:
        kept = opened(tmp_path)
        recorded = []
        refused = 0
        (tmp_path / "ballast").write_bytes(bytes(500_000))
        for number in range(1, 800):
            try:
                kept.started("s", f"c{number}", number, 1, bytes(3001))
                recorded.append(number)
            except StoreError as error:
                assert "No space left" in str(error) or "disk full" in str(error)
                refused += 1
            if number == 700:
                (tmp_path / "ballast").unlink()
        assert refused > 100
        assert recorded[-1] > 700
        kept.close()
        subprocess.run(["mount", "-o", "remount,size=16m", tmp_path], check=True, timeout=10)
        kept = opened(tmp_path)
        assert [number for number, _ in kept.known("s")] == recorded
        kept.started("s", "next", 1000, 1, REQUEST)
        assert kept.command("s", "next").number == 1000
        kept.close()
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True, timeout=10)


def test_without_power_nothing_waits_for_the_disk(tmp_path, monkeypatch):
    kept = opened(tmp_path)
    arm(monkeypatch, "journal.fsync=eio")
    kept.session(row("s"))
    assert kept.durable() is None
    kept.close()


async def test_durable_is_done_when_the_disk_has_it(tmp_path):
    kept = opened(tmp_path, "power")
    assert kept.durable().done()
    kept.session(row("s"))
    await kept.durable()
    assert kept._journal.synced == kept._journal.last == 1
    assert kept.durable().done()
    kept.close()


async def test_one_fsync_serves_all_that_wait(tmp_path, monkeypatch):
    """The first fsync is held up until all wait."""
    kept = opened(tmp_path, "power")
    fsyncs = []
    everybody = threading.Event()

    def hit(name: str) -> None:
        if name == "journal.fsync":
            fsyncs.append(name)
            assert everybody.wait(10)

    monkeypatch.setattr(journal, "hit", hit)
    waiting = []
    for name in range(100):
        kept.session(row(str(name)))
        waiting.append(kept.durable())
    assert not any(future.done() for future in waiting)
    everybody.set()
    await asyncio.gather(*waiting)
    assert len(fsyncs) <= 2
    kept.close()


async def test_a_waiter_that_gave_up_disturbs_nobody(tmp_path, monkeypatch):
    kept = opened(tmp_path, "power")
    arm(monkeypatch, "journal.fsync=sleep:0.05")
    kept.session(row("s"))
    gone, stays = kept.durable(), kept.durable()
    gone.cancel()
    await stays
    kept.close()


async def test_an_fsync_that_fails_is_said_and_recovered_from(tmp_path, monkeypatch):
    monkeypatch.setattr(syncer, "RETRY_SECONDS", (0.01, 0.02))
    kept = opened(tmp_path, "power")
    kept.session(row("before"))
    await kept.durable()
    arm(monkeypatch, "journal.fsync=eio")
    kept.session(row("doubtful"))
    with pytest.raises(StoreError, match="does not reach the disk"):
        await kept.durable()
    assert "does not reach the disk" in kept.failure
    with pytest.raises(StoreError, match="does not reach the disk"):
        kept.session(row("refused"))
    with pytest.raises(StoreError, match="does not reach the disk"):
        await kept.durable()
    arm(monkeypatch, "")
    until(lambda: kept.failure is None, "recovery")
    await kept.durable()
    kept.session(row("after"))
    await kept.durable()
    assert [session.id for session in kept.sessions()] == ["before", "doubtful", "after"]
    kept.close()
    kept = opened(tmp_path, "power")
    assert [session.id for session in kept.sessions()] == ["before", "doubtful", "after"]
    kept.close()


def test_an_fsync_that_fails_at_a_new_segment_is_recovered_from_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    kept = opened(tmp_path, "power")
    kept.session(row("before"))
    arm(monkeypatch, "journal.fsync=eio:1")
    with pytest.raises(StoreError):
        kept.session(row("refused"))
    until(lambda: kept.failure is None, "recovery")
    kept.session(row("after"))
    assert [session.id for session in kept.sessions()] == ["before", "after"]
    kept.close()


def test_much_is_synced_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(syncer, "UNASKED_BYTES", 10_000)
    kept = opened(tmp_path, "power")
    for number in range(1000):
        kept.started("s", f"c{number}", number, 1, REQUEST)
    until(lambda: kept._journal.unsynced_bytes <= 10_000, "an fsync")
    kept.close()


def test_closing_while_the_disk_fails_ends(tmp_path, monkeypatch):
    kept = opened(tmp_path, "power")
    kept.session(row("s"))
    arm(monkeypatch, "journal.fsync=eio")
    kept.close()
    arm(monkeypatch, "")
    kept = opened(tmp_path, "power")
    assert kept.sessions() == [row("s")]
    kept.close()


def test_the_database_keeps_its_promise_of_durability(tmp_path, durability):
    kept = opened(tmp_path, durability)
    for connection in kept._connections:
        assert connection.execute("PRAGMA synchronous").fetchone() == ({"process": 1, "power": 2}[durability],)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    kept.close()


def test_a_damaged_journal_moved_away_lets_the_store_open(tmp_path):
    """What the error advises."""
    kept = opened(tmp_path)
    kept.session(row("s"))
    kept.close()
    path = files(tmp_path / "journal")[0]
    path.write_bytes(bytes(100))
    with pytest.raises(StoreError, match=f"or move {tmp_path / 'journal'} away"):
        opened(tmp_path)
    (tmp_path / "journal").rename(tmp_path / "aside")
    kept = opened(tmp_path)
    kept.session(row("t"))
    assert kept.sessions() == [row("s"), row("t")]
    kept.close()


def test_approvals_are_kept_as_they_were_last_recorded(tmp_path):
    store = opened(tmp_path)
    store.session(row("s"))
    store.approval(approval("a"))
    store.approval(approval("b"))
    answered = approval("a", state="allowed", answered=2.0, approver="uid:0", scope="times", times_left=2)
    store.approval(answered)
    assert store.approvals("s") == [answered, approval("b")]
    store.close()
    store = opened(tmp_path)
    assert store.find_approval("a") == answered
    store.forget("s")
    assert store.approvals("s") == []
    assert store.find_approval("a") is None
    store.close()
