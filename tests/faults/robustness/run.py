"""One round after the other: a daemon, traffic, faults, then the end of all that is under way, and the checker.

    python -m tests.faults.robustness --minutes 10 --engine docker

A round's seed is the first one's plus its number: `--seed N --rounds 1` does a round's choices again. What the machine
does with them in between is not repeated, so a rare fault may need several runs; the history that was kept is what was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sessiond_client.backoff
from sessiond_client import connect

from tests import engines
from tests.daemon import TROUBLE, DaemonProcess, EngineUnderTest
from tests.engines import PrivateDockerd
from tests.faults.robustness import findings
from tests.faults.robustness.checker import Violation, check
from tests.faults.robustness.faults import KINDS, World
from tests.faults.robustness.history import Erred, Fault, History
from tests.faults.robustness.traffic import Terms, Traffic
from tests.proxy import CuttingProxy

ROUND_SECONDS = 20.0
"""Of faults; what is under way then is finished."""
SETTLE_SECONDS = 180.0
"""In which everything must have ended when nothing is done to it any more."""
MOST_PEACE = 0.9
"""Seconds between two faults at most."""
SESSIONS = 3
WORKERS = 3
MIB = 1024**2
DISK_BYTES = 2 * 1024 * MIB
"""Size of the file system with the state."""
HASTE = 0.3
"""Longest pause between two attempts of a client to come back; with the usual 5 s little would happen in a round."""
DOCKER_HOST = "SESSIOND_TEST_DOCKER_HOST"


@dataclass
class Options:
    """What is asked for."""

    engine: str
    seed: int
    minutes: float | None = 10.0
    rounds: int | None = None
    only: tuple[str, ...] = ()
    keep: Path = Path()
    """Directory for the histories of rounds with violations."""
    round_seconds: float = ROUND_SECONDS


@dataclass
class Summary:
    """What was done, and what broke."""

    faults: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    commands: int = 0
    received: int = 0
    events: int = 0
    violations: list[Violation] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {times}" for kind, times in sorted(self.faults.items()))
        return (
            f"{sum(self.faults.values())} faults ({kinds})\n"
            f"{self.rounds} rounds, {self.commands} commands, {self.received / MIB:.0f} MiB received, "
            f"{self.events} events, {len(self.violations)} violations"
        )


@dataclass
class Ground:
    """What outlives a round: the engine."""

    engine: EngineUnderTest
    dockerd: PrivateDockerd | None

    def kinds(self, options: Options) -> list[str]:
        """The faults that can be done here."""
        able = [
            name
            for name, kind in KINDS.items()
            if options.engine in kind.engines
            and (name != "kill-dockerd" or self.dockerd is not None)
            and (name != "fill-disk" or os.geteuid() == 0)
        ]
        wanted = [name for name in able if not options.only or name in options.only]
        if not wanted:
            raise SystemExit(f"none of {', '.join(options.only)} can be done here; there are: {', '.join(able)}")
        return wanted


async def run(options: Options) -> Summary:
    """Do rounds until the time is up, or a round breaks something."""
    summary = Summary()
    started = time.monotonic()
    sessiond_client.backoff.LONGEST = HASTE
    with ground(options.engine) as where:
        while not summary.violations:
            if options.rounds is not None and summary.rounds >= options.rounds:
                break
            if options.minutes is not None and time.monotonic() - started >= options.minutes * 60:
                break
            await one_round(options, where, options.seed + summary.rounds, summary)
            summary.rounds += 1
    return summary


async def interruptible(options: Options) -> Summary:
    """Run; SIGTERM ends it as Ctrl-C does, and nothing is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(options)


async def one_round(options: Options, where: Ground, seed: int, summary: Summary) -> None:
    """A daemon from its start to its end."""
    print(f"round {summary.rounds}: --engine {options.engine} --seed {seed}", flush=True)
    chance = random.Random(seed)
    terms = Terms(replaces=chance.random() < 0.5)
    if where.dockerd is not None:
        where.dockerd.live_restore = chance.random() < 0.5
        await asyncio.to_thread(where.dockerd.restart)
    with place() as directory, History(directory / f"history-{options.engine}-{seed}.jsonl") as history:
        daemon = DaemonProcess(
            where.engine,
            directory,
            profiles={terms.profile: profile(terms)},
            settings={"on_stop": "keep"},
        )
        try:
            daemon.start()
            await play(options, where, daemon, history, terms, chance, summary)
            violations = check(history.events) + await asyncio.to_thread(leave, daemon)
        except BaseException:
            print(f"the daemon's log ends with:\n{daemon.log[-3000:]}", file=sys.stderr)
            daemon.erase()
            raise
        summary.faults += Counter(fault.kind for fault in history.of(Fault))
        summary.events += len(history.events)
        summary.violations += violations
        for violation in violations:
            print(f"VIOLATION {violation}", flush=True)
        if violations:
            history.close()
            summary.kept += [Path(shutil.copy(path, options.keep)) for path in (history.path, daemon.log_path)]


