"""A daemon for tests: a real process with a state directory and a socket of its own, and what it looks like outside."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from sessiond.engine import jail
from sessiond.engine.bubblewrap import ROOTS_DIRECTORY

DEADLINE = 30.0
"""Ends a test that hangs. Nothing is measured by it, and nothing takes nearly as long."""

PAUSE = 0.02
"""Between two looks at what no event tells."""

COMMAND = (str(Path(sys.executable).with_name("sessiond")), "serve")
"""As a user starts it."""

UNDEBUGGED = {"PYTHONASYNCIODEBUG": ""}
"""Environment of a daemon that is not to have asyncio's debug mode, which looks at files and logs more."""

TROUBLE = re.compile(
    r"Traceback|was never retrieved|was never awaited|request failed|pool task failed|Exception in callback"
)
"""What a healthy daemon never logs, whatever is done to it."""

PROFILES: dict[str, Any] = {
    "open": {
        "policy": {"open": True},
        "pool": {"min": 1, "max": 8},
        "limits": {"memory_bytes": "256MiB", "pids": 128},
        "env": {"FROM_PROFILE": "profile"},
    },
    "strict": {
        "policy": {"allow": ["echo", "cat", "python3", "ls", "true", "sleep"]},
        "pool": {"min": 1, "max": 8},
        "limits": {"memory_bytes": "256MiB"},
    },
    "small": {
        "policy": {"open": True},
        "pool": {"min": 1, "max": 8},
        "commands": 8,
        "output": {"command_bytes": "1MiB"},
        "limits": {
            "memory_bytes": "64MiB",
            "cpus": 0.5,
            "pids": 32,
            "open_files": 64,
            "file_bytes": "16MiB",
            "workspace_bytes": "8MiB",
            "tmp_bytes": "2MiB",
        },
    },
}


@dataclass(frozen=True)
class EngineUnderTest:
    """Which engine a daemon uses, and where."""

    name: str
    docker_host: str | None = None
    image: str = "unused"

    @property
    def settings(self) -> dict[str, Any]:
        """Its part of `[daemon]`."""
        if self.docker_host is None:
            return {"engine": self.name}
        return {"engine": self.name, "docker_host": self.docker_host}


