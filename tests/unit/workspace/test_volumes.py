"""Volumes on this machine, limited as it can; root's tests mount for real."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sessiond.engine.port import EngineError
from sessiond.workspace import volumes as module
from sessiond.workspace.host import VolumeError, mounted
from sessiond.workspace.image import ImageQuota, image_bytes
from sessiond.workspace.project import DQBLK, FSXATTR, ProjectQuota
from sessiond.workspace.quota import MeasuredQuota
from sessiond.workspace.volumes import Volumes

MIB = 1024**2
UID = 1000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")
as_user = {"user": UID, "group": UID, "extra_groups": ()} if os.geteuid() == 0 else {}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "volumes"


@pytest.fixture
async def make(directory: Path) -> AsyncIterator[Callable[..., Volumes]]:
    """Makes objects over one directory, as daemons one after the other do; nothing is left in the end."""
    made: list[Volumes] = []

    def make(on_exceeded: Callable[[str, int], None] | None = None) -> Volumes:
        volumes = Volumes(directory) if on_exceeded is None else Volumes(directory, on_exceeded)
        made.append(volumes)
        return volumes

    yield make
    last = make()
    await last.open()
    for name in await last.list():
        await last.remove(name)
    for volumes in made:
        await volumes.close()
    assert list(directory.iterdir()) == []
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def measured_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that can set no limits."""

    def cannot(*_: object) -> None:
        raise EngineError("not here")

    monkeypatch.setattr(ProjectQuota, "make", cannot)
    monkeypatch.setattr(ImageQuota, "make", cannot)


