"""Clients that do what clients do, at random and by seed, and write down what they asked for and were told.

A few sessions, in each a few workers that do one thing after the other: whatever the interleaving, a worker's choices
are those of its seed. Every wait has a deadline, and reaching it is written down as an error of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from sessiond_client import (
    Client,
    CommandDeniedError,
    CommandError,
    CommandLostError,
    CommandNotStartedError,
    ExitStatus,
    Gap,
    RemoteError,
    SessiondError,
)
from sessiond_client.command import Command
from sessiond_protocol.messages import CommandInfo

from tests.faults.robustness import programs
from tests.faults.robustness.history import (
    Acknowledged,
    Ending,
    Erred,
    History,
    Opened,
    ReadRecorder,
    Refused,
    StartSent,
    State,
    Told,
)
from tests.faults.robustness.programs import Program

STUCK = 90.0
"""Seconds after which what somebody waits for is written down as stuck. No fault lasts nearly as long."""

AT_ONCE = 6
"""Things that are done at once, by all workers together, on two processors."""

BORN = "born"
"""File by which a workspace is known again."""

KIB = 1024

_ENDINGS: dict[type[SessiondError], State] = {
    CommandLostError: "lost",
    CommandDeniedError: "denied",
    CommandNotStartedError: "failed",
}


@dataclass(frozen=True)
class Terms:
    """What the profile promises."""

    profile: str = "open"
    replaces: bool = False
    keeps_workspace: bool = False
    keeps_output: bool = True


@dataclass
class Traffic:
    """All clients of one round."""

    history: History
    clients: Sequence[Client]
    """By different ways to the daemon."""
    onlooker: Client
    """One that attaches to read."""
    seed: int
    terms: Terms = field(default_factory=Terms)
    flood_bytes: int = 8 * KIB * KIB
    """Most output of one command."""
    sessions: list[str] = field(default_factory=list)
    """All that were asked for and are not known to be over."""
    stopping: bool = False
    commands: int = 0
    received: int = 0
    """Bytes of output that all readers were given."""

    def __post_init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def run(self, sessions: int, workers: int) -> None:
        """Work until `stopping`, and then finish what is under way."""
        async with asyncio.TaskGroup() as group:
            for number in range(sessions):
                group.create_task(self._session(number, workers))

    async def _session(self, number: int, workers: int) -> None:
        """One session after the other, in case one is lost."""
        life = 0
        while not self.stopping:
            name = f"s{number}-{life}"
            life += 1
            if await self._open(name):
                async with asyncio.TaskGroup() as group:
                    for worker in range(workers):
                        group.create_task(self._work(name, f"w{worker}"))
            await asyncio.sleep(0.2)

    async def _open(self, name: str) -> bool:
        self.sessions.append(name)
        try:
            async with asyncio.timeout(STUCK):
                session = await self.clients[0].open(self.terms.profile, session_id=name)
                await session.run(["sh", "-c", f'echo "$0" > {BORN}', name], check=True)
        except (SessiondError, TimeoutError) as error:
            self._erred(name, None, "opener", error)
            self.give_up(name)
            with contextlib.suppress(SessiondError):
                await self.clients[0].close_session(name)
            return False
        self.history.add(
            Opened(
                name,
                session.snapshot.generation,
                "replace" if self.terms.replaces else "close",
                self.terms.keeps_workspace,
                self.terms.keeps_output,
            )
        )
        return True

    async def _work(self, session: str, worker: str) -> None:
        chance = random.Random(f"{self.seed} {session} {worker}")
        deeds = (
            self._say,
            self._say,
            self._flood,
            self._flood,
            self._echo,
            self._resend,
            self._share,
            self._look_later,
        )
        number = 0
        while not self.stopping and session in self.sessions:
            number += 1
            deed = chance.choice(deeds)
            async with self._turn:
                self.commands += 1
                await deed(session, f"{worker}-{number}", chance)
            await asyncio.sleep(chance.random() * 0.1)

    def give_up(self, session: str) -> None:
        """Its session is over: its workers end, and another one is opened."""
        with contextlib.suppress(ValueError):
            self.sessions.remove(session)

    # --- what a worker does

    async def _say(self, session: str, name: str, chance: random.Random) -> None:
        """A short command, as agents run hundreds."""
        await self._run(self._client(chance), session, name, programs.say(name, "word", chance.choice([0, 0, 0, 3])))

    async def _flood(self, session: str, name: str, chance: random.Random) -> None:
        """Much output, to a reader who takes it as fast as it comes, or slowly, or stops and comes back."""
        program = self._some_flood(name, chance)
        client, slow, leaves = self._client(chance), chance.random() < 0.3, chance.random() < 0.3
        window = chance.choice([64 * KIB, 256 * KIB, 4 * KIB * KIB])
        leave_at = chance.randrange(self.flood_bytes) if leaves else None
        observer = f"{name}-a"
        async with self._observing(session, name, observer):
            command = await self._start(client, session, name, observer, program, window=window)
            end = await self._read(command, observer, pause=0.002 if slow else 0.0, leave_at=leave_at)
            if end is not None:
                later = self._client(chance)
                command = await (await later.session(session)).command(name, offset=end, window=window)
                await self._read(command, f"{name}-b", offset=end)

    async def _echo(self, session: str, name: str, chance: random.Random) -> None:
        """Input that comes back."""
        data = chance.randbytes(chance.choice([1, 1000, 300_000, 2_000_000]))
        client, observer, step = self._client(chance), f"{name}-a", chance.choice([10_000, 1_000_000])
        async with self._observing(session, name, observer):
            command = await self._start(client, session, name, observer, programs.echo(name, data), stdin=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(command, data, step))
                await self._read(command, observer)

    async def _resend(self, session: str, name: str, chance: random.Random) -> None:
        """A start that is sent again: the same, from elsewhere; and another one under the same id."""
        program = self._some_flood(name, chance) if chance.random() < 0.5 else programs.say(name, "again")
        pause = chance.random() * 0.2
        first, *others = chance.sample(list(self.clients), min(3, len(self.clients)))

        async def again(client: Client, observer: str, what: Program, another: bool) -> None:
            await asyncio.sleep(pause)
            async with self._observing(session, name, observer):
                command = await self._start(client, session, name, observer, what, another_body=another)
                await self._read(command, observer)

        async with self._observing(session, name, f"{name}-a"):
            command = await self._start(first, session, name, f"{name}-a", program)
            async with asyncio.TaskGroup() as group:
                group.create_task(again(others[0], f"{name}-same", program, False))
                if len(others) > 1:
                    group.create_task(again(others[1], f"{name}-other", programs.say(name, "something else"), True))
                await self._read(command, f"{name}-a")

    async def _share(self, session: str, name: str, chance: random.Random) -> None:
        """An onlooker follows from somewhere on, and a third client waits."""
        program = self._some_flood(name, chance)
        first, third = self._client(chance), self._client(chance)
        begin, pause = chance.random(), chance.random() * 0.2

        async def follow(end: Callable[[], int]) -> None:
            await asyncio.sleep(pause)
            async with self._observing(session, name, f"{name}-b"):
                attached = await self.onlooker.attach(session, mode="reader")
                offset = int(end() * begin)
                await self._read(await attached.command(name, offset=offset), f"{name}-b", offset=offset)

        async def wait() -> None:
            if third is first:
                return
            async with self._observing(session, name, f"{name}-c"):
                command = await (await third.session(session)).command(name)
                self._told(command, f"{name}-c", await command.wait())
                await command.detach()

        async with self._observing(session, name, f"{name}-a"):
            command = await self._start(first, session, name, f"{name}-a", program)
            async with asyncio.TaskGroup() as group:
                group.create_task(follow(lambda: command.offset))
                group.create_task(wait())
                await self._read(command, f"{name}-a")

    async def _look_later(self, session: str, name: str, chance: random.Random) -> None:
        """Started and left alone; somebody comes for the result later."""
        program, pause = self._some_flood(name, chance), chance.random()
        first, second = self._client(chance), self._client(chance)
        async with self._observing(session, name, f"{name}-a"):
            command = await self._start(first, session, name, f"{name}-a", program, window=64 * KIB)
            await command.detach()
            await asyncio.sleep(pause)
            later = await (await second.session(session)).command(name)
            await self._read(later, f"{name}-b")

    # --- what all of them are made of

    def _client(self, chance: random.Random) -> Client:
        return chance.choice(self.clients)

    def _some_flood(self, name: str, chance: random.Random) -> Program:
        size = chance.choice([1, 100 * KIB, self.flood_bytes // 8, self.flood_bytes])
        pause = chance.choice([0.0, 0.0, 0.005, 0.02])
        return programs.flood(name, min(size, 4 * KIB * KIB) if pause else size, self.seed, pause=pause)

    async def _run(self, client: Client, session: str, name: str, program: Program) -> None:
        observer = f"{name}-a"
        async with self._observing(session, name, observer):
            self._sent(session, name, observer, program)
            handle = await client.session(session)
            result = await handle.run(program.argv, command_id=name)
            recorder = ReadRecorder(self.history, session, name, observer)
            recorder.output(0, result.output)
            recorder.flush()
            self.received += len(result.output)
            self.history.add(Told(session, name, observer, ending(result)))

    async def _start(
        self,
        client: Client,
        session: str,
        name: str,
        observer: str,
        program: Program,
        *,
        stdin: bool = False,
        window: int = 256 * KIB,
        another_body: bool = False,
    ) -> Command:
        self._sent(session, name, observer, program, another_body)
        handle = await client.session(session)
        command = await handle.start(program.argv, stdin=stdin, command_id=name, window=window)
        self.history.add(Acknowledged(session, name, observer))
        return command

    def _sent(self, session: str, name: str, client: str, program: Program, another_body: bool = False) -> None:
        self.history.add(StartSent(session, name, client, program.exit_code, program.sha256, another_body=another_body))

    async def _read(
        self, command: Command, reader: str, *, offset: int = 0, pause: float = 0.0, leave_at: int | None = None
    ) -> int | None:
        """Read to the end and note it down; or only up to an offset, which is returned, and let go."""
        recorder = ReadRecorder(self.history, command.session.id, command.id, reader, offset)
        try:
            async for piece in command:
                if isinstance(piece, Gap):
                    recorder.gap(piece.start, piece.end)
                else:
                    recorder.output(piece.offset, piece.data)
                    self.received += len(piece.data)
                if leave_at is not None and recorder.end >= leave_at:
                    await command.detach()
                    return recorder.end
                if pause:
                    await asyncio.sleep(pause)
        finally:
            recorder.flush()
        self._told(command, reader, await command.wait())
        return None

    async def _write(self, command: Command, data: bytes, step: int) -> None:
        for start in range(0, len(data), step):
            await command.write(data[start : start + step])
        await command.close_stdin()

    def _told(self, command: Command, observer: str, status: ExitStatus) -> None:
        self.history.add(Told(command.session.id, command.id, observer, ending(status)))

    @contextlib.asynccontextmanager
    async def _observing(self, session: str, name: str, observer: str) -> AsyncIterator[None]:
        """Write down how what an observer wanted ended, when it ended in an error."""
        try:
            async with asyncio.timeout(STUCK):
                yield
        except* SessiondError as errors:
            for error in _leaves(errors):
                self._erred(session, name, observer, error)
        except* TimeoutError as errors:
            for error in _leaves(errors):
                self._erred(session, name, observer, error)

    def _erred(self, session: str, name: str | None, observer: str, error: Exception) -> None:
        began = any(a.client == observer and a.command == name for a in self.history.of(Acknowledged))
        sent = any(s.client == observer and s.command == name for s in self.history.of(StartSent))
        code = error.code if isinstance(error, RemoteError) else type(error).__name__
        if (
            name is not None
            and isinstance(error, RemoteError)
            and not isinstance(error, CommandError)
            and sent
            and not began
        ):
            self.history.add(Refused(session, name, observer, error.code))
        else:
            self.history.add(told_error(session, name, observer, error))
        if code in ("gone", "not_found") and not isinstance(error, CommandError):
            self.give_up(session)


def ending(status: ExitStatus) -> Ending:
    """How a client was told that a command ended."""
    return Ending("exited", status.exit_code, status.signal, status.cause, status.output_bytes)


def told_error(session: str, command: str | None, observer: str, error: Exception) -> Told | Erred:
    """What an observer was told by an error: the end of a command, if it is about one."""
    if command is not None:
        for kind, state in _ENDINGS.items():
            if isinstance(error, kind):
                return Told(session, command, observer, Ending(state))
    code = error.code if isinstance(error, RemoteError) else type(error).__name__
    return Erred(session, command, observer, code, str(error))


def recorded_ending(info: CommandInfo) -> Ending:
    """How the daemon's record of a command says that it ended."""
    if info.exit is None:
        return Ending(info.state)
    return Ending(info.state, info.exit.code, info.exit.signal, info.exit.cause, info.exit.output_bytes)


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
