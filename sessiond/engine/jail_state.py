"""What the daemon knows of one bubblewrap sandbox: its record on disk, and its jail while that lives."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from sessiond.engine import cgroup, jail
from sessiond.engine.deaths import describe
from sessiond.engine.directory import SandboxDirectory
from sessiond.engine.port import Limits, SandboxGoneError, SandboxSpec

RECORD = "sandbox.json"

REAP_SECONDS = 1.0
"""How long after the death of a jail's PID 1 bwrap may take to tell the exit code."""

POLL_SECONDS = 0.002

_left: list[subprocess.Popen[bytes]] = []
"""Children of closed engines in this process, kept to be waited for when they end."""


def reap() -> None:
    """Wait for those of them that have ended."""
    _left[:] = [monitor for monitor in _left if monitor.poll() is None]


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a sandbox beside its processes, in RECORD."""

    spec: SandboxSpec
    uid: int | None

    def save(self, place: SandboxDirectory) -> None:
        """Write it. The sandbox exists for `list` from here on."""
        draft = place.root / f".{RECORD}"
        draft.write_text(json.dumps({"spec": asdict(self.spec), "uid": self.uid}, default=str))
        draft.rename(place.root / RECORD)

    @classmethod
    def load(cls, place: SandboxDirectory) -> Record:
        """Read it. FileNotFoundError when there is none."""
        document = json.loads((place.root / RECORD).read_text())
        spec = dict(document["spec"])
        spec["limits"] = Limits(**spec["limits"])
        volume = spec.get("volume")
        spec["volume"] = None if volume is None else Path(volume)
        return cls(SandboxSpec(**spec), document["uid"])


class Jail:
    """One sandbox in this process's memory: what `Record` and the kernel say, and who waits for its death."""

    def __init__(self, place: SandboxDirectory, record: Record, group: cgroup.Group | None) -> None:
        self.place = place
        self.record = record
        self.group = group
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pidfd: int | None = None
        self.monitor: subprocess.Popen[bytes] | None = None
        self.changing = asyncio.Lock()
        """Held by start and remove."""

    @property
    def pid(self) -> int:
        """Its PID 1. Raises SandboxGoneError when it does not run."""
        pid = None if self.pidfd is None else jail.pid_of(self.pidfd)
        if pid is None:
            raise SandboxGoneError(f"bubblewrap: sandbox {self.record.spec.id} does not run")
        return pid

    def watch(self, pidfd: int) -> None:
        """Notice its death through this descriptor."""
        self.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended)

    def leave(self) -> None:
        """Let go of it without a judgement: it lives on, a later daemon will find it."""
        self._unwatch()
        self.died.cancel()
        if self.monitor is not None:
            _left.append(self.monitor)

    def _unwatch(self) -> None:
        if self.pidfd is not None:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None

    def _ended(self) -> None:
        self._unwatch()
        self._tell(asyncio.get_running_loop().time() + REAP_SECONDS)

    def _tell(self, deadline: float) -> None:
        """Set `died`: as soon as bwrap has told the exit code, or without it at the deadline."""
        loop = asyncio.get_running_loop()
        code = jail.exit_code(self.place)
        running = self.monitor is not None and self.monitor.poll() is None
        if (code is None or running) and loop.time() < deadline:
            loop.call_later(POLL_SECONDS, self._tell, deadline)
        elif not self.died.done():
            oom = self.group is not None and self.group.oom_kills() > 0
            self.died.set_result("its PID 1 ended" if code is None else describe(code, oom=oom))
