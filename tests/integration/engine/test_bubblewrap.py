"""What is the bubblewrap engine's alone: host users, life without root or cgroups, pids used again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sessiond.engine import bubblewrap, cgroup, jail
from sessiond.engine.bubblewrap import BubblewrapEngine
from sessiond.engine.directory import SandboxDirectory
from sessiond.engine.hostuid import FIRST_UID, UIDS
from sessiond.engine.jail_state import RECORD
from sessiond.engine.port import EngineError, EngineUnavailableError, Limits, SandboxSpec, SandboxState
from tests import engines
from tests.integration.engine.conftest import bubblewrap_ground
from tests.integration.engine.ground import Ground
from tests.integration.engine.test_contract import FORKS

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")


@pytest.fixture
async def jails(tmp_path: Path) -> AsyncIterator[Ground]:
    ground = bubblewrap_ground(tmp_path)
    yield ground
    await ground.clear()


@pytest.fixture
async def groupless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    """Jails on a machine that lets nobody make cgroups."""
    monkeypatch.setattr(cgroup, "own_parent", lambda _name: None)
    ground = bubblewrap_ground(tmp_path)
    yield ground
    await ground.clear()


@needs_root
async def test_each_jail_of_root_has_a_host_user_of_its_own(jails: Ground):
    await jails.sandbox("s-1")
    await jails.sandbox("s-2")
    uids = set()
    for name in ("s-1", "s-2"):
        status = Path(f"/proc/{await jails.host_pid(name)}/status").read_text()
        uids.add(next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:")))
    assert len(uids) == 2
    assert all(FIRST_UID <= int(uid) < FIRST_UID + UIDS for uid in uids)


@needs_root
async def test_host_user_is_given_back(jails: Ground):
    engine = await jails.open()
    await jails.sandbox()
    uid = json.loads(next(engine._base.glob("s-1/sandbox.json")).read_text())["uid"]  # type: ignore[attr-defined]
    record = bubblewrap.ROOTS_DIRECTORY / ".uids" / str(uid)
    assert record.exists()
    await engine.remove("s-1")
    assert not record.exists()


@needs_root
async def test_other_host_users_cannot_reach_a_channel(jails: Ground):
    engine = await jails.open()
    await jails.sandbox()
    socket = engine._base / "s-1" / "mount" / "channel.sock"  # type: ignore[attr-defined]
    dial = f"import socket; socket.socket(socket.AF_UNIX).connect({str(socket)!r})"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", dial], user=NOBODY, group=NOBODY, extra_groups=(), capture_output=True, text=True
    )
    assert "PermissionError" in done.stderr


async def test_jail_without_cgroups_says_so_and_limits_what_it_can(groupless: Ground):
    guest = await groupless.sandbox(limits=Limits(memory_bytes=64 << 20, pids=32))
    capabilities = groupless.capabilities
    assert capabilities is not None
    assert capabilities.limits == {"pids", "workspace_bytes", "tmp_bytes"}
    assert "memory_bytes" in capabilities.process_limits
    assert any("No cgroups" in sentence for sentence in capabilities.weaknesses)
    assert "MemoryError" in (await guest.run("python3", "-c", "x = bytearray(200 << 20)")).output
    assert int((await guest.run("python3", "-c", FORKS)).output.split()[1]) < 32


async def test_processes_of_one_jail_do_not_count_in_another(groupless: Ground):
    first = await groupless.sandbox("s-1", Limits(pids=32))
    second = await groupless.sandbox("s-2", Limits(pids=32))
    await first.run("sh", "-c", "for i in $(seq 25); do sleep 1000 >/dev/null 2>&1 & done")
    assert (await second.run("sh", "-c", "for i in $(seq 25); do sleep 0.1 & done; wait; echo fine")).output == "fine\n"


async def test_jail_without_cgroups_is_paused_by_signals(groupless: Ground):
    engine = await groupless.open()
    guest = await groupless.sandbox()
    handle, _end = guest.start("sh", "-c", "while :; do echo x; sleep 0.01; done")
    while len(guest.output(handle)) < 4:
        await asyncio.sleep(0.01)
    await engine.pause("s-1")
    assert (await engine.list())[0].state is SandboxState.PAUSED
    await asyncio.sleep(0.05)
    said = len(guest.output(handle))
    await asyncio.sleep(0.2)
    assert len(guest.output(handle)) == said
    await engine.resume("s-1")
    await asyncio.sleep(0.2)
    assert len(guest.output(handle)) > said
    await engine.pause("s-1")
    await engine.remove("s-1")


async def test_tightening_without_cgroups_is_refused_where_it_cannot_hold(groupless: Ground):
    engine = await groupless.open()
    await groupless.sandbox(limits=Limits(cpus=1.0))
    with pytest.raises(EngineError, match="cpus"):
        await engine.tighten("s-1", Limits(cpus=0.5))


async def test_pid_that_is_used_again_is_not_taken_for_the_jail(jails: Ground, tmp_path: Path):
    await jails.sandbox()
    other = subprocess.Popen(["sleep", "1000"])
    try:
        engine = await jails.open()
        place = SandboxDirectory(engine._base / "s-1")  # type: ignore[attr-defined]
        await engine.close()
        genuine = jail.find(place)
        assert genuine is not None
        assert not jail.dead(genuine)
        os.close(genuine)
        true_status = (place.root / jail.STATUS).read_text()
        (place.root / jail.STATUS).write_text(json.dumps({"child-pid": other.pid}) + "\n")
        jails._engine = None
        engine = await jails.open()
        assert [status.state for status in await engine.list()] == [SandboxState.DEAD]
        await engine.close()
        assert other.poll() is None
        (place.root / jail.STATUS).write_text(true_status)
        jails._engine = None
        await jails.adopt()
    finally:
        other.kill()
        other.wait()


async def test_jail_that_cannot_be_made_leaves_nothing(jails: Ground, monkeypatch: pytest.MonkeyPatch):
    engine = await jails.open()
    monkeypatch.setattr(bubblewrap, "jail_arguments", broken_arguments)
    await engine.create(jails.spec(), asyncio.Protocol)
    with pytest.raises(EngineError, match="Can't find source path"):
        await engine.start("s-1")
    assert not [pid for pid in jail.tree(os.getpid()) if b"bwrap" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    await engine.remove("s-1")
    assert await engine.list() == []


def broken_arguments(spec, around, *, mount, volume, memory, fds):
    return [
        *(around.bwrap, "--unshare-all", "--as-pid-1", "--info-fd", str(fds.info)),
        *("--json-status-fd", str(fds.status), "--block-fd", str(fds.block), "--ro-bind", "/nonexistent", "/x", "true"),
    ]


async def test_start_that_dies_in_the_middle_leaves_a_jail_that_is_found(jails: Ground):
    """bwrap writes the pid itself: a daemon that is killed before it could is no reason to lose a jail."""
    engine = await jails.open()
    await engine.create(jails.spec(), asyncio.Protocol)
    known = engine._known("s-1")  # type: ignore[attr-defined]
    started = engine._start(known)  # type: ignore[attr-defined]
    engine = await jails.again()
    assert [status.state for status in await engine.list()] == [SandboxState.RUNNING]
    await engine.remove("s-1")
    assert not Path(f"/proc/{started.pid}/root").exists()
    started.monitor.wait()
    os.close(started.pidfd)


async def test_what_a_killed_daemon_left_half_made_is_found_and_erased(tmp_path: Path):
    """It has a directory, and maybe cgroups, but no record yet."""
    engine = BubblewrapEngine(instance="half", directory=tmp_path, guest=engines.guest())
    await engine.open()
    try:
        spec = SandboxSpec(id="s-1", profile="p")
        await engine.create(spec, asyncio.Protocol)
        (record,) = engine._base.rglob(RECORD)
        record.unlink()
        await engine.close()
        engine = BubblewrapEngine(instance="half", directory=tmp_path, guest=engines.guest())
        await engine.open()
        assert [(status.id, status.state) for status in await engine.list()] == [("s-1", SandboxState.CREATED)]
        await engine.remove("s-1")
        assert await engine.list() == []
        assert [path for path in engine._base.iterdir() if path.is_dir()] == []
    finally:
        await engine.remove("s-1")
        await engine.close()


async def test_missing_bwrap_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    engine = BubblewrapEngine(instance="t", directory=tmp_path, guest=engines.guest())
    with pytest.raises(EngineUnavailableError, match="install the package bubblewrap"):
        await engine.open()
    await engine.close()


@pytest.fixture
def readable_copy() -> Iterator[Path]:
    """The engine's modules, the protocol and the tests where an ordinary user can read them."""
    root = Path(__file__).parents[3]
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        copy.chmod(0o755)
        for part in (
            *("sessiond/core", "sessiond/engine", "sessiond/guest", "sessiond/workspace"),
            *("protocol/sessiond_protocol", "tests/integration/engine"),
        ):
            shutil.copytree(root / part, copy / part, ignore=shutil.ignore_patterns("bin", "__pycache__"))
        shutil.copy(root / "sessiond/__init__.py", copy / "sessiond")
        shutil.copy(engines.guest(), copy / "guest")
        (copy / "state").mkdir()
        os.chown(copy / "state", NOBODY, NOBODY)
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        yield copy


