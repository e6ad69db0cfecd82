"""An engine that fails, an image that is missing, a second daemon, too many sessions, too few descriptors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sessiond_client import BusyError, LimitError, UnavailableError, connect

from tests.daemon import DaemonProcess, EngineUnderTest, eventually
from tests.faults.faulty_engine import FaultyEngine
from tests.wire import Wire

OPEN = {"policy": {"open": True}}

docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)
bubblewrap = pytest.mark.parametrize("engine", ["bubblewrap"], indirect=True)


@pytest.fixture
def faulty(engine: EngineUnderTest, tmp_path: Path) -> Iterator[FaultyEngine]:
    """A way to Docker that can be told to misbehave."""
    assert engine.docker_host is not None
    faulty = FaultyEngine(tmp_path / "docker.sock", engine.docker_host)
    yield faulty
    faulty.close()


@docker
async def test_engine_answers_500(faulty: FaultyEngine, make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 53: opening is `unavailable` and says why; open sessions go on; attempts back off; then all is well."""
    daemon = make_daemon(
        profiles={"open": {**OPEN, "pool": {"min": 1, "max": 4}}}, settings={"docker_host": faulty.url}
    ).start()
    async with connect(daemon.url) as client:
        await eventually("warm", daemon.full)
        faulty.misbehave(rb"POST \S*/containers/create", "fail")
        first = await client.open("open")
        assert (await first.run(["echo", "fine"])).stdout == b"fine\n"
        await eventually("the failure is noticed", lambda: daemon.pool("open")["error"])
        with pytest.raises(UnavailableError) as refused:
            await client.open("open")
        assert "out of order" in refused.value.message
        assert (await first.run(["echo", "fine"])).stdout == b"fine\n"
        assert faulty.matched == daemon.pool("open")["failed"]
        faulty.behave()
        await eventually("it recovers by itself", daemon.full)
        assert (await (await client.open("open")).run(["echo", "new"])).stdout == b"new\n"
        for info in await client.sessions():
            await (await client.session(info.session)).close()
        await eventually("nothing too much", lambda: daemon.settled())


