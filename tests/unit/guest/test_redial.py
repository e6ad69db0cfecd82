"""Connections end anywhere, and the daemon with them: nothing is lost, and what comes twice can be told apart."""

from __future__ import annotations

import contextlib
import random
import signal
import time

import pytest
from sessiond_protocol.guest import (
    STDIN_WINDOW,
    Exited,
    Forget,
    Hello,
    Output,
    OutputAck,
    Signal,
    Started,
    Stdin,
    StdinAck,
    StdinClose,
    Synced,
    Welcome,
    encode,
)

from .harness import Guest

REPLY = 20 + (20 + 4) + (20 + 4) + 68
"""Bytes that the guest at least says of the command below: STARTED, two OUTPUTs, EXITED."""


def read_exactly(guest: Guest, size: int) -> bytes:
    assert guest.connection is not None
    data = b""
    while len(data) < size:
        data += guest.connection.recv(size - len(data))
    return data


def test_a_connection_cut_at_every_byte_of_a_reply(guest: Guest) -> None:
    for cut in range(REPLY + 1):
        handle = guest.start("sh", "-c", "printf out1; sleep 0.002; printf err2 >&2; exit 5")
        raw = read_exactly(guest, cut)
        assert len(raw) == cut
        guest.hang_up()
        frames = guest.connect()
        assert isinstance(frames[0], Started) and isinstance(frames[-1], Synced)
        run = guest.finish(handle)
        assert (run.stdout, run.stderr, run.exit.code) == (b"out1", b"err2", 5)
        guest.settled()


def test_cuts_in_the_middle_of_a_stream(guest: Guest) -> None:
    expected = b"".join(b"%d\n" % i for i in range(1, 400_001))
    chance = random.Random(3)
    handle = guest.start("seq", "400000")
    for _ in range(25):
        guest.acknowledging = chance.random() < 0.5
        for _ in range(chance.randrange(6)):
            guest.receive(0.01)
        # Bytes that are read off the socket but never become frames are as good as never sent.
        assert guest.connection is not None
        guest.connection.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            guest.connection.recv(chance.randrange(1, 100_000))
        guest.hang_up()
        guest.connect()
    guest.acknowledging = True
    guest.send(OutputAck(handle, guest.runs[handle].length))
    run = guest.finish(handle)
    assert run.stdout == expected


def test_a_daemon_that_starts_afresh_gets_all_that_was_not_acknowledged(guest: Guest) -> None:
    guest.acknowledging = False
    handle = guest.start("sh", "-c", "printf 0123456789")
    guest.finish(handle, forget=False)
    guest.send(OutputAck(handle, 4))
    guest.settled()
    guest.hang_up()
    frames = guest.connect()
    assert [(frame.offset, frame.data) for frame in frames if isinstance(frame, Output)] == [(4, b"456789")]


def test_an_acknowledgement_may_overtake_the_replay(guest: Guest) -> None:
    guest.acknowledging = False
    handle = guest.start("head", "-c", "900000", "/dev/zero")
    guest.finish(handle, forget=False)
    guest.hang_up()
    guest.accept()
    guest.until(lambda frame: isinstance(frame, Hello))
    guest.send(Welcome(), OutputAck(handle, 900_000), Forget(handle))
    guest.until(lambda frame: isinstance(frame, Synced))
    assert guest.run("echo", "alive").stdout == b"alive\n"


def test_commands_run_on_while_nobody_listens(guest: Guest) -> None:
    done = guest.directory / "done"
    handle = guest.start("sh", "-c", f"sleep 0.3; echo meanwhile; echo > {done}; exit 9")
    guest.until(lambda frame: isinstance(frame, Started))
    guest.hang_up()
    while not done.exists():
        time.sleep(0.02)
    guest.connect()
    run = guest.finish(handle)
    assert (run.stdout, run.exit.code) == (b"meanwhile\n", 9)


