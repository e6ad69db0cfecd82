"""What is the docker engine's alone: an engine that is absent, hangs, dies and returns."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sessiond.engine import cgroup, docker_engine
from sessiond.engine.docker_engine import DockerEngine
from sessiond.engine.docker_options import container_name
from sessiond.engine.port import (
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    ImageMissingError,
    SandboxState,
)
from sessiond.engine.select import open_engine
from tests import engines
from tests.integration.engine.conftest import docker_ground
from tests.integration.engine.ground import Ground


@pytest.fixture(params=[False, True], ids=["plain", "live-restore"])
def own_dockerd(request: pytest.FixtureRequest) -> Iterator[engines.PrivateDockerd]:
    """A daemon that the test may kill."""
    with engines.private_dockerd(live_restore=request.param) as daemon:
        yield daemon


@pytest.fixture
async def own_ground(own_dockerd: engines.PrivateDockerd, tmp_path: Path) -> AsyncIterator[Ground]:
    image = await asyncio.to_thread(engines.image, own_dockerd.url)
    ground = docker_ground(tmp_path, own_dockerd.url, image)
    yield ground
    await ground.clear()


@pytest.fixture
async def shared_ground(dockerd: engines.PrivateDockerd, image: str, tmp_path: Path) -> AsyncIterator[Ground]:
    ground = docker_ground(tmp_path, dockerd.url, image)
    yield ground
    await ground.clear()


async def test_absent_engine_is_said_to_be_absent(tmp_path: Path):
    engine = DockerEngine(
        instance="x", directory=tmp_path, guest=engines.guest(), base_url=f"unix://{tmp_path}/nothing.sock"
    )
    with pytest.raises(EngineUnavailableError, match="Is dockerd running"):
        await engine.open()
    with pytest.raises(EngineError, match="not open"):
        await engine.list()
    await engine.close()


async def test_engine_on_another_machine_is_refused(tmp_path: Path):
    engine = DockerEngine(instance="x", directory=tmp_path, guest=engines.guest(), base_url="tcp://192.0.2.1:2375")
    with pytest.raises(EngineUnavailableError, match="not on this machine"):
        await engine.open()
    await engine.close()


async def test_auto_falls_back_to_bubblewrap_and_says_why(tmp_path: Path):
    host = f"unix://{tmp_path}/nothing.sock"
    engine, capabilities, sentence = await open_engine(
        "auto", instance="t", directory=tmp_path, guest=engines.guest(), docker_host=host
    )
    assert (engine.name, capabilities.engine) == ("bubblewrap", "bubblewrap")
    assert "docker: cannot connect" in sentence
    await engine.close()
    with pytest.raises(EngineUnavailableError):
        await open_engine("docker", instance="t", directory=tmp_path, guest=engines.guest(), docker_host=host)


async def test_auto_takes_docker_where_it_answers(tmp_path: Path, dockerd: engines.PrivateDockerd):
    engine, capabilities, sentence = await open_engine(
        "auto", instance="t", directory=tmp_path, guest=engines.guest(), docker_host=dockerd.url
    )
    assert engine.name == "docker"
    assert capabilities.limits >= {"memory_bytes", "pids", "cpus", "workspace_bytes", "tmp_bytes"}
    assert "it answers" in sentence
    await engine.close()


async def test_unknown_runtime_is_refused_by_name(tmp_path: Path, dockerd: engines.PrivateDockerd):
    engine = DockerEngine(
        instance="t", directory=tmp_path, guest=engines.guest(), base_url=dockerd.url, runtime="nonesuch"
    )
    with pytest.raises(EngineUnavailableError, match="nonesuch"):
        await engine.open()
    await engine.close()


async def test_missing_image_says_how_to_get_one(shared_ground: Ground):
    engine = await shared_ground.open()
    with pytest.raises(ImageMissingError, match="sessiond image build"):
        await engine.prepare("registry.invalid/no/such:1")
    with pytest.raises(ImageMissingError):
        await engine.create(docker_engine.SandboxSpec("s-1", "p", "registry.invalid/no/such:1"), asyncio.Protocol)
    assert await engine.list() == []


async def test_environment_of_the_image_is_told(shared_ground: Ground):
    engine = await shared_ground.open()
    environment = await engine.prepare(shared_ground.image)
    assert environment["PATH"] == "/usr/local/bin:/usr/bin:/bin"


async def test_hung_engine_costs_a_deadline_and_no_more(
    shared_ground: Ground, dockerd: engines.PrivateDockerd, monkeypatch: pytest.MonkeyPatch
):
    engine = await shared_ground.open()
    guest = await shared_ground.sandbox()
    monkeypatch.setattr(docker_engine, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(docker_engine, "CREATE_SECONDS", 0.5)
    threads = threading.active_count()
    with dockerd.hanging():
        started = time.monotonic()
        calls = [engine.list() for _ in range(40)]
        create = engine.create(shared_ground.spec("s-2"), asyncio.Protocol)
        gathered = asyncio.gather(*calls, create, return_exceptions=True)
        worst = 0.0
        while not gathered.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - before)
        results = await gathered
        assert time.monotonic() - started < 3
        assert {type(result) for result in results} == {EngineTimeoutError}
        assert worst < 0.2
        assert threading.active_count() <= threads + docker_engine.THREADS
        # Commands do not go through Docker: they are not affected, nor are pause and resume where the freezer is ours.
        assert (await guest.run("echo", "alive")).output == "alive\n"
        await engine.pause("s-1")
        await engine.resume("s-1")
    monkeypatch.undo()
    assert "s-1" in {status.id for status in await engine.list()}
    await engine.remove("s-2")


async def test_container_that_a_timed_out_create_left_is_listed_and_removable(
    shared_ground: Ground, dockerd: engines.PrivateDockerd, monkeypatch: pytest.MonkeyPatch
):
    engine = await shared_ground.open()
    monkeypatch.setattr(docker_engine, "CREATE_SECONDS", 0.3)
    with dockerd.hanging(), pytest.raises(EngineTimeoutError):
        await engine.create(shared_ground.spec("s-1"), asyncio.Protocol)
    monkeypatch.undo()
    for _ in range(200):
        if await engine.list():
            break
        await asyncio.sleep(0.05)
    assert [status.state for status in await engine.list()] == [SandboxState.CREATED]
    await engine.remove("s-1")
    await shared_ground.sandbox("s-1")


async def test_dockerd_killed_and_restarted(own_ground: Ground, own_dockerd: engines.PrivateDockerd):
    engine = await own_ground.open()
    guest = await own_ground.sandbox()
    handle, end = guest.start("sh", "-c", "sleep 1; echo done")
    wait = asyncio.create_task(engine.wait("s-1"))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(own_dockerd.kill)
    with pytest.raises(EngineUnavailableError):
        await engine.list()
    await asyncio.to_thread(own_dockerd.start)
    if own_dockerd.live_restore:
        await asyncio.wait_for(end, 10)
        assert guest.output(handle) == "done\n"
        assert [status.state for status in await engine.list()] == [SandboxState.RUNNING]
        assert not wait.done()
        os.kill(await own_ground.host_pid(), 9)
    assert await asyncio.wait_for(wait, 15)
    assert [status.state for status in await engine.list()] == [SandboxState.DEAD]
    await engine.remove("s-1")
    await own_ground.sandbox("s-2")


async def test_death_while_dockerd_was_dead_is_told_when_it_returns(
    own_ground: Ground, own_dockerd: engines.PrivateDockerd
):
    engine = await own_ground.open()
    await own_ground.sandbox()
    wait = asyncio.create_task(engine.wait("s-1"))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(own_dockerd.kill)
    os.kill(await own_ground.host_pid(), 9)
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own_dockerd.start)
    assert await asyncio.wait_for(wait, 15)


async def test_image_volume_is_not_a_hole(shared_ground: Ground, dockerd: engines.PrivateDockerd):
    """An image's VOLUME would be an unlimited directory on the host's disk."""
    import docker

    with docker.APIClient(base_url=dockerd.url, version="auto") as api:
        made = api.create_container(shared_ground.image, "true")["Id"]
        api.commit(made, "sessiond-test/volume", "1", changes='VOLUME ["/data"]')
        api.remove_container(made)
    shared_ground.image = "sessiond-test/volume:1"
    guest = await shared_ground.sandbox(limits=docker_engine.Limits(tmp_bytes=1 << 20))
    outcome = await guest.run("sh", "-c", "head -c 3M /dev/zero >/data/x; grep ' /data ' /proc/mounts")
    assert "No space left" in outcome.output
    assert outcome.output.splitlines()[-1].startswith("tmpfs /data tmpfs rw,nosuid,nodev,noexec")


async def test_without_access_to_cgroups_docker_does_it(shared_ground: Ground, monkeypatch: pytest.MonkeyPatch):
    """As for an ordinary user of the group docker: pause, use and tighter limits go through the engine."""
    monkeypatch.setattr(docker_engine.cgroup, "of_process", lambda _pid: None)
    engine = await shared_ground.open()
    guest = await shared_ground.sandbox()
    await engine.pause("s-1")
    assert [status.state for status in await engine.list()] == [SandboxState.PAUSED]
    await engine.resume("s-1")
    assert [status.state for status in await engine.list()] == [SandboxState.RUNNING]
    stats = await engine.stats("s-1")
    assert stats.memory_bytes is not None and stats.memory_bytes > 0
    assert stats.cpu_seconds is not None and stats.cpu_seconds > 0
    assert stats.pids == 1
    await engine.tighten("s-1", docker_engine.Limits(memory_bytes=64 << 20, cpus=0.5, pids=16))
    assert (await guest.run("python3", "-c", "x = bytearray(100 << 20)")).signal == 9
    await engine.pause("s-1")
    await engine.remove("s-1")
    assert await engine.list() == []


def docker(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Docker's own command line, as an operator would use it."""
    return subprocess.run(["docker", "--host", url, *words], capture_output=True, text=True, timeout=30)


