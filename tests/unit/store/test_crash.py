"""Killed at any moment, the store has every record whose method returned, and none that is half."""

import os
import random
import shutil
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond import failpoint
from sessiond.store import changes, journal, writer
from sessiond.store.records import CommandRow, SessionRow
from sessiond.store.store import Store
from tests.unit.store.support import end, opened, row

SESSIONS = ("a", "b")
COMMANDS = ("c1", "c2", "c3", "c4")
FORKED_SECONDS = 60

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def forked(work: Callable[[], None]) -> int:
    """The process id of a copy of this process that does `work` and then kills itself."""
    process = os.fork()
    if process == 0:
        signal.alarm(FORKED_SECONDS)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        signal.raise_signal(signal.SIGKILL)
    return process


def killed(process: int) -> None:
    """Wait for its end, which must not be a failure of its own."""
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


class Model:
    """What the store should hold."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionRow] = {}
        self.commands: dict[tuple[str, str], CommandRow] = {}

    def apply(self, step: tuple) -> None:
        kind, session, command, value = step
        known = self.commands.get((session, command))
        if kind == "session":
            self.sessions[session] = row(session, f"state{value}", epoch=value)
        elif kind == "forget":
            self.sessions.pop(session, None)
            self.commands = {key: kept for key, kept in self.commands.items() if key[0] != session}
        elif kind == "started" and known is None:
            number = COMMANDS.index(command) + 1
            request = bytes([value]) * value
            self.commands[session, command] = CommandRow(
                session, command, number, value, request, "starting", None, None, b"", b"", 0, False
            )
        elif kind == "ended" and known is not None and known.state == "starting":
            self.commands[session, command] = replace(
                known,
                state="exited",
                result=b"r",
                started=2.0,
                ended=float(value),
                output=bytes(value),
                output_end=value,
                settled=value % 2 == 0,
            )
        elif kind == "settled" and known is not None and not known.settled:
            self.commands[session, command] = replace(known, output=b"s" * value, output_end=value, settled=True)

    def check(self, store: Store) -> None:
        assert store.sessions() == list(self.sessions.values())
        for session in SESSIONS:
            expected = sorted(
                (command for key, command in self.commands.items() if key[0] == session), key=lambda c: c.number
            )
            assert store.find_session(session) == self.sessions.get(session)
            assert store.commands(session, None, 100) == expected
            assert store.unsettled(session) == [command for command in expected if not command.settled]
            assert list(store.known(session)) == [(command.number, command.id) for command in expected]
            for command in COMMANDS:
                assert store.command(session, command) == self.commands.get((session, command))


def record(store: Store, step: tuple) -> None:
    kind, session, command, value = step
    if kind == "session":
        store.session(row(session, f"state{value}", epoch=value))
    elif kind == "forget":
        store.forget(session)
    elif kind == "started":
        store.started(session, command, COMMANDS.index(command) + 1, value, bytes([value]) * value)
    elif kind == "ended":
        end(
            store,
            session,
            command,
            result=b"r",
            ended=float(value),
            output=bytes(value),
            output_end=value,
            settled=value % 2 == 0,
        )
    else:
        store.settled(session, command, output=b"s" * value, output_end=value)


STEP = st.tuples(
    st.sampled_from(["session", "started", "started", "ended", "ended", "settled", "forget"]),
    st.sampled_from(SESSIONS),
    st.sampled_from(COMMANDS),
    st.integers(0, 200),
)
LIFE = st.tuples(st.lists(STEP, max_size=30), st.sampled_from(["kill", "check and kill", "close"]))


@given(st.lists(LIFE, min_size=1, max_size=5), st.sampled_from(["process", "power"]), st.sampled_from([400, 1 << 20]))
@settings(deadline=None, max_examples=50)
def test_any_history_of_records_and_deaths_is_remembered(lives, durability, segment_bytes):
    folder = Path(tempfile.mkdtemp(prefix="sessiond-store-"))
    model = Model()

    def live(steps: list[tuple], ending: str) -> None:
        journal.SEGMENT_BYTES = segment_bytes
        writer.COMMIT_SECONDS = 0.001
        writer.COMMIT_RECORDS = 5
        store = opened(folder, durability)
        model.check(store)
        for step in steps:
            record(store, step)
            model.apply(step)
        if ending == "check and kill":
            model.check(store)
        if ending == "close":
            store.close()

    try:
        for steps, ending in lives:
            killed(forked(lambda steps=steps, ending=ending: live(steps, ending)))
            for step in steps:
                model.apply(step)
        store = opened(folder, durability)
        model.check(store)
        store.close()
    finally:
        shutil.rmtree(folder)


REPORT = struct.Struct("<I")
POINTS = (
    "",
    "journal.write=kill:0.002",
    "journal.written=kill:0.002",
    "store.commit=kill:0.1",
    "store.committed=kill:0.1",
    "store.commit=kill:1",
    "store.commit=sleep:0.005",
)


def request(number: int) -> bytes:
    return b"%d" % number * (1 + number % 60)


def recorded(folder: Path) -> int:
    """How many records are in the store: a start and an end for each command, in order, whole."""
    store = opened(folder)
    try:
        known = list(store.known("s"))
        assert known == [(number, f"c{number}") for number in range(1, len(known) + 1)]
        unsettled = store.unsettled("s")
        assert [command.number for command in unsettled] in ([], [len(known)])
        for command in store.commands("s", None, 1_000_000):
            assert command.request == request(command.number)
            if command not in unsettled:
                assert (command.state, command.output) == ("exited", request(command.number)[::-1])
        return 2 * len(known) - len(unsettled)
    finally:
        store.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_process_killed_at_a_random_moment_has_recorded_what_it_said(tmp_path, durability):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done = 0
    for turn in range(3 * len(POINTS)):
        points = POINTS[turn % len(POINTS)]
        reading, writing = os.pipe()

        def work(points=points, writing=writing, turn=turn, done=done) -> None:
            journal.SEGMENT_BYTES = 20_000
            writer.COMMIT_SECONDS = 0.002
            hit = failpoint.hitter({"SESSIOND_FAILPOINTS": points, "SESSIOND_FAILPOINT_SEED": f"{seed}.{turn}"})
            journal.hit = changes.hit = hit
            store = opened(tmp_path, durability)
            for record in range(done + 1, done + 4000):
                number = (record + 1) // 2
                if record % 2:
                    store.started("s", f"c{number}", number, 1, request(number))
                else:
                    end(store, "s", f"c{number}", output=request(number)[::-1])
                os.write(writing, REPORT.pack(record))

        process = forked(work)
        os.close(writing)
        time.sleep(chance.uniform(0.01, 0.12))
        os.kill(process, signal.SIGKILL)
        said = done
        with os.fdopen(reading, "rb") as reports:
            while report := reports.read(REPORT.size):
                (said,) = REPORT.unpack(report)
        killed(process)
        done = recorded(tmp_path)
        assert said <= done <= said + 1, f"turn {turn} of seed {seed}"
    assert done > 100
