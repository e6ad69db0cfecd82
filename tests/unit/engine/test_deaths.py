"""Waiting for deaths, with an engine that is lost and returns."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from sessiond.engine import deaths
from sessiond.engine.deaths import DeathWatch, describe


class FakeStream:
    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, str] | Exception | None] = queue.Queue()
        self.closed = threading.Event()

    def deaths(self) -> Iterator[tuple[str, str]]:
        while (event := self.events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def close(self) -> None:
        self.closed.set()
        self.events.put(None)


class FakeEngine:
    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.since: list[float] = []
        self.already: dict[str, str] = {}
        self.down = False

    def connect(self, since: float) -> FakeStream:
        if self.down:
            raise ConnectionRefusedError
        self.since.append(since)
        self.streams.append(FakeStream())
        return self.streams[-1]

    def dead(self) -> dict[str, str]:
        return self.already


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def watch(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeathWatch]:
    monkeypatch.setattr(deaths, "FIRST_RETRY_SECONDS", 0.01)
    watch = DeathWatch(engine.connect, engine.dead, (OSError,))
    watch.start()
    while not engine.streams:
        await asyncio.sleep(0.001)
    yield watch
    watch.stop()
    watch._thread.join(5)
    assert not watch._thread.is_alive()


async def test_all_who_wait_are_told(watch: DeathWatch, engine: FakeEngine):
    futures = [watch.future("a"), watch.future("a"), watch.future("b")]
    engine.streams[0].events.put(("a", "because"))
    assert await asyncio.wait_for(asyncio.gather(*futures[:2]), 5) == ["because", "because"]
    assert not futures[2].done()


async def test_death_is_remembered_until_it_is_forgotten(watch: DeathWatch):
    watch.tell("a", "first")
    watch.tell("a", "second")
    assert watch.is_dead("a")
    assert await watch.future("a") == "first"
    watch.forget("a")
    assert not watch.is_dead("a")
    assert not watch.future("a").done()


async def test_forgetting_ends_a_wait(watch: DeathWatch):
    future = watch.future("a")
    watch.forget("a")
    assert await future == "removed"


async def test_engine_that_returns_tells_who_died_meanwhile(watch: DeathWatch, engine: FakeEngine):
    future = watch.future("a")
    engine.down = True
    engine.already = {"a": "while nobody looked"}
    engine.streams[0].events.put(ConnectionResetError())
    await asyncio.sleep(0.05)
    assert not future.done()
    engine.down = False
    assert await asyncio.wait_for(future, 5) == "while nobody looked"
    assert engine.streams[0].closed.is_set()


async def test_stream_that_ends_without_an_error_is_opened_again(watch: DeathWatch, engine: FakeEngine):
    engine.streams[0].events.put(None)
    while len(engine.streams) < 2:
        await asyncio.sleep(0.001)
    future = watch.future("a")
    engine.streams[1].events.put(("a", "x"))
    assert await asyncio.wait_for(future, 5) == "x"


async def test_surprise_does_not_end_the_watch(watch: DeathWatch, engine: FakeEngine, caplog: pytest.LogCaptureFixture):
    engine.streams[0].events.put(KeyError("surprise"))
    while len(engine.streams) < 2:
        await asyncio.sleep(0.001)
    future = watch.future("a")
    engine.streams[1].events.put(("a", "x"))
    assert await asyncio.wait_for(future, 5) == "x"
    assert "surprise" in caplog.text


async def test_stopping_cancels_who_waits(engine: FakeEngine):
    watch = DeathWatch(engine.connect, engine.dead, (OSError,))
    watch.start()
    future = watch.future("a")
    while not engine.streams:
        await asyncio.sleep(0.001)
    watch.stop()
    assert future.cancelled()
    watch._thread.join(5)
    assert not watch._thread.is_alive()


@pytest.mark.parametrize(
    ("code", "oom", "words"),
    [
        (0, False, "its PID 1 exited with 0"),
        (3, True, "its PID 1 exited with 3"),
        (137, False, "its PID 1 was killed by signal 9"),
        (137, True, "out of memory"),
        (139, True, "its PID 1 was killed by signal 11"),
    ],
)
def test_cause_in_words(code: int, oom: bool, words: str):
    assert describe(code, oom=oom) == words
