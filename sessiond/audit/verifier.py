"""Verification of a chain, line by line: what is missing, changed or out of place is named. Pure, in bounded memory.

A record is vouched for by the one after it, which carries its digest. Where two neighbours do not fit, the record after
them tells which of the two was changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from sessiond.audit.chain import BEGAN, RECOVERED, SEALED, Record, read_line

MOST_FINDINGS = 1000
"""Findings kept and shown; a log that has more is no log any more. The rest is counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written."""

    file: str
    line: int
    sequence: int | None
    """Sequence number of the record, as far as one can tell."""
    problem: str

    def __str__(self) -> str:
        what = "" if self.sequence is None else f"record {self.sequence} "
        return f"{self.file}:{self.line}: {what}{self.problem}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found."""

    findings: list[Finding]
    more_findings: int
    """Findings beyond those listed."""
    records: int
    recovered: int
    """Torn records whose remains the log itself has on record: writes that a kill or a full disk cut short."""
    first: int | None
    head: tuple[int, str] | None
    """Sequence number and digest of the last record: noted elsewhere, they prove that the log went so far."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record stands."""

    sequence: int
    digest: str | None
    """None where it cannot be read."""
    file: str
    line: int


@dataclass(slots=True)
class _Foreign:
    """A run of lines that are no records."""

    file: str
    line: int
    lines: int = 0
    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


def _no_records(foreign: _Foreign) -> str:
    return "the line is no record" if foreign.lines == 1 else f"{foreign.lines} lines are no records"


