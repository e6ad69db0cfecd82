"""The states of a session and of a command, and all that moves them, as tables.

Both sides keep their view by these tables: an event that a table does not know is a bug, never a new state.
`python -m sessiond_protocol.states` prints the diagrams of `docs/protocol.md` from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from sessiond_protocol.errors import LocalProtocolError

SessionState = Literal["opening", "open", "paused", "closing", "closed", "lost"]
SessionEventName = Literal["opened", "failed", "pause", "resume", "close", "closed", "lost", "replaced"]
CommandState = Literal["starting", "awaiting_approval", "running", "exited", "failed", "denied", "lost"]
CommandEventName = Literal["asked", "approved", "started", "exited", "failed", "denied", "lost"]

_State = TypeVar("_State", bound=str)
_Event = TypeVar("_Event", bound=str)

SESSION_TRANSITIONS: Mapping[SessionState, Mapping[SessionEventName, SessionState]] = {
    "opening": {"opened": "open", "failed": "closed", "close": "closing"},
    "open": {"pause": "paused", "close": "closing", "lost": "lost"},
    "paused": {"resume": "open", "close": "closing", "lost": "lost"},
    "lost": {"replaced": "open", "close": "closing"},
    # A sandbox that dies while its session is being closed changes nothing.
    "closing": {"closed": "closed", "lost": "closing"},
    "closed": {},
}
"""`paused`: its processes stand still until it is used. `lost`: its sandbox is gone. `replaced`: it has a new one, with
the same workspace and generation + 1."""

COMMAND_TRANSITIONS: Mapping[CommandState, Mapping[CommandEventName, CommandState]] = {
    "starting": {
        "asked": "awaiting_approval",
        "started": "running",
        "failed": "failed",
        "denied": "denied",
        "lost": "lost",
    },
    "awaiting_approval": {"approved": "starting", "denied": "denied", "lost": "lost"},
    "running": {"exited": "exited", "lost": "lost"},
    "exited": {},
    "failed": {},
    "denied": {},
    "lost": {},
}
"""`awaiting_approval`: a person has to allow it first. `failed`: it could not be spawned. `denied`: policy, or whoever
was asked, forbids it. `lost`: nobody knows how it ended."""


def next_session_state(state: SessionState, event: SessionEventName) -> SessionState:
    """Where `event` takes a session that is in `state`."""
    return _next("session", SESSION_TRANSITIONS, state, event)


def next_command_state(state: CommandState, event: CommandEventName) -> CommandState:
    """Where `event` takes a command that is in `state`."""
    return _next("command", COMMAND_TRANSITIONS, state, event)


def _next(what: str, table: Mapping[_State, Mapping[_Event, _State]], state: _State, event: _Event) -> _State:
    following = table[state].get(event)
    if following is None:
        raise LocalProtocolError(f"no {event!r} for a {what} that is {state}")
    return following


def diagram(table: Mapping[_State, Mapping[_Event, _State]]) -> str:
    """A table as a mermaid diagram: its first state is the initial one, those without an event are final."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table))}"]
    for state, events in table.items():
        lines += [f"    {state} --> {following}: {event}" for event, following in events.items()]
        if not events:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)


def diagrams() -> str:
    """Both diagrams, as Markdown."""
    return (
        f"A session:\n\n```mermaid\n{diagram(SESSION_TRANSITIONS)}\n```\n\n"
        f"A command:\n\n```mermaid\n{diagram(COMMAND_TRANSITIONS)}\n```"
    )


if __name__ == "__main__":
    print(diagrams())