async def test_what_docker_paused_docker_hears_of_when_it_goes_on(
    shared_ground: Ground, dockerd: engines.PrivateDockerd
):
    """It would believe in the pause for ever, and refuse to do anything with the container."""
    engine = await shared_ground.open()
    guest = await shared_ground.sandbox()
    name = container_name(engine._instance, "s-1")  # type: ignore[attr-defined]
    assert docker(dockerd.url, "pause", name).returncode == 0
    await engine.pause("s-1")  # is already
    assert (await engine.list())[0].state is SandboxState.PAUSED
    await engine.resume("s-1")
    assert (await engine.list())[0].state is SandboxState.RUNNING
    assert docker(dockerd.url, "inspect", "-f", "{{.State.Status}}", name).stdout == "running\n"
    assert (await guest.run("echo", "on")).output == "on\n"


async def test_docker_is_not_confused_by_a_sandbox_that_is_frozen_directly(
    shared_ground: Ground, dockerd: engines.PrivateDockerd
):
    engine = await shared_ground.open()
    guest = await shared_ground.sandbox()
    name = container_name(engine._instance, "s-1")  # type: ignore[attr-defined]
    await engine.pause("s-1")
    # Docker knows nothing of the pause, and must neither end it nor take over what it cannot undo.
    assert "is not paused" in docker(dockerd.url, "unpause", name).stderr
    docker(dockerd.url, "pause", name)
    assert (await engine.list())[0].state is SandboxState.PAUSED
    await engine.resume("s-1")
    assert (await engine.list())[0].state is SandboxState.RUNNING
    assert docker(dockerd.url, "inspect", "-f", "{{.State.Status}}", name).stdout == "running\n"
    assert (await guest.run("echo", "on")).output == "on\n"


