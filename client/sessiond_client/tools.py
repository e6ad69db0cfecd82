"""Commands of the daemon's own, for files and tunnels: begun, followed and ended here."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from sessiond_protocol import messages

from sessiond_client.command import Command, abandon, abandon_command, kill
from sessiond_client.errors import DeadlineError, OutputLimitError, SessiondError, UsageError
from sessiond_client.link import Link
from sessiond_client.results import Result, result
from sessiond_client.stdin import StdinPipe
from sessiond_client.stream import CommandStream, Mode

if TYPE_CHECKING:
    from sessiond_client.session import Session

DEFAULT_WINDOW = 4 * 1024 * 1024
"""Output that may be on its way or wait here, of one command."""
DEFAULT_MAX_OUTPUT = 64 * 1024 * 1024


class Tools:
    """Begins them in one session."""

    def __init__(self, session: Session, names: Iterator[str]) -> None:
        self._session = session
        self._names = names

    async def collect(
        self, model: type[messages.ToolStart], *, max_output: int = DEFAULT_MAX_OUTPUT, **fields: Any
    ) -> Result:
        """Run one to its end. Cancelling kills it. Raises OutputLimitError."""
        link = await self._session.client.ready()
        stream = self._begin(link, model, "collect", fields, answer="exited")
        stream.keep = max_output
        try:
            await stream.collected.wait()
            status = await (kill(stream) if stream.excess else stream.ended.wait())
        except (DeadlineError, asyncio.CancelledError):
            abandon(stream)
            raise
        ended = result(status, *stream.buffer.drain())
        if stream.excess:
            raise OutputLimitError(max_output, ended)
        return ended

    async def start(self, model: type[messages.ToolStart], *, feed: bool = False, **fields: Any) -> Command:
        """Start one and come back when it runs; with `feed` its standard input stays open. Cancelling kills it."""
        link = await self._session.client.ready()
        stream = self._begin(link, model, "read", fields, feed=feed)
        try:
            await stream.started.wait()
        except BaseException:
            if not stream.over:
                abandon(stream)
            raise
        return Command(self._session, stream)

    @contextlib.asynccontextmanager
    async def running(
        self, model: type[messages.ToolStart], *, feed: bool = False, **fields: Any
    ) -> AsyncIterator[Command]:
        """One that is killed when the block fails or is cancelled."""
        command = await self.start(model, feed=feed, **fields)
        try:
            yield command
        except BaseException:
            abandon_command(command)
            raise

    def _begin(
        self,
        link: Link,
        model: type[messages.ToolStart],
        mode: Mode,
        fields: dict[str, Any],
        *,
        feed: bool = False,
        answer: str = "started",
    ) -> CommandStream:
        _check_text(fields)
        window = fit(link, DEFAULT_WINDOW)
        key = (self._session.id, next(self._names))
        stream = CommandStream(link, key, offset=0, window=window, mode=mode)
        if feed:
            stream.stdin = StdinPipe(link, key, 0)
        link.follow(key, stream)
        deadline = math.inf if answer == "exited" else None
        where: dict[str, Any] = {"session": key[0], "command": key[1], "window": window, "answer": answer}
        try:
            link.ask(stream.on_start, model, deadline=deadline, **where, **fields)
        except SessiondError:
            link.unfollow(key, stream)
            raise
        return stream


def fit(link: Link, window: int) -> int:
    """The window, as far as the daemon allows it. Raises UsageError."""
    if window < 1:
        raise UsageError("a window has at least one byte")
    return min(window, link.welcome.limits.window_bytes)


def _check_text(fields: dict[str, Any]) -> None:
    for value in fields.values():
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UsageError(f"{value!r} is not UTF-8, and cannot be named over this protocol") from None