def test_the_replay_names_the_oldest_first(guest: Guest) -> None:
    handles = [guest.start("sh", "-c", "echo x; sleep 1000") for _ in range(6)]
    guest.wait(lambda: all(guest.runs[handle].length for handle in handles))
    guest.hang_up()
    frames = guest.connect()
    assert [frame.command for frame in frames if isinstance(frame, Started)] == handles
    guest.send(*(Signal(handle, signal.SIGKILL) for handle in handles))
    for handle in handles:
        guest.finish(handle)


def test_the_replay_ends_though_a_command_never_stops_writing(guest: Guest) -> None:
    noisy, other = guest.start("yes"), guest.start("sleep", "1000")
    for _ in range(3):
        guest.wait(lambda length=guest.runs[noisy].length: guest.runs[noisy].length > length)  # type: ignore[misc]
        guest.hang_up()
        frames = guest.connect()
        assert {frame.command for frame in frames if isinstance(frame, Started)} == {noisy, other}
        guest.send(OutputAck(noisy, guest.runs[noisy].length))
    guest.send(Signal(noisy, signal.SIGKILL), Signal(other, signal.SIGKILL))
    guest.finish(noisy)
    guest.finish(other)


def test_a_life_is_told_by_its_boot_id(guest: Guest) -> None:
    assert guest.hello is not None
    boot = guest.hello.boot
    guest.hang_up()
    guest.connect()
    assert guest.hello.boot == boot != bytes(16)


def test_stdin_goes_on_where_it_was(guest: Guest) -> None:
    data = random.Random(4).randbytes(200_000)
    handle = guest.start("cat", stdin=True)
    guest.send(Stdin(handle, 0, data[:120_000]))
    guest.wait(lambda: guest.runs[handle].length > 50_000)
    guest.hang_up()
    frames = guest.connect()
    offsets = [frame.offset for frame in frames if isinstance(frame, StdinAck)]
    assert len(offsets) == 1 and 0 < offsets[0] <= 120_000
    guest.send(OutputAck(handle, guest.runs[handle].length))
    # A daemon repeats what was not acknowledged; the guest drops the part that it has.
    guest.send(Stdin(handle, offsets[0] - 10, data[offsets[0] - 10 :]), StdinClose(handle, len(data)))
    assert guest.finish(handle).stdout == data


def test_stdin_that_went_in_before_the_cut_is_confirmed_after_it(guest: Guest) -> None:
    handle = guest.start("cat", stdin=True)
    guest.send(Stdin(handle, 0, b"whole"), StdinClose(handle, 5))
    guest.finish(handle, forget=False)
    guest.hang_up()
    assert StdinAck(handle, 5) in guest.connect()
    guest.send(Stdin(handle, 0, b"whole"), StdinClose(handle, 5), Forget(handle))
    guest.settled()


def test_a_daemon_that_stops_reading_delays_only_itself(guest: Guest) -> None:
    handle = guest.start("head", "-c", str(STDIN_WINDOW * 2), "/dev/zero")
    time.sleep(0.2)
    guest.send(*(Signal(handle, signal.SIGCONT) for _ in range(100)))
    run = guest.finish(handle)
    assert run.length == STDIN_WINDOW * 2


def test_a_flood_of_pings_is_answered_without_growing(guest: Guest) -> None:
    from sessiond_protocol.guest import Ping, Pong

    assert guest.connection is not None
    count, answered = 40_000, 0
    flood = b"".join(encode(Ping(i)) for i in range(count))
    guest.connection.setblocking(False)
    while answered < count:
        try:
            sent = guest.connection.send(flood[:100_000])
            flood = flood[sent:]
        except BlockingIOError:
            pass
        for frame in guest.receive(0.01) if answered < count else []:
            assert frame == Pong(answered)
            answered += 1


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_a_version_that_the_guest_does_not_know_makes_it_redial(guest: Guest, version: int) -> None:
    guest.hang_up()
    guest.accept()
    guest.send(Welcome(version))
    guest.connect()
    assert guest.run("echo", "alive").stdout == b"alive\n"


def test_the_end_of_a_lost_daemons_command_is_kept(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "exit 4")
    guest.hang_up()
    frames = guest.connect()
    if not guest.runs[handle].exited:
        frames += guest.until(lambda frame: isinstance(frame, Exited))
    assert guest.runs[handle].exit.code == 4
