"""Pure: a history -> what it breaks. `python -m tests.faults.robustness.checker FILE` looks at one that was kept.

Nothing here knows how the daemon works. Each rule is one promise; its name stands in front of what it complains about.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.robustness.history import (
    Acknowledged,
    Closed,
    Counted,
    Ending,
    Erred,
    Event,
    Fault,
    GapTold,
    Opened,
    Read,
    ReadFrom,
    RecordFound,
    Refused,
    SessionFound,
    SessionMissing,
    StartSent,
    Told,
    Wrote,
    from_lines,
)

NOT_NOW = frozenset({"busy", "unavailable"})
"""What may be said to anything that was not acknowledged yet."""
NO_MORE = frozenset({"gone", "not_found", "StdinClosedError"})
"""What may be said about a session that was closed or whose sandbox was killed, and its commands."""
ENDED = frozenset({"exited", "lost"})
NOTHING = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Violation:
    """One promise that was broken."""

    rule: str
    session: str
    command: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.session}{f' {self.command}' if self.command else ''}: {self.what}"


@dataclass
class SessionStory:
    """All that the history says of one session."""

    id: str
    opened: Opened | None = None
    closed: Closed | None = None
    kills: list[Fault] = field(default_factory=list)
    found: list[SessionFound] = field(default_factory=list)
    missing: list[SessionMissing] = field(default_factory=list)
    errors: list[Erred] = field(default_factory=list)

    @property
    def may_be_over(self) -> bool:
        """Whether it need not be there at the end."""
        return self.closed is not None or (bool(self.kills) and self.opened is not None and not self.replaces)

    @property
    def replaces(self) -> bool:
        """Whether a new sandbox takes the place of one that is lost."""
        return self.opened is not None and self.opened.on_loss == "replace"

    @property
    def files_tell(self) -> bool:
        """Whether what commands wrote into the workspace must still be there."""
        return any(found.readable and found.same_workspace for found in self.found)


@dataclass
class CommandStory:
    """All that the history says of one command."""

    session: SessionStory
    id: str
    sent: list[StartSent] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    reading: dict[str, list[ReadFrom | Read | GapTold]] = field(default_factory=dict)
    records: list[RecordFound] = field(default_factory=list)
    times: int = 0
    wrote: list[Wrote] = field(default_factory=list)

    @property
    def began(self) -> bool:
        """Whether anybody was told that it runs or ran."""
        return bool(self.acknowledged) or any(told.ending.state in ENDED for told in self.told)

    @property
    def endings(self) -> list[Ending]:
        """All that was said about its end."""
        return [told.ending for told in self.told] + [record.ending for record in self.records]

    @property
    def first(self) -> StartSent | None:
        """The start that decides what it is."""
        return next((sent for sent in self.sent if not sent.another_body), None)


Broken = Iterator[str]
SessionRule = Callable[[SessionStory], Broken]
CommandRule = Callable[[CommandStory], Broken]

# --- sessions


def session_lost(session: SessionStory) -> Broken:
    """A session that was acknowledged is there at the end, unless it was closed or its sandbox killed."""
    if session.opened is None or session.may_be_over:
        return
    for missing in session.missing:
        yield f"it was opened, and in the end it is {missing.code}"
    for found in session.found:
        if found.state != "open":
            yield f"it was opened, and in the end it is {found.state}"
    if not session.missing and not session.found:
        yield "it was opened, and nobody looked for it in the end"


def generation(session: SessionStory) -> Broken:
    """A generation more for a sandbox that was killed, and for nothing else."""
    if session.opened is None:
        return
    for found in session.found:
        grown = found.generation - session.opened.generation
        if not 0 <= grown <= len(session.kills):
            yield f"it is {grown} generations on, and its sandbox was killed {len(session.kills)} times"
        elif session.kills and found.state == "open" and not grown:
            yield f"its sandbox was killed, and it is still of generation {found.generation}"


def workspace(session: SessionStory) -> Broken:
    """Its workspace stays as long as its sandbox; longer where the profile says so."""
    if session.opened is None:
        return
    for found in session.found:
        if not found.same_workspace and (session.opened.keeps_workspace or not session.kills):
            yield "its workspace is another one"


def error(session: SessionStory) -> Broken:
    """Nobody is told of an error for which nothing was done."""
    allowed = NOT_NOW | (NO_MORE if session.kills or session.closed is not None else frozenset())
    for erred in session.errors:
        if erred.code not in allowed:
            yield f"{erred.observer} was told of {erred.command or 'the session'}: {erred.code}: {erred.message}"


# --- commands


def command_lost(command: CommandStory) -> Broken:
    """The daemon knows each command of which it said that it runs, for as long as its session is there."""
    if command.session.found and command.began and not command.records:
        yield "it was acknowledged, and the daemon has no record of it"


def unfinished(command: CommandStory) -> Broken:
    """What was waited for has ended."""
    for record in command.records:
        if record.ending.state in ("starting", "running"):
            yield f"in the end it is {record.ending.state}"


def two_records(command: CommandStory) -> Broken:
    """One command, one record."""
    if len(command.records) > 1:
        yield f"the daemon has {len(command.records)} records of it"


def disagreement(command: CommandStory) -> Broken:
    """Everybody is told the same end, and it is the one on record."""
    endings = list(dict.fromkeys(command.endings))
    if len(endings) > 1:
        yield "its end was told differently: " + "; ".join(map(str, endings))


def wrong_exit(command: CommandStory) -> Broken:
    """An exit is the true one."""
    first = command.first
    for ending in dict.fromkeys(command.endings):
        if ending.state in ("failed", "denied"):
            yield f"it should run, and it is said that it was {ending.state}"
        elif ending.state == "exited" and first is not None and first.exit_code not in (None, ending.code):
            yield f"it ends with {first.exit_code}, and it is said: {ending}"


def lost_for_nothing(command: CommandStory) -> Broken:
    """A command is lost only with its sandbox."""
    session = command.session
    ends = [kill.at for kill in session.kills] + ([session.closed.at] if session.closed is not None else [])
    for told in command.told:
        if told.ending.state == "lost" and not any(at <= told.at for at in ends):
            yield f"{told.observer} was told that it is lost, and nothing had killed its sandbox"
    if any(record.ending.state == "lost" for record in command.records) and not ends:
        yield "its record says that it is lost, and nothing killed its sandbox"


def ran_twice(command: CommandStory) -> Broken:
    """At most once."""
    if command.times > 1:
        yield f"it ran {command.times} times"


def never_ran(command: CommandStory) -> Broken:
    """What is said to have ended well did run, and what it wrote down is there."""
    first = command.first
    if first is None or not command.session.files_tell:
        return
    if any(ending.state == "exited" and ending.code == 0 for ending in command.endings):
        if first.counts and not command.times:
            yield "it is said to have ended well, and it never ran"
        if first.sha256 is None and not command.wrote:
            yield "it is said to have ended well, and it did not write down what it wrote"


def unknown_run(command: CommandStory) -> Broken:
    """Nothing runs that nobody sent."""
    if command.times and not command.sent:
        yield "it ran, and nobody sent it"


def ran_though_refused(command: CommandStory) -> Broken:
    """What is refused does not run."""
    senders = {sent.client for sent in command.sent}
    if command.times and senders and senders == {refused.client for refused in command.refused} and not command.began:
        yield f"it was refused ({command.refused[0].code}), and it ran"


def conflict(command: CommandStory) -> Broken:
    """The same id with another body is a conflict."""
    others = {sent.client for sent in command.sent if sent.another_body}
    answered = [event.client for event in command.acknowledged] + [told.observer for told in command.told]
    for who in dict.fromkeys(answered):
        if who in others:
            yield f"{who} sent another body under its id, and was not told so"
    for refused in command.refused:
        if (refused.code == "conflict") != (refused.client in others) and refused.code not in NOT_NOW | NO_MORE:
            yield f"{refused.client} was refused: {refused.code}"


def offsets(command: CommandStory) -> Broken:
    """Each reader is given each byte once, in order."""
    for reader, steps in command.reading.items():
        due = None
        for step in steps:
            if isinstance(step, ReadFrom):
                due = step.offset
                continue
            if step.start != due:
                what = "output" if isinstance(step, Read) else "a gap"
                yield f"{reader} was given {what} from {step.start} where {due} was due"
            due = step.end


def gap(command: CommandStory) -> Broken:
    """Nothing is missing where all output is kept."""
    opened = command.session.opened
    if opened is not None and opened.keeps_output:
        for reader, steps in command.reading.items():
            for step in steps:
                if isinstance(step, GapTold):
                    yield f"{reader} was told that {step.start} to {step.end} is not kept"


def incomplete(command: CommandStory) -> Broken:
    """Who is told the end has been given everything: as much as was written, and no less than others before."""
    most = 0
    for told in command.told:
        end = _end(command.reading.get(told.observer))
        if end is None:
            continue
        if told.ending.output_bytes is not None and end != told.ending.output_bytes:
            yield f"{told.observer} was told the end after {end} bytes of {told.ending.output_bytes}"
        if end < most:
            yield f"{told.observer} was told the end after {end} bytes, and others had {most} before"
        most = max(most, end)


def digest(command: CommandStory) -> Broken:
    """What readers were given is what the command says that it wrote, and the same for all."""
    exited = {told.observer for told in command.told if told.ending.state == "exited"}
    known = {(wrote.size, wrote.sha256) for wrote in command.wrote}
    first = command.first
    runs: dict[tuple[int, int], str] = {}
    for reader, steps in command.reading.items():
        reads = [step for step in steps if isinstance(step, Read)]
        for run in reads:
            if runs.setdefault((run.start, run.end), run.sha256) != run.sha256:
                yield f"{reader} was given other bytes from {run.start} to {run.end} than another reader"
        if reader not in exited or any(isinstance(step, GapTold) for step in steps):
            continue
        if not isinstance(steps[0], ReadFrom) or steps[0].offset:
            continue
        end, running = (reads[-1].end, reads[-1].running) if reads else (0, NOTHING)
        if known and (end, running) not in known:
            yield f"{reader} was given {end} bytes with SHA-256 {running}, and it says that it wrote {known}"
        if first is not None and first.sha256 not in (None, running):
            yield f"{reader} was given {end} bytes with SHA-256 {running} instead of {first.sha256}"


def _end(steps: list[ReadFrom | Read | GapTold] | None) -> int | None:
    if not steps:
        return None
    last = steps[-1]
    return last.offset if isinstance(last, ReadFrom) else last.end


SESSION_RULES: tuple[SessionRule, ...] = (session_lost, generation, workspace, error)
COMMAND_RULES: tuple[CommandRule, ...] = (
    *(command_lost, unfinished, two_records, disagreement, wrong_exit, lost_for_nothing),
    *(ran_twice, never_ran, unknown_run, ran_though_refused, conflict),
    *(offsets, gap, incomplete, digest),
)


def check(history: Iterable[Event]) -> list[Violation]:
    """All that a history breaks."""
    sessions, commands = _stories(history)
    found = [
        Violation(rule.__name__, session.id, None, what)
        for session in sessions.values()
        for rule in SESSION_RULES
        for what in rule(session)
    ]
    found += [
        Violation(rule.__name__, command.session.id, command.id, what)
        for command in commands.values()
        for rule in COMMAND_RULES
        for what in rule(command)
    ]
    return found


def _stories(
    history: Iterable[Event],
) -> tuple[dict[str, SessionStory], dict[tuple[str, str], CommandStory]]:
    sessions: dict[str, SessionStory] = {}
    commands: dict[tuple[str, str], CommandStory] = {}

    def session(name: str) -> SessionStory:
        return sessions.setdefault(name, SessionStory(name))

    for event in history:
        match event:
            case Opened():
                session(event.session).opened = event
            case Closed():
                session(event.session).closed = event
            case SessionFound():
                session(event.session).found.append(event)
            case SessionMissing():
                session(event.session).missing.append(event)
            case Erred():
                session(event.session).errors.append(event)
            case Fault():
                for name in event.kills:
                    session(name).kills.append(event)
            case (
                StartSent()
                | Acknowledged()
                | Refused()
                | ReadFrom()
                | Read()
                | GapTold()
                | Told()
                | RecordFound()
                | Counted()
                | Wrote()
            ):
                key = (event.session, event.command)
                story = commands.setdefault(key, CommandStory(session(event.session), event.command))
                _tell(story, event)
            case _:
                pass
    return sessions, commands


def _tell(
    story: CommandStory,
    event: StartSent | Acknowledged | Refused | ReadFrom | Read | GapTold | Told | RecordFound | Counted | Wrote,
) -> None:
    match event:
        case StartSent():
            story.sent.append(event)
        case Acknowledged():
            story.acknowledged.append(event)
        case Refused():
            story.refused.append(event)
        case ReadFrom() | Read() | GapTold():
            story.reading.setdefault(event.reader, []).append(event)
        case Told():
            story.told.append(event)
        case RecordFound():
            story.records.append(event)
        case Counted():
            story.times += event.times
        case Wrote():
            story.wrote.append(event)


def main() -> int:
    """Check the history in a file."""
    with Path(sys.argv[1]).open() as lines:
        found = check(from_lines(lines))
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
