"""`python -m tests.bench.adoption`: how long a daemon that comes back takes to adopt 100 live sessions.

From the start of its process until a client has an answer from every one of them, on bubblewrap; three times.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import sessiond_client.backoff
from sessiond_client import connect

from tests.daemon import UNDEBUGGED, DaemonProcess, EngineUnderTest

RUNS = 3


async def measure(daemon: DaemonProcess, count: int) -> None:
    """Open sessions, kill the daemon, start it again, ask each."""
    sessiond_client.backoff.LONGEST = 0.05
    await asyncio.to_thread(daemon.start)
    async with connect(daemon.url) as client:
        sessions = [await client.open("open") for _ in range(count)]
        cats = [await session.start(["cat"]) for session in sessions]
        for _ in range(RUNS):
            daemon.kill()
            began = time.perf_counter()
            await asyncio.to_thread(daemon.start)
            ready = time.perf_counter() - began
            for cat in cats:
                await cat.write(b"x")
            for cat in cats:
                await cat.next()
            print(f"{count} sessions: ready after {ready:.2f} s, all answer after {time.perf_counter() - began:.2f} s")
        await asyncio.gather(*(session.close() for session in sessions))


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.adoption", description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=100)
    count = parser.parse_args().sessions
    limits = {"memory_bytes": "32MiB", "pids": 32}
    profile = {"policy": {"open": True}, "pool": {"min": 0, "max": count, "wait": 30}, "limits": limits}
    with tempfile.TemporaryDirectory(prefix="sessiond-adoption-") as directory:
        Path(directory).chmod(0o711)
        daemon = DaemonProcess(
            EngineUnderTest("bubblewrap"),
            Path(directory),
            {"open": profile},
            settings={"on_stop": "keep", "max_sessions": count},
            environment=UNDEBUGGED,
        )
        try:
            asyncio.run(measure(daemon, count))
        finally:
            daemon.erase()


if __name__ == "__main__":
    main()
