"""The measurements. All are taken in turn, round after round, so that a machine that gets slower slows all alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sessiond_client import Client, Gap, Session, connect

from sessiond.bench import memory
from sessiond.bench.figures import Figures, Load, Machine
from sessiond.bench.parts import Parts, measure_parts
from sessiond.bench.terminal import local_echoes, session_echoes
from sessiond.engine.docker_exec import DockerCopy, DockerExec
from sessiond.private_daemon import Ground, PrivateDaemon, PrivateDaemonError

GUEST = "/run/sessiond/guest"
PROGRAMS = ["true", "python3", "head", "cat", "readlink", "stty", "echo", GUEST]
"""All that the measured profile allows: the policy judges each command as it would an agent's."""

SESSIONS = (1, 8, 32)

PARTS = 5
"""Each round alternates so often between bare spawns and commands: their ratio is the figure that matters most."""

QUIET_SECONDS = 0.1
"""After the daemon has settled: dockerd still tidies up after a container that is gone."""
MIB = 1024**2
FILE = "bench-1k"
FILE_CONTENT = bytes(range(256)) * 4

PROFILES = {
    "warm": {"policy": {"allow": PROGRAMS}, "pool": {"min": 4, "max": 64}},
    "cold": {"policy": {"allow": PROGRAMS}, "pool": {"min": 0, "max": 4}},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How often to measure what."""

    rounds: int
    floors: int
    commands: int
    pythons: int
    docker_execs: int
    reads: int
    docker_copies: int
    opens: int
    colds: int
    output_bytes: int
    load_seconds: float
    echoes: int


FULL = Plan(
    rounds=10, floors=100, commands=150, pythons=8, docker_execs=4, reads=30, docker_copies=4, opens=3, colds=2,
    output_bytes=256 * MIB, load_seconds=1.0, echoes=100,
)  # fmt: skip
QUICK = Plan(
    rounds=2, floors=50, commands=50, pythons=2, docker_execs=2, reads=20, docker_copies=2, opens=1, colds=1,
    output_bytes=32 * MIB, load_seconds=0.3, echoes=50,
)  # fmt: skip

WARM_UP = Plan(
    rounds=1, floors=20, commands=100, pythons=1, docker_execs=1, reads=20, docker_copies=1, opens=0, colds=0,
    output_bytes=16 * MIB, load_seconds=0.0, echoes=20,
)  # fmt: skip


@dataclass(slots=True)
class Samples:
    """What was measured so far: milliseconds, MB/s, and the loads' rates and milliseconds."""

    floor: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)
    python: list[float] = field(default_factory=list)
    docker_exec: list[float] = field(default_factory=list)
    file_read: list[float] = field(default_factory=list)
    docker_cp: list[float] = field(default_factory=list)
    open: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    stdout: list[float] = field(default_factory=list)
    echo: list[float] = field(default_factory=list)
    local_echo: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    loads: dict[int, list[float]] = field(default_factory=dict)


