"""What single parts of a command's way cost: the decision, and the record of its start and end."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sessiond.policy.decide import CommandRequest, Policy
from sessiond.settings import PolicySettings
from sessiond.store.store import Store

DECISIONS = 500
PARSED = 40
RECORDS = 300
SYNCED = 40
PAUSE_SECONDS = 0.001
"""Between two records: a daemon that waits for its next command finds its caches cold."""
PLAIN = "python3 -m pytest -q --maxfail=1 tests/integration/test_something_{}.py -k 'not slow and not flaky' --tb=short"
"""A command line of about a hundred bytes."""
NOT_PLAIN = 'for f in src/part{}/*.py; do echo "checking $f"; python3 -m py_compile "$f" || echo "bad: $f"; done'
REQUEST = bytes(200)
RESULT = bytes(40)


@dataclass(frozen=True, slots=True)
class Parts:
    """Medians."""

    decision_us: float
    """Of a plain text that was not seen before."""
    decision_again_us: float
    """Of one that was."""
    decision_parsed_ms: float
    """Of one for which the second parser is asked."""
    record_us: float
    """A command's start and end on record, so that they survive the daemon."""
    record_power_ms: float
    """The same, so that they survive the machine."""


async def measure_parts() -> Parts:
    """Measure them in this process, on the disk of the temporary directory."""
    policy = Policy.from_settings("bench", PolicySettings(use="developer"), "bash")
    plain = [_text(PLAIN, number) for number in range(DECISIONS)]
    first = [_microseconds(lambda asked=asked: policy.decide(asked)) for asked in plain]  # type: ignore[misc]
    again = [_microseconds(lambda asked=asked: policy.decide(asked)) for asked in plain[-100:]]  # type: ignore[misc]
    parsed = [
        _microseconds(lambda asked=asked: policy.decide(asked))  # type: ignore[misc]
        for asked in (_text(NOT_PLAIN, number) for number in range(PARSED))
    ]
    with tempfile.TemporaryDirectory() as name:
        record = await _records(Store(Path(name) / "process"), RECORDS)
        power = await _records(Store(Path(name) / "power", durability="power"), SYNCED)
    return Parts(
        decision_us=round(statistics.median(first), 1),
        decision_again_us=round(statistics.median(again), 2),
        decision_parsed_ms=round(statistics.median(parsed) / 1000, 2),
        record_us=round(statistics.median(record), 1),
        record_power_ms=round(statistics.median(power) / 1000, 2),
    )


def _text(form: str, number: int) -> CommandRequest:
    return CommandRequest(argv=None, text=form.format(number), env={}, cwd="")


def _microseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e6


async def _records(store: Store, count: int) -> list[float]:
    store.open()
    took = []
    try:
        for number in range(count):
            await asyncio.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            store.started("bench", f"c-{number}", number + 1, 1, REQUEST)
            await _durable(store)
            store.ended(
                "bench",
                f"c-{number}",
                state="exited",
                result=RESULT,
                started=1.0,
                ended=2.0,
                output=b"",
                output_end=0,
                settled=True,
            )
            await _durable(store)
            took.append((time.perf_counter() - began) * 1e6)
    finally:
        store.close()
    return took


async def _durable(store: Store) -> None:
    durable = store.durable()
    if durable is not None:
        await durable
