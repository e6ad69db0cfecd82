"""The checker finds what it is there for, by the right rule, and nothing in histories where all is well."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.faults.robustness.checker import COMMAND_RULES, NOTHING, SESSION_RULES, check
from tests.faults.robustness.history import (
    RUN_BYTES,
    Acknowledged,
    Closed,
    Counted,
    Ending,
    Erred,
    Event,
    Fault,
    GapTold,
    History,
    Opened,
    Read,
    ReadFrom,
    ReadRecorder,
    RecordFound,
    Refused,
    SessionFound,
    SessionMissing,
    StartSent,
    Told,
    Wrote,
    from_lines,
)

Events = list[Event]
E = TypeVar("E", bound=Event)


def sha(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


class Tale:
    """A history in which all is well, by lot."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.events: Events = []
        for number in range(chance.randrange(1, 4)):
            self._session(f"s{number}")
        self.events = [replace(event, at=float(number)) for number, event in enumerate(self.events)]

    def _session(self, name: str) -> None:
        chance = self.chance
        replaces, kept = chance.random() < 0.5, chance.random() < 0.5
        kills, closed = chance.choice([0, 0, 1, 2]), chance.random() < 0.2
        self.events.append(Opened(name, 1, "replace" if replaces else "close", kept, True))
        commands = [f"c{number}" for number in range(chance.randrange(1, 6))]
        self.events += [Fault("kill-sandbox", "", (name,)) for _ in range(kills)]
        same = not kills or kept
        over = closed or (kills > 0 and not replaces)
        notes: Events = []
        for command in commands:
            self._command(name, command, lost=kills > 0 and chance.random() < 0.5, notes=notes, over=over, same=same)
        if closed:
            self.events.append(Closed(name))
        elif over:
            self.events.append(SessionMissing(name, "not_found"))
        else:
            self.events += notes
            self.events.append(SessionFound(name, "open", 1 + bool(kills), True, same))

    def _command(self, session: str, command: str, *, lost: bool, notes: Events, over: bool, same: bool) -> None:
        chance, add = self.chance, self.events.append
        if chance.random() < 0.1:
            add(StartSent(session, command, "refused"))
            add(Refused(session, command, "refused", "unavailable"))
            return
        size = chance.choice([0, 1, RUN_BYTES, 3 * RUN_BYTES + 5])
        whole = sha(command, "running", size) if size else NOTHING
        known = chance.random() < 0.3
        ending = Ending("lost") if lost else Ending("exited", 0, None, "exit", size)
        for client in ("a", "b")[: chance.randrange(1, 3)]:
            add(StartSent(session, command, client, 0, whole if known else None))
            add(Acknowledged(session, command, client))
            self._reader(session, command, client, 0, size)
            add(Told(session, command, client, ending))
        if chance.random() < 0.3:
            add(StartSent(session, command, "other", another_body=True))
            add(Refused(session, command, "other", "conflict"))
        if chance.random() < 0.5:
            self._reader(session, command, "late", chance.choice([0, min(size, RUN_BYTES)]), size)
            add(Told(session, command, "late", ending))
        if over:
            return
        notes.append(RecordFound(session, command, ending))
        if same:
            notes.append(Counted(session, command, 1))
            if not lost:
                notes.append(Wrote(session, command, size, whole))

    def _reader(self, session: str, command: str, reader: str, offset: int, size: int) -> None:
        self.events.append(ReadFrom(session, command, reader, offset))
        while offset < size:
            end = min(size, (offset // RUN_BYTES + 1) * RUN_BYTES)
            run, whole = sha(command, offset, end), sha(command, "running", end)
            self.events.append(Read(session, command, reader, offset, end, run, whole))
            offset = end


Mutation = Callable[[Events, random.Random], Events | None]
MUTATIONS: dict[str, tuple[str, Mutation]] = {}
"""By their names: the rule that must find it, and what is done to a history; None where it cannot be done."""


def mutation(rule: str) -> Callable[[Mutation], Mutation]:
    def keep(mutate: Mutation) -> Mutation:
        MUTATIONS[mutate.__name__] = (rule, mutate)
        return mutate

    return keep


def change(
    events: Events,
    chance: random.Random,
    kind: type[E],
    change: Callable[[E], Sequence[Event]],
    wanted: Callable[[E], bool] = lambda _: True,
) -> Events | None:
    """With others in the place of one event of a kind."""
    found = [(number, e) for number, e in enumerate(events) if isinstance(e, kind) and wanted(e)]
    if not found:
        return None
    number, event = chance.choice(found)
    return [*events[:number], *change(event), *events[number + 1 :]]


def all_endings(events: Events, chance: random.Random, ending: Ending, wanted: Callable[[Told], bool]) -> Events | None:
    """With another ending wherever one command's is told."""
    told = [e for e in events if isinstance(e, Told) and wanted(e)]
    if not told:
        return None
    who = story(chance.choice(told))
    return [replace(e, ending=ending) if isinstance(e, Told | RecordFound) and story(e) == who else e for e in events]


def story(event: RecordFound | Told | Read | Counted) -> tuple[str, str]:
    return event.session, event.command


def alike(events: Events, read: Read, **fields: object) -> bool:
    """Whether another piece of the same command has these fields."""
    return any(
        isinstance(e, Read)
        and e is not read
        and story(e) == story(read)
        and all(getattr(e, name) == value for name, value in fields.items())
        for e in events
    )


def killed(events: Events, session: str) -> bool:
    return any(isinstance(e, Closed) and e.session == session for e in events) or any(
        isinstance(e, Fault) and session in e.kills for e in events
    )


@mutation("command_lost")
def a_record_is_lost(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, RecordFound, lambda _: [])


@mutation("two_records")
def a_record_is_doubled(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, RecordFound, lambda e: [e, e])


@mutation("disagreement")
def a_record_has_another_exit(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, RecordFound, lambda e: [replace(e, ending=replace(e.ending, code=77))])


@mutation("disagreement")
def somebody_is_told_another_exit_later(events: Events, chance: random.Random) -> Events | None:
    return change(
        events, chance, Told, lambda e: [e, replace(e, ending=replace(e.ending, cause="signal", signal=9, code=None))]
    )


@mutation("disagreement")
def an_exit_is_told_and_then_a_loss(events: Events, chance: random.Random) -> Events | None:
    return change(
        events, chance, Told, lambda e: [e, replace(e, ending=Ending("lost"))], lambda e: e.ending.state == "exited"
    )


@mutation("wrong_exit")
def an_exit_is_made_up_for_everybody(events: Events, chance: random.Random) -> Events | None:
    return all_endings(events, chance, Ending("exited", None, 9, "signal", 0), lambda _: True)


@mutation("offsets")
def a_piece_is_lost(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Read, lambda _: [], lambda e: alike(events, e, reader=e.reader, start=e.end))


@mutation("incomplete")
def the_last_piece_is_lost(events: Events, chance: random.Random) -> Events | None:
    exits = {(*story(e), e.observer) for e in events if isinstance(e, Told) and e.ending.state == "exited"}
    ends = {(*story(e), e.reader): e.end for e in events if isinstance(e, Read)}
    return change(
        events,
        chance,
        Read,
        lambda _: [],
        lambda e: (*story(e), e.reader) in exits and ends[(*story(e), e.reader)] == e.end,
    )


@mutation("offsets")
def a_piece_comes_twice(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Read, lambda e: [e, e])


@mutation("offsets")
def a_piece_overlaps_the_one_before(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Read, lambda e: [replace(e, start=e.start - 1)], lambda e: e.start > 0)


@mutation("offsets")
def a_gap_is_told_where_nothing_is_missing(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Read, lambda e: [e, GapTold(e.session, e.command, e.reader, e.start, e.end, at=e.at)])


@mutation("gap")
def a_gap_is_told_instead_of_a_piece(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Read, lambda e: [GapTold(e.session, e.command, e.reader, e.start, e.end, at=e.at)])


@mutation("digest")
def a_stream_is_not_what_was_written(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Wrote, lambda e: [replace(e, sha256=sha("something else"))])


@mutation("digest")
def a_reader_is_given_other_bytes_than_another(events: Events, chance: random.Random) -> Events | None:
    return change(
        events,
        chance,
        Read,
        lambda e: [replace(e, sha256=sha("something else"))],
        lambda e: alike(events, e, start=e.start, end=e.end),
    )


@mutation("ran_twice")
def a_command_runs_twice(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Counted, lambda e: [replace(e, times=2)])


@mutation("never_ran")
def a_command_never_ran(events: Events, chance: random.Random) -> Events | None:
    exits = {story(e) for e in events if isinstance(e, RecordFound) and e.ending.code == 0}
    return change(events, chance, Counted, lambda _: [], lambda e: story(e) in exits)


@mutation("unknown_run")
def something_ran_that_nobody_sent(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, SessionFound, lambda e: [e, Counted(e.session, "nobody's", 1)])


@mutation("ran_though_refused")
def something_ran_that_was_refused(events: Events, chance: random.Random) -> Events | None:
    return change(
        events, chance, Refused, lambda e: [e, Counted(e.session, e.command, 1)], lambda e: e.client == "refused"
    )


@mutation("conflict")
def another_body_is_accepted(events: Events, chance: random.Random) -> Events | None:
    return change(
        events,
        chance,
        Refused,
        lambda e: [Acknowledged(e.session, e.command, e.client)],
        lambda e: e.code == "conflict",
    )


@mutation("unfinished")
def a_command_never_ends(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, RecordFound, lambda e: [replace(e, ending=Ending("running"))])


@mutation("lost_for_nothing")
def a_command_is_lost_without_a_reason(events: Events, chance: random.Random) -> Events | None:
    return all_endings(events, chance, Ending("lost"), lambda e: not killed(events, e.session))


@mutation("session_lost")
def a_session_vanishes(events: Events, chance: random.Random) -> Events | None:
    return change(
        events,
        chance,
        SessionFound,
        lambda e: [SessionMissing(e.session, "not_found")],
        lambda e: not killed(events, e.session),
    )


@mutation("session_lost")
def a_session_that_is_to_be_replaced_ends(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, SessionFound, lambda e: [replace(e, state="lost")])


@mutation("generation")
def a_generation_grows_for_nothing(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, SessionFound, lambda e: [replace(e, generation=e.generation + 3)])


@mutation("generation")
def a_generation_does_not_grow(events: Events, chance: random.Random) -> Events | None:
    return change(
        events, chance, SessionFound, lambda e: [replace(e, generation=1)], lambda e: killed(events, e.session)
    )


@mutation("workspace")
def a_workspace_is_lost(events: Events, chance: random.Random) -> Events | None:
    keeps = {e.session for e in events if isinstance(e, Opened) and e.keeps_workspace}
    return change(
        events,
        chance,
        SessionFound,
        lambda e: [replace(e, same_workspace=False)],
        lambda e: e.session in keeps or not killed(events, e.session),
    )


@mutation("error")
def a_bug_is_told(events: Events, chance: random.Random) -> Events | None:
    return change(events, chance, Opened, lambda e: [e, Erred(e.session, None, "a", "internal", "see the log")])


def rules_of(events: Events) -> set[str]:
    return {violation.rule for violation in check(events)}


@given(st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_nothing_is_found_where_all_is_well(chance: random.Random) -> None:
    assert check(Tale(chance).events) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_planted_is_found_by_its_rule(name: str) -> None:
    rule, mutate = MUTATIONS[name]
    tried = 0
    for seed in range(300):
        chance = random.Random(seed)
        mutated = mutate(Tale(chance).events, chance)
        if mutated is not None:
            tried += 1
            assert rule in rules_of(mutated), f"seed {seed}"
    assert tried >= 20


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(MUTATIONS)))
@settings(max_examples=300, deadline=None)
def test_no_single_change_goes_unnoticed(chance: random.Random, name: str) -> None:
    rule, mutate = MUTATIONS[name]
    mutated = mutate(Tale(chance).events, chance)
    assume(mutated is not None)
    assert mutated is not None
    assert rule in rules_of(mutated)


def test_every_rule_has_something_that_it_must_find() -> None:
    assert {rule for rule, _ in MUTATIONS.values()} == {rule.__name__ for rule in (*SESSION_RULES, *COMMAND_RULES)}


def test_a_history_is_the_same_from_its_file(tmp_path: Path) -> None:
    events = [event for seed in range(20) for event in Tale(random.Random(seed)).events]
    with History(tmp_path / "history") as history:
        for event in events:
            history.add(event)
    with (tmp_path / "history").open() as lines:
        assert from_lines(lines) == events


def test_runs_of_readers_that_began_elsewhere_can_be_compared(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(2 * RUN_BYTES + 10)
    with History(tmp_path / "history") as history:
        for reader, offset in (("whole", 0), ("late", 5)):
            recorder = ReadRecorder(history, "s", "c", reader, offset)
            while recorder.end < len(data):
                recorder.output(recorder.end, data[recorder.end : recorder.end + 99_999])
            recorder.flush()
        runs = {reader: [r for r in history.of(Read) if r.reader == reader] for reader in ("whole", "late")}
    assert [(run.start, run.end) for run in runs["late"]] == [
        (5, RUN_BYTES),
        (RUN_BYTES, 2 * RUN_BYTES),
        (2 * RUN_BYTES, len(data)),
    ]
    assert [run.sha256 for run in runs["whole"][1:]] == [run.sha256 for run in runs["late"][1:]]
    assert runs["whole"][-1].running == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("offset", "rule"), [(3, "offsets"), (5, "offsets")])
def test_a_recorder_hides_neither_a_hole_nor_a_repetition(tmp_path: Path, offset: int, rule: str) -> None:
    with History(tmp_path / "history") as history:
        recorder = ReadRecorder(history, "s", "c", "r")
        recorder.output(0, b"abcd")
        recorder.output(offset, b"ef")
        recorder.flush()
        assert rule in rules_of(history.events)
