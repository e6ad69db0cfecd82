"""What commands do: each adds its id to a counter file first, and can tell, or lets one know, what it wrote."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.daemon import python

COUNTER = "ran"
"""File of the workspace with a line for each run: the command's id."""
WROTE = "wrote"
"""File of the workspace with a line for each end: id, bytes, SHA-256."""

_PIECE = 64 * 1024

_FLOOD = f"""
import hashlib, os, random, sys, time
name, size, seed, pause, stream = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
with open("{COUNTER}", "a") as file:
    file.write(name + "\\n")
block, digest, done = random.Random(seed).randbytes({_PIECE}), hashlib.sha256(), 0
while done < size:
    piece = (done.to_bytes(8, "big") + block[8:])[:size - done]
    digest.update(piece)
    done += len(piece)
    view = memoryview(piece)
    while view:
        view = view[os.write(stream, view):]
    time.sleep(pause)
with open("{WROTE}", "a") as file:
    file.write(f"{{name}} {{size}} {{digest.hexdigest()}}\\n")
"""

_COUNT = f"""
import sys
name, most = sys.argv[1], int(sys.argv[2])
with open("{COUNTER}", "a") as file:
    file.write(name + "\\n")
with open("count-" + name, "a") as file:
    for number in range(most):
        file.write(f"{{number}}\\n")
print(most)
"""

_ECHO = f'echo "$0" >> {COUNTER}; exec cat'
_SAY = f'echo "$0" >> {COUNTER}; echo "$0 says $1"; exit $2'


@dataclass(frozen=True)
class Program:
    """A command line, and what is known of its end before."""

    argv: list[str]
    exit_code: int | None = 0
    sha256: str | None = None
    """Of its output, where that is known."""


def say(name: str, word: str, code: int = 0) -> Program:
    """Writes a line and ends."""
    line = f"{name} says {word}\n".encode()
    return Program(["sh", "-c", _SAY, name, word, str(code)], code, hashlib.sha256(line).hexdigest())


def flood(name: str, size: int, seed: int, *, pause: float = 0.0, stderr: bool = False) -> Program:
    """Writes `size` bytes, with a pause of so many seconds after each 64 KiB, and notes down what it wrote."""
    return Program(python(_FLOOD, name, str(size), str(seed), str(pause), "2" if stderr else "1"))


def echo(name: str, data: bytes) -> Program:
    """Writes what it is sent, which will be `data`."""
    return Program(["sh", "-c", _ECHO, name], 0, hashlib.sha256(data).hexdigest())


def count(name: str, most: int) -> Program:
    """Counts into a file."""
    return Program(python(_COUNT, name, str(most)), 0, hashlib.sha256(f"{most}\n".encode()).hexdigest())