async def play(
    options: Options,
    where: Ground,
    daemon: DaemonProcess,
    history: History,
    terms: Terms,
    chance: random.Random,
    summary: Summary,
) -> None:
    """Traffic and faults, then the end of all that is under way, and what is found then."""
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(CuttingProxy(daemon.directory / "proxy", daemon.socket))
        urls = (daemon.url, proxy.url, daemon.url, proxy.url, proxy.url, daemon.url)
        *ways, onlooker, auditor = [await stack.enter_async_context(connect(url)) for url in urls]
        traffic = Traffic(history, ways, onlooker, chance.randrange(2**32), terms)
        world = World(daemon, history, traffic, proxy, auditor, where.dockerd, disk_of(daemon))
        working = asyncio.create_task(traffic.run(SESSIONS, WORKERS))
        try:
            await harm(world, chance, where.kinds(options), options.round_seconds, working)
            traffic.stopping = True
            async with asyncio.timeout(SETTLE_SECONDS):
                await working
        except TimeoutError:
            history.add(Erred("round", None, "everybody", "stuck", f"not over after {SETTLE_SECONDS:g} s"))
        finally:
            working.cancel()
            await asyncio.wait((working,))
        await findings.write_down(history, auditor)
        for info in await auditor.sessions():
            await auditor.close_session(info.session)
        summary.commands += traffic.commands
        summary.received += traffic.received


async def harm(
    world: World, chance: random.Random, kinds: list[str], seconds: float, working: asyncio.Task[None]
) -> None:
    """One fault after the other, as long as there is traffic."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not working.done():
        await asyncio.sleep(chance.random() * MOST_PEACE)
        kind = chance.choices(kinds, [KINDS[name].weight for name in kinds])[0]
        known = len(world.history.events)
        await KINDS[kind].inject(world, chance)
        for event in world.history.events[known:]:
            if isinstance(event, Fault):
                print(f"  {event.kind} {event.details}".rstrip(), flush=True)


def leave(daemon: DaemonProcess) -> list[Violation]:
    """Stop a daemon that keeps its sandboxes, then one that does not; what is left behind, and bad words in the log."""
    found = []
    for on_stop in ("keep", "close"):
        if daemon.process is None:
            daemon.settings = {**daemon.settings, "on_stop": on_stop}
            daemon.start()
        code = daemon.terminate()
        if code != 0:
            found.append(f"it ended with {code} at SIGTERM")
    found += daemon.left_behind()
    if (trouble := TROUBLE.search(daemon.log)) is not None:
        found.append(f"its log says: {daemon.log[trouble.start() :][:2000]}")
    if found:
        daemon.erase()
    return [Violation("left_behind", "daemon", None, what) for what in found]


def profile(terms: Terms) -> dict[str, Any]:
    """Room for all sessions, and for those that take the place of others."""
    return {
        "policy": {"open": True},
        "pool": {"min": 1, "max": 4 * SESSIONS},
        "limits": {"memory_bytes": "256MiB", "pids": 128},
        "on_loss": "replace" if terms.replaces else "close",
    }


@contextlib.contextmanager
def ground(engine: str) -> Iterator[Ground]:
    """An engine to work on: for Docker one that may be killed, unless the environment names one that may not."""
    if engine == "bubblewrap":
        yield Ground(EngineUnderTest(engine), None)
    elif url := os.environ.get(DOCKER_HOST):
        yield Ground(EngineUnderTest(engine, url, engines.image(url)), None)
    else:
        with engines.private_dockerd() as dockerd:
            yield Ground(EngineUnderTest(engine, dockerd.url, engines.image(dockerd.url)), dockerd)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory with a short path, and in it `state`: a file system of its own where one may be mounted."""
    directory = Path(tempfile.mkdtemp(prefix="sessiond-faults-"))
    state = directory / "state"
    state.mkdir(mode=0o711)
    directory.chmod(0o711)
    mounted = os.geteuid() == 0
    if mounted:
        size = f"size={DISK_BYTES},mode=0711"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "sessiond-faults", str(state)], check=True)
    try:
        yield directory
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(state)], check=True)
        shutil.rmtree(directory)


def disk_of(daemon: DaemonProcess) -> Path | None:
    """Where its state's own file system is mounted."""
    return daemon.state if daemon.state.is_mount() else None


def main() -> int:
    """Parse arguments, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.robustness", description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["docker", "bubblewrap"], default="docker")
    parser.add_argument("--minutes", type=float, help="begin no further round after so many (default: 10)")
    parser.add_argument("--rounds", type=int, help="do so many rounds instead")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="of the first round")
    parser.add_argument("--only", action="append", default=[], choices=sorted(KINDS), help="these faults alone")
    parser.add_argument("--keep", type=Path, default=Path(), help="directory for what is kept of a round that broke")
    arguments = parser.parse_args()
    minutes = arguments.minutes or (None if arguments.rounds else 10.0)
    options = Options(
        arguments.engine, arguments.seed, minutes, arguments.rounds, tuple(arguments.only), arguments.keep
    )
    summary = asyncio.run(interruptible(options))
    print(summary)
    for path in summary.kept:
        print(f"kept: {path}")
    return 1 if summary.violations else 0
