"""What every engine must do with a volume as workspace, on real ones, and what real volumes keep."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessiond.engine.directory import SandboxDirectory
from sessiond.engine.port import EngineError, SandboxState
from sessiond.workspace.volumes import Volumes
from tests.integration.engine.ground import Ground
from tests.integration.engine.test_contract import MIB, SMALL

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")


@pytest.fixture
async def volumes(tmp_path: Path) -> AsyncIterator[Volumes]:
    """As this machine can make them; nothing of them is left in the end."""
    volumes = Volumes(tmp_path / "volumes")
    await volumes.open()
    yield volumes
    for name in await volumes.list():
        await volumes.remove(name)
    assert list((tmp_path / "volumes").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    await volumes.close()


async def test_files_outlive_their_sandbox(ground: Ground, volumes: Volumes):
    engine = await ground.open()
    guest = await ground.sandbox("s-1", volume=await volumes.create("v-1", 8 * MIB))
    script = "echo kept >file; mkdir -p d/e; chmod 600 file; stat -c %u:%g . file; pwd"
    assert (await guest.run("sh", "-c", script)).output == "1000:1000\n1000:1000\n/workspace\n"
    # Another one takes the first one's host user meanwhile, where sandboxes have such.
    await engine.remove("s-1")
    await ground.sandbox("s-2")
    guest = await ground.sandbox("s-3", volume=await volumes.adopt("v-1"))
    outcome = await guest.run("sh", "-c", "cat file; echo more >>file; touch d/e/f; stat -c %u:%g . file d/e")
    assert outcome.output == "kept\n1000:1000\n1000:1000\n1000:1000\n"


async def test_a_sandbox_with_a_volume_is_adopted(ground: Ground, volumes: Volumes):
    guest = await ground.sandbox("s-1", volume=await volumes.create("v-1", 8 * MIB))
    await guest.run("sh", "-c", "echo kept >/workspace/file")
    engine = await ground.again()
    assert [status.state for status in await engine.list()] == [SandboxState.RUNNING]
    adopted = await ground.adopt()
    assert (await adopted.run("cat", "/workspace/file")).output == "kept\n"
    volume = await volumes.adopt("v-1")
    await engine.remove("s-1")
    assert (volume / "file").read_text() == "kept\n"


async def test_a_volume_keeps_its_size(ground: Ground, volumes: Volumes, tmp_path: Path):
    """ENOSPC at the promised size where the kernel can refuse it; the host's disk holds no more than that."""
    volume = await volumes.create("v-1", 8 * MIB)
    guest = await ground.sandbox("s-1", limits=SMALL, volume=volume)
    script = "i=0; while head -c 512K /dev/zero >$i; do i=$((i+1)); [ $i -lt 100 ] || break; done; cat * | wc -c"
    outcome = await guest.run("sh", "-c", script)
    choice = await volumes.open()
    assert choice.hard, f"this test is for root on a machine with ext4 and loop devices: {choice.passed_over}"
    assert "No space left" in outcome.output or "quota exceeded" in outcome.output
    assert 0.95 * 8 * MIB <= int(outcome.output.split()[-1]) <= 8 * MIB
    assert await volumes.usage("v-1") <= 9 * MIB
    on_disk = subprocess.run(["du", "-s", "-B1", tmp_path], capture_output=True, text=True, check=True).stdout
    assert int(on_disk.split()[0]) < 16 * MIB
    assert (await guest.run("sh", "-c", "rm *; echo again >file && cat file")).output == "again\n"


async def test_a_volume_is_its_own_sandboxes_alone(ground: Ground, volumes: Volumes):
    first = await ground.sandbox("s-1", volume=await volumes.create("v-1", 8 * MIB))
    second = await ground.sandbox("s-2", volume=await volumes.create("v-2", 8 * MIB))
    await first.run("sh", "-c", "echo only-the-first >/workspace/secret; chmod 666 /workspace/secret")
    assert (await second.run("ls", "-A", "/workspace")).output == ""
    search = "grep -rls only-the-first / --exclude-dir=proc --exclude-dir=sys; grep -c v-1 /proc/self/mountinfo"
    seen = await second.run("sh", "-c", search)
    assert seen.output.split()[-1:] == ["0"] and "secret" not in seen.output


