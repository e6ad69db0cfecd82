"""What a real shell runs for a text: recorded by harmless programs, the only ones that it can find."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.fuzz.policy.texts import PROGRAMS

DEADLINE_SECONDS = 2.0
DEADLINE_SECONDS_A_TEXT = 0.1
"""Of a batch, in which most texts take a few milliseconds."""

Ran = tuple[str, ...]
"""A program that ran: its name and arguments."""

_SHELLS = {"bash": "bash", "sh": "dash"}


class Oracle:
    """Runs texts in a folder of its own, with an empty environment and a PATH of recording programs."""

    def __init__(self, folder: Path, dialect: str) -> None:
        self._shell = shutil.which(_SHELLS[dialect])
        if self._shell is None:
            raise FileNotFoundError(_SHELLS[dialect])
        self._record = folder / "record"
        self._bin = folder / "bin"
        self._work = folder / "work"
        self._bin.mkdir(parents=True)
        for name in PROGRAMS:
            program = self._bin / name
            record = shlex.quote(str(self._record))
            program.write_text(f"#!/bin/sh\nprintf '%s\\0' {name} \"$@\" '\x02' >> {record}\n")
            program.chmod(0o755)

    def run(self, texts: Sequence[str]) -> list[list[Ran]]:
        """For each text, the programs that ran. Texts that take too long are ended, and what ran until then counts."""
        try:
            return self._batch(texts, DEADLINE_SECONDS + len(texts) * DEADLINE_SECONDS_A_TEXT)
        except subprocess.TimeoutExpired:
            if len(texts) == 1:
                return [self._recorded()[0]]
            half = len(texts) // 2
            return self.run(texts[:half]) + self.run(texts[half:])

    def _batch(self, texts: Sequence[str], deadline: float) -> list[list[Ran]]:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        self._record.write_bytes(b"")
        record = shlex.quote(str(self._record))
        script = "ulimit -f 2000\n" + "".join(
            f"( eval {shlex.quote(text)}\nwait ) </dev/null >/dev/null 2>&1\nwait\nprintf '\\3\\0\\2\\0' >> {record}\n"
            for text in texts
        )
        process = subprocess.Popen(
            [str(self._shell), "-s"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._work,
            env={"PATH": str(self._bin), "FUNCNEST": "4"},
            start_new_session=True,
        )
        try:
            process.communicate(script.encode(errors="surrogateescape"), timeout=deadline)
        finally:
            _end_session(process)
        recorded = self._recorded()
        if len(recorded) != len(texts) + 1:
            raise subprocess.TimeoutExpired(process.args, deadline)
        return recorded[:-1]

    def _recorded(self) -> list[list[Ran]]:
        """The record, a list for each text."""
        texts: list[list[Ran]] = [[]]
        for entry in self._record.read_bytes().split(b"\x02\0"):
            words = tuple(word.decode(errors="replace") for word in entry.split(b"\0")[:-1])
            if words == ("\x03",):
                texts.append([])
            elif words:
                texts[-1].append(words)
        return texts


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End whatever the texts have left running."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
