"""A terminal with somebody in front of it: runs a program on a local pty, types, and reads the screen."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence

import pyte

DEADLINE = 15.0
"""Ends a test that waits for what never comes, with a look at the screen."""
ROWS, COLUMNS = 24, 80


class _Screen(pyte.Screen):
    """Pyte's, which stumbles over a question of vim's (CSI ? 4 m)."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class Screen:
    """A program on a terminal of its own. `async with Screen(argv) as screen:`"""

    def __init__(self, argv: Sequence[str], *, rows: int = ROWS, columns: int = COLUMNS, **environment: str) -> None:
        self._argv = argv
        self._environment = environment
        self._screen = _Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        """All that the program has written."""
        self._master, self._slave = os.openpty()
        self._set_size(rows, columns)
        self._changed = asyncio.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.modes = termios.tcgetattr(self._slave)
        """As they were before the program began."""

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def __aenter__(self) -> Screen:
        self.process = await asyncio.to_thread(self._start)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        environment: Mapping[str, str] = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SESSIOND_", "DOCKER_", "PYTHONASYNCIODEBUG", "COLUMNS", "LINES"))
        }
        return subprocess.Popen(
            self._argv,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**environment, "TERM": "xterm-256color", **self._environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            data = os.read(self._master, 65536)
            self.raw += data
            self._stream.feed(data)
        self._changed.set()

    # --- who sits in front of it

    def type(self, text: str | bytes) -> None:
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def resize(self, rows: int, columns: int) -> None:
        self._set_size(rows, columns)
        self._screen.resize(rows, columns)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def shows(self, what: str | Callable[[], bool]) -> None:
        """Wait until the screen shows it."""

        def there() -> bool:
            return what in self.text if isinstance(what, str) else what()

        try:
            async with asyncio.timeout(DEADLINE):
                while not there():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"the screen does not show {what!r}:\n{self.text}\n{self.raw[-500:]!r}") from None

    async def exit(self) -> int:
        """Wait for the end of the program; its exit code. The terminal's modes must be what they were."""
        assert self.process is not None
        async with asyncio.timeout(DEADLINE):
            while self.process.poll() is None:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        self._read_rest()
        assert termios.tcgetattr(self._slave) == self.modes
        return self.process.returncode

    def _read_rest(self) -> None:
        os.set_blocking(self._master, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self._master, 65536)
                self.raw += data
                self._stream.feed(data)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def hang_up(self) -> None:
        self.signal(signal.SIGHUP)