AS_NOBODY = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from sessiond.engine.bubblewrap import BubblewrapEngine
from sessiond.workspace.volumes import Volumes
from tests.integration.engine.ground import Ground

async def main():
    here = Path(sys.argv[1])
    ground = Ground("b", lambda: BubblewrapEngine(instance="t", directory=here / "state", guest=here / "guest"))
    guest = await ground.sandbox()
    assert (await guest.run("id", "-u")).output == "1000\\n"
    engine = await ground.open()
    await engine.pause("s-1")
    engine = await ground.again()
    print([status.state.value for status in await engine.list()])
    await engine.resume("s-1")
    adopted = await ground.adopt()
    print((await adopted.run("echo", "adopted")).output, end="")
    print(await ground.refused())
    await engine.remove("s-1")
    strict = await ground.sandbox_of(replace(ground.spec("s-2"), exec_in="strict"))
    print((await strict.run("sh", "-c", "cp /bin/true x; ./x || echo refused")).output.count("refused"))
    volumes = Volumes(here / "state" / "volumes")
    print((await volumes.open()).quota)
    volume = await volumes.create("v-1", 1 << 20)
    guest = await ground.sandbox("s-4", volume=volume)
    await guest.run("sh", "-c", "echo kept >/workspace/file")
    await engine.remove("s-4")
    guest = await ground.sandbox("s-3", volume=await volumes.adopt("v-1"))
    print((await guest.run("sh", "-c", "cat file; id -u; stat -c %u file", cwd="/workspace")).output, end="")
    await engine.remove("s-3")
    await volumes.remove("v-1")
    print(await volumes.list())
    await volumes.close()
    await ground.clear()
asyncio.run(main())
"""


@needs_root
def test_ordinary_user_needs_nothing_but_bwrap(readable_copy: Path):
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    assert python is not None, f"an ordinary user cannot run {sys.executable}; install Debian's python3"
    done = subprocess.run(
        [python, "-c", AS_NOBODY, str(readable_copy)],
        env={"PYTHONPATH": f"{readable_copy}:{readable_copy}/protocol", "PATH": "/usr/local/bin:/usr/bin:/bin"},
        user=NOBODY,
        group=NOBODY,
        extra_groups=(),
        capture_output=True,
        text=True,
        cwd=readable_copy,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("['paused']\nadopted\n0\n1\nmeasured\nkept\n1000\n1000\n[]\n", 0), (
        done.stderr
    )
