"""What happened in one round, as typed events on the monotonic clock: in memory, and as JSON lines on disk.

Clients write down what they asked for and what they were told; the faults write down themselves; at the end is added
what was found: in the daemon's records, and in files that the commands wrote into their workspaces.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

RUN_BYTES = 1024 * 1024
"""A run of output ends at each multiple, so that readers who began elsewhere can be compared from there on."""

State = Literal["exited", "lost", "failed", "denied", "starting", "running"]


@dataclass(frozen=True)
class Ending:
    """How a command ended, as somebody was told."""

    state: State
    code: int | None = None
    signal: int | None = None
    cause: str | None = None
    output_bytes: int | None = None


@dataclass(frozen=True)
class _Event:
    at: float = field(default_factory=time.monotonic, kw_only=True)
    """Seconds on the monotonic clock."""


# --- what clients did and saw


@dataclass(frozen=True)
class Opened(_Event):
    """A client was told that its session is open."""

    session: str
    generation: int = 1
    on_loss: Literal["replace", "close"] = "close"
    keeps_workspace: bool = False
    """Whether the profile promises the workspace to a sandbox that replaces another."""
    keeps_output: bool = True
    """Whether all output is kept, so that nobody may be told of a gap."""


@dataclass(frozen=True)
class Closed(_Event):
    """A client asked for the end of its session."""

    session: str


@dataclass(frozen=True)
class StartSent(_Event):
    """A client sent the start of a command."""

    session: str
    command: str
    client: str
    exit_code: int | None = 0
    """With what it ends if nothing is done to it; None where that is not known."""
    sha256: str | None = None
    """Of its complete output, where that is known before."""
    counts: bool = True
    """Whether it adds its line to the counter file."""
    another_body: bool = False
    """Whether an earlier one with this id had another body."""


@dataclass(frozen=True)
class Acknowledged(_Event):
    """A client was told that its command runs, or ran."""

    session: str
    command: str
    client: str


@dataclass(frozen=True)
class Refused(_Event):
    """A client was told that its command does not run, and why."""

    session: str
    command: str
    client: str
    code: str


@dataclass(frozen=True)
class ReadFrom(_Event):
    """A reader began to follow a command."""

    session: str
    command: str
    reader: str
    offset: int


@dataclass(frozen=True)
class Read(_Event):
    """A reader was given output: [start, end) without holes."""

    session: str
    command: str
    reader: str
    start: int
    end: int
    sha256: str
    """Of these bytes."""
    running: str
    """SHA-256 of all that this reader was given."""


@dataclass(frozen=True)
class GapTold(_Event):
    """A reader was told that output is not kept."""

    session: str
    command: str
    reader: str
    start: int
    end: int


@dataclass(frozen=True)
class Told(_Event):
    """An observer was told how a command ended."""

    session: str
    command: str
    observer: str
    ending: Ending


@dataclass(frozen=True)
class Erred(_Event):
    """What somebody wanted ended in an error that is no answer about a start or an end."""

    session: str
    command: str | None
    observer: str
    code: str
    """One of the protocol's, or the client's class."""
    message: str


# --- what was done


@dataclass(frozen=True)
class Fault(_Event):
    """Something was done. `sessions` are those whose sandboxes it killed."""

    kind: str
    details: str = ""
    kills: tuple[str, ...] = ()


@dataclass(frozen=True)
class FaultOver(_Event):
    """It was undone, as far as it can be."""

    kind: str


# --- what was found at the end


@dataclass(frozen=True)
class SessionFound(_Event):
    """The daemon has the session."""

    session: str
    state: str
    generation: int
    readable: bool = True
    """Whether files of its workspace could be looked at; there is no sandbox to do so in a session that ended."""
    same_workspace: bool = True
    """Whether the workspace is the one that it was opened with."""


@dataclass(frozen=True)
class SessionMissing(_Event):
    """The daemon does not have the session."""

    session: str
    code: str


@dataclass(frozen=True)
class RecordFound(_Event):
    """The daemon's record of a command."""

    session: str
    command: str
    ending: Ending


@dataclass(frozen=True)
class Counted(_Event):
    """How many lines of a command are in its workspace's counter file."""

    session: str
    command: str
    times: int


@dataclass(frozen=True)
class Wrote(_Event):
    """What a command says of all its output, in a file of its workspace."""

    session: str
    command: str
    size: int
    sha256: str


Event = (
    Opened
    | Closed
    | StartSent
    | Acknowledged
    | Refused
    | ReadFrom
    | Read
    | GapTold
    | Told
    | Erred
    | Fault
    | FaultOver
    | SessionFound
    | SessionMissing
    | RecordFound
    | Counted
    | Wrote
)
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}
E = TypeVar("E", bound=_Event)


class History:
    """A history that grows, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self._file = path.open("w")

    def add(self, event: Event) -> None:
        """Write it down."""
        self.events.append(event)
        self._file.write(to_line(event))

    def of(self, kind: type[E]) -> Iterator[E]:
        """Its events of one kind."""
        return (event for event in self.events if isinstance(event, kind))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have all of it on disk."""
        self._file.close()


def to_line(event: Event) -> str:
    """As a line of JSON."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n"


def from_lines(lines: Iterable[str]) -> list[Event]:
    """A history that was written before."""
    return [_from_line(line) for line in lines]


def _from_line(line: str) -> Event:
    fields = json.loads(line)
    kind = KINDS[fields.pop("event")]
    if "ending" in fields:
        fields["ending"] = Ending(**fields["ending"])
    if "kills" in fields:
        fields["kills"] = tuple(fields["kills"])
    event: Event = kind(**fields)
    return event


class ReadRecorder:
    """Writes down what one reader is given, in runs: a hole or a repetition begins a new run, and so shows."""

    def __init__(self, history: History, session: str, command: str, reader: str, offset: int = 0) -> None:
        self._history = history
        self._who = (session, command, reader)
        self._start = self._end = offset
        self._digest = hashlib.sha256()
        self._running = hashlib.sha256()
        history.add(ReadFrom(*self._who, offset))

    @property
    def end(self) -> int:
        """Up to where it has been given output."""
        return self._end

    def output(self, offset: int, data: bytes) -> None:
        """It was given these bytes."""
        if offset != self._end:
            self.flush()
            self._start = self._end = offset
        view = memoryview(data)
        while view:
            piece = view[: RUN_BYTES - self._end % RUN_BYTES]
            self._digest.update(piece)
            self._running.update(piece)
            self._end += len(piece)
            view = view[len(piece) :]
            if self._end % RUN_BYTES == 0:
                self.flush()

    def gap(self, start: int, end: int) -> None:
        """It was told of a gap."""
        self.flush()
        self._history.add(GapTold(*self._who, start, end))
        self._start = self._end = end

    def flush(self) -> None:
        """Write down the run so far."""
        if self._end > self._start:
            self._history.add(
                Read(*self._who, self._start, self._end, self._digest.hexdigest(), self._running.hexdigest())
            )
        self._start = self._end
        self._digest = hashlib.sha256()
