"""What is found at the end of a round: the daemon's records, the commands' own notes, and all output once more."""

from __future__ import annotations

import asyncio
from collections import Counter

from sessiond_client import Client, Gap, RemoteError, Session, SessiondError
from sessiond_client.command import Command

from tests.faults.robustness.history import (
    Closed,
    Counted,
    Erred,
    History,
    Opened,
    ReadRecorder,
    RecordFound,
    SessionFound,
    SessionMissing,
    StartSent,
    Told,
    Wrote,
)
from tests.faults.robustness.programs import COUNTER, WROTE
from tests.faults.robustness.traffic import BORN, ending, recorded_ending, told_error

AUDITOR = "auditor"
PATIENCE = 60.0
"""Seconds that the end of one command, or one listing, may take."""


async def write_down(history: History, client: Client) -> None:
    """Add all of it to the history."""
    closed = {event.session for event in history.of(Closed)}
    for name in dict.fromkeys(event.session for event in history.of(Opened)):
        if name not in closed:
            await _session(history, client, name)


async def _session(history: History, client: Client, name: str) -> None:
    sent = {event.command for event in history.of(StartSent) if event.session == name}
    try:
        async with asyncio.timeout(PATIENCE):
            session = await client.session(name)
            for command in sorted(sent):
                await _read_again(history, session, command)
            for record in await session.commands():
                if record.command in sent:
                    history.add(RecordFound(name, record.command, recorded_ending(record)))
            state = (await session.info()).state
            born = await _files(history, session) if state == "open" else None
            info = await session.info()
    except RemoteError as error:
        history.add(SessionMissing(name, error.code))
    except (SessiondError, TimeoutError) as error:
        history.add(Erred(name, None, AUDITOR, type(error).__name__, str(error)))
    else:
        history.add(SessionFound(name, info.state, info.generation, born is not None, born == name))


async def _read_again(history: History, session: Session, name: str) -> None:
    """As somebody who was never there before."""
    try:
        command: Command = await session.command(name)
    except RemoteError as error:
        if error.code not in ("not_found", "gone"):  # The checker knows whether there must be a record.
            history.add(Erred(session.id, name, AUDITOR, error.code, str(error)))
        return
    recorder = ReadRecorder(history, session.id, name, AUDITOR)
    try:
        async for piece in command:
            if isinstance(piece, Gap):
                recorder.gap(piece.start, piece.end)
            else:
                recorder.output(piece.offset, piece.data)
        status = await command.wait()
    except SessiondError as error:
        recorder.flush()
        history.add(told_error(session.id, name, AUDITOR, error))
    else:
        recorder.flush()
        history.add(Told(session.id, name, AUDITOR, ending(status)))


async def _files(history: History, session: Session) -> str:
    """Note down what commands wrote; whose workspace it says it is."""
    texts = {}
    for file in (COUNTER, WROTE, BORN):
        texts[file] = (await session.run(f"cat {file} 2>/dev/null || true", check=True)).text
    for command, times in Counter(texts[COUNTER].split()).items():
        history.add(Counted(session.id, command, times))
    for line in texts[WROTE].splitlines():
        command, size, sha256 = line.split()
        history.add(Wrote(session.id, command, int(size), sha256))
    return texts[BORN].strip()