async def test_docker_kill_ends_a_sandbox_that_is_frozen_directly(
    shared_ground: Ground, dockerd: engines.PrivateDockerd
):
    engine = await shared_ground.open()
    await shared_ground.sandbox()
    name = container_name(engine._instance, "s-1")  # type: ignore[attr-defined]
    await engine.pause("s-1")
    assert docker(dockerd.url, "kill", name).returncode == 0
    assert "signal 9" in await asyncio.wait_for(engine.wait("s-1"), 10)
    await engine.remove("s-1")
    assert await engine.list() == []


async def test_a_daemon_that_was_restarted_removes_a_frozen_sandbox(shared_ground: Ground):
    engine = await shared_ground.open()
    await shared_ground.sandbox()
    await engine.pause("s-1")
    engine = await shared_ground.again()
    assert (await engine.list())[0].state is SandboxState.PAUSED
    await engine.remove("s-1")
    assert await engine.list() == []


async def test_docker_pauses_where_the_freezer_may_not_be_written(
    shared_ground: Ground, dockerd: engines.PrivateDockerd, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cgroup.Group, "can_freeze", False)
    engine = await shared_ground.open()
    guest = await shared_ground.sandbox()
    name = container_name(engine._instance, "s-1")  # type: ignore[attr-defined]
    await engine.pause("s-1")
    assert docker(dockerd.url, "inspect", "-f", "{{.State.Status}}", name).stdout == "paused\n"
    assert (await engine.list())[0].state is SandboxState.PAUSED
    engine = await shared_ground.again()
    await engine.resume("s-1")
    adopted = await shared_ground.adopt()
    assert (await adopted.run("echo", "on")).output == "on\n"
    assert guest.hello is not None