@dataclass
class DaemonProcess:
    """`sessiond serve` as a subprocess."""

    engine: EngineUnderTest
    directory: Path
    profiles: Mapping[str, Any] = field(default_factory=lambda: PROFILES)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    open_files: int | None = None
    """Descriptors that it may have; None leaves what the tests have."""
    process: subprocess.Popen[bytes] | None = None
    addresses: list[str] = field(default_factory=list)

    # --- life

    def start(self) -> DaemonProcess:
        """Start it and return when it says that clients may come."""
        self._launch()
        process = self.running
        assert process.stdout is not None
        line, until = b"", time.monotonic() + DEADLINE
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                self.kill()
                raise AssertionError(f"the daemon did not become ready:\n{self.log}")
            line += piece
        words = line.decode().split()
        assert words[:2] == ["sessiond", "ready"], line
        self.addresses = words[2:]
        return self

    def start_and_fail(self) -> tuple[int, str]:
        """Start one that cannot work; its exit code and what it said."""
        self._launch()
        process = self.running
        try:
            process.wait(DEADLINE)
        finally:
            self.kill()
        return process.returncode, self.log

    def _launch(self) -> None:
        assert self.process is None
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._toml())
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SESSIOND_", "DOCKER_"))
        }
        with self.log_path.open("ab") as log:
            few = [] if self.open_files is None else ["prlimit", f"--nofile={self.open_files}"]
            self.process = subprocess.Popen(
                [*few, *COMMAND, "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**environment, **self.environment},
                cwd=self.directory,
            )

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """Its process."""
        assert self.process is not None
        return self.process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.running.pid

    def terminate(self) -> int:
        """Tell it to stop, wait for it, and return its exit code."""
        self.running.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        try:
            code = self.running.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the daemon did not stop:\n{self.log[-4000:]}") from None
        self._let_go()
        return code

    def kill(self) -> None:
        """End it with SIGKILL, as an out-of-memory killer would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE)
            self._let_go()

    def restart(self) -> DaemonProcess:
        """SIGKILL, and a new one on the same state."""
        self.kill()
        return self.start()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    @contextlib.contextmanager
    def variables(self, **variables: str) -> Iterator[None]:
        """Those that are started meanwhile have these in their environment, too."""
        before, self.environment = self.environment, {**self.environment, **variables}
        try:
            yield
        finally:
            self.environment = before

    def erase(self) -> None:
        """End it and everything that it left, without its help."""
        self.kill()
        if not (self.state / "instance").exists():
            return
        if self.engine.name == "docker":
            self._containers(use=lambda container: container.remove(force=True))
        for pid, _ in self.processes():
            for process in jail.tree(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.jails, ignore_errors=True)

    def _let_go(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    # --- where it is

    @property
    def config(self) -> Path:
        return self.directory / "sessiond.toml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "sessiond.sock"

    @property
    def url(self) -> str:
        return f"unix:{self.socket}"

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def instance(self) -> str:
        """The name by which its sandboxes are found."""
        return (self.state / "instance").read_text().strip()

    def audit(self, session: str) -> list[dict[str, Any]]:
        """What the audit log's current file says of a session's commands."""
        lines = (self.state / "audit.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record.get("session") == session and record["command"]]

    def _toml(self) -> str:
        daemon = {
            "state": str(self.state),
            "listen": [self.url],
            "on_stop": "close",
            **self.engine.settings,
            **self.settings,
        }
        profiles = {name: {"image": self.engine.image, **profile} for name, profile in self.profiles.items()}
        lines = ["[daemon]", *(f"{key} = {_toml(value)}" for key, value in daemon.items())]
        for name, profile in profiles.items():
            lines += [f"[profiles.{name}]", *(f"{key} = {_toml(value)}" for key, value in profile.items())]
        return "\n".join(lines) + "\n"

    # --- what it says of itself

    def get(self, path: str) -> tuple[int, bytes]:
        """An HTTP request over its unix socket."""
        connection = _UnixHTTPConnection(self.socket)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """What it holds."""
        code, body = self.get("/status")
        assert code == 200, body
        status: dict[str, Any] = json.loads(body)
        return status

    def pool(self, profile: str) -> dict[str, Any]:
        """One pool's numbers."""
        pool: dict[str, Any] = self.status()["pools"][profile]
        return pool

    def full(self) -> bool:
        """Whether every pool has what it wants and nothing is under way."""
        return all(
            pool["error"] is None
            and pool["warm"] == self.profiles[name].get("pool", {}).get("min", 2)
            and not (pool["creating"] or pool["removing"] or pool["waiting"])
            for name, pool in self.status()["pools"].items()
        )

    def settled(self, sessions: int = 0) -> bool:
        """Whether also the engine has no sandbox more, and so many sessions are open."""
        status = self.status()
        pools = status["pools"]
        held = sum(pool["warm"] + pool["claimed"] for pool in pools.values())
        claimed = sum(pool["claimed"] for pool in pools.values())
        return self.full() and status["sessions"] == claimed == sessions and len(self.sandboxes()) == held

    def memory(self) -> int:
        """Bytes of its own that are in memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0]) * 1024

    def limit_file_size(self, most: int | None) -> None:
        """From now on its files end at `most` bytes: what a full disk does."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if most is None else most, hard))

    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    # --- what is seen of its sandboxes from outside

    @property
    def jails(self) -> Path:
        """Where bubblewrap's sandboxes have their directories."""
        return (ROOTS_DIRECTORY if os.geteuid() == 0 else self.state / "sandboxes" / "bubblewrap") / self.instance

    def sandboxes(self) -> set[str]:
        """All of its sandboxes that exist, as the engine or the disk tells."""
        if self.engine.name == "docker":
            return {container.labels["sessiond.sandbox"] for container in self._containers()}
        return {record.parent.name for record in self.jails.glob("*/sandbox.json")}

    def first_process(self, sandbox: str) -> int:
        """The pid, out here, of a sandbox's PID 1."""
        if self.engine.name == "docker":
            (container,) = self._containers({"sessiond.sandbox": sandbox})
            return int(container.attrs["State"]["Pid"])
        line = (self.jails / sandbox / "bwrap.json").read_text().splitlines()[0]
        return int(json.loads(line)["child-pid"])

    def docker_kill(self, sandbox: str) -> None:
        """`docker kill` of its container."""
        self._containers({"sessiond.sandbox": sandbox}, lambda container: container.kill())

    def docker_pause(self, sandbox: str) -> None:
        """`docker pause` of its container."""
        self._containers({"sessiond.sandbox": sandbox}, lambda container: container.pause())

    def docker_unpause(self, sandbox: str) -> None:
        """`docker unpause` of its container."""
        self._containers({"sessiond.sandbox": sandbox}, lambda container: container.unpause())

    def processes(self) -> list[tuple[int, str]]:
        """Processes of its sandboxes: PID 1s and what is in their pid namespaces, monitors and shims."""
        marks = [self.instance] if self.engine.name == "bubblewrap" else [c.id for c in self._containers()]
        return [(pid, line) for pid, line in command_lines() if any(mark in line for mark in marks)]

    def left_behind(self) -> list[str]:
        """What a daemon that has stopped must not have left."""
        left = [f"sandbox {name}" for name in self.sandboxes()]
        left += [f"process {pid}: {line}" for pid, line in self.processes() if pid != os.getpid()]
        left += [f"socket {path}" for path in (self.directory / "run").glob("*")]
        if self.engine.name == "docker":
            left += [f"directory {path}" for path in (self.state / "sandboxes" / "docker").iterdir() if path.is_dir()]
        else:
            left += [f"directory {path}" for path in self.jails.glob("*/")]
            left += [
                f"cgroup {path}/{name}"
                for path, names, _ in os.walk("/sys/fs/cgroup")
                for name in names
                if name.startswith(f"{self.instance}.")
            ]
        return left

    def _containers(
        self, labels: Mapping[str, str] | None = None, use: Callable[[Any], object] = lambda _: None
    ) -> list[Any]:
        wanted = {"sessiond.instance": self.instance, **(labels or {})}
        client = docker.DockerClient(self.engine.docker_host)
        try:
            found = client.containers.list(
                all=True, filters={"label": [f"{key}={value}" for key, value in wanted.items()]}, ignore_removed=True
            )
            for container in found:
                use(container)
        finally:
            client.close()
        return found


class _UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(self._path))


def python(code: str, *arguments: str) -> list[str]:
    """A command that runs some Python in a sandbox."""
    return ["python3", "-I", "-S", "-c", code, *arguments]


def running(mark: str) -> list[int]:
    """Processes out here, in sandboxes or not, with `mark` in their command lines."""
    return [pid for pid, line in command_lines() if mark in line]


def command_lines() -> list[tuple[int, str]]:
    """All processes that can be seen here, with their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append((int(entry.name), line))
    return found


async def eventually(what: str, check: Callable[[], Any]) -> Any:
    """What `check` returns as soon as that is true. For what no event tells."""
    until = time.monotonic() + DEADLINE
    while not (value := check()):
        assert time.monotonic() < until, f"it did not come to pass: {what}"
        await asyncio.sleep(PAUSE)
    return value


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
