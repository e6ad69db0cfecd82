"""Output and input in quantity, and the windows that bound them."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from sessiond_protocol.guest import (
    NO_MORE_STDIN,
    STDIN_WINDOW,
    Exited,
    Forget,
    Output,
    OutputAck,
    OutputEof,
    Signal,
    Stdin,
    StdinAck,
    StdinClose,
)

from .harness import Guest

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB that do not repeat."""
    path = tmp_path_factory.mktemp("noise") / "noise"
    path.write_bytes(random.Random(1).randbytes(64 * MEBIBYTE))
    return path


def test_64_mebibytes_arrive_byte_for_byte(guest: Guest, noise: Path) -> None:
    run = guest.run("cat", str(noise))
    assert run.length == 64 * MEBIBYTE
    assert hashlib.sha256(run.stdout).digest() == hashlib.sha256(noise.read_bytes()).digest()


def test_both_streams_share_one_space_of_offsets(guest: Guest) -> None:
    run = guest.shell("i=0; while [ $i -lt 300 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done")
    assert run.stdout == b"".join(b"out %d\n" % i for i in range(300))
    assert run.stderr == b"".join(b"err %d\n" % i for i in range(300))
    assert run.length == len(run.stdout) + len(run.stderr) == run.exit.output_bytes


def test_a_full_ring_blocks_the_producer_until_it_is_acknowledged(guest: Guest) -> None:
    assert guest.hello is not None
    ring = guest.hello.ring
    guest.acknowledging = False
    progress = guest.directory / "progress"
    handle = guest.start("sh", "-c", f"head -c {4 * ring} /dev/zero; echo done > {progress}")
    run = guest.runs[handle]
    guest.wait(lambda: run.length == ring)
    assert guest.silence(0.3) == [] and not progress.exists()
    guest.send(OutputAck(handle, 1000))
    guest.wait(lambda: run.length == ring + 1000)
    assert guest.silence(0.3) == []
    while run.length < 4 * ring:
        guest.send(OutputAck(handle, run.length))
        guest.wait(lambda before=run.length: run.length > before)  # type: ignore[misc]
    guest.finish(handle)
    assert progress.exists() and run.stdout == bytes(4 * ring)


def test_the_end_waits_for_what_was_written_before_it(guest: Guest) -> None:
    assert guest.hello is not None
    ring = guest.hello.ring
    guest.acknowledging = False
    handle = guest.start("head", "-c", str(ring + 5000), "/dev/zero")
    run = guest.runs[handle]
    guest.wait(lambda: run.length == ring)
    assert guest.silence(0.3) == [] and not run.exited  # 5000 bytes are still in the pipe
    guest.send(OutputAck(handle, ring))
    guest.finish(handle)
    assert run.length == ring + 5000 == run.exit.output_bytes


def test_changing_streams_all_the_time_blocks_rather_than_grows(guest: Guest) -> None:
    guest.acknowledging = False
    script = "import os\nfor i in range(8000): os.write(1 + i % 2, b'%04d' % i)"
    handle = guest.start(sys.executable, "-c", script)
    run = guest.runs[handle]
    while not run.exited:
        guest.receive()
        guest.send(OutputAck(handle, run.length))
    assert run.stdout == b"".join(b"%04d" % i for i in range(0, 8000, 2))
    assert run.stderr == b"".join(b"%04d" % i for i in range(1, 8000, 2))


def test_endless_output_does_not_keep_others_waiting(guest: Guest) -> None:
    noisy = guest.start("yes")
    guest.wait(lambda: guest.runs[noisy].length > MEBIBYTE)
    for i in range(5):
        assert guest.run("echo", str(i)).stdout == b"%d\n" % i
    guest.send(Signal(noisy, signal.SIGKILL, 1))
    assert guest.finish(noisy).exit.signal == signal.SIGKILL


def test_output_after_the_end_never_keeps_the_end_back(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "yes & exit 7")
    run = guest.finish(handle, forget=False)
    assert run.exit.code == 7
    length = run.length
    guest.wait(lambda: run.length > length + MEBIBYTE)
    guest.send(Forget(handle))
    guest.send(Signal(handle, signal.SIGKILL, 1))
    guest.wait(lambda: run.eof.keys() == {1, 2})


def test_a_command_that_reads_its_own_output_harms_itself_only(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "head -c 100000 /dev/zero & head -c 50000 < /proc/self/fd/1 > /dev/null; wait")
    assert guest.run("echo", "alive").stdout == b"alive\n"
    guest.send(Signal(handle, signal.SIGKILL, 1))
    assert len(guest.finish(handle).exited) == 1


def test_stdin_is_dev_null_unless_it_is_a_pipe(guest: Guest) -> None:
    assert guest.run("cat").stdout == b""
    assert guest.run("readlink", "/proc/self/fd/0").stdout == b"/dev/null\n"


def test_stdin_up_to_its_end(guest: Guest) -> None:
    assert guest.run("cat", stdin=b"").stdout == b""
    assert guest.run("cat", stdin=b"some\0bytes").stdout == b"some\0bytes"


