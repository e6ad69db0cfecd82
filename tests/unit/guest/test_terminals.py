"""Commands on a terminal: its size, its bytes, its signals, its end."""

from __future__ import annotations

import hashlib
import random
import signal
import sys
from pathlib import Path

import pytest
from sessiond_protocol.guest import (
    NO_MORE_STDIN,
    Exited,
    OutputAck,
    OutputEof,
    Resize,
    Start,
    Stdin,
    StdinAck,
    StdinClose,
    encode,
)

from .harness import ENVIRONMENT, Closed, Guest

SIZE = (24, 80)
RAW = "stty raw -echo; echo ready; "
"""From `ready` on the terminal changes no byte."""


class Terminal:
    """A command on a terminal, typed at."""

    def __init__(self, guest: Guest, *argv: str, size: tuple[int, int] = SIZE, **fields: object) -> None:
        self.guest = guest
        self.handle = guest.start(*argv, pty=size, stdin=True, **fields)
        self.run = guest.runs[self.handle]
        self.typed = 0

    def type(self, data: bytes) -> None:
        self.guest.send(Stdin(self.handle, self.typed, data))
        self.typed += len(data)

    def shows(self, text: bytes) -> None:
        self.guest.wait(lambda: text in self.run.stdout)


def descriptors(guest: Guest) -> int:
    return len(list(Path(f"/proc/{guest.pid}/fd").iterdir()))


def test_it_is_the_controlling_terminal_of_the_command(guest: Guest) -> None:
    code = """
import os, termios
assert all(map(os.isatty, (0, 1, 2))) and len({os.ttyname(fd) for fd in (0, 1, 2)}) == 1
assert os.tcgetpgrp(os.open("/dev/tty", os.O_RDWR)) == os.getpgrp() == os.getsid(0) == os.getpid()
assert termios.tcgetattr(0)[0] & 0o40000, "IUTF8"
print(*os.get_terminal_size(), sorted(os.listdir("/proc/self/fd")))
"""
    run = Terminal(guest, sys.executable, "-c", code, size=(50, 132)).run
    guest.wait(lambda: bool(run.exited))
    assert (run.exit.code, run.stderr) == (0, b"")
    assert run.stdout == b"132 50 ['0', '1', '2', '3', '4']\r\n"
    assert run.eof == {1: len(run.stdout)}


def test_a_new_size_is_seen_and_announced(guest: Guest) -> None:
    code = """
import os, signal
print("ready", flush=True)
while True:
    signal.sigwait([signal.SIGWINCH])
    print(*os.get_terminal_size(), flush=True)
"""
    terminal = Terminal(guest, sys.executable, "-c", "import signal; signal.pthread_sigmask(0, [28])\n" + code)
    terminal.shows(b"ready")
    guest.send(Resize(terminal.handle, 30, 100))
    terminal.shows(b"100 30")
    guest.send(Resize(terminal.handle, 65535, 1))
    terminal.shows(b"1 65535")


def test_a_size_for_a_command_without_terminal_changes_nothing(guest: Guest) -> None:
    handle = guest.start("cat", stdin=True)
    guest.send(Resize(handle, 10, 10), StdinClose(handle, 0))
    assert guest.finish(handle).exit.code == 0


@pytest.mark.parametrize("size", [1, 5000, 3_000_000])
def test_raw_bytes_pass_unchanged_both_ways(guest: Guest, size: int) -> None:
    data = random.Random(size).randbytes(size)
    terminal = Terminal(guest, "sh", "-c", RAW + f"exec head -c {size}")
    terminal.shows(b"ready\n")
    for at in range(0, size, 60_000):
        guest.wait(lambda at=at: acknowledged(guest, terminal) + 200_000 > at)  # type: ignore[misc]
        terminal.type(data[at : at + 60_000])
    run = guest.finish(terminal.handle)
    assert hashlib.sha256(run.stdout.partition(b"ready\n")[2]).digest() == hashlib.sha256(data).digest()


def acknowledged(guest: Guest, terminal: Terminal) -> int:
    """How much of what was typed came back: the window is larger than what the kernel keeps."""
    return len(terminal.run.stdout)


def test_input_beyond_what_the_terminal_takes_waits_and_is_not_lost(guest: Guest) -> None:
    data = random.Random(3).randbytes(250_000)
    release = guest.directory / "release"
    script = RAW + f"until [ -e {release} ]; do sleep 0.05; done; head -c {len(data)} | sha256sum"
    terminal = Terminal(guest, "sh", "-c", script)
    terminal.shows(b"ready\n")
    terminal.type(data)
    guest.settled()
    release.touch()
    terminal.shows(hashlib.sha256(data).hexdigest().encode())
    guest.send(StdinClose(terminal.handle, terminal.typed))
    assert guest.finish(terminal.handle).exit.code == 0


