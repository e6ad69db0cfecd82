"""What is on record of a session: its commands, their inputs and how they ended. Read through the protocol."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TypeAlias

from sessiond_client import Client, Gap, GoneError, NotFoundError, Output
from sessiond_protocol.messages import CommandInfo, CommandStart, SessionInfo, SessionOpen

SHOWN_BYTES = 64 * 1024
"""Of each stream these are kept to show a difference; of the rest there is the digest."""


@dataclass(slots=True)
class Stream:
    """What a command wrote to one of its streams."""

    head: bytearray = field(default_factory=bytearray)
    size: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, data: bytes) -> None:
        """More of it."""
        self.head += data[: SHOWN_BYTES - len(self.head)]
        self.size += len(data)
        self._digest.update(data)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded command."""

    number: int
    """Its place among the session's commands, from 1."""
    info: CommandInfo
    request: CommandStart | None
    """None for what carried the workspace in or out."""
    overlaps: bool
    """Whether it began before an earlier one had ended."""

    @property
    def skipped(self) -> str:
        """Why it cannot be run again; "" when it can."""
        if self.request is None:
            return "it carried the workspace in or out, and the archive is not kept"
        if self.info.exit is None:
            return f"it is {self.info.state}, so there is nothing to compare with"
        return "it was killed by its client" if self.info.exit.cause == "killed" else ""

    @property
    def remarks(self) -> list[str]:
        """What makes it less than the same again."""
        said = []
        if self.request is not None and self.request.stdin:
            said.append("its streamed standard input is not kept: it gets what came with its start only")
        if self.overlaps:
            said.append("it ran beside an earlier command; now they run one after the other")
        return said


Record: TypeAlias = tuple[SessionInfo, SessionOpen, list[Step]]


async def read_record(client: Client, session_id: str, until: str | None) -> Record:
    """The session, how it was opened, and its commands up to `until`. Raises SessiondError."""
    session = await client.session(session_id)
    opening = await session.record()
    if not isinstance(opening, SessionOpen):
        raise NotFoundError("not_found", f"the record of session {session_id} does not say how it was opened")
    steps: list[Step] = []
    busy_until = 0.0
    for number, info in enumerate(await session.commands(), 1):
        request = await session.record(info.command)
        overlaps = info.started is not None and info.started < busy_until
        busy_until = max(busy_until, info.ended or 0.0)
        steps.append(Step(number, info, request if isinstance(request, CommandStart) else None, overlaps))
        if info.command == until:
            return session.snapshot, opening, steps
    if until is not None:
        raise NotFoundError("not_found", f"session {session_id} has no command {until}")
    return session.snapshot, opening, steps


async def read_output(client: Client, session_id: str, command_id: str) -> dict[str, Stream] | None:
    """What a command wrote, by stream; None when not all of it is kept any more."""
    streams = {"stdout": Stream(), "stderr": Stream()}
    command = await (await client.session(session_id)).command(command_id)
    try:
        async for piece in command:
            if isinstance(piece, Gap):
                await command.detach()
                return None
            if isinstance(piece, Output):
                streams[piece.stream].add(piece.data)
    except GoneError:
        return None
    return streams
