"""The tables of states: complete, without dead ends, and closed to what they do not say."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import pytest
from sessiond_protocol.errors import LocalProtocolError
from sessiond_protocol.states import (
    COMMAND_TRANSITIONS,
    SESSION_TRANSITIONS,
    CommandEventName,
    CommandState,
    SessionEventName,
    SessionState,
    diagram,
    next_command_state,
    next_session_state,
)

TABLES: list[tuple[Mapping[Any, Mapping[Any, Any]], Any, Any, Any]] = [
    (SESSION_TRANSITIONS, next_session_state, SessionState, SessionEventName),
    (COMMAND_TRANSITIONS, next_command_state, CommandState, CommandEventName),
]
by_table = pytest.mark.parametrize(("table", "step", "states", "events"), TABLES, ids=["session", "command"])


@by_table
def test_the_table_has_every_state_and_every_event(table: Any, step: Any, states: Any, events: Any) -> None:
    assert set(table) == set(typing.get_args(states))
    assert {event for row in table.values() for event in row} == set(typing.get_args(events))


@by_table
def test_every_state_can_be_reached_and_can_end(table: Any, step: Any, states: Any, events: Any) -> None:
    def reachable(start: str) -> set[str]:
        seen, new = set(), {start}
        while new:
            seen |= new
            new = {following for state in new for following in table[state].values()} - seen
        return seen

    assert reachable(next(iter(table))) == set(table)
    final = {state for state, row in table.items() if not row}
    assert all(reachable(state) & final for state in table)


@by_table
def test_an_event_outside_the_table_is_refused(table: Any, step: Any, states: Any, events: Any) -> None:
    for state, row in table.items():
        for event in typing.get_args(events):
            if event in row:
                assert step(state, event) == row[event]
            else:
                with pytest.raises(LocalProtocolError, match=event):
                    step(state, event)


def test_a_command_ends_once() -> None:
    assert {state for state, row in COMMAND_TRANSITIONS.items() if not row} == {
        "exited",
        "failed",
        "denied",
        "lost",
    }


def test_a_closed_session_never_opens_again() -> None:
    assert not SESSION_TRANSITIONS["closed"]
    assert set(SESSION_TRANSITIONS["closing"].values()) == {"closing", "closed"}


def test_the_diagram_draws_each_transition_and_each_end() -> None:
    assert diagram({"on": {"toggle": "off"}, "off": {}}).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> on",
        "    on --> off: toggle",
        "    off --> [*]",
    ]
