"""Signals, timeouts, and trees of processes that do not want to go."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sessiond_protocol.guest import Forget, Goodbye, Shutdown, Signal, Synced

from .harness import DEADLINE, Guest

RLIMIT_NPROC = 6

ESCAPES = {
    "a child": "sleep 1000 & echo $!; wait",
    "its own group": "set -m; sleep 1000 & echo $!; wait",
    "its own session": "setsid sleep 1000 & sleep 0.1; pgrep -n -x sleep; wait",
    "an orphan": "(sleep 1000 & echo $!); wait; exec sleep 999",
    "an orphan in its own session": "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 999",
    "deaf to TERM": "(trap '' TERM HUP INT; setsid sh -c 'echo $$; while :; do sleep 1; done' &); exec sleep 999",
    "without a mark": "env -i /bin/sh -c 'echo $$; exec sleep 1000' & wait",
}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(holds: Callable[[], bool], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def first_line(guest: Guest, handle: int) -> int:
    guest.wait(lambda: b"\n" in guest.runs[handle].stdout)
    return int(guest.runs[handle].stdout.split()[0])


def test_a_signal_for_the_group(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "trap 'echo got it; exit 6' USR1; echo up; while :; do sleep 0.01; done")
    guest.wait(lambda: guest.runs[handle].stdout == b"up\n")
    guest.send(Signal(handle, signal.SIGUSR1))
    run = guest.finish(handle)
    assert run.stdout == b"up\ngot it\n"
    assert (run.exit.code, run.exit.killed) == (6, False)


def test_a_kill_on_request_says_so(guest: Guest) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        handle = guest.start("sleep", "1000")
        guest.send(Signal(handle, number))
        record = guest.finish(handle).exit
        assert (record.signal, record.killed, record.timed_out) == (number, True, False)


def test_a_timeout_asks_first(guest: Guest) -> None:
    run = guest.shell("trap 'echo asked; exit 3' TERM; while :; do sleep 0.01; done", timeout_ms=100, grace_ms=60_000)
    assert run.stdout == b"asked\n"
    assert (run.exit.code, run.exit.timed_out, run.exit.killed) == (3, True, False)


def test_a_timeout_kills_what_does_not_listen(guest: Guest) -> None:
    run = guest.shell("trap '' TERM; echo $$; while :; do sleep 0.01; done", timeout_ms=100, grace_ms=100)
    assert (run.exit.signal, run.exit.timed_out, run.exit.killed) == (signal.SIGKILL, True, False)


def test_a_timeout_without_grace(guest: Guest) -> None:
    run = guest.run("sleep", "1000", timeout_ms=50)
    assert run.exit.timed_out and run.exit.signal in (signal.SIGTERM, signal.SIGKILL)


def test_a_timeout_reaches_what_the_command_left_behind(guest: Guest) -> None:
    handle = guest.start(
        "sh", "-c", "(trap '' TERM; echo $$; while :; do sleep 1; done) & wait", timeout_ms=200, grace_ms=200
    )
    run = guest.finish(handle, forget=False)
    assert run.exit.timed_out
    guest.send(Forget(handle))
    guest.wait(lambda: run.eof.keys() == {1, 2})  # the pipe's last holder is dead


def test_a_timeout_that_is_not_reached_changes_nothing(guest: Guest) -> None:
    run = guest.run("true", timeout_ms=60_000, grace_ms=1000)
    assert (run.exit.code, run.exit.timed_out) == (0, False)


@pytest.mark.parametrize("name", ESCAPES)
def test_the_whole_tree_is_killed(guest: Guest, name: str) -> None:
    handle = guest.start("sh", "-c", ESCAPES[name])
    pid = first_line(guest, handle)
    assert not gone(pid)
    bystander = guest.start("sleep", "1000")
    guest.send(Signal(handle, signal.SIGKILL, 1))
    assert guest.finish(handle).exit.signal == signal.SIGKILL
    eventually(lambda: gone(pid))
    guest.settled()
    assert not guest.runs[bystander].exited
    guest.send(Signal(bystander, signal.SIGKILL, 1))
    guest.finish(bystander)


def test_what_an_ended_command_left_behind_can_still_be_killed(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "setsid sleep 1000 & echo $!; exit 0")
    pid = first_line(guest, handle)
    run = guest.finish(handle, forget=False)
    assert not gone(pid)
    guest.send(Signal(handle, signal.SIGKILL, 1))
    guest.wait(lambda: run.eof.keys() == {1, 2})
    assert gone(pid)
    guest.send(Forget(handle))


def test_a_signal_for_the_tree_that_does_not_kill(guest: Guest) -> None:
    wait = "while :; do sleep 0.01; done"
    inner = f"trap 'echo inner; exit' USR1; echo up; {wait}"
    handle = guest.start("sh", "-c", f'trap "echo outer" USR1; setsid sh -c "{inner}" & {wait}')
    run = guest.runs[handle]
    guest.wait(lambda: run.stdout == b"up\n")
    guest.send(Signal(handle, signal.SIGUSR1, 1))
    guest.wait(lambda: b"outer" in run.stdout and b"inner" in run.stdout)
    guest.send(Signal(handle, signal.SIGKILL, 1))
    guest.finish(handle)


def test_a_fork_bomb_is_killed(init: Guest) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; while :; do :; done"
    handle = init.start("sh", "-c", bomb, rlimits=((RLIMIT_NPROC, 60),))
    time.sleep(0.3)
    init.send(Signal(handle, signal.SIGKILL, 1))
    init.finish(handle)
    init.wait(lambda: init.runs[handle].eof.keys() == {1, 2})
    assert init.run("sh", "-c", "ls -d /proc/[0-9]* | wc -l").stdout.strip() in (b"3", b"4")


def test_zombies_are_reaped_within_a_second(init: Guest) -> None:
    init.shell("i=0; while [ $i -lt 50 ]; do (sleep 0.0$i & exit 0); i=$((i+1)); done")
    time.sleep(1)
    assert init.shell("cat /proc/[0-9]*/stat | grep -c ') Z'").stdout == b"0\n"


def test_a_command_cannot_harm_pid_one(init: Guest) -> None:
    run = init.shell("for s in STOP TERM INT HUP USR1 CHLD PIPE SEGV KILL; do kill -$s 1; done; echo tried")
    assert run.stdout == b"tried\n"
    run = init.shell("kill -9 -1; echo still here")
    assert init.run("echo", "alive").stdout == b"alive\n"
    assert not init.shell("grep State /proc/1/status").stdout.startswith(b"State:\tT")


def test_a_command_cannot_look_into_pid_one(init: Guest) -> None:
    run = init.shell("ls /proc/1/fd; cat /proc/1/environ /proc/1/maps; readlink /proc/1/exe; echo x > /proc/1/mem")
    assert run.stdout == b""
    assert run.stderr.count(b"ermission denied") >= 4
    run = init.run("pwd", cwd=b"/proc/1/cwd")
    assert run.failed


def test_kill_minus_one_of_a_command_reports_signal_nine(init: Guest) -> None:
    other = init.start("sleep", "1000")
    init.shell("kill -9 -1")
    record = init.finish(other).exit
    assert (record.signal, record.killed) == (signal.SIGKILL, False)


def test_shutdown_kills_everything_and_says_goodbye(init: Guest) -> None:
    init.start("sh", "-c", "trap '' TERM; (setsid sleep 1000 &); while :; do sleep 1; done")
    init.settled()
    init.send(Shutdown())
    init.until(lambda frame: isinstance(frame, Goodbye))
    assert init.process.wait(DEADLINE) == 0


def test_shutdown_of_an_ordinary_process_kills_its_own_and_nobody_else(guest: Guest) -> None:
    handle = guest.start("sh", "-c", "(setsid env -i /bin/sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000")
    pid = first_line(guest, handle)
    guest.send(Shutdown())
    guest.until(lambda frame: isinstance(frame, Goodbye))
    assert guest.process.wait(DEADLINE) == 0
    eventually(lambda: gone(pid))


def test_a_term_from_the_runtime_ends_it_quickly(init: Guest) -> None:
    init.start("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    init.settled()
    os.kill(init.pid, signal.SIGTERM)
    assert init.process.wait(DEADLINE) == 0


def test_it_is_undumpable(guest: Guest) -> None:
    assert Path(f"/proc/{guest.pid}/fd").stat().st_uid == 0
    status = Path(f"/proc/{guest.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status


def test_it_waits_for_a_daemon_without_spinning(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.hang_up()
    guest.listener.close()
    before = cpu_ticks(guest.pid)
    time.sleep(1)
    assert cpu_ticks(guest.pid) - before <= 10
    with contextlib.suppress(FileNotFoundError):
        guest.path.unlink()
    import socket

    guest.listener = socket.socket(socket.AF_UNIX)
    guest.listener.bind(str(guest.path))
    guest.listener.listen()
    guest.listener.settimeout(DEADLINE)
    assert any(isinstance(frame, Synced) for frame in guest.connect())


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