async def measure(ground: Ground, plan: Plan, progress: Callable[[str], None]) -> Figures:
    """Start a daemon, measure, and end it. Raises PrivateDaemonError when it does not start or does not end clean."""
    load = os.getloadavg()[0]
    progress("starting a daemon")
    async with PrivateDaemon(ground, PROFILES) as daemon:
        await daemon.settled()
        async with connect(daemon.url) as client, contextlib.AsyncExitStack() as stack:
            first = await client.open("warm")
            process = await memory.first_process(first)
            sandbox_mb = None if process is None else memory.sandbox_mb(process)
            await first.files.write(FILE, FILE_CONTENT)
            rival, copier = None, None
            if ground.docker_host is not None:
                rival = DockerExec(ground.docker_host, ground.image)
                stack.callback(rival.close)
                copier = DockerCopy(ground.docker_host, ground.image, FILE_CONTENT)
                stack.callback(copier.close)
            bench = Bench(daemon, client, [first], rival, copier)
            progress("warming up")
            await bench.round(WARM_UP, Samples())
            progress(f"opening {SESSIONS[-1]} sessions")
            for _ in range(SESSIONS[-1] - 1):
                bench.sessions.append(await client.open("warm"))
            await daemon.settled()
            guest_kb = None if process is None else memory.pss_kb(process)
            samples = Samples()
            for number in range(plan.rounds):
                progress(f"round {number + 1} of {plan.rounds}")
                await bench.round(plan, samples)
            daemon_mb = memory.resident_mb(daemon.pid)
            progress("closing")
            await asyncio.gather(*(session.close() for session in bench.sessions))
            await daemon.settled()
    progress("measuring decisions and records")
    parts = await measure_parts()
    machine = Machine(
        cpus=os.cpu_count() or 1,
        kernel=platform.release(),
        engine=ground.engine,
        engine_version=ground.capabilities.version,
        image=ground.image,
        load=round(load, 2),
    )
    return summary(samples, machine, parts, guest_kb, daemon_mb, sandbox_mb)


