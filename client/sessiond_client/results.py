"""What commands give back: pieces of output, how they ended, and both together."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass
from typing import Literal

from sessiond_protocol import messages

Stream = Literal["stdout", "stderr"]
Cause = Literal["exit", "signal", "timeout", "oom", "killed", "quota"]


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a command's output. Offsets count the bytes of both streams together."""

    stream: Stream
    data: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Output from `start` up to `end` is not kept any more. It is said, never skipped in silence."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a command ended, as the sandbox reported it; never made up."""

    exit_code: int | None
    """Exit code; None when a signal ended it."""
    signal: int | None
    """The signal that ended it, if one did."""
    cause: Cause
    """Why: by itself (exit), a signal, its timeout, out of memory (oom), or killed on request."""
    duration: float
    """Seconds from spawn to end."""
    user_seconds: float
    system_seconds: float
    max_rss_bytes: int
    output_bytes: int
    """Bytes that it wrote to both streams."""

    @property
    def ok(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.exit_code == 0

    @property
    def timed_out(self) -> bool:
        """Whether its timeout ended it."""
        return self.cause == "timeout"

    @property
    def status(self) -> int:
        """What a shell's `$?` would hold: the exit code, or 128 + the signal."""
        return self.exit_code if self.exit_code is not None else 128 + (self.signal or 0)

    def describe(self) -> str:
        """How it ended, in words that follow "the command"."""
        how = f"exited with {self.exit_code}" if self.signal is None else f"was ended by {signal_name(self.signal)}"
        because = {
            "timeout": " at its timeout",
            "oom": " out of memory",
            "killed": " on request",
            "quota": " over the workspace's size",
        }.get(self.cause, "")
        return f"{how}{because} after {self.duration:.3g} s"


@dataclass(frozen=True, slots=True)
class Result(ExitStatus):
    """How a command ended, and its output."""

    stdout: bytes
    stderr: bytes
    output: bytes
    """Both streams in the order in which they were written."""
    gaps: tuple[Gap, ...] = ()
    """Pieces of output that were not kept; empty unless the client fell behind the daemon's spool."""

    @property
    def text(self) -> str:
        """Both streams in the order in which they were written, as text; bytes that are not UTF-8 become U+FFFD."""
        return self.output.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A workspace that was exported, or an archive that was imported."""

    size: int
    """Bytes of the archive."""
    complete: bool
    """False for an archive that is good but lacks what could not be read, or did change while it was read."""
    notes: tuple[str, ...]
    """What was left out or skipped (sockets, devices), a line each; at most about a hundred."""


def exit_status(exit: messages.Exit) -> ExitStatus:
    """The client's view of the wire's `Exit`."""
    return ExitStatus(
        exit_code=exit.code,
        signal=exit.signal,
        cause=exit.cause,
        duration=exit.wall_seconds,
        user_seconds=exit.user_seconds,
        system_seconds=exit.system_seconds,
        max_rss_bytes=exit.max_rss_bytes,
        output_bytes=exit.output_bytes,
    )


def result(status: ExitStatus, stdout: bytes, stderr: bytes, output: bytes, gaps: tuple[Gap, ...]) -> Result:
    """A result from its parts."""
    return Result(
        status.exit_code,
        status.signal,
        status.cause,
        status.duration,
        status.user_seconds,
        status.system_seconds,
        status.max_rss_bytes,
        status.output_bytes,
        stdout,
        stderr,
        output,
        gaps,
    )


def signal_name(number: int) -> str:
    """SIGKILL for 9; the number itself where it has no name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
