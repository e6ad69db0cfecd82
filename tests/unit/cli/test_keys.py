"""The detach key and the terminal's modes, however bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.cli.keys import Keys, Modes

KEYS = st.lists(st.sampled_from([b"\x1d", b"d", b"a", b"\x03", b"\xc3\xa9"]), max_size=20).map(b"".join)


def fed(pieces: list[bytes]) -> tuple[bytes, bool]:
    """All that passes, up to the detach key."""
    keys, passed = Keys(), b""
    for piece in pieces:
        more, detach = keys.feed(piece)
        passed += more
        if detach:
            return passed, True
    return passed, False


@pytest.mark.parametrize(
    ("typed", "passed", "detach"),
    [
        (b"plain \x03\x1a\x04\x00\xff", b"plain \x03\x1a\x04\x00\xff", False),
        (b"before\x1ddafter", b"before", True),
        (b"\x1d\x1d", b"\x1d", False),
        (b"\x1d\x1d\x1dd", b"\x1d", True),
        (b"\x1d\x1dd", b"\x1dd", False),
        (b"\x1dx", b"\x1dx", False),
        (b"d\x1d", b"d", False),
    ],
)
def test_keys(typed: bytes, passed: bytes, detach: bool) -> None:
    assert fed([typed]) == (passed, detach)


@given(KEYS)
def test_it_does_not_matter_where_keys_are_cut(typed: bytes) -> None:
    assert fed([typed]) == fed([typed[at : at + 1] for at in range(len(typed))])


def undone(*pieces: bytes) -> bytes:
    modes = Modes()
    for piece in pieces:
        modes.feed(piece)
    return modes.undo()


def test_modes_that_are_on_are_turned_off_the_screen_first() -> None:
    assert undone(b"\x1b[?25l\x1b[?2004h text \x1b[?1049h") == b"\x1b[?1049l\x1b[?2004l\x1b[?25h\x1b>\x1b[0m"


def test_what_the_program_undid_itself_is_left_alone() -> None:
    assert undone(b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l") == b"\x1b>\x1b[0m"


def test_several_modes_in_one_sequence() -> None:
    assert undone(b"\x1b[?1000;1006h") == b"\x1b[?1000l\x1b[?1006l\x1b>\x1b[0m"


@given(st.integers(0, 16))
def test_it_does_not_matter_where_output_is_cut(at: int) -> None:
    output = b"a\x1b[?1049h\x1b[?1l"
    assert undone(output[:at], output[at:]) == undone(output)


@given(st.lists(st.binary(max_size=50)))
def test_any_output_is_harmless(pieces: list[bytes]) -> None:
    undone(*pieces)
