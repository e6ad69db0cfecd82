"""Blocking calls with deadlines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from sessiond.engine.calls import Calls
from sessiond.engine.port import EngineError, EngineTimeoutError, EngineUnavailableError


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    calls = Calls("docker", 2, lambda what, error: EngineUnavailableError(what) if isinstance(error, OSError) else None)
    yield calls
    calls.close()


async def test_result_and_arguments_pass(calls: Calls):
    assert await calls.run("add", 1, lambda a, *, b: a + b, 1, b=2) == 3


async def test_deadline_is_kept_and_says_what_was_being_done(calls: Calls):
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(EngineTimeoutError, match=r"docker: cannot create x: no answer within 0\.05 s"):
        await calls.run("create x", 0.05, release.wait)
    assert time.monotonic() - started < 1
    release.set()


async def test_hung_calls_hold_so_many_threads_and_no_more(calls: Calls):
    release = threading.Event()
    before = threading.active_count()
    results = await asyncio.gather(*(calls.run("x", 0.1, release.wait) for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {EngineTimeoutError}
    assert threading.active_count() <= before + 2
    release.set()
    # What waited in the queue was dropped with its caller: the threads are free again at once.
    assert await calls.run("x", 1, lambda: "free") == "free"


async def test_exceptions_are_translated_or_left(calls: Calls):
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(EngineUnavailableError, match="look"):
        await calls.run("look", 1, fail, ConnectionRefusedError())
    with pytest.raises(KeyError):
        await calls.run("look", 1, fail, KeyError("x"))
    with pytest.raises(EngineError, match="own"):
        await calls.run("look", 1, fail, EngineError("own"))


async def test_timeout_of_the_call_itself_is_not_the_deadline(calls: Calls):
    def fail() -> None:
        raise TimeoutError("socket")

    with pytest.raises(EngineUnavailableError):
        await calls.run("look", 1, fail)


async def test_cancelling_a_caller_ends_it_at_once(calls: Calls):
    release = threading.Event()
    task = asyncio.create_task(calls.run("x", 60, release.wait))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
