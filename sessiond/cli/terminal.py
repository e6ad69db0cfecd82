"""This process's own terminal, handed over to a command's for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass

from sessiond_client import Command, FencedError, Gap, SessiondError, StdinClosedError

from sessiond.cli.failure import TIMED_OUT
from sessiond.cli.keys import Keys, Modes

MOST_TYPED = 256 * 1024
"""Bytes that were typed or pasted and could not be sent yet; more waits in the terminal."""
REDRAW_SECONDS = 0.1
"""How long a screen has another size to make its program draw it anew: it looks at the size when it gets to it."""
FLUSH_SECONDS = 1.0
"""How long leaving waits for what was typed before."""
_CHUNK = 64 * 1024
_LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended for us."""

    status: int
    """For the shell that we came from."""
    detached: bool = False
    """Whether we left at the detach key, and the command goes on."""


class LocalTerminal:
    """Standard input and output, which are a terminal."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._modes = Modes()
        self._typed = bytearray()
        self._reading = False
        self._more = asyncio.Event()
        self._resized = asyncio.Event()
        self._left: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; of a terminal that does not say, the usual."""
        columns, rows = os.get_terminal_size(1)
        return rows or 24, columns or 80

    async def show(self, command: Command, *, types: bool, tail: tuple[bool, int] | None = None) -> Outcome:
        """Be the command's screen, and its keyboard if it `types`, until it ends or is left.

        `tail` says of one that ran before whether its output begins in the middle of a line, and where its output was
        when we came. The terminal is as it was before on every way out. Raises SessiondError.
        """
        with self._raw():
            display = asyncio.create_task(self._display(command, tail))
            others: list[asyncio.Task[None]] = []
            if types:
                others.append(asyncio.create_task(self._type(command)))
                others.append(asyncio.create_task(self._follow_size(command, redraw=tail is not None)))
            try:
                await asyncio.wait((display, self._left), return_when=asyncio.FIRST_COMPLETED)
                if display.done():
                    return display.result()
                if types and self._left.result().detached:
                    await asyncio.wait(others[:1], timeout=FLUSH_SECONDS)
                return self._left.result()
            finally:
                for task in (display, *others):
                    task.cancel()

    # --- the terminal itself

    @contextlib.contextmanager
    def _raw(self) -> Iterator[None]:
        """Every key comes here at once and unchanged; at the end all is as it was."""
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(0)
        tty.setraw(0)
        for number in _LEAVING:
            loop.add_signal_handler(number, self._leave, Outcome(128 + number))
        loop.add_signal_handler(signal.SIGWINCH, self._resized.set)
        loop.add_signal_handler(signal.SIGCONT, self._continued)
        self._read_keys(True)
        try:
            yield
        finally:
            self._read_keys(False)
            for number in (*_LEAVING, signal.SIGWINCH, signal.SIGCONT):
                loop.remove_signal_handler(number)
            with contextlib.suppress(OSError, termios.error):  # it may be gone
                os.write(1, self._modes.undo())
                termios.tcsetattr(0, termios.TCSADRAIN, before)

    def _continued(self) -> None:
        """Stopped by a signal and continued, the shell in between has set its own modes."""
        with contextlib.suppress(termios.error):
            tty.setraw(0)
        self._resized.set()

    def _leave(self, outcome: Outcome) -> None:
        if not self._left.done():
            self._left.set_result(outcome)

    # --- output

    async def _display(self, command: Command, tail: tuple[bool, int] | None) -> Outcome:
        cut, until = tail or (False, 0)
        async for piece in command:
            if isinstance(piece, Gap):
                await self._say(f"output from {piece.start} to {piece.end} is not kept any more")
                continue
            data = piece.data
            if cut and piece.offset < until:  # up to the first whole line of what came before us
                _, newline, data = data.partition(b"\n")
                cut = not newline
            self._modes.feed(data)
            await self._write(data)
        status = await command.wait()
        return Outcome(TIMED_OUT if status.timed_out else status.status)

    async def _write(self, data: bytes) -> None:
        try:
            await asyncio.to_thread(_write_all, data)
        except OSError:
            self._leave(Outcome(128 + signal.SIGHUP))

    async def _say(self, text: str) -> None:
        await self._write(f"\r\n[sessiond: {text}]\r\n".encode())

    # --- keys

    def _read_keys(self, wanted: bool) -> None:
        if wanted != self._reading:
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(0, self._on_keys)
            else:
                loop.remove_reader(0)
            self._reading = wanted

    def _on_keys(self) -> None:
        try:
            typed = os.read(0, _CHUNK)
        except OSError:
            typed = b""
        if not typed:
            self._leave(Outcome(128 + signal.SIGHUP))
            return
        passed, detach = self._keys.feed(typed)
        self._typed += passed
        self._more.set()
        if detach:
            self._read_keys(False)
            self._leave(Outcome(0, detached=True))
        elif len(self._typed) >= MOST_TYPED:
            self._read_keys(False)

    async def _type(self, command: Command) -> None:
        try:
            while not self._left.done() or self._typed:
                await self._more.wait()
                self._more.clear()
                typed, self._typed = bytes(self._typed), bytearray()
                self._read_keys(not self._left.done())
                await command.write(typed)
        except (StdinClosedError, FencedError):
            if not command.ended:
                await self._say("somebody else types here now; ctrl-] d leaves")
        except SessiondError:
            pass  # told where its output is read

    async def _follow_size(self, command: Command, *, redraw: bool) -> None:
        try:
            if redraw:
                rows, columns = self.size
                await command.resize(rows - 1 or 2, columns)
                await asyncio.sleep(REDRAW_SECONDS)
                await command.resize(rows, columns)
            while await self._resized.wait():
                self._resized.clear()
                await command.resize(*self.size)
        except (SessiondError, OSError):
            pass  # told where its output is read; without a terminal here nobody looks


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