async def test_set_user_id_bits_and_devices_mean_nothing_in_a_volume(ground: Ground, volumes: Volumes):
    volume = await volumes.create("v-1", 8 * MIB)
    guest = await ground.sandbox("s-1", volume=volume)
    options = await guest.run("sh", "-c", "grep ' /workspace ' /proc/self/mountinfo | cut -d' ' -f6")
    assert {"rw", "nosuid", "nodev"} <= set(options.output.strip().split(","))
    if os.geteuid() == 0:
        shutil.copy("/usr/bin/id", volume / "id")
        os.chown(volume / "id", 0, 0)
        (volume / "id").chmod(0o6755)
        os.mknod(volume / "null", 0o020666, os.makedev(1, 3))
        assert (await guest.run("/workspace/id", "-u")).output == "1000\n"
        assert (await guest.run("sh", "-c", "echo x >/workspace/null")).code != 0


async def test_links_out_of_a_volume_are_not_followed_when_it_is_given(
    ground: Ground, volumes: Volumes, tmp_path: Path
):
    """Giving a volume to another host user must not give away what its links point to."""
    engine = await ground.open()
    mine = tmp_path / "mine"
    mine.write_text("")
    owner = mine.stat().st_uid
    volume = await volumes.create("v-1", 8 * MIB)
    guest = await ground.sandbox("s-1", volume=volume)
    await guest.run("ln", "-s", str(tmp_path), "/workspace/link")
    await engine.remove("s-1")
    if os.geteuid() == 0:
        os.chown(volume, 4242, 4242)
    await ground.sandbox("s-2", volume=volume)
    assert mine.stat().st_uid == owner


async def test_a_volume_that_does_not_exist_is_refused(ground: Ground, tmp_path: Path):
    engine = await ground.open()
    with pytest.raises(EngineError, match=r"volume .*missing"):
        await engine.create(ground.spec(volume=tmp_path / "missing"), asyncio.Protocol)
    assert await engine.list() == []
    assert not (tmp_path / "missing").exists()


@needs_root
@pytest.mark.parametrize("ground", ["bubblewrap"], indirect=True)
async def test_removing_a_jail_never_removes_a_volume_that_is_still_mounted(ground: Ground, volumes: Volumes):
    """What a daemon that was killed in the middle of a start leaves behind."""
    engine = await ground.open()
    volume = await volumes.create("v-1", 8 * MIB)
    await ground.sandbox("s-1", volume=volume)
    (volume / "file").write_text("kept")
    place = SandboxDirectory(engine._base / "s-1")  # type: ignore[attr-defined]
    place.volume.mkdir()
    subprocess.run(["mount", "--bind", volume, place.volume], check=True)
    await engine.remove("s-1")
    assert not place.root.exists()
    assert (volume / "file").read_text() == "kept"


@needs_root
@pytest.mark.parametrize("ground", ["docker"], indirect=True)
async def test_an_engine_that_does_not_see_a_mount_is_found_out(ground: Ground, tmp_path: Path):
    """As for a daemon with a mount namespace of its own: dockerd shows what lies beneath the mount point."""
    engine = await ground.open()
    volume, other = tmp_path / "volume", tmp_path / "other"
    for path in (volume, other):
        path.mkdir()
        os.chown(path, 1000, 1000)
    await engine.create(ground.spec(volume=volume), asyncio.Protocol)
    volume.rename(tmp_path / "moved")
    other.rename(volume)
    engine._volumes["s-1"] = tmp_path / "moved"  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="mount namespace"):
        await engine.start("s-1")