def test_ctrl_c_interrupts_what_is_in_the_foreground(guest: Guest) -> None:
    terminal = Terminal(guest, "sh", "-c", "echo ready; exec sleep 100")
    terminal.shows(b"ready")
    terminal.type(b"\x03")
    exited = guest.finish(terminal.handle).exit
    assert (exited.signal, exited.killed) == (signal.SIGINT, False)


def test_job_control(guest: Guest) -> None:
    terminal = Terminal(guest, "bash", "--norc", "--noprofile", "-i", env=(*ENVIRONMENT, b"PS1=% ", b"TERM=dumb"))
    terminal.shows(b"% ")
    terminal.type(b"sleep 1000\n")
    terminal.shows(b"sleep 1000\r\n")
    guest.wait(lambda: foreground(terminal) == "sleep")
    terminal.type(b"\x1a")
    terminal.shows(b"Stopped")
    terminal.type(b"jobs; bg; echo in the back''ground; fg\n")
    terminal.shows(b"in the background")
    guest.wait(lambda: foreground(terminal) == "sleep")
    terminal.type(b"\x03")
    guest.wait(lambda: foreground(terminal) == "bash")
    terminal.type(b"exit $?\n")
    assert guest.finish(terminal.handle).exit.code == 130


def foreground(terminal: Terminal) -> str:
    """The name of the program in the terminal's foreground."""
    pid = terminal.run.started[0].pid
    group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[5]
    try:
        return Path(f"/proc/{group}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def test_closed_input_is_the_end_of_file_character(guest: Guest) -> None:
    terminal = Terminal(guest, "cat")
    terminal.type(b"line\n")
    terminal.shows(b"line\r\nline\r\n")
    guest.send(StdinClose(terminal.handle, terminal.typed))
    assert guest.finish(terminal.handle).exit.code == 0
    assert terminal.run.stdout == b"line\r\nline\r\n"


def test_closed_input_is_the_character_that_the_program_chose(guest: Guest) -> None:
    terminal = Terminal(guest, "sh", "-c", "stty eof ^E -echo; echo ready; cat; stty raw; exec od -An -tx1 -N1")
    terminal.shows(b"ready")
    guest.send(StdinClose(terminal.handle, 0))
    guest.silence(0.2)
    assert not terminal.run.exited, "one character, not a state that lasts"


def test_a_closed_terminal_still_takes_sizes(guest: Guest) -> None:
    terminal = Terminal(guest, "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
    terminal.shows(b"ready")
    guest.send(StdinClose(terminal.handle, 0), Resize(terminal.handle, 7, 9))
    terminal.shows(b"7 9")


@pytest.mark.parametrize("again", range(10))
def test_all_that_was_written_comes_before_the_end(guest: Guest, again: int) -> None:
    run = Terminal(guest, "sh", "-c", "stty -opost; i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done").run
    guest.wait(lambda: bool(run.exited))
    assert run.stdout == b"".join(b"%d\n" % i for i in range(3000))
    assert run.exit.output_bytes == run.length == run.eof[1]


def test_the_end_waits_for_room_for_what_was_written_before_it(guest: Guest) -> None:
    assert guest.hello is not None
    ring = guest.hello.ring
    guest.acknowledging = False
    terminal = Terminal(guest, "sh", "-c", f"stty -opost; head -c {ring + 1000} /dev/zero")
    run = terminal.run
    guest.wait(lambda: run.length == ring)
    guest.silence(0.3)
    assert (run.length, run.exited) == (ring, [])
    guest.send(OutputAck(terminal.handle, ring))
    guest.wait(lambda: bool(run.exited))
    assert run.length == run.exit.output_bytes == ring + 1000


def test_the_end_comes_though_the_ring_is_exactly_full_and_somebody_has_the_terminal_open(guest: Guest) -> None:
    assert guest.hello is not None
    ring = guest.hello.ring
    guest.acknowledging = False
    script = f"stty -opost; (trap '' HUP; exec sleep 60) & head -c {ring} /dev/zero"
    terminal = Terminal(guest, "sh", "-c", script)
    guest.wait(lambda: terminal.run.length == ring)
    guest.silence(0.2)
    guest.send(OutputAck(terminal.handle, ring))
    guest.wait(lambda: bool(terminal.run.exited))


def test_a_terminal_is_hung_up_at_the_end_of_its_command(guest: Guest) -> None:
    witness = guest.directory / "witness"
    code = f"""
import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
print("ready", flush=True)
while True:
    try:
        os.write(1, b".")
    except OSError as error:
        open({str(witness)!r}, "w").write(str(error.errno))
        break
    time.sleep(0.01)
"""
    script = f'{sys.executable} -c "$CODE" & while ! [ -e {guest.directory}/go ]; do sleep 0.01; done; exit 5'
    terminal = Terminal(guest, "sh", "-c", script, env=(*ENVIRONMENT, b"CODE=" + code.encode()))
    terminal.shows(b"ready")
    (guest.directory / "go").touch()
    run = guest.finish(terminal.handle)
    assert run.exit.code == 5
    assert run.eof == {1: run.length}
    guest.wait(witness.exists)
    guest.wait(lambda: witness.read_text() == "5")  # EIO


def test_a_program_that_lets_go_of_its_terminal_loses_it(guest: Guest) -> None:
    terminal = Terminal(guest, "sh", "-c", "exec 0<&- 1>&- 2>&-; exec sleep 60")
    assert guest.finish(terminal.handle).exit.signal == signal.SIGHUP
    assert terminal.run.eof == {1: 0}


def test_what_is_typed_after_the_end_is_refused_gently(guest: Guest) -> None:
    terminal = Terminal(guest, "true")
    guest.wait(lambda: bool(terminal.run.exited))
    terminal.type(b"too late")
    guest.settled()
    assert guest.run("true").exit.code == 0


def test_a_terminal_goes_on_through_a_redial(guest: Guest) -> None:
    terminal = Terminal(guest, "sh", "-c", RAW + "exec cat")
    terminal.shows(b"ready\n")
    terminal.type(b"before ")
    terminal.shows(b"before ")
    guest.send(OutputAck(terminal.handle, 0))
    guest.hang_up()
    frames = guest.connect()
    acks = [frame.offset for frame in frames if isinstance(frame, StdinAck)]
    assert acks == [terminal.typed]
    terminal.type(b"after")
    terminal.shows(b"before after")


def test_its_end_is_told_after_a_redial(guest: Guest) -> None:
    terminal = Terminal(guest, "sh", "-c", "echo bye; exit 4")
    guest.wait(lambda: bool(terminal.run.exited))
    guest.hang_up()
    frames = guest.connect()
    assert [frame.code for frame in frames if isinstance(frame, Exited)] == [4]
    assert [frame.offset for frame in frames if isinstance(frame, StdinAck)] == [NO_MORE_STDIN]
    ends = [isinstance(frame, OutputEof) or (isinstance(frame, Exited) and frame.stdout_eof) for frame in frames]
    assert sum(ends) == 1


def test_terminals_leave_no_descriptor_behind(guest: Guest) -> None:
    before = descriptors(guest)
    for script in ("true", "echo output", "cat < /dev/tty", "exec 0<&-; exit 3"):
        terminal = Terminal(guest, "sh", "-c", script)
        terminal.type(b"x\n")
        guest.send(StdinClose(terminal.handle, terminal.typed))
        guest.finish(terminal.handle)
    guest.settled()
    assert descriptors(guest) == before


def test_a_program_that_cannot_be_run_leaves_no_terminal(guest: Guest) -> None:
    before = descriptors(guest)
    handle = guest.start("/nonexistent", pty=SIZE, stdin=True)
    assert [frame.stage for frame in guest.finish(handle).failed] == [6]
    guest.settled()
    assert descriptors(guest) == before


@pytest.mark.parametrize("flags", [4 | 2, 8])
def test_a_terminal_with_stderr_elsewhere_breaks_the_protocol(guest: Guest, flags: int) -> None:
    frame = bytearray(encode(Start(command=1, argv=(b"true",), cwd=b"/", pty=SIZE)))
    frame[12 + 8] = flags
    guest.send_raw(bytes(frame))
    with pytest.raises(Closed):
        guest.until(lambda frame: False)


def test_a_start_that_ends_before_its_size_breaks_the_protocol(guest: Guest) -> None:
    frame = bytearray(encode(Start(command=1, argv=(b"t",), cwd=b"")))
    frame[12 + 8] = 4
    frame[0:4] = (20 + 3).to_bytes(4, "little")
    guest.send_raw(bytes(frame[: 12 + 23]))
    with pytest.raises(Closed):
        guest.until(lambda frame: False)
