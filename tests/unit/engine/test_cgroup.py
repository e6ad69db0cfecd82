"""Reading what the kernel says of control groups."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.engine import cgroup
from sessiond.engine.cgroup import Group
from sessiond.engine.port import EngineError, Limits, SandboxGoneError

MIXED = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_hierarchies_of_both_versions_are_found():
    mounts = cgroup.hierarchies(MIXED).mounts
    assert mounts == {
        "cpu": (Path("/sys/fs/cgroup/cpu,cpuacct"), "/"),
        "cpuacct": (Path("/sys/fs/cgroup/cpu,cpuacct"), "/"),
        "memory": (Path("/sys/fs/cgroup/memory"), "/docker/abc"),
        "unified": (Path("/sys/fs/cgroup/unified"), "/"),
    }


def test_memberships_are_read():
    text = "9:name=systemd:/\n5:cpu,cpuacct:/a\n4:memory:/b:c\n0::/d\n"
    assert cgroup.memberships(text) == {
        "name=systemd": "/",
        "cpu": "/a",
        "cpuacct": "/a",
        "memory": "/b:c",
        "unified": "/d",
    }


@pytest.fixture
def v2(tmp_path: Path) -> Group:
    for name, text in {
        "memory.current": "5000\n",
        "memory.stat": "anon 1\ninactive_file 2000\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
        "pids.current": "3\n",
        "memory.max": "max\n",
        "memory.swap.max": "max\n",
        "pids.max": "max\n",
        "cpu.max": "max 100000\n",
        "cgroup.freeze": "0\n",
        "cgroup.events": "populated 1\nfrozen 1\n",
        "memory.events": "low 0\noom 4\noom_kill 3\n",
    }.items():
        (tmp_path / name).write_text(text)
    return Group({"unified": tmp_path})


def test_usage_leaves_out_the_cache_that_can_be_dropped(v2: Group):
    usage = v2.usage()
    assert (usage.memory_bytes, usage.cpu_seconds, usage.pids) == (3000, 1.5, 3)


def test_oom_kills_are_not_ooms(v2: Group):
    assert v2.oom_kills() == 3


def test_limits_of_version_2_are_written(v2: Group, tmp_path: Path):
    held = v2.limit(Limits(memory_bytes=7, cpus=0.5, pids=9))
    assert held == {"memory_bytes", "cpus", "pids"}
    assert (tmp_path / "memory.max").read_text().startswith("7")
    assert (tmp_path / "memory.swap.max").read_text().startswith("0")
    assert (tmp_path / "pids.max").read_text().startswith("9")
    assert (tmp_path / "cpu.max").read_text().startswith("50000 100000")


async def test_freezing_waits_for_the_kernel(v2: Group, tmp_path: Path):
    assert not v2.frozen()
    await v2.freeze()
    assert v2.frozen()
    v2.thaw()
    assert not v2.frozen()


async def test_freezer_that_cannot_be_written_is_the_engines_error(tmp_path: Path):
    (tmp_path / "cgroup.freeze").mkdir()
    with pytest.raises(EngineError, match="freezer cannot be written: Is a directory"):
        await Group({"unified": tmp_path}).freeze()


async def test_group_that_is_gone_is_gone(tmp_path: Path):
    gone = Group({"unified": tmp_path / "gone"})
    assert not gone.frozen()
    gone.thaw()
    await gone.remove()
    with pytest.raises(SandboxGoneError):
        await gone.freeze()
    usage = gone.usage()
    assert (usage.memory_bytes, usage.cpu_seconds, usage.pids) == (None, None, None)


def test_process_that_is_gone_has_no_group():
    assert cgroup.of_process(2**22 + 1) is None


@pytest.fixture
def real_v2() -> Iterator[Group]:
    """A group of the kernel's own in version 2, with a process in it; of the mixture of both the version 2 part."""
    mount = cgroup.hierarchies().mounts.get(cgroup.UNIFIED)
    if mount is None or not os.access(mount[0] / "cgroup.procs", os.W_OK):
        pytest.skip("this user may make no groups in version 2 here")
    path = mount[0] / f"sessiond-test-{os.getpid()}"
    path.mkdir()
    process = subprocess.Popen(["sleep", "100"])
    group = Group({cgroup.UNIFIED: path})
    group.add(process.pid)
    yield group
    group.thaw()
    process.kill()
    process.wait()
    path.rmdir()


async def test_version_2_freezes_for_real(real_v2: Group):
    assert real_v2.can_freeze
    for _ in range(3):
        await real_v2.freeze()
        assert real_v2.frozen()
        real_v2.thaw()
        assert not real_v2.frozen()
