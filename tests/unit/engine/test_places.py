"""Directories and host users of sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sessiond_protocol.address import default_socket_path

from sessiond.engine.bubblewrap import ROOTS_DIRECTORY
from sessiond.engine.directory import SandboxDirectory, check_id, copy_guest, make_base
from sessiond.engine.hostuid import HostUids
from sessiond.engine.port import EngineError


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    path = tmp_path / "some-guest"
    path.write_bytes(b"elf")
    return path


def test_others_reach_the_mount_only_through_a_closed_directory(tmp_path: Path, guest: Path):
    base = tmp_path / "base"
    make_base(base)
    place = SandboxDirectory(base / "s-1")
    place.create(copy_guest(guest, base))
    assert base.stat().st_mode & 0o777 == 0o711
    assert place.root.stat().st_mode & 0o777 == 0o700
    assert place.mount.stat().st_mode & 0o777 == 0o755
    assert (place.mount / "guest").read_bytes() == b"elf"
    assert (place.mount / "guest").stat().st_mode & 0o777 == 0o555
    with pytest.raises(EngineError, match="exists already"):
        place.create(guest)
    place.erase()
    place.erase()
    assert not place.root.exists()


def test_upgrade_of_the_guest_leaves_the_old_copy_alone(tmp_path: Path, guest: Path):
    first = copy_guest(guest, tmp_path)
    assert copy_guest(guest, tmp_path) == first
    guest.write_bytes(b"newer")
    second = copy_guest(guest, tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (b"elf", b"newer")


@pytest.mark.parametrize("good", ["a", "0", "s-1", "a" * 40])
def test_good_ids(good: str):
    assert check_id(good, "sandbox") == good


@pytest.mark.parametrize("bad", ["", "-a", "A", "a_b", "a.b", "../a", "a/b", "a\n", "a" * 41, "ä"])
def test_bad_ids(bad: str):
    with pytest.raises(EngineError, match="form"):
        check_id(bad, "sandbox")


def owner(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path


def test_host_users_are_never_shared(tmp_path: Path):
    uids = HostUids(tmp_path / "uids", 5000, 3)
    owners = [owner(tmp_path, name) for name in "abc"]
    assert [uids.take(path) for path in owners] == [5000, 5001, 5002]
    with pytest.raises(EngineError, match="all 3"):
        uids.take(owner(tmp_path, "d"))
    uids.give_back(5001, owners[1])
    assert uids.take(tmp_path / "d") == 5001


def test_host_user_of_a_sandbox_that_vanished_is_free(tmp_path: Path):
    uids = HostUids(tmp_path / "uids", 5000, 1)
    gone = owner(tmp_path, "gone")
    assert uids.take(gone) == 5000
    gone.rmdir()
    here = owner(tmp_path, "here")
    assert uids.take(here) == 5000
    # The vanished one's daemon returns and gives back what is not its own any more.
    uids.give_back(5000, gone)
    with pytest.raises(EngineError):
        uids.take(owner(tmp_path, "third"))


def test_giving_back_twice_does_no_harm(tmp_path: Path):
    uids = HostUids(tmp_path / "uids", 5000, 1)
    one = owner(tmp_path, "one")
    uids.take(one)
    uids.give_back(5000, one)
    uids.give_back(5000, one)


def test_jails_of_root_do_not_lie_where_the_daemon_listens():
    """The one directory must let jails' users through, the other nobody: as one, root's daemon could not start."""
    listens = Path(default_socket_path({}, 0)).parent
    assert listens != ROOTS_DIRECTORY
    assert listens not in ROOTS_DIRECTORY.parents
    assert ROOTS_DIRECTORY not in listens.parents