class Bench:
    """One run on one daemon. The first of the sessions is the one in which single commands are timed."""

    def __init__(
        self,
        daemon: PrivateDaemon,
        client: Client,
        sessions: list[Session],
        rival: DockerExec | None,
        copier: DockerCopy | None,
    ) -> None:
        self.sessions = sessions
        self._daemon = daemon
        self._client = client
        self._rival = rival
        self._copier = copier

    async def round(self, plan: Plan, samples: Samples) -> None:
        """Each measurement in turn, each on a daemon that has nothing else to do."""
        first = self.sessions[0]
        await self._quiet()
        for _ in range(PARTS):
            samples.floor.append(await bare_spawn(first, plan.floors // PARTS))
            for _ in range(plan.commands // PARTS):
                samples.command.append(await timed(lambda: first.run(["true"], check=True)))
        for _ in range(plan.pythons):
            samples.python.append(await timed(lambda: first.run(["python3", "-c", "pass"], check=True)))
        for _ in range(plan.docker_execs if self._rival is not None else 0):
            samples.docker_exec.append(self._docker_exec())
        for _ in range(plan.reads):
            samples.file_read.append(await timed(lambda: first.files.read(FILE)))
        for _ in range(plan.docker_copies if self._copier is not None else 0):
            samples.docker_cp.append(self._docker_cp())
        for _ in range(plan.opens):
            samples.open.append(await self._open("warm"))
        for _ in range(plan.colds):
            samples.cold.append(await self._open("cold"))
        samples.stdout.append(await self._stdout(plan.output_bytes))
        await self._quiet()
        samples.echo += await session_echoes(first, plan.echoes)
        samples.local_echo += await asyncio.to_thread(local_echoes, plan.echoes)
        if plan.load_seconds > 0:
            await self._quiet()
            for count in SESSIONS:
                began = time.perf_counter()
                took = await busy(self.sessions[:count], plan.load_seconds)
                samples.rates.setdefault(count, []).append(len(took) / (time.perf_counter() - began))
                samples.loads.setdefault(count, []).extend(took)

    def _docker_exec(self) -> float:
        """Blocking, on purpose: nobody else waits, and a thread would add its own time."""
        assert self._rival is not None  # noqa: S101 - the caller has looked
        began = time.perf_counter()
        self._rival.run(["true"])
        return (time.perf_counter() - began) * 1000

    def _docker_cp(self) -> float:
        assert self._copier is not None  # noqa: S101 - the caller has looked
        began = time.perf_counter()
        content = self._copier.read()
        took = (time.perf_counter() - began) * 1000
        if content != FILE_CONTENT:
            raise PrivateDaemonError("docker cp gave another file")
        return took

    async def _stdout(self, count: int) -> float:
        """In a session of its own: what the daemon keeps of the output goes with it, and does not count as memory."""
        async with await self._client.open("warm") as session:
            await self._quiet()
            return await stdout_rate(session, count)

    async def _quiet(self) -> None:
        await self._daemon.settled()
        await asyncio.sleep(QUIET_SECONDS)

    async def _open(self, profile: str) -> float:
        """Open a session on a settled daemon. The daemon answers when the sandbox's guest has answered."""
        await self._quiet()
        began = time.perf_counter()
        session = await self._client.open(profile)
        took = (time.perf_counter() - began) * 1000
        await session.close()
        await self._daemon.settled()
        return took


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that it took."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def bare_spawn(session: Session, count: int) -> float:
    """Median milliseconds of a spawn by the guest's own code inside the sandbox, with nobody asked."""
    result = await session.run([GUEST, "floor", str(count), "true"], check=True)
    return float(json.loads(result.stdout)["p50_ns"]) / 1e6


async def stdout_rate(session: Session, count: int) -> float:
    """MB/s of a command's output, counted at the client and not kept."""
    began = time.perf_counter()
    command = await session.start(["head", "-c", str(count), "/dev/zero"], stdin=False)
    got = 0
    async for piece in command:
        if isinstance(piece, Gap):
            raise PrivateDaemonError(f"output from {piece.start} to {piece.end} was lost")
        got += len(piece.data)
    took = time.perf_counter() - began
    status = await command.wait()
    if got != count or not status.ok:
        raise PrivateDaemonError(f"{got} of {count} bytes of output came; the command {status.describe()}")
    return got / 1e6 / took


async def busy(sessions: list[Session], seconds: float) -> list[float]:
    """Milliseconds of each `true`, run one after another in every session for so long."""
    until = time.perf_counter() + seconds
    took: list[float] = []

    async def work(session: Session) -> None:
        while time.perf_counter() < until:
            took.append(await timed(lambda: session.run(["true"], check=True)))

    await asyncio.gather(*map(work, sessions))
    return took


def summary(
    samples: Samples,
    machine: Machine,
    parts: Parts,
    guest_kb: int | None,
    daemon_mb: float,
    sandbox_mb: float | None,
) -> Figures:
    """Medians, the slow ends, and the ratios of medians."""
    floor, command = statistics.median(samples.floor), statistics.median(samples.command)
    opened, cold = statistics.median(samples.open), statistics.median(samples.cold)
    docker = statistics.median(samples.docker_exec) if samples.docker_exec else None
    reading = statistics.median(samples.file_read)
    copying = statistics.median(samples.docker_cp) if samples.docker_cp else None
    echo, local_echo = statistics.median(samples.echo), statistics.median(samples.local_echo)
    return Figures(
        floor_ms=round(floor, 4),
        exec_ms=round(command, 4),
        exec_p99_ms=round(slow_end(samples.command), 4),
        exec_over_floor=round(command / floor, 3),
        python_ms=round(statistics.median(samples.python), 3),
        docker_exec_ms=None if docker is None else round(docker, 2),
        docker_exec_over_exec=None if docker is None else round(docker / command, 2),
        file_read_1k_ms=round(reading, 4),
        docker_cp_ms=None if copying is None else round(copying, 2),
        docker_cp_over_file_read=None if copying is None else round(copying / reading, 2),
        open_ms=round(opened, 3),
        cold_ms=round(cold, 2),
        cold_over_open=round(cold / opened, 2),
        throughput={
            str(count): Load(round(statistics.median(rates), 1), round(slow_end(samples.loads[count]), 2))
            for count, rates in samples.rates.items()
        },
        stdout_mb_s=round(statistics.median(samples.stdout), 1),
        pty_echo_ms=round(echo, 4),
        pty_local_ms=round(local_echo, 4),
        pty_echo_over_local=round(echo / local_echo, 1),
        guest_pss_kb=guest_kb,
        daemon_rss_mb=round(daemon_mb, 1),
        sandbox_memory_mb=None if sandbox_mb is None else round(sandbox_mb, 2),
        parts=parts,
        machine=machine,
    )


def slow_end(values: list[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]
