"""Real daemons on real engines, for the tests that need one. An engine that is missing is a failure, never a skip."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sessiond_client import Client, connect

from tests import engines
from tests.bystander import Bystander
from tests.daemon import DEADLINE, TROUBLE, DaemonProcess, EngineUnderTest, eventually

ENGINES = ("docker", "bubblewrap")

DOCKER_HOST = "SESSIOND_TEST_DOCKER_HOST"
"""Variable with the address of a Docker engine to use instead of starting one: saves seconds while writing tests."""


@pytest.fixture(scope="session")
def dockerd() -> Iterator[engines.PrivateDockerd]:
    """A Docker daemon of our own, for all tests that do not harm it."""
    with engines.private_dockerd() as dockerd:
        yield dockerd


@pytest.fixture(scope="session")
def docker_engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """That daemon, or the one that SESSIOND_TEST_DOCKER_HOST names, with the image that the project builds."""
    url = os.environ.get(DOCKER_HOST) or request.getfixturevalue("dockerd").url
    return EngineUnderTest("docker", url, engines.image(url))


@pytest.fixture(scope="session")
def engine_named(request: pytest.FixtureRequest) -> Callable[[str], EngineUnderTest]:
    """An engine by its name; Docker's is started when somebody asks for it."""

    def named(name: str) -> EngineUnderTest:
        engine: EngineUnderTest = (
            request.getfixturevalue("docker_engine") if name == "docker" else EngineUnderTest(name)
        )
        return engine

    return named


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, engine_named: Callable[[str], EngineUnderTest]) -> EngineUnderTest:
    """Each engine in turn."""
    return engine_named(request.param)


@pytest.fixture(scope="module")
def daemon(engine: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with the profiles "open", "strict" and "small", for all tests of a module. It must end clean."""
    daemon = DaemonProcess(engine, tmp_path_factory.mktemp(f"daemon-{engine.name}"))
    with ends_clean(daemon):
        yield daemon


@pytest.fixture
def make_daemon(engine: EngineUnderTest, tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Makes daemons of the test's own. Those that still run at its end must end clean."""
    made: list[DaemonProcess] = []

    def make(name: str = "own", **options: Any) -> DaemonProcess:
        daemon = DaemonProcess(engine, tmp_path / name, **options)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        if daemon.process is not None:
            stop_clean(daemon)


@pytest.fixture
async def client(daemon: DaemonProcess, unharmed: None) -> AsyncIterator[Client]:
    """A client of the module's daemon."""
    async with connect(daemon.url) as client:
        yield client


@pytest.fixture
async def unharmed(daemon: DaemonProcess, bystander: Bystander) -> AsyncIterator[None]:
    """What must hold after every test, whatever it did: the other session goes on, and no sandbox is missing or left.

    Sessions that the test opened are closed here.
    """
    yield
    async with connect(daemon.url) as client:
        await bystander.check(client)
        for info in await client.sessions():
            if info.session != bystander.session:
                await (await client.session(info.session)).close()
        await eventually("pools back to target, no sandbox too many", lambda: daemon.settled(sessions=1))


@pytest.fixture(scope="module")
def bystander(daemon: DaemonProcess) -> Iterator[Bystander]:
    """A session that has nothing to do with any test."""
    bystander = Bystander(daemon.url)
    yield bystander
    bystander.close()


class ends_clean:
    """Run a daemon; at the end it must stop by itself and leave nothing."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon

    def __enter__(self) -> DaemonProcess:
        return self.daemon.start()

    def __exit__(self, *_: object) -> None:
        stop_clean(self.daemon)


def stop_clean(daemon: DaemonProcess) -> None:
    """SIGTERM; exit code 0, nothing left, nothing ugly in the log."""
    containers = daemon.processes()
    assert daemon.terminate() == 0, daemon.log[-4000:]
    assert daemon.left_behind() == []
    assert [process for process in containers if process in daemon.processes()] == []
    assert TROUBLE.search(daemon.log) is None, daemon.log[-8000:]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of a daemon that hangs is ended."""
    for item in items:
        if isinstance(item, pytest.Function) and {"engine", "daemon"} & set(item.fixturenames):
            item.obj = _with_deadline(item.obj)


def _with_deadline(test: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(test):
        return test

    @functools.wraps(test)
    async def limited(*arguments: Any, **named: Any) -> None:
        async with asyncio.timeout(DEADLINE):
            await test(*arguments, **named)

    return limited
