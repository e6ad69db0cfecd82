"""Verification: whatever is missing, changed or out of place in a log is found and named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sessiond.audit.chain import START, make_line, read_line
from sessiond.audit.files import sealed_segments, segment_path
from sessiond.audit.log import AuditLog
from sessiond.audit.record import Ending, Subject
from sessiond.audit.verifier import MOST_FINDINGS, Report, Verifier
from sessiond.audit.verify import verify_files, verify_log
from sessiond.policy.decide import CommandRequest, Verdict

SUBJECT = Subject(session="s1", command="c1", profile="default", policy="0" * 64, who="uid:1000")
ALLOWED = Verdict("allow", "program", "allowed: ls", ("ls",))
ENDING = Ending(exit_code=0, signal=None, cause="exit", seconds=1.5, output_bytes=10, timed_out=False, oom=False)
MANY = 10_000


def fill(path: Path, records: int, **options: int) -> None:
    """Write a log of so many records or a little more."""
    log = AuditLog(path, **options)
    for number in range(records // 2):
        request = CommandRequest(("ls", str(number)), None, {}, "src")
        log.end(SUBJECT, log.decision(SUBJECT, request, ALLOWED), ENDING)
    log.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a log of 10,000 records in one file."""
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    fill(path, MANY)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == MANY + 1
    return lines


