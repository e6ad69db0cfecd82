"""Verifies the files of a log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sessiond.audit.files import lines, open_log, segment_number
from sessiond.audit.verifier import Report, Verifier


def verify_log(path: Path) -> Report:
    """Verify the whole log at `path`, which a daemon may be writing. Raises OSError."""
    verifier = Verifier()
    current: str | None = path.name
    for name, number, file in open_log(path):
        verifier.begin(name, number)
        for line in lines(file):
            verifier.feed(line)
        current = path.name if number is not None else None
    return verifier.finish(complete=True, current=current)


def verify_files(paths: Sequence[Path], current: Path) -> Report:
    """Verify some of a log's files, in this order; `current` is what its file is called. Raises OSError."""
    verifier = Verifier()
    for path in paths:
        verifier.begin(path.name, segment_number(current, path.name))
        with path.open("rb") as file:
            for line in lines(file):
                verifier.feed(line)
    return verifier.finish(complete=False)
