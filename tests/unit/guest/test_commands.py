"""One command's life: how it starts, what it sees, how it ends."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from sessiond_protocol.guest import (
    STAGE_COMMANDS,
    STAGE_CWD,
    STAGE_EXEC,
    STAGE_RLIMIT,
    Exited,
    Failed,
    Forget,
    Signal,
    Start,
    Started,
    encode,
)

from .harness import ENVIRONMENT, Guest, Run

RLIMIT_FSIZE, RLIMIT_NOFILE = 1, 7


def test_a_command_starts_writes_and_exits(guest: Guest) -> None:
    run = guest.shell("echo out; echo err >&2; exit 3")
    assert len(run.started) == 1 and run.started[0].pid > 1
    assert (run.stdout, run.stderr) == (b"out\n", b"err\n")
    assert (run.exit.code, run.exit.signal, run.exit.output_bytes) == (3, 0, 8)
    assert run.eof.keys() == {1, 2} and max(run.eof.values()) == 8
    assert not (run.exit.timed_out or run.exit.oom or run.exit.killed)


def test_the_end_of_a_command_comes_in_one_piece(guest: Guest) -> None:
    guest.start("true")
    frames = guest.until(lambda frame: isinstance(frame, Exited))
    assert [type(frame) for frame in frames] == [Started, Exited]
    assert frames[-1].stdout_eof and frames[-1].stderr_eof


def test_a_command_that_dies_of_a_signal_says_which(guest: Guest) -> None:
    run = guest.shell("kill -SEGV $$")
    assert (run.exit.code, run.exit.signal, run.exit.killed) == (0, signal.SIGSEGV, False)


def test_time_and_memory_are_accounted(guest: Guest) -> None:
    run = guest.shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.2")
    assert run.exit.wall_ns >= 200_000_000
    assert 0 < run.exit.user_us < run.exit.wall_ns / 1000
    assert run.exit.max_rss_kib > 100


def test_the_environment_is_exactly_what_was_said_and_the_mark(guest: Guest) -> None:
    run = guest.run("/usr/bin/env", "-0", env=(b"A=1", b"B=x y=z", b"SESSIOND_COMMAND=77", b"C="), handle=5)
    assert run.stdout.split(b"\0") == [b"SESSIOND_COMMAND=5", b"A=1", b"B=x y=z", b"C=", b""]


def test_arguments_arrive_byte_for_byte(guest: Guest) -> None:
    words = [b"", b"two words", b"\xff\xfe", "snowman ☃".encode(), b"$HOME `id`\n"]
    run = guest.run("printf", "%s|", *words)
    assert run.stdout == b"".join(word + b"|" for word in words)


def test_as_many_arguments_as_a_frame_holds(guest: Guest) -> None:
    run = guest.run("sh", "-c", 'echo $# "$60000"', "sh", *["x"] * 60000)
    assert run.exit.code == 0 and run.stdout.startswith(b"60000 ")


def test_a_program_is_looked_for_along_the_path_of_its_own_environment(guest: Guest) -> None:
    tools = guest.directory / "tools"
    tools.mkdir()
    (tools / "hello").write_text("#!/bin/sh\necho found\n")
    (tools / "hello").chmod(0o755)
    assert guest.run("hello", env=(f"PATH=/nonexistent:{tools}:/bin".encode(),)).stdout == b"found\n"
    assert guest.run("hello").failed[0].errno == errno.ENOENT


@pytest.mark.parametrize(
    ("program", "reason"),
    [("no-such-program", errno.ENOENT), ("/etc/passwd", errno.EACCES), ("", errno.ENOENT), ("/", errno.EACCES)],
)
def test_a_program_that_cannot_be_executed(guest: Guest, program: str, reason: int) -> None:
    run = guest.run(program)
    assert [(frame.errno, frame.stage) for frame in run.failed] == [(reason, STAGE_EXEC)]
    assert not run.exited and not run.started


def test_a_script_without_a_shebang_is_not_guessed_at(guest: Guest) -> None:
    script = guest.directory / "script"
    script.write_text("echo hi\n")
    script.chmod(0o755)
    assert guest.run(str(script)).failed[0].errno == errno.ENOEXEC


def test_a_relative_program_is_taken_from_the_working_directory(guest: Guest) -> None:
    script = guest.directory / "script"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o755)
    assert guest.run("./script", cwd=str(guest.directory).encode()).stdout == bytes(guest.directory) + b"\n"


@pytest.mark.parametrize("cwd", [b"/no/such/directory", b"", b"/etc/passwd", b"/proc/self/fd/7", b"/proc/self/fd/3"])
def test_a_working_directory_that_cannot_be_entered(guest: Guest, cwd: bytes) -> None:
    run = guest.run("pwd", cwd=cwd)
    assert [frame.stage for frame in run.failed] == [STAGE_CWD]
    assert not run.exited


def test_a_command_has_no_descriptors_but_its_own(guest: Guest) -> None:
    run = guest.run("ls", "/proc/self/fd")
    assert run.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is the directory that ls reads


def test_a_command_has_the_default_signals_and_a_session_of_its_own(guest: Guest) -> None:
    run = guest.run("grep", "-E", "^(SigBlk|SigIgn):", "/proc/self/status")
    assert {line.split()[1] for line in run.stdout.splitlines()} == {b"0" * 16}
    run = guest.run("cat", "/proc/self/stat")
    group, session = run.stdout.split(b") ")[1].split()[2:4]
    assert int(group) == int(session) == run.started[0].pid
    assert guest.shell("umask").stdout == b"0022\n"


def test_limits_hold_and_cannot_be_raised(guest: Guest) -> None:
    run = guest.shell("ulimit -n; ulimit -Hn", rlimits=((RLIMIT_NOFILE, 64),))
    assert run.stdout == b"64\n64\n"
    target = guest.directory / "big"
    run = guest.shell(f"head -c 100000 /dev/zero > {target}", rlimits=((RLIMIT_FSIZE, 4096),))
    assert run.exit.code != 0 and target.stat().st_size == 4096


def test_a_limit_that_does_not_exist(guest: Guest) -> None:
    run = guest.run("true", rlimits=((99, 1),))
    assert [(frame.errno, frame.stage) for frame in run.failed] == [(errno.EINVAL, STAGE_RLIMIT)]


def test_stderr_into_stdouts_pipe(guest: Guest) -> None:
    run = guest.shell("echo one; echo two >&2; echo three", merge_stderr=True)
    assert run.stdout == b"one\ntwo\nthree\n"
    assert run.eof == {1: 14}


def test_start_twice_runs_once(guest: Guest) -> None:
    counter = guest.directory / "counter"
    script = f"echo x >> {counter}; echo done"
    guest.acknowledging = False
    handle = guest.start("sh", "-c", script)
    guest.finish(handle, forget=False)
    frames = guest.send(Start(command=handle, argv=(b"sh", b"-c", script.encode()), cwd=b"/", env=ENVIRONMENT))
    frames = guest.until(lambda frame: isinstance(frame, Exited))
    assert [type(frame).__name__ for frame in frames] == ["Started", "Output", "Exited"]
    assert guest.runs[handle].stdout == b"done\n"
    assert counter.read_text() == "x\n"


def test_two_starts_in_one_write_run_once(guest: Guest) -> None:
    counter = guest.directory / "counter"
    script = f"echo x >> {counter}; sleep 0.2"
    start = encode(Start(command=1, argv=(b"sh", b"-c", script.encode()), cwd=b"/", env=ENVIRONMENT))
    guest.runs[1] = Run()
    guest.send_raw(start + start)
    guest.finish(1)
    guest.settled()
    assert counter.read_text() == "x\n"


def test_a_forgotten_command_is_not_named_again(guest: Guest) -> None:
    guest.run("true")
    run = guest.run("no-such-program")
    assert run.failed
    guest.settled()
    guest.hang_up()
    assert [type(frame).__name__ for frame in guest.connect()] == ["Synced"]


def test_an_end_is_said_after_each_redial_until_it_is_forgotten(guest: Guest) -> None:
    ended = guest.start("false")
    guest.finish(ended, forget=False)
    failed = guest.start("no-such-program")
    guest.finish(failed, forget=False)
    for _ in range(3):
        guest.hang_up()
        frames = guest.connect()
        assert [type(frame).__name__ for frame in frames] == [
            *("Started", "Exited"),
            "Failed",
            "Synced",
        ]
    guest.send(Forget(ended), Forget(failed))
    guest.settled()
    guest.hang_up()
    assert [type(frame).__name__ for frame in guest.connect()] == ["Synced"]


def test_commands_run_side_by_side(guest: Guest) -> None:
    handles = [guest.start("sh", "-c", f"sleep 0.1; echo {i}; exit {i}") for i in range(20)]
    for i, handle in enumerate(handles):
        run = guest.finish(handle)
        assert (run.stdout, run.exit.code) == (f"{i}\n".encode(), i)


def test_a_command_too_many_is_refused_and_the_others_go_on(guest: Guest) -> None:
    assert guest.hello is not None
    most = guest.hello.commands
    handles = [guest.start("no-such-program") for _ in range(most - 1)]
    sleeper = guest.start("sleep", "1000")
    extra = guest.start("true")
    guest.wait(lambda: bool(guest.runs[extra].failed))
    assert guest.runs[extra].failed == [Failed(extra, errno.EAGAIN, STAGE_COMMANDS)]
    guest.send(*(Forget(handle) for handle in handles))
    assert guest.run("echo", "room again").stdout == b"room again\n"
    guest.send(Signal(sleeper, signal.SIGKILL))
    assert guest.finish(sleeper).exit.killed


def test_a_child_in_the_background_holds_the_pipe(guest: Guest) -> None:
    fifo = guest.directory / "fifo"
    os.mkfifo(fifo)
    handle = guest.start("sh", "-c", f"echo early; (read go < {fifo}; echo late) & exit 0")
    run = guest.finish(handle, forget=False)
    assert run.stdout == b"early\n" and run.eof == {}
    guest.send(Forget(handle))
    guest.settled()
    fifo.write_text("go\n")
    guest.wait(lambda: run.eof.keys() == {1, 2})
    assert run.stdout == b"early\nlate\n"
    guest.settled()
    guest.hang_up()
    assert [type(frame).__name__ for frame in guest.connect()] == ["Synced"]


def test_the_floor_is_measured(binary: Path) -> None:
    import json
    import subprocess

    done = subprocess.run([binary, "floor", "5", "/bin/true"], capture_output=True, check=True, text=True)
    measured = json.loads(done.stdout)
    assert measured["count"] == 5
    assert 0 < measured["min_ns"] <= measured["p50_ns"] <= measured["p99_ns"]