@docker
async def test_engine_creates_slowly(faulty: FaultyEngine, make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 53: an opening waits its bounded time and is told `busy`; the daemon answers others meanwhile."""
    daemon = make_daemon(
        profiles={"open": {**OPEN, "pool": {"min": 0, "max": 2, "wait": 0.5}}}, settings={"docker_host": faulty.url}
    ).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        faulty.misbehave(rb"POST \S*/containers/create", "hang")
        opening = asyncio.create_task(client.open("open"))
        await eventually("the engine hangs", lambda: faulty.matched == 1)
        assert (await session.run(["echo", "fine"])).stdout == b"fine\n"
        await client.ping()
        with pytest.raises(BusyError):
            await opening
        faulty.behave()
        await eventually("what was begun is kept warm", lambda: daemon.pool("open")["warm"] == 1)
        assert (await client.open("open")).id
        assert daemon.pool("open")["hits"] == 1


@docker
async def test_engine_hangs_while_the_daemon_stops(
    faulty: FaultyEngine, make_daemon: Callable[..., DaemonProcess]
) -> None:
    """Row 53: what hangs does not keep a sandbox from being erased once it is made."""
    daemon = make_daemon(
        profiles={"open": {**OPEN, "pool": {"min": 1, "max": 2}}}, settings={"docker_host": faulty.url}
    )
    faulty.misbehave(rb"POST \S*/containers/create", "hang")
    daemon.start()
    await eventually("a creation hangs", lambda: faulty.matched == 1)
    daemon.running.terminate()
    await eventually("it stops", lambda: "sessiond stops" in daemon.log)
    faulty.behave()
    assert daemon.wait() == 0
    assert daemon.left_behind() == []


@docker
async def test_engine_is_gone(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    """Row 53: a daemon whose engine does not answer does not start, says so, and where it looked."""
    daemon = make_daemon(settings={"docker_host": f"unix://{tmp_path}/nobody.sock"})
    code, said = daemon.start_and_fail()
    assert code == 1
    assert "nobody.sock" in said
    assert "Traceback" not in said


@docker
async def test_image_missing(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 54: the profile is unavailable with a clear error; the other one works, and the daemon starts."""
    profiles = {
        "open": {**OPEN, "pool": {"min": 1, "max": 4}},
        "broken": {**OPEN, "image": "localhost:9/no-such-image:1", "pool": {"min": 1, "max": 4}},
    }
    daemon = make_daemon(profiles=profiles).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        with pytest.raises(UnavailableError) as refused:
            await client.open("broken")
        assert "localhost:9/no-such-image:1" in refused.value.message
        assert (await session.run(["echo", "fine"])).stdout == b"fine\n"
        assert "no-such-image" in daemon.pool("broken")["error"]


@bubblewrap
async def test_sandbox_that_dies_as_it_starts(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 54: a recipe that cannot work is told at once, with what happened; nobody waits for a guest that is dead."""
    profile = {**OPEN, "limits": {"open_files": 2**31 - 1}, "pool": {"min": 1, "max": 4, "wait": 20}}
    daemon = make_daemon(profiles={"open": profile}).start()
    async with connect(daemon.url) as client:
        with pytest.raises(UnavailableError) as refused:
            await client.open("open")
        assert "PID 1" in refused.value.message


async def test_two_daemons_on_one_state_directory(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    """Row 55: the second exits with a clear error and harms nothing of the first."""
    daemon = make_daemon(profiles={"open": {**OPEN, "pool": {"min": 1, "max": 2}}}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        second = make_daemon(
            "second", settings={"state": str(daemon.state), "listen": [f"unix:{tmp_path}/second/run/s.sock"]}
        )
        code, said = second.start_and_fail()
        assert code == 1
        assert "another sessiond" in said
        assert str(daemon.state) in said
        assert not (tmp_path / "second/run/s.sock").exists()
        assert (await session.run(["echo", "fine"])).stdout == b"fine\n"


@bubblewrap
async def test_two_daemons_on_one_socket(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 55: another state directory but the same socket: the second says so, and the first still answers."""
    daemon = make_daemon(profiles={"open": {**OPEN, "pool": {"min": 0}}}).start()
    second = make_daemon("second", settings={"listen": [daemon.url]})
    code, said = second.start_and_fail()
    assert code == 1
    assert "another daemon listens" in said
    async with connect(daemon.url) as client:
        await client.ping()


@bubblewrap
async def test_two_daemons_side_by_side(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Two state directories on one engine: neither touches the other's sandboxes, not at its start either."""
    profiles = {"open": {**OPEN, "pool": {"min": 1, "max": 3}}}
    one = make_daemon("one", profiles=profiles).start()
    async with connect(one.url) as client:
        session = await client.open("open")
        two = make_daemon("two", profiles=profiles).start()
        async with connect(two.url) as other:
            assert (await (await other.open("open")).run(["echo", "two"])).stdout == b"two\n"
            assert [info.session for info in await other.sessions()] != [session.id]
        two.terminate()
        assert two.left_behind() == []
        assert (await session.run(["echo", "one"])).stdout == b"one\n"


async def test_opening_beyond_the_pool(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 60: first come, first served; beyond the waiters' bound `busy`; hits, misses and refusals are counted."""
    pool = {"min": 1, "max": 2, "waiters": 2, "wait": 20}
    daemon = make_daemon(profiles={"open": {**OPEN, "pool": pool}}).start()
    async with connect(daemon.url) as client:
        await eventually("warm", daemon.full)
        held = [await client.open("open"), await client.open("open")]
        assert (await held[0].info()).pooled
        waiting = []
        for number in range(2):
            waiting.append(asyncio.create_task(client.open("open", name=f"waits {number}")))
            await eventually("it waits", lambda: daemon.pool("open")["waiting"] == len(waiting))
        with pytest.raises(BusyError):
            await client.open("open")
        await held[0].close()
        first = await waiting[0]
        assert not waiting[1].done()
        await held[1].close()
        second = await waiting[1]
        assert (await first.run(["true"])).ok
        assert (await second.run(["true"])).ok
        counts = daemon.pool("open")
        assert counts["hits"] + counts["misses"] == 4
        assert counts["hits"] >= 1
        assert (counts["refused"], counts["waiting"]) == (1, 0)
        assert counts["waited_seconds"] > 0
        assert len(daemon.sandboxes()) <= 2


async def test_waiting_ends(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 60: a wait is bounded; one whose client is gone takes no sandbox with it."""
    pool = {"min": 0, "max": 1, "waiters": 4, "wait": 0.3}
    daemon = make_daemon(profiles={"open": {**OPEN, "pool": pool}}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        with pytest.raises(BusyError) as busy:
            await client.open("open")
        assert busy.value.hint
        await session.close()
        assert (await (await client.open("open")).run(["true"])).ok


@bubblewrap
async def test_most_sessions(make_daemon: Callable[..., DaemonProcess]) -> None:
    """The daemon's own bound on sessions is a typed error."""
    daemon = make_daemon(
        profiles={"open": {**OPEN, "pool": {"min": 0, "max": 8}}}, settings={"max_sessions": 2}
    ).start()
    async with connect(daemon.url) as client:
        held = [await client.open("open"), await client.open("open")]
        with pytest.raises(LimitError):
            await client.open("open")
        await held[0].close()
        await client.open("open")


@bubblewrap
async def test_descriptors_exhausted_in_the_daemon(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Row 59: with none left accepting rests; who is connected is served, and afterwards all others again."""
    profile = {**OPEN, "limits": {"open_files": 64}, "pool": {"min": 1, "max": 4}}
    daemon = make_daemon(profiles={"open": profile}, open_files=64).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        await eventually("warm", daemon.full)
        held = []
        for _ in range(80):
            held.append(await asyncio.open_unix_connection(str(daemon.socket)))
        assert (await session.run(["echo", "fine"])).stdout == b"fine\n"
        await client.ping()
        for _, writer in held:
            writer.close()
        async with await Wire.greeted(daemon):
            pass
        assert (await (await client.open("open")).run(["echo", "new"])).stdout == b"new\n"
        for _, writer in held:
            try:
                await writer.wait_closed()
            except ConnectionError:
                continue
    assert daemon.terminate() == 0
    assert daemon.left_behind() == []
