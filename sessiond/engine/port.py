"""The Engine port: everything the daemon may ask of what makes sandboxes, and nothing else.

One module an engine implements it; `tests/integration/engine` holds the one contract suite that all pass. A sandbox is
named by its id alone: nothing here assumes that it lives on this host.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias

SANDBOX_UID = 1000
"""The user (and group) that the guest and all commands have inside every sandbox."""

GUEST_DIRECTORY = "/run/sessiond"
"""Where the guest's binary (`guest`) and the channel's socket (`channel.sock`) are mounted read-only inside."""


ExecMode: TypeAlias = Literal["any", "workspace", "strict"]
"""Where files that a sandbox wrote may be executed, or mapped as code: wherever the engine lets them, in the workspace
only, nowhere."""


class EngineError(Exception):
    """Root of what an engine raises: what happened, to what, and what to do next."""


class EngineUnavailableError(EngineError):
    """The engine does not answer or is not installed. Nothing was changed; try again when it is back."""


class EngineTimeoutError(EngineError):
    """The engine did not answer within the call's deadline. The call's effect is unknown; `list` tells."""


class ImageMissingError(EngineError):
    """The profile's image is not there and could not be pulled."""


class SandboxGoneError(EngineError):
    """The sandbox does not exist any more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use, in all."""

    memory_bytes: int = 512 * 1024**2
    """Memory, swap included (there is none). tmpfs contents count."""
    cpus: float = 1.0
    """Processors' worth of time."""
    pids: int = 256
    """Processes and threads at once."""
    open_files: int = 1024
    """Descriptors a process."""
    file_bytes: int = 1024**3
    """Largest single file."""
    workspace_bytes: int = 256 * 1024**2
    """Size of the workspace."""
    tmp_bytes: int = 64 * 1024**2
    """Size of /tmp; /dev/shm has the same."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The recipe of one sandbox, complete: an engine reads no other configuration for it."""

    id: str
    """Unique, `[a-z0-9-]{1,40}`; the engine's own object is found by it."""
    profile: str
    image: str = ""
    """Image reference for engines that have images; others ignore it."""
    limits: Limits = field(default_factory=Limits)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Kept with the sandbox by the engine and returned by `list`, so that a restarted daemon knows its own."""
    exec_in: ExecMode = "any"
    volume: Path | None = None
    """Directory of this host that becomes the workspace, read and write, without set-user-id bits and devices; it is
    made the sandbox's user's. It must exist, and outlives the sandbox. None makes the workspace a tmpfs."""


class SandboxState(StrEnum):
    """What `list` says of a sandbox."""

    CREATED = "created"
    """Created, not yet started; an orphan when no one is about to start it."""
    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """One sandbox as the engine sees it now."""

    id: str
    state: SandboxState
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SandboxStats:
    """What a sandbox uses now. A figure that the engine cannot give is None."""

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine promises here, on this machine. A promise that cannot be kept is reported as absent, never
    assumed."""

    engine: str
    version: str
    root: str
    """Whose root file system is seen: "image" or "host"."""
    limits: frozenset[str]
    """Names of `Limits` fields that hold for the sandbox as a whole."""
    process_limits: frozenset[str]
    """Names of `Limits` fields that hold only process by process (rlimits)."""
    seccomp: bool
    pause: bool
    survives_daemon: bool
    """Whether sandboxes outlive the daemon's death."""
    weaknesses: tuple[str, ...] = ()
    """What an operator should know, a sentence each."""


class Engine(ABC):
    """Makes, finds and removes sandboxes.

    Every method has a deadline of its own and raises `EngineError` or a subclass. Methods may be called concurrently.
    Creating with an id that exists is an error; removing what is gone is not.
    """

    name: str

    @abstractmethod
    async def open(self) -> Capabilities:
        """Connect, check what holds here, and say so. Called once, before anything else."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the engine's resources in this process. Sandboxes live on."""

    @abstractmethod
    async def prepare(self, image: str) -> Mapping[str, str]:
        """Make sure that sandboxes of `image` can be created. Raises ImageMissingError.

        Returns the environment that the image itself declares (its PATH, say): commands get it. Engines without images
        return none.
        """

    @abstractmethod
    async def create(self, spec: SandboxSpec, link: Callable[[], asyncio.Protocol]) -> None:
        """Create the sandbox, ready to start, and arrange its channel as `channel` does."""

    @abstractmethod
    async def start(self, sandbox: str) -> None:
        """Start it: its guest begins to dial."""

    @abstractmethod
    async def channel(self, sandbox: str, link: Callable[[], asyncio.Protocol]) -> None:
        """Give each connection of the sandbox's guest, and of nobody else, to a protocol made by `link`, until
        `remove`.

        For a sandbox adopted after a restart; `create` has done it for its own.
        """

    @abstractmethod
    async def tighten(self, sandbox: str, limits: Limits) -> None:
        """Lower memory, cpus and pids of a running sandbox to `limits`, when a session that wants less claims it.

        Fields that did not change are left alone. Raises EngineError when one that changed cannot be enforced: it is
        never ignored.
        """

    @abstractmethod
    async def pause(self, sandbox: str) -> None:
        """Stop all its processes from running, memory kept."""

    @abstractmethod
    async def resume(self, sandbox: str) -> None:
        """Undo `pause`."""

    @abstractmethod
    async def remove(self, sandbox: str) -> None:
        """Kill and erase the sandbox and its channel, whatever its state."""

    @abstractmethod
    async def list(self) -> list[SandboxStatus]:
        """All sandboxes of this daemon's instance, dead ones included."""

    @abstractmethod
    async def stats(self, sandbox: str) -> SandboxStats:
        """What the sandbox uses now."""

    @abstractmethod
    async def wait(self, sandbox: str) -> str:
        """Return when the sandbox has died, with the cause in words. Does not poll where the platform can tell."""
