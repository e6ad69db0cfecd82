"""How long a key takes to its echo: on a terminal in a session, and on a local one."""

from __future__ import annotations

import os
import subprocess
import time

from sessiond_client import Gap, Session

from sessiond.private_daemon import PrivateDaemonError

ECHO = "stty raw -echo; echo ready; cat"
"""The shell makes way for nobody: it waits, and `cat` sends each byte back by itself."""
_READY = b"ready\n"
_SECONDS = 30


async def session_echoes(session: Session, count: int) -> list[float]:
    """Milliseconds from writing a byte to having it back, in a session."""
    terminal = await session.terminal(ECHO)
    said = b""

    async def more() -> bytes:
        piece = await terminal.next()
        if piece is None or isinstance(piece, Gap):
            raise PrivateDaemonError("the terminal in the session ended")
        return piece.data

    while not said.endswith(_READY):
        said += await more()
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await terminal.write(b"x")
        await more()
        took.append((time.perf_counter() - began) * 1000)
    await terminal.kill()
    await terminal.wait()
    return took


def local_echoes(count: int) -> list[float]:
    """The same on a terminal of this machine. Blocking, on purpose: that is the fastest way to wait."""
    master, slave = os.openpty()
    process = subprocess.Popen(["bash", "-c", ECHO], stdin=slave, stdout=slave, stderr=slave)  # noqa: S603, S607
    os.close(slave)
    try:
        said = b""
        while not said.endswith(_READY):
            said += os.read(master, 100)
        took = []
        for _ in range(count):
            began = time.perf_counter()
            os.write(master, b"x")
            os.read(master, 1)
            took.append((time.perf_counter() - began) * 1000)
        return took
    finally:
        os.close(master)
        process.kill()
        process.wait(_SECONDS)
