"""The figures of one run: their names, what each is compared with, and which of them are promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sessiond.bench.parts import Parts


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of sessions did at once."""

    commands_per_s: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured."""

    cpus: int
    kernel: str
    engine: str
    engine_version: str
    image: str
    load: float
    """Processes that wanted to run just before: other people's work makes all figures worse."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All of a run. Times are medians but where the name says otherwise; None is what could not be measured here."""

    floor_ms: float
    exec_ms: float
    exec_p99_ms: float
    exec_over_floor: float
    python_ms: float
    docker_exec_ms: float | None
    docker_exec_over_exec: float | None
    file_read_1k_ms: float
    docker_cp_ms: float | None
    docker_cp_over_file_read: float | None
    open_ms: float
    cold_ms: float
    cold_over_open: float
    throughput: Mapping[str, Load]
    stdout_mb_s: float
    pty_echo_ms: float
    pty_local_ms: float
    pty_echo_over_local: float
    guest_pss_kb: int | None
    daemon_rss_mb: float
    sandbox_memory_mb: float | None
    parts: Parts
    machine: Machine

    def as_json(self) -> dict[str, Any]:
        """Plain values, by name."""
        plain = asdict(self)
        parts, machine = plain.pop("parts"), plain.pop("machine")
        return {**plain, **parts, "machine": machine}


@dataclass(frozen=True, slots=True)
class Promise:
    """A bound that SPECIFICATION.md promises."""

    key: str
    relation: Literal["<=", ">="]
    bound: float

    def kept(self, value: float | None) -> bool:
        """Whether the value is within it; one that could not be measured is not."""
        if value is None:
            return False
        return value <= self.bound if self.relation == "<=" else value >= self.bound


PROMISES = (
    Promise("exec_over_floor", "<=", 2.0),
    Promise("docker_exec_over_exec", ">=", 40.0),
    Promise("cold_over_open", ">=", 80.0),
    Promise("stdout_mb_s", ">=", 300.0),
    Promise("guest_pss_kb", "<=", 300.0),
)
"""For the docker engine. Ratios: both sides are measured in the same minute on the same machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line for people."""

    what: str
    value: str
    meaning: str


def rows(figures: Figures) -> Iterator[Row]:
    """The figures for people, each with what it is compared with."""
    yield Row("bare spawn inside", _ms(figures.floor_ms), "vfork, exec and wait of `true` in the sandbox: the limit")
    yield Row(
        "command, median",
        _ms(figures.exec_ms),
        f"`true` from the client and back: {figures.exec_over_floor:.2f} times the limit",
    )
    yield Row("command, p99", _ms(figures.exec_p99_ms), "the slowest of a hundred")
    yield Row("python3 -c pass", _ms(figures.python_ms), "the same with Python's own start")
    if figures.docker_exec_ms is not None:
        yield Row(
            "docker exec",
            _ms(figures.docker_exec_ms),
            "the Docker SDK's exec_run in a container locked by Docker alone: "
            f"{figures.docker_exec_over_exec:.0f} times a command",
        )
    yield Row("read a file", _ms(figures.file_read_1k_ms), "1 KiB of the workspace, `session.files.read`")
    if figures.docker_cp_ms is not None:
        yield Row(
            "docker cp",
            _ms(figures.docker_cp_ms),
            f"the same file by Docker's archive API: {figures.docker_cp_over_file_read:.0f} times",
        )
    yield Row("open, warm", _ms(figures.open_ms), "a session from the pool, its guest has answered")
    yield Row(
        "open, cold",
        _ms(figures.cold_ms),
        f"without a pool: created, started, guest has answered: {figures.cold_over_open:.0f} times a warm one",
    )
    for count, load in figures.throughput.items():
        name = f"{count} session" + ("s" if count != "1" else "")
        yield Row(name, f"{load.commands_per_s:.0f} /s", f"`true` without pause in each; p99 {load.p99_ms:.1f} ms")
    parts = figures.parts
    yield Row("decision", f"{parts.decision_us:.0f} us", f"of a plain text; {parts.decision_again_us:.1f} us again")
    yield Row("decision, parsed", f"{parts.decision_parsed_ms:.2f} ms", "of a text for which a second parser is asked")
    yield Row("record", f"{parts.record_us:.0f} us", "a command's start and end, kept through the daemon's death")
    yield Row("record, power", f"{parts.record_power_ms:.2f} ms", "the same, kept through the machine's")
    yield Row("stdout", f"{figures.stdout_mb_s:.0f} MB/s", "of one command, streamed to the client")
    yield Row(
        "key to echo",
        _ms(figures.pty_echo_ms),
        f"by `cat` on a terminal in a session; on a local one {_ms(figures.pty_local_ms)}: "
        f"{figures.pty_echo_over_local:.1f} times that",
    )
    if figures.guest_pss_kb is not None:
        yield Row("guest", f"{figures.guest_pss_kb} kB", "memory of a sandbox's PID 1")
    if figures.sandbox_memory_mb is not None:
        yield Row("sandbox", f"{figures.sandbox_memory_mb:.1f} MB", "all memory of an idle one, by its control group")
    yield Row("daemon", f"{figures.daemon_rss_mb:.0f} MB", "resident, with all those sessions open")


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"