@pytest.fixture
def many(written: list[bytes]) -> list[bytes]:
    return list(written)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of some segments."""
    path = tmp_path / "audit.jsonl"
    fill(path, 120, segment_bytes=10_000)
    assert len(sealed_segments(path)) >= 4
    assert verify_log(path).findings == []
    return path


def check(lines: list[bytes]) -> Report:
    verifier = Verifier()
    verifier.begin("audit.jsonl", None)
    for line in lines:
        verifier.feed(line)
    return verifier.finish(complete=True)


def problems(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings]


def edit(path: Path, change: object) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)  # type: ignore[operator]
    path.write_bytes(b"".join(lines))


# --- one in ten thousand ---------------------------------------------------------------------------------------------


def test_ten_thousand_untouched_records_are_whole(many: list[bytes]) -> None:
    report = check(many)
    assert problems(report) == []
    assert (report.records, report.first) == (MANY + 1, 1)
    assert report.head == (MANY + 1, hashlib.sha256(many[-1]).hexdigest())


def test_one_flipped_byte_in_ten_thousand_records_is_found_and_named(many: list[bytes]) -> None:
    line = many[4999]
    at = line.index(b'"ls"') + 1
    many[4999] = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
    assert problems(check(many)) == ["audit.jsonl:5000: record 5000 was changed after it was written"]


@pytest.mark.parametrize("place", ["v", "seq", "previous", "time", "event", "newline", "brace", "last"])
def test_one_flipped_byte_is_named_wherever_in_the_record_it_is(many: list[bytes], place: str) -> None:
    line = many[4999]
    key = {"newline": -1, "brace": 0, "last": -2}
    at = key[place] if place in key else line.index(f'"{place}":'.encode()) + len(place) + 4
    at %= len(line)
    many[4999] = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
    found = check("".join(map(bytes.decode, many)).encode().splitlines(keepends=True)).findings
    assert found
    assert {(finding.file, finding.line, finding.sequence) for finding in found} == {("audit.jsonl", 5000, 5000)}


def test_one_removed_record_in_ten_thousand_is_found_and_named(many: list[bytes]) -> None:
    del many[4999]
    assert problems(check(many)) == ["audit.jsonl:5000: record 5000 is missing before this line"]


def test_two_swapped_records_in_ten_thousand_are_found_and_named(many: list[bytes]) -> None:
    many[4999], many[5000] = many[5000], many[4999]
    assert problems(check(many)) == ["audit.jsonl:5001: record 5000 is out of order: it stands after record 5001"]


def test_two_records_far_apart_that_changed_places_are_both_named(many: list[bytes]) -> None:
    many[4999], many[5009] = many[5009], many[4999]
    found = problems(check(many))
    assert any("record 5000 is out of order: it stands after record 5010" in problem for problem in found)


def test_a_duplicated_record_is_found_and_named(many: list[bytes]) -> None:
    many.insert(5000, many[4999])
    assert problems(check(many)) == [
        "audit.jsonl:5001: record 5000 is there twice, or was put here: it stands after record 5000"
    ]


def test_a_changed_record_with_a_digest_made_to_fit_is_found_by_the_next(many: list[bytes]) -> None:
    """Who changes a record must change all that follow."""
    changed = many[4999].replace(b'"exit"', b'"oom"').replace(b'"decision"', b'"decisiom"')
    many[4999] = changed
    following = json.loads(many[5000])
    old, new = following["previous"].encode(), hashlib.sha256(changed).hexdigest().encode()
    many[5000] = many[5000].replace(old, new)
    assert [(finding.line, finding.sequence) for finding in check(many).findings] == [(5001, 5001)]


def test_a_few_neighbours_that_were_changed_are_named(many: list[bytes]) -> None:
    for number in (4999, 5000, 5001):
        many[number] = many[number].replace(b'"s1"', b'"s2"')
    named = {n for problem in problems(check(many)) for n in map(int, re.findall(r"record (\d+)", problem))}
    assert named == {5000, 5001, 5002}


def test_findings_are_bounded(many: list[bytes]) -> None:
    report = check(many[::2])
    assert len(report.findings) == MOST_FINDINGS
    assert report.more_findings == MANY // 2 - MOST_FINDINGS
    report = check([*many[:10], *many[:1:-1]])
    assert len(report.findings) == MOST_FINDINGS


# --- segments --------------------------------------------------------------------------------------------------------


def test_a_removed_segment_is_found_and_named(path: Path) -> None:
    segment_path(path, 2).unlink()
    found = problems(verify_log(path))
    assert any("segment 2 is missing" in problem for problem in found)
    assert any(re.search(r"record \d+ to record \d+ are missing before this line", problem) for problem in found)


def test_a_removed_first_segment_is_found_and_named(path: Path) -> None:
    segment_path(path, 1).unlink()
    assert any("segment 1 is missing" in problem for problem in problems(verify_log(path)))


def test_the_last_sealed_segment_is_missed(path: Path) -> None:
    last = sealed_segments(path)[-1]
    segment_path(path, last).unlink()
    assert any(f"segment {last} is missing" in problem for problem in problems(verify_log(path)))


def test_the_current_file_is_missed(path: Path) -> None:
    path.unlink()
    assert problems(verify_log(path)) == ["audit.jsonl:0: the segment that was written to is missing"]


def test_the_removed_last_record_of_a_sealed_segment_is_found_and_named(path: Path) -> None:
    last = json.loads(segment_path(path, 2).read_bytes().splitlines()[-1])
    edit(segment_path(path, 2), lambda lines: lines.pop())
    records = len(segment_path(path, 2).read_bytes().splitlines())
    assert problems(verify_log(path)) == [
        f"audit-000002.jsonl:{records}: does not end with the seal of its segment",
        f"audit-000003.jsonl:1: record {last['seq']} is missing before this line",
    ]
    assert len(verify_files([segment_path(path, 2)], path).findings) == 1


def test_an_emptied_file_is_found(path: Path) -> None:
    path.write_bytes(b"")
    assert problems(verify_log(path)) == ["audit.jsonl:0: is empty"]
    segment_path(path, 1).write_bytes(b"")
    assert "audit-000001.jsonl:0: is empty" in problems(verify_log(path))


def test_a_sealed_segment_that_was_cut_off_is_found_and_named(path: Path) -> None:
    segment = segment_path(path, 2)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(segment.read_bytes()[:-10])
    assert problems(verify_log(path)) == [
        f"audit-000002.jsonl:{len(lines)}: does not end with the seal of its segment",
        f"audit-000002.jsonl:{len(lines)}: record {json.loads(lines[-1])['seq']} is destroyed: the line is no record",
    ]


def test_a_current_file_cut_off_within_a_record_is_found(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes()[:-10])
    (found,) = verify_log(path).findings
    assert (found.file, found.line, found.sequence) == ("audit.jsonl", len(lines), json.loads(lines[-1])["seq"])
    assert "unfinished" in found.problem


def test_segments_that_changed_names_are_found(path: Path) -> None:
    one, two = segment_path(path, 1), segment_path(path, 2)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    assert any("files were renamed" in problem for problem in problems(verify_log(path)))


def test_segments_joined_in_one_file_are_found(path: Path) -> None:
    one, two = segment_path(path, 1), segment_path(path, 2)
    one.write_bytes(one.read_bytes() + two.read_bytes())
    two.unlink()
    found = problems(verify_log(path))
    assert any("segment 2 is missing" in problem for problem in found)
    assert any("stands after the seal" in problem for problem in found)


def test_single_files_are_verified_by_themselves(path: Path) -> None:
    two, three = segment_path(path, 2), segment_path(path, 3)
    assert problems(verify_files([two, three], path)) == []
    assert problems(verify_files([three, two], path)) != []
    assert verify_files([two], path).first != 1


def test_lines_put_between_records_are_found(path: Path) -> None:
    edit(path, lambda lines: lines.insert(1, b"hello\n"))
    assert problems(verify_log(path)) == ["audit.jsonl:2: the line is no record: put there or changed"]


def test_a_record_of_torn_bytes_that_are_not_there_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    fill(path, 4)
    path.write_bytes(path.read_bytes()[:-5])
    AuditLog(path).event("daemon_started")
    assert verify_log(path).recovered == 1
    edit(path, lambda lines: lines.pop(4))
    assert "speaks of a torn record that is not there" in problems(verify_log(path))[0]


# --- anything --------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> Iterator[bytes]:
    for number in sealed_segments(path):
        yield from segment_path(path, number).read_bytes().splitlines(keepends=True)
    yield from path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """A small log as bytes, and where its last line begins."""
    path = tmp_path_factory.mktemp("chain") / "audit.jsonl"
    fill(path, 20)
    path.write_bytes(path.read_bytes() + b'{"v":1,"seq"')
    fill(path, 20)
    data = path.read_bytes()
    assert verify_log(path).recovered == 1
    return data, data.rindex(b"\n", 0, -1) + 1


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_anything_that_changes_a_line_inside_the_chain_is_found(chain: tuple[bytes, int], data: st.DataObject) -> None:
    """Bytes changed, removed or put in, lines moved or repeated: everywhere but in the last line."""
    whole, last = chain
    start = data.draw(st.integers(0, last - 1))
    end = data.draw(st.integers(start, min(last, start + 2000)))
    piece = st.one_of(
        st.binary(max_size=20),
        st.integers(0, last - 1).flatmap(lambda a: st.integers(a, last).map(lambda b: whole[a:b])),
        st.sampled_from(whole.splitlines(keepends=True)),
    )
    changed = whole[:start] + data.draw(piece) + whole[end:]
    assume(changed != whole)
    assume(not changed.endswith(whole[last:]) or changed[: -len(whole[last:])] != whole[:last])
    report = check(changed.splitlines(keepends=True))
    assert report.findings


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_bytes_break_the_verifier(lines: list[bytes]) -> None:
    check(lines)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9),
            st.sampled_from([START, "1" * 64]),
            st.sampled_from(["began", "sealed", "recovered", "decision"]),
            st.sampled_from(['"segment":1,"oldest":1', '"segment":"x"', '"torn_bytes":3,"torn_sha256":"y"', '"a":[]']),
        ),
        max_size=12,
    )
)
def test_no_records_break_the_verifier(records: list[tuple[int, str, str, str]]) -> None:
    time = "2026-01-01T00:00:00.000000Z"
    lines = [make_line(n, previous, time, event, fields) for n, previous, event, fields in records]
    assert all(read_line(line) for line in lines)
    report = check(lines)
    assert len(records) < 2 or report.findings


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b'{"v":2,"seq":1}\n',
        make_line(1, START, "2026-01-01T00:00:00.000000Z", "x", '"a":1')[:-1],
        make_line(1, START, "2026-01-01T00:00:00.000000Z", "x", '"a":1').replace(b'"v":1', b'"v":2'),
        make_line(1, START, "2026-01-01T00:00:00.000000Z", "x", '"a":' + "[" * 100_000),
        make_line(1, START, "2026-01-01T00:00:00.000000Z", "x", f'"a":"{"y" * 2_000_000}"'),
    ],
    ids=range(8),
)
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert read_line(line) is None