def fill(path: Path, size: int) -> str:
    """Write as the sandbox's user until it is refused, from an open directory: what lies above is closed to it."""
    code = (
        "import os, sys\nos.fchdir(int(sys.argv[2]))\n"
        "try:\n with open('fill', 'ab', 0) as f:\n  for _ in range(int(sys.argv[1])): f.write(bytes(65536))\n"
        "except OSError as error: print(error.strerror)\n"
        "print(os.stat('fill').st_size)"
    )
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return subprocess.run(
            ["/usr/bin/python3", "-c", code, str(size // 65536), str(descriptor)],
            pass_fds=[descriptor], cwd="/", capture_output=True, text=True, check=True, **as_user,
        ).stdout  # type: ignore[call-overload, no-any-return]  # fmt: skip
    finally:
        os.close(descriptor)


@needs_root
async def test_root_gets_a_hard_limit_and_it_is_exact(make: Callable[..., Volumes]):
    volumes = make()
    choice = await volumes.open()
    assert choice.hard and choice.quota in {"image", "project"}, choice
    for size in (1 * MIB, 5 * MIB, 64 * MIB):
        path = await volumes.create("v-1", size)
        assert (path.stat().st_uid, path.stat().st_mode & 0o7777, list(path.iterdir())) == (UID, 0o755, [])
        words, wrote = fill(path, 2 * size).splitlines()
        assert words in {"No space left on device", "Disk quota exceeded"}
        # The last block may be the file's own map of blocks.
        assert size - 64 * 1024 <= int(wrote) <= size
        assert await volumes.usage("v-1") >= int(wrote)
        await volumes.remove("v-1")


@needs_root
async def test_an_image_takes_the_hosts_disk_for_what_is_in_it_only(make: Callable[..., Volumes], directory: Path):
    volumes = make()
    assert (await volumes.open()).quota == "image", "this file system has project quotas: use another TMPDIR"
    path = await volumes.create("v-1", 256 * MIB)
    image = directory / "v-1" / "image"
    assert image.stat().st_blocks * 512 < 2 * MIB
    fill(path, 64 * MIB)
    os.sync()
    assert image.stat().st_blocks * 512 > 60 * MIB
    (path / "fill").unlink()
    os.sync()
    for _ in range(100):
        if image.stat().st_blocks * 512 < 10 * MIB:
            break
        await asyncio.sleep(0.1)
    assert image.stat().st_blocks * 512 < 10 * MIB


@needs_root
async def test_after_a_reboot_it_is_mounted_again(make: Callable[..., Volumes], directory: Path):
    volumes = make()
    await volumes.open()
    path = await volumes.create("v-1", 4 * MIB)
    (path / "file").write_text("kept")
    await volumes.close()
    subprocess.run(["umount", path], check=True)
    assert not (path.stat().st_mode & 0o222) or (path / "file").exists(), "a sandbox could write beneath the mount"
    volumes = make()
    await volumes.open()
    assert await volumes.list() == ["v-1"]
    assert await volumes.adopt("v-1") == path
    assert (path / "file").read_text() == "kept"
    mount = mounted(path)
    assert mount is not None and {"nosuid", "nodev"} <= mount.options
    assert fill(path, 8 * MIB).startswith("No space left")
    assert (path / "fill").stat().st_size < 4 * MIB
    # Again does nothing.
    assert await volumes.adopt("v-1") == path
    assert Path("/proc/self/mountinfo").read_text().count(str(path)) == 1


@needs_root
async def test_a_volume_keeps_the_way_in_which_it_was_made(
    make: Callable[..., Volumes], monkeypatch: pytest.MonkeyPatch
):
    volumes = make()
    first = (await volumes.open()).quota
    path = await volumes.create("v-1", 4 * MIB)
    (path / "file").write_text("kept")
    monkeypatch.setattr(module, "_refuses", lambda *_: False)
    volumes = make()
    assert (await volumes.open()).quota == "measured" != first
    assert (await volumes.adopt("v-1") / "file").read_text() == "kept"
    await volumes.remove("v-1")
    assert await volumes.list() == []


@needs_root
async def test_what_does_not_keep_its_limit_is_passed_over(
    make: Callable[..., Volumes], monkeypatch: pytest.MonkeyPatch
):
    """A limit that is only said is none: it is tried."""
    monkeypatch.setattr(ProjectQuota, "make", MeasuredQuota(bind=False).make)
    monkeypatch.setattr(ImageQuota, "make", MeasuredQuota(bind=False).make)
    choice = await make().open()
    assert (choice.quota, choice.hard) == ("measured", False)
    assert sum("does not keep its limit" in sentence for sentence in choice.passed_over) == 2


async def test_a_machine_that_cannot_limit_says_so_and_why(make: Callable[..., Volumes], measured_only: None):
    choice = await make().open()
    assert (choice.quota, choice.hard) == ("measured", False)
    assert choice.passed_over


async def test_who_writes_too_much_into_a_measured_volume_is_told(make: Callable[..., Volumes], measured_only: None):
    told: list[tuple[str, int]] = []
    exceeded = asyncio.Event()

    def on_exceeded(name: str, used: int) -> None:
        told.append((name, used))
        exceeded.set()

    volumes = make(on_exceeded)
    await volumes.open()
    path = await volumes.create("v-1", 4 * MIB)
    other = await volumes.create("v-2", 4 * MIB)
    (other / "file").write_bytes(bytes(3 * MIB))
    (path / "file").write_bytes(bytes(5 * MIB))
    async with asyncio.timeout(20):
        await exceeded.wait()
        assert [name for name, _ in told] == ["v-1"] and told[0][1] >= 5 * MIB
        exceeded.clear()
        (path / "more").write_bytes(bytes(MIB))
        await exceeded.wait()
    assert {name for name, _ in told} == {"v-1"}


async def test_a_measured_volume_is_watched_after_a_restart_too(make: Callable[..., Volumes], measured_only: None):
    volumes = make()
    await volumes.open()
    path = await volumes.create("v-1", MIB)
    await volumes.close()
    (path / "file").write_bytes(bytes(2 * MIB))
    exceeded = asyncio.Event()
    volumes = make(lambda _name, _used: exceeded.set())
    await volumes.open()
    await volumes.adopt("v-1")
    async with asyncio.timeout(20):
        await exceeded.wait()


async def test_what_cannot_be_measured_counts_as_full(
    make: Callable[..., Volumes], measured_only: None, monkeypatch: pytest.MonkeyPatch
):
    def cannot(*_: object) -> int:
        raise EngineError("du took more than 10 s")

    exceeded = asyncio.Event()
    volumes = make(lambda _name, _used: exceeded.set())
    await volumes.open()
    monkeypatch.setattr(MeasuredQuota, "used", cannot)
    await volumes.create("v-1", MIB)
    async with asyncio.timeout(20):
        await exceeded.wait()


async def test_a_name_is_used_once(make: Callable[..., Volumes]):
    volumes = make()
    await volumes.open()
    path = await volumes.create("v-1", MIB)
    (path / "file").write_text("kept")
    with pytest.raises(VolumeError, match="exists already"):
        await volumes.create("v-1", MIB)
    assert (path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".trial", "A", "x" * 41])
async def test_a_name_that_could_be_a_path_is_refused(make: Callable[..., Volumes], name: str):
    volumes = make()
    await volumes.open()
    for call in (volumes.create(name, MIB), volumes.adopt(name), volumes.remove(name), volumes.usage(name)):
        with pytest.raises(EngineError, match="form"):
            await call


async def test_what_is_not_there(make: Callable[..., Volumes]):
    volumes = make()
    await volumes.open()
    for call in (volumes.adopt("nobody"), volumes.usage("nobody")):
        with pytest.raises(VolumeError, match="no volume nobody"):
            await call
    await volumes.remove("nobody")


async def test_not_open(directory: Path):
    with pytest.raises(VolumeError, match="not open"):
        await Volumes(directory).create("v-1", MIB)


async def test_a_half_made_volume_is_found_and_removed(make: Callable[..., Volumes], directory: Path):
    volumes = make()
    await volumes.open()
    for name, text in (
        ("no-record", None),
        ("torn", '{"quota": "im'),
        ("begun", json.dumps({"quota": "image", "size": 9})),
    ):
        (directory / name).mkdir()
        if text is not None:
            (directory / name / "volume.json").write_text(text)
    with pytest.raises(VolumeError, match="cannot be read"):
        await volumes.adopt("torn")
    assert await volumes.list() == ["begun", "no-record", "torn"]
    for name in await volumes.list():
        await volumes.remove(name)
    assert await volumes.list() == []


async def test_a_volume_that_cannot_be_made_leaves_nothing(
    make: Callable[..., Volumes], monkeypatch: pytest.MonkeyPatch
):
    volumes = make()
    await volumes.open()
    assert volumes._chosen is not None

    def cannot(*_: object) -> None:
        raise EngineError("no space")

    monkeypatch.setattr(type(volumes._chosen), "mount", cannot)
    with pytest.raises(EngineError, match="no space"):
        await volumes.create("v-1", MIB)
    monkeypatch.undo()
    assert await volumes.list() == []


async def test_what_a_sandbox_leaves_can_be_removed(make: Callable[..., Volumes], measured_only: None):
    """Links to elsewhere, directories without permissions, and far more of them within each other than Python can."""
    volumes = make()
    await volumes.open()
    path = await volumes.create("v-1", 64 * MIB)
    with tempfile.NamedTemporaryFile() as elsewhere:
        (path / "link").symlink_to(elsewhere.name)
        here = os.open(path, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(here)
        assert await volumes.usage("v-1") > 0
        await volumes.remove("v-1")
        assert Path(elsewhere.name).exists()
    assert await volumes.list() == []


@needs_root
async def test_a_daemon_that_was_killed_while_it_tried_leaves_nothing(
    make: Callable[..., Volumes], directory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ImageQuota, "unmake", lambda *_: None)
    await make().open()
    assert mounted(directory / ".trial" / "files") is not None
    monkeypatch.undo()
    volumes = make()
    assert (await volumes.open()).hard
    assert list(directory.iterdir()) == []


async def test_files_of_no_size_count_too(make: Callable[..., Volumes], measured_only: None):
    volumes = make()
    await volumes.open()
    path = await volumes.create("v-1", 64 * MIB)
    empty = await volumes.usage("v-1")
    for number in range(1000):
        (path / f"{number}").touch()
    assert await volumes.usage("v-1") >= empty + 1000 * 256


@needs_root
async def test_xfs_with_project_quotas_limits_without_an_image(tmp_path: Path):
    """Where this kernel has them. Where it has not, volumes on XFS fall back to images."""
    image, mount = tmp_path / "xfs", tmp_path / "mount"
    image.touch()
    os.truncate(image, 512 * MIB)
    mount.mkdir()
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    quotas = subprocess.run(["mount", "-o", "loop,prjquota", image, mount], capture_output=True).returncode == 0
    if not quotas:
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        volumes = Volumes(mount / "volumes")
        choice = await volumes.open()
        assert (choice.quota, choice.hard) == ("project" if quotas else "image", True), choice
        one, other = await volumes.create("v-1", 4 * MIB), await volumes.create("v-2", 4 * MIB)
        for path in (one, other):
            assert 0.9 * 4 * MIB <= int(fill(path, 8 * MIB).split()[-1]) <= 4 * MIB
        await volumes.remove("v-1")
        await volumes.remove("v-2")
        await volumes.close()
    finally:
        subprocess.run(["umount", mount], check=True)


def test_the_kernels_records_have_the_kernels_sizes():
    """struct fsxattr and struct if_dqblk (include/uapi/linux/fs.h, quota.h)."""
    assert (FSXATTR.size, DQBLK.size) == (28, 72)


@pytest.mark.parametrize("size", [1, MIB, 10**9 + 1, 10**12])
def test_an_image_is_whole_blocks_and_larger_than_its_volume(size: int):
    assert image_bytes(size) % 4096 == 0
    assert size + 8 * MIB <= image_bytes(size) <= size * 1.07 + 9 * MIB