class Verifier:
    """Takes the files of a log, oldest first, and their lines."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._more = 0
        self._records = 0
        self._recovered = 0
        self._files: list[str] = []
        self._line = 0
        self._number: int | None = None
        self._numbers: list[int] = []
        self._oldest: int | None = None
        self._first: int | None = None
        self._last: _Place | None = None
        self._doubt: tuple[_Place, _Place] | None = None
        """Two neighbours that do not fit."""
        self._foreign: _Foreign | None = None
        self._missing: list[tuple[int, int, _Place]] = []
        self._sealed = False

    def begin(self, file: str, number: int | None) -> None:
        """The lines of `file` come next; `number` is the segment's, where its name has one."""
        self._end_file()
        self._files.append(file)
        self._number, self._line, self._sealed = number, 0, False
        if number is not None:
            self._numbers.append(number)

    def feed(self, line: bytes) -> None:
        """The next line with its newline, or, if there is none, what is left of the file."""
        self._line += 1
        record = read_line(line)
        if record is None:
            self._take_foreign(line)
            return
        if self._foreign is not None:
            self._settle_foreign(self._foreign, record)
            self._foreign = None
        elif record.event == RECOVERED:
            self._find(self._here(record.sequence), "speaks of a torn record that is not there")
        self._check_place(record)
        self._records += 1
        self._link(record)
        if record.event == BEGAN:
            self._note_segment(record)

    def finish(self, *, complete: bool, current: str | None = None) -> Report:
        """All lines were given.

        `complete` says whether the files are a whole log, so that a missing segment is one; `current` is the name of
        the file that is written to, when it is not there.
        """
        self._settle(None)
        self._end_file()
        if self._foreign is not None:
            unfinished = self._foreign
            sequence = self._last.sequence + 1 if self._last is not None else None
            self._find(
                _Place(sequence or 0, None, unfinished.file, unfinished.line),
                f"is unfinished: {_no_records(unfinished)}; cut off, changed, or torn by a kill or a full disk, "
                "which the daemon records when it goes on",
            )
        for first, last, place in self._missing:
            self._find(
                _Place(first, None, place.file, place.line),
                "is missing before this line" if first == last else f"to record {last} are missing before this line",
            )
        if complete:
            self._check_segments(current)
        order = {name: number for number, name in enumerate(self._files)}
        self._findings.sort(key=lambda finding: (order.get(finding.file, len(order)), finding.line))
        head = self._last
        return Report(
            self._findings,
            self._more,
            self._records,
            self._recovered,
            self._first,
            (head.sequence, head.digest) if head is not None and head.digest is not None else None,
        )

    # --- the chain --------------------------------------------------------------------------------------------------

    def _link(self, record: Record) -> None:
        last, sequence = self._last, record.sequence
        if self._first is None:
            self._first = sequence
        if last is None:
            pass
        elif record.previous == last.digest:
            self._settle(True)
            if sequence != last.sequence + 1:
                self._find(self._here(last.sequence + 1), f"says that it is record {sequence}")
                sequence = last.sequence + 1
        elif sequence <= last.sequence:
            self._misplaced(sequence, last)
            return
        elif sequence == last.sequence + 1:
            if last.digest is not None:
                self._mismatch(last, self._here(sequence))
        else:
            self._settle(None)
            if len(self._missing) < MOST_FINDINGS:
                self._missing.append((last.sequence + 1, sequence - 1, self._here(sequence)))
            else:
                self._more += 1
        self._last = _Place(sequence, record.digest, self._file, self._line)

    def _mismatch(self, last: _Place, here: _Place) -> None:
        if self._doubt is None:
            self._doubt = (last, here)
        else:  # `last` fits neither of its neighbours
            self._settle(False)

    def _settle(self, intact: bool | None) -> None:
        """Name the culprit of the last mismatch: `intact` says whether the second of the two fits what comes after."""
        if self._doubt is None:
            return
        first, second = self._doubt
        self._doubt = None
        if intact is None:
            self._find(first, f"was changed after it was written, or record {second.sequence} after it was")
        elif intact:
            self._find(first, "was changed after it was written")
        else:
            self._find(second, f"was changed after it was written; so may have been record {first.sequence} before it")

    def _misplaced(self, sequence: int, last: _Place) -> None:
        for number, (first, end, place) in enumerate(self._missing[:MOST_FINDINGS]):
            if first <= sequence <= end:
                rest = [(first, sequence - 1, place), (sequence + 1, end, place)]
                self._missing[number : number + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                self._find(self._here(sequence), f"is out of order: it stands after record {last.sequence}")
                return
        self._find(self._here(sequence), f"is there twice, or was put here: it stands after record {last.sequence}")

    # --- lines that are no records ----------------------------------------------------------------------------------

    def _take_foreign(self, line: bytes) -> None:
        if self._foreign is None:
            self._foreign = _Foreign(self._file, self._line)
        self._foreign.lines += 1
        self._foreign.size += len(line)
        self._foreign.digest.update(line)

    def _settle_foreign(self, foreign: _Foreign, record: Record) -> None:
        """Lines that are no records have ended: torn by a write that the log knows of, or destroyed."""
        told = (record.fields.get("torn_bytes"), record.fields.get("torn_sha256"))
        if record.event == RECOVERED and told == (foreign.size, foreign.digest.hexdigest()):
            self._recovered += 1
            return
        first = self._last.sequence + 1 if self._last is not None else max(1, record.sequence - foreign.lines)
        lines = _no_records(foreign)
        if record.sequence <= first:
            self._find(_Place(0, None, foreign.file, foreign.line), f"{lines}: put there or changed")
            return
        until = f"to record {record.sequence - 1} are" if record.sequence - 1 > first else "is"
        self._find(_Place(first, None, foreign.file, foreign.line), f"{until} destroyed: {lines}")
        self._settle(None)
        self._last = _Place(record.sequence - 1, None, foreign.file, foreign.line)

    # --- files ------------------------------------------------------------------------------------------------------

    def _check_place(self, record: Record) -> None:
        """A segment begins with `began`, which has its number, and ends with `sealed`."""
        if self._sealed:
            self._find(self._here(record.sequence), "stands after the seal of its segment")
            self._sealed = False
        if record.event == SEALED:
            self._sealed = True
        if self._line == 1 and record.event != BEGAN:
            self._find(self._here(record.sequence), "is not what a segment begins with")
        elif self._line > 1 and record.event == BEGAN:
            self._find(self._here(record.sequence), "begins a segment in the middle of another's file")
        elif record.event == BEGAN and self._number not in (None, record.fields.get("segment")):
            self._find(
                self._here(record.sequence),
                f"begins segment {record.fields.get('segment')}, which has another name: files were renamed",
            )

    def _end_file(self) -> None:
        if self._files and self._line == 0:
            self._find_file(self._file, "is empty")
        elif self._number is not None and not self._sealed:
            self._add(Finding(self._file, self._line, None, "does not end with the seal of its segment"))

    def _note_segment(self, record: Record) -> None:
        number, oldest = record.fields.get("segment"), record.fields.get("oldest")
        if self._number is None and isinstance(number, int):
            self._numbers.append(number)
        if isinstance(oldest, int):
            self._oldest = oldest

    def _check_segments(self, current: str | None) -> None:
        expected = self._oldest
        for number in self._numbers:
            if expected is not None and number > expected:
                self._lost_segments(expected, number - 1)
            expected = max(number + 1, expected or 0)
        if current is not None and self._numbers:
            self._find_file(current, "the segment that was written to is missing")

    def _lost_segments(self, first: int, last: int) -> None:
        which = f"segment {first} is" if first == last else f"segments {first} to {last} are"
        self._find_file(self._file, f"{which} missing")

    @property
    def _file(self) -> str:
        return self._files[-1] if self._files else ""

    # --- findings ---------------------------------------------------------------------------------------------------

    def _here(self, sequence: int) -> _Place:
        return _Place(sequence, None, self._file, self._line)

    def _find(self, place: _Place, problem: str) -> None:
        self._add(Finding(place.file, place.line, place.sequence or None, problem))

    def _find_file(self, file: str, problem: str) -> None:
        self._add(Finding(file, 0, None, problem))

    def _add(self, finding: Finding) -> None:
        if len(self._findings) < MOST_FINDINGS:
            self._findings.append(finding)
        else:
            self._more += 1
