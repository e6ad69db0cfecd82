"""Programs of this machine, each with a deadline."""

from __future__ import annotations

import shutil
import subprocess

from sessiond.engine.port import EngineError, EngineTimeoutError

SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where they are looked for; mkfs and mount are often not on an ordinary PATH."""

MOST_WORDS = 500
"""Characters of a program's complaint that an error repeats."""


def run(what: str, *command: str, seconds: float, codes: tuple[int, ...] = (0,)) -> str:
    """Run a program and return what it printed. Blocks. Raises EngineError, EngineTimeoutError after `seconds`."""
    program = shutil.which(command[0], path=SEARCH)
    if program is None:
        raise EngineError(f"cannot {what}: there is no {command[0]} on this machine")
    try:
        done = subprocess.run(  # noqa: S603 - our own command line, no shell
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={"PATH": SEARCH, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise EngineTimeoutError(f"cannot {what}: {command[0]} took more than {seconds:g} s") from None
    except OSError as error:
        raise EngineError(f"cannot {what}: {command[0]}: {error.strerror}") from error
    if done.returncode not in codes:
        words = done.stderr.decode(errors="replace").strip()[:MOST_WORDS]
        raise EngineError(f"cannot {what}: {words or f'{command[0]} ended with {done.returncode}'}")
    return done.stdout.decode(errors="replace")
