"""A remote command on this process's own standard streams and signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import click
from sessiond_client import Gap, SessiondError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sessiond_client import Command, ExitStatus, Session

_CHUNK = 64 * 1024
_MAX_COLLECTED = 64 * 1024 * 1024


async def pass_through(session: Session, command: str | list[str], *, use_stdin: bool | None, **how: Any) -> ExitStatus:
    """Run it with standard input, output and interruption passed through; how it ended.

    When nobody reads the output any more, the command is killed and the process exits as if by SIGPIPE.
    """
    feed = wants_stdin(use_stdin)
    started = await session.start(command, stdin=feed, **how)
    with _signals_go_to(started):
        if feed:
            threading.Thread(
                target=_feed, args=(started, asyncio.get_running_loop()), name="stdin", daemon=True
            ).start()
        try:
            async for piece in started:
                if isinstance(piece, Gap):
                    click.echo(f"sessiond: output from {piece.start} to {piece.end} is not kept any more", err=True)
                else:
                    await asyncio.to_thread(_write, 1 if piece.stream == "stdout" else 2, piece.data)
        except BrokenPipeError as error:
            if isinstance(error, SessiondError):
                raise
            with contextlib.suppress(SessiondError):
                await started.kill()
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from None
        return await started.wait()


def wants_stdin(use_stdin: bool | None) -> bool:
    """Whether standard input is passed on: as was said, else unless it is a terminal, a null device or closed."""
    if use_stdin is not None:
        return use_stdin
    try:
        return not stat.S_ISCHR(os.fstat(0).st_mode)
    except OSError:
        return False


async def read_stdin(use_stdin: bool | None) -> bytes:
    """All of standard input, if it is to be passed on."""
    if not wants_stdin(use_stdin):
        return b""
    data: bytes = await asyncio.to_thread(sys.stdin.buffer.read, _MAX_COLLECTED + 1)
    if len(data) > _MAX_COLLECTED:
        raise click.UsageError(f"with --json, standard input is read whole, at most {_MAX_COLLECTED} bytes")
    return data


class _signals_go_to:
    """While it is entered, INT and TERM go to the command; the second one kills it."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._again = False
        self._sending: set[asyncio.Task[None]] = set()

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._forward, number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _forward(self, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._send(number))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, number: int) -> None:
        again, self._again = self._again, True
        with contextlib.suppress(SessiondError):
            await (self._command.kill() if again else self._command.signal(number))


def _feed(command: Command, loop: asyncio.AbstractEventLoop) -> None:
    """Pass standard input on, from a thread: it may be a file, for which there is no other way not to block."""
    with contextlib.suppress(SessiondError, CancelledError, OSError):
        while data := os.read(0, _CHUNK):
            if not _wait(command.write(data), loop):
                return
        _wait(command.close_stdin(), loop)


def _wait(step: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> bool:
    """Do it in the loop and wait for it; False when the loop has ended in the meantime."""
    try:
        doing = asyncio.run_coroutine_threadsafe(step, loop)
    except RuntimeError:
        step.close()
        return False
    doing.result()
    return True


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
