"""A daemon that breaks the rules loses the connection, and nothing else happens."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator

import pytest
from sessiond_protocol.guest import (
    STDIN_WINDOW,
    Forget,
    GuestError,
    OutputAck,
    Shutdown,
    Signal,
    Started,
    Stdin,
    StdinClose,
    Welcome,
    encode,
)

from .harness import Closed, Guest


def header(length: int, kind: int, *, stream: int = 0, reserved: int = 0, command: int = 0) -> bytes:
    return struct.pack("<IBBHI", length, kind, stream, reserved, command)


def start(payload: bytes) -> bytes:
    return header(len(payload), 0x02, command=9) + payload


def head(*, flags: int = 0, limits: int = 0, zero: int = 0, argc: int = 1, envc: int = 0, zeros: int = 0) -> bytes:
    return struct.pack("<IIIBBHHH", 0, 0, flags, limits, zero, argc, envc, zeros)


def restrict(strings: bytes, *, flags: int = 1, count: int = 1, zero: int = 0) -> bytes:
    payload = struct.pack("<IHH", flags, count, zero) + strings
    return header(len(payload), 0x40) + payload


BAD_FRAMES = {
    "too long": header(262_209, 0x03, command=1),
    "as long as can be": header(2**32 - 1, 0x03, command=1),
    "reserved": header(8, 0x09, reserved=1) + bytes(8),
    "stream": header(8, 0x09, stream=1) + bytes(8),
    "unknown type": header(0, 0x0B),
    "type zero": header(0, 0x00),
    "terminal": header(0, 0x10),
    "a guest's frame": header(0, 0x88),
    "a second welcome": encode(Welcome()),
    "ping for a command": header(8, 0x09, command=1) + bytes(8),
    "forget for the sandbox": header(0, 0x08),
    "ping too short": header(7, 0x09) + bytes(7),
    "ping too long": header(9, 0x09) + bytes(9),
    "forget with a payload": header(1, 0x08, command=1) + b"x",
    "stdin without data": header(8, 0x03, command=1) + bytes(8),
    "start too short": start(bytes(20)),
    "start without a program": start(head(argc=0) + b"/\0"),
    "start with unknown flags": start(head(flags=8) + b"/\0true\0"),
    "start with a reserved byte": start(head(zero=1) + b"/\0true\0"),
    "start with a reserved word": start(head(zeros=1) + b"/\0true\0"),
    "start with fewer strings": start(head(argc=2) + b"/\0true\0"),
    "start with more strings": start(head() + b"/\0true\0more\0"),
    "start with an open string": start(head() + b"/\0true"),
    "start with bytes behind": start(head() + b"/\0true\0x"),
    "start without its rlimits": start(head(limits=3) + b"/\0true\0"),
    "start with a reserved field in an rlimit": start(head(limits=1) + struct.pack("<IIQ", 7, 1, 1) + b"/\0true\0"),
    "restrict too short": header(8, 0x40) + bytes(8),
    "restrict for a command": header(9, 0x40, command=1) + struct.pack("<IHHB", 1, 0, 0, 0),
    "restrict nothing": restrict(b"\0\x01/\0", flags=0),
    "restrict with unknown flags": restrict(b"\0\x01/\0", flags=64),
    "restrict with a reserved word": restrict(b"\0\x01/\0", zero=1),
    "restrict with too many grants": restrict(b"\0" + b"\x01/\0" * 4097, count=4097),
    "restrict with fewer grants": restrict(b"\0\x01/\0", count=2),
    "restrict with more grants": restrict(b"\0\x01/\0\x01/\0"),
    "restrict with an open PATH": restrict(b"/bin", count=0),
    "restrict with an open grant": restrict(b"\0\x01/"),
    "restrict with an access alone": restrict(b"\0\x01"),
    "restrict without an access": restrict(b"\0\0/\0"),
    "restrict with an unknown access": restrict(b"\0\x20/\0"),
    "restrict with a program that is more": restrict(b"\0\x11/\0"),
    "restrict with a relative path": restrict(b"\0\x01etc\0"),
    "restrict with a relative program": restrict(b"\0\x10./x\0"),
    "restrict with a nameless program": restrict(b"\0\x10\0"),
    "start with a nameless variable": start(head(envc=1) + b"/\0true\0NOVALUE\0"),
}


def refused(guest: Guest) -> GuestError:
    """Receive up to the end of the connection and return the reason that was given."""
    reasons: list[GuestError] = []
    with pytest.raises(Closed):
        while True:
            reasons += [frame for frame in guest.receive() if isinstance(frame, GuestError)]
    assert len(reasons) == 1 and reasons[0].text
    return reasons[0]


@pytest.fixture
def alive(guest: Guest) -> Iterator[int]:
    """A command that must outlive whatever the test does."""
    handle = guest.start("sh", "-c", "echo up; exec sleep 1000")
    guest.wait(lambda: guest.runs[handle].length == 3)
    yield handle
    frames = guest.connect()
    assert [frame.command for frame in frames if isinstance(frame, Started)] == [handle]
    assert guest.run("echo", "alive").stdout == b"alive\n"
    guest.send(Signal(handle, signal.SIGKILL))
    guest.finish(handle)


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame(guest: Guest, alive: int, name: str) -> None:
    guest.send_raw(BAD_FRAMES[name])
    refused(guest)


def test_a_frame_cut_short_by_the_end_of_the_connection(guest: Guest, alive: int) -> None:
    guest.send_raw(start(head() + b"/\0touch\0")[:-3])
    guest.hang_up()


def test_a_bad_frame_behind_good_ones_does_not_undo_them(guest: Guest, alive: int) -> None:
    target = guest.directory / "target"
    handle = guest.next_handle
    guest.send_raw(encode(OutputAck(alive, 3)))
    guest.start("touch", str(target))
    guest.send_raw(header(0, 0x7F))
    refused(guest)
    guest.connect()
    guest.finish(handle)
    assert target.exists()


@pytest.mark.parametrize("first", [encode(Shutdown()), encode(Forget(1)), b"GET / HTTP/1.1\r\n\r\n"])
def test_anything_before_the_welcome(guest: Guest, alive: int, first: bytes) -> None:
    guest.hang_up()
    guest.accept()
    guest.send_raw(first)
    refused(guest)


def test_an_acknowledgement_of_what_was_never_sent(guest: Guest, alive: int) -> None:
    guest.send(OutputAck(alive, 4))
    refused(guest)


def test_forgetting_what_still_runs(guest: Guest, alive: int) -> None:
    guest.send(Forget(alive))
    refused(guest)


@pytest.mark.parametrize(("number", "scope"), [(0, 0), (65, 0), (2**32 - 1, 0), (9, 2)])
def test_signals_that_do_not_exist(guest: Guest, alive: int, number: int, scope: int) -> None:
    guest.send(Signal(alive, number, scope))
    refused(guest)


def test_stdin_for_a_command_without(guest: Guest, alive: int) -> None:
    guest.send(Stdin(alive, 0, b"x"))
    refused(guest)


@pytest.mark.parametrize(
    "offences",
    [
        [Stdin(50, 1, b"a hole")],
        [Stdin(50, 2**64 - 1, b"around the end")],
        [Stdin(50, 0, bytes(STDIN_WINDOW)), Stdin(50, STDIN_WINDOW, bytes(STDIN_WINDOW))],
        [StdinClose(50, 1)],
        [Stdin(50, 0, b"abc"), StdinClose(50, 2)],
        [Stdin(50, 0, b"abc"), StdinClose(50, 3), Stdin(50, 3, b"more")],
        [Stdin(50, 0, b"abc"), StdinClose(50, 3), StdinClose(50, 4)],
    ],
)
def test_stdin_against_the_rules(guest: Guest, offences: list[Stdin | StdinClose]) -> None:
    guest.start("sleep", "1000", handle=50, stdin=True)
    guest.until(lambda frame: isinstance(frame, Started))
    guest.send(*offences)
    refused(guest)
    guest.connect()
    guest.send(Signal(50, signal.SIGKILL))
    guest.finish(50)


def test_frames_for_unknown_commands_are_ignored(guest: Guest) -> None:
    guest.send(Forget(77), OutputAck(77, 5), Signal(77, 9), Stdin(77, 0, b"x"), StdinClose(77, 1))
    assert guest.run("echo", "alive").stdout == b"alive\n"


def test_random_bytes(guest: Guest) -> None:
    import random

    chance = random.Random(5)
    for _ in range(30):
        try:
            guest.send_raw(chance.randbytes(chance.randrange(12, 400)))
            refused(guest)
        except BrokenPipeError:
            pass
        guest.connect()
    assert guest.run("echo", "alive").stdout == b"alive\n"
