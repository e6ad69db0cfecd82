"""A daemon of one's own for `bench`, `doctor` and `demo`: found an engine, started on a temporary state, ended clean.

It is a real `sessiond serve` in a process of its own, so that what is measured and shown is what a user gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sessiond.engine.bubblewrap import ROOTS_DIRECTORY
from sessiond.engine.docker_engine import DockerEngine
from sessiond.engine.port import Capabilities, Engine
from sessiond.engine.select import open_engine
from sessiond.image import ensure

START_SECONDS = 60.0
STOP_SECONDS = 90.0
"""More than the daemon gives itself to erase its sandboxes."""

SETTLE_SECONDS = 120.0
"""To fill the pools: eight containers a second at best, much less on a loaded machine."""

POLL_SECONDS = 0.02
LOG_LINES = 15
TERMINATED = 128 + signal.SIGTERM

COMMAND = (sys.executable, "-P", "-c", "from sessiond.cli.main import main; main()", "serve")
"""`sessiond serve`, also where the script itself is not in PATH."""

T = TypeVar("T")
Progress = Callable[[str], None]


class PrivateDaemonError(Exception):
    """The daemon did not start, did not settle, or did not end clean; with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a private daemon stands on."""

    engine: str
    docker_host: str | None
    runtime: str | None
    image: str
    """Empty for engines without images."""
    capabilities: Capabilities
    why: str
    """Which engine it is, and why that one."""

    @property
    def settings(self) -> dict[str, Any]:
        """Its part of `[daemon]`."""
        wanted = {"engine": self.engine, "docker_host": self.docker_host, "runtime": self.runtime}
        return {key: value for key, value in wanted.items() if value is not None}


async def find_ground(
    engine: str,
    *,
    docker_host: str | None = None,
    runtime: str | None = None,
    image: Callable[[Engine], Awaitable[str]] = ensure,
) -> Ground:
    """Choose the engine as the daemon would, and have an image ready by `image`. Raises EngineError."""
    with tempfile.TemporaryDirectory(prefix="sessiond-ground-") as directory:
        chosen, capabilities, why = await open_engine(
            engine, instance="ground", directory=Path(directory), docker_host=docker_host, runtime=runtime
        )
        try:
            return Ground(
                engine=chosen.name,
                docker_host=chosen.url if isinstance(chosen, DockerEngine) else None,
                runtime=runtime if chosen.name == "docker" else None,
                image=await image(chosen),
                capabilities=capabilities,
                why=why,
            )
        finally:
            await chosen.close()
            erase_base(chosen.name, "ground")


class PrivateDaemon:
    """`async with PrivateDaemon(ground, profiles) as daemon:`. The daemon and all its sandboxes are gone afterwards, or
    PrivateDaemonError says what is left."""

    def __init__(self, ground: Ground, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        """`profiles` are tables as `sessiond.toml` has them; each gets the ground's image unless it names one."""
        self.ground = ground
        self._profiles = {
            name: {**({"image": ground.image} if ground.image else {}), **profile} for name, profile in profiles.items()
        }
        self._directory = Path(tempfile.mkdtemp(prefix="sessiond-"))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix:{self._socket}"

    @property
    def pid(self) -> int:
        """Its process."""
        if self._process is None:
            raise PrivateDaemonError("the daemon does not run")
        return self._process.pid

    @property
    def instance(self) -> str:
        """The name by which its sandboxes are found."""
        return (self._state / "instance").read_text().strip()

    async def __aenter__(self) -> Self:
        """Start it, and return when clients may come."""
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and look whether anything is left."""
        left = await self._end()
        if left and error is None:
            raise PrivateDaemonError(f"the daemon did not end clean: {'; '.join(left)}")

    async def pools(self) -> dict[str, dict[str, Any]]:
        """The pools' numbers, as /status tells them."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if not head.startswith(b"HTTP/1.1 200"):
            raise PrivateDaemonError(f"/status says: {head.decode(errors='replace').splitlines()[:1]}")
        pools: dict[str, dict[str, Any]] = json.loads(body)["pools"]
        return pools

    async def settled(self) -> None:
        """Return when all pools are full and nothing is being created or removed."""
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            pools = await self.pools()
            busy = [name for name, pool in pools.items() if not self._is_settled(name, pool)]
            if not busy:
                return
            if time.monotonic() > until:
                reasons = [f"{name}: {pools[name]['error'] or 'still busy'}" for name in busy]
                raise PrivateDaemonError(f"not warm within {SETTLE_SECONDS:g} s: {'; '.join(reasons)}")
            await asyncio.sleep(POLL_SECONDS)

    def _is_settled(self, name: str, pool: Mapping[str, Any]) -> bool:
        wanted = self._profiles[name].get("pool", {}).get("min", 2)
        return pool["warm"] >= wanted and not (pool["creating"] or pool["removing"] or pool["waiting"])

    @property
    def _state(self) -> Path:
        return self._directory / "state"

    @property
    def _socket(self) -> str:
        return str(self._directory / "run" / "sessiond.sock")

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    async def _start(self) -> None:
        config = self._directory / "sessiond.toml"
        config.write_text(to_toml(self._settings()), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SESSIOND_")}
        with self._log.open("wb") as log:
            # In a session of its own: ctrl-C is for us, who then end it in order.
            self._process = await asyncio.create_subprocess_exec(
                *(*COMMAND, "--config", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line.startswith(b"sessiond ready"):
            raise PrivateDaemonError(f"the daemon did not become ready:\n{self._last_words()}")

    def _settings(self) -> dict[str, Any]:
        daemon = {
            "state": str(self._state),
            "listen": [self.url],
            "on_stop": "close",
            "drain": 2,
            **self.ground.settings,
        }
        return {"daemon": daemon, "profiles": self._profiles}

    async def _end(self) -> list[str]:
        """Stop it and remove its directory; what it left behind, in words."""
        left: list[str] = []
        try:
            if self._process is not None:
                code = await self._stop(self._process)
                if code != 0:
                    left.append(f"it ended with {code}:\n{self._last_words()}")
                with contextlib.suppress(FileNotFoundError):
                    left += await self._sandboxes(self.instance)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
        return left

    async def _stop(self, process: asyncio.subprocess.Process) -> int:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()

    async def _sandboxes(self, instance: str) -> list[str]:
        """Sandboxes and processes of the instance that still exist; sandboxes are removed now."""
        ground = self.ground
        engine, _, _ = await open_engine(
            ground.engine,
            instance=instance,
            directory=self._state / "sandboxes",
            docker_host=ground.docker_host,
            runtime=ground.runtime,
        )
        try:
            left = []
            for status in await engine.list():
                left.append(f"sandbox {status.id} was left {status.state}")
                await engine.remove(status.id)
        finally:
            await engine.close()
        left += [f"process {pid} still runs" for pid in processes_with(instance)]
        erase_base(ground.engine, instance)
        return left

    def _last_words(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        return ""


def erase_base(engine: str, instance: str) -> None:
    """Remove what the bubblewrap engine keeps for an instance outside of the state directory."""
    if engine == "bubblewrap" and os.geteuid() == 0:
        shutil.rmtree(ROOTS_DIRECTORY / instance, ignore_errors=True)


def processes_with(mark: str) -> list[int]:
    """Processes that have `mark` in their command lines."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
    return found


def to_toml(tables: Mapping[str, Any]) -> str:
    """Tables of plain values as TOML, nested ones inline."""
    return "".join(f"{key} = {_inline(value)}\n" for key, value in tables.items())


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, in which SIGTERM is a cancellation like ctrl-C: what was started is ended in order."""

    async def main() -> T:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit(TERMINATED)