def test_stdin_streams_as_far_as_it_is_acknowledged(guest: Guest) -> None:
    data = random.Random(2).randbytes(5 * MEBIBYTE)
    handle = guest.start("sha256sum", stdin=True)
    sent = acknowledged = 0
    while acknowledged < len(data):
        while sent < min(len(data), acknowledged + STDIN_WINDOW):
            piece = data[sent : min(sent + 100_000, acknowledged + STDIN_WINDOW)]
            guest.send(Stdin(handle, sent, piece))
            sent += len(piece)
        for frame in guest.receive():
            if isinstance(frame, StdinAck):
                assert acknowledged < frame.offset <= sent
                acknowledged = frame.offset
    guest.send(StdinClose(handle, len(data)))
    assert guest.finish(handle).stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_command_that_does_not_read_gets_no_more_than_the_window(guest: Guest) -> None:
    handle = guest.start("sleep", "1000", stdin=True)
    guest.send(Stdin(handle, 0, bytes(STDIN_WINDOW)))
    frames = guest.until(lambda frame: isinstance(frame, StdinAck))
    written = max(frame.offset for frame in frames if isinstance(frame, StdinAck))
    assert 0 < written < STDIN_WINDOW
    guest.send(Stdin(handle, STDIN_WINDOW, bytes(written)))  # exactly what the acknowledgement allows
    assert guest.run("echo", "alive").stdout == b"alive\n"
    guest.send(Signal(handle, signal.SIGKILL))
    guest.finish(handle)


def test_stdin_that_nobody_reads_any_more(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "exec < /dev/null; sleep 1000", stdin=True)
    guest.until(lambda frame: frame == StdinAck(handle, NO_MORE_STDIN))
    guest.send(Stdin(handle, 0, b"too late"), StdinClose(handle, 8))  # may cross the news: no error
    assert guest.run("echo", "alive").stdout == b"alive\n"
    guest.send(Signal(handle, signal.SIGKILL))
    guest.finish(handle)


def test_stdin_of_a_command_that_has_ended_is_ignored(guest: Guest) -> None:
    handle = guest.start("true", stdin=True)
    guest.finish(handle, forget=False)
    guest.send(Stdin(handle, 0, b"x"), StdinClose(handle, 1), Signal(handle, signal.SIGTERM), Forget(handle))
    guest.send(Stdin(handle, 1, b"x"), StdinClose(handle, 2), Signal(handle, 9, 1), Forget(handle))
    assert guest.run("echo", "alive").stdout == b"alive\n"


def test_a_conversation(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "while read line; do echo you said $line; done", stdin=True)
    run = guest.runs[handle]
    offset = 0
    for i in range(50):
        line = b"%d\n" % i
        guest.send(Stdin(handle, offset, line))
        offset += len(line)
        guest.wait(lambda wanted=b"you said %d\n" % i: run.stdout.endswith(wanted))  # type: ignore[misc]
    guest.send(StdinClose(handle, offset))
    assert guest.finish(handle).exit.code == 0


def test_an_early_end_of_a_stream_is_told_on_its_own(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "echo last; exec >&- 2>&-; sleep 1000")
    run = guest.runs[handle]
    guest.wait(lambda: run.eof == {1: 5, 2: 5})
    assert not run.exited
    guest.send(Signal(handle, signal.SIGTERM))
    guest.finish(handle)


def test_memory_is_given_back_when_the_output_is_gone(guest: Guest, binary: Path) -> None:
    if binary.name == "guest-sanitized":
        pytest.skip("the sanitizer's own memory dwarfs the guest's")
    handle = guest.start("sh", "-c", "head -c 20000000 /dev/zero; sleep 1000")
    guest.wait(lambda: guest.runs[handle].length == 20_000_000)
    guest.silence(1.5)

    def private() -> int:
        rollup = Path(f"/proc/{guest.pid}/smaps_rollup").read_text()
        return int(rollup.split("Private_Dirty:")[1].split()[0])

    assert private() < 300
    guest.send(Signal(handle, signal.SIGKILL))
    guest.finish(handle)
    assert private() < 300 or os.getuid() != 0


def test_frames_keep_their_order(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "echo a; echo b >&2; echo c")
    frames = guest.until(lambda frame: isinstance(frame, Exited))
    names = [type(frame).__name__ for frame in frames if frame.command == handle]
    assert names[0] == "Started" and names[-1] == "Exited"
    outputs = [frame for frame in frames if isinstance(frame, Output)]
    assert [frame.offset for frame in outputs] == sorted(frame.offset for frame in outputs)
    for stream, told in ((1, frames[-1].stdout_eof), (2, frames[-1].stderr_eof)):
        own = [type(frame) for frame in frames if isinstance(frame, Output | OutputEof) and frame.stream == stream]
        assert own.count(OutputEof) + told == 1 and (told or own[-1] is OutputEof)
