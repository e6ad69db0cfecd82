"""What the guest says of files: what is read of it, and that nothing else than documented errors comes of anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sessiond_client import FileChange, FileEntry, Match, ProtocolViolationError, Written
from sessiond_client import file_records as records
from sessiond_client.results import ExitStatus, result


def test_records() -> None:
    assert records.entries(b"f 644 3 1.5 a b\xff\0\0l 777 1 -2.000000001 l\0to\0") == [
        FileEntry("a b\udcff", "file", 0o644, 3, 1.5, None),
        FileEntry("l", "link", 0o777, 1, -2.000000001, "to"),
    ]
    assert records.entries(b"") == records.matches(b"") == []
    assert records.matches(b"a\x003 7\0te\xffxt\0") == [Match("a", 3, 7, "te\ufffdxt")]
    assert records.change(b"created a b") == FileChange("created", "a b")
    assert records.written(b"3 abc\n") == Written(3, "abc")


@pytest.mark.parametrize(
    ("code", "stderr", "name"),
    [
        (1, b"2 No such file\n", "not_found"),
        (1, b"noise\n28 No space\n", "no_space"),
        (1, b"9999 What\n", "system"),
        (3, b"18 it leads out\n", "escapes"),
        (1, b"18 Cross-device link\n", "other_filesystem"),
        (1, b"", "broken"),
        (None, b"Killed", "broken"),
    ],
)
def test_why_something_could_not_be_done(code: int | None, stderr: bytes, name: str) -> None:
    status = ExitStatus(code, None if code else 9, "exit", 0.1, 0.0, 0.0, 0, 0)
    error = records.file_error(result(status, b"", stderr, b"", ()), "p")
    assert (error.name, error.path) == (name, "p")
    assert records.tunnel_error(code, stderr, "ended").name == name


@pytest.mark.parametrize("parse", [records.entries, records.matches, records.change, records.written])
@given(data=st.binary() | st.from_regex(rb"([fdx] [0-9 .-]*\0?)*", fullmatch=True))
def test_anything_else_breaks_the_protocol(parse: Callable[[bytes], Any], data: bytes) -> None:
    with contextlib.suppress(ProtocolViolationError):
        parse(data)
