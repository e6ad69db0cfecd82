"""What users of other sandboxes complain of, a test each, named after where it was reported."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sessiond_client import (
    Client,
    CommandError,
    CommandLostError,
    ConnectionLostError,
    Output,
    Session,
    connect,
)

from tests.daemon import UNDEBUGGED, DaemonProcess, eventually, python, running

DAEMONS = """
import os, sys, time
mark = sys.argv[1]
def sleeper(*steps):
    if os.fork() == 0:
        for step in steps:
            step()
        os.execvp("python3", ["python3", "-c", "import time; time.sleep(3600)", mark])
def again():
    if os.fork():
        os._exit(0)
sleeper()
sleeper(os.setsid)
sleeper(os.setpgrp)
sleeper(again, os.setsid, again)
sleeper(os.setsid, again, again, lambda: os.chdir("/"), lambda: os.closerange(0, 9))
print("ready", flush=True)
time.sleep(3600)
"""


async def sandbox_of(session: Session) -> str:
    """Which sandbox a session has: its host name."""
    return (await session.run(["cat", "/proc/sys/kernel/hostname"])).stdout.decode().strip()


async def start_daemons(session: Session, mark: str) -> object:
    command = await session.start(python(DAEMONS, mark))
    piece = await command.next()
    assert isinstance(piece, Output)
    assert piece.data == b"ready\n"
    await eventually("five descendants run", lambda: len(running(mark)) == 6)
    return command


@pytest.mark.parametrize("how", ["kill", "timeout", "close"])
async def test_killing_a_command_kills_its_descendants_e2b_1031_1034(client: Client, how: str) -> None:
    """Those that called setsid and forked twice as well, and before the end of the command is told."""
    session = await client.open("open")
    mark = f"mark-{session.id}"
    if how == "timeout":
        result = await session.run(python(DAEMONS, mark), timeout=2.0, grace=0.2)
        assert result.timed_out
        assert result.stdout == b"ready\n"
    else:
        command = await start_daemons(session, mark)
        if how == "kill":
            await command.kill()  # type: ignore[attr-defined]
            assert (await command.wait()).cause == "killed"  # type: ignore[attr-defined]
            await session.run(["true"])
        else:
            await session.close()
    await eventually("no descendant lives", lambda: not running(mark))


async def test_descendants_of_other_commands_live_on_e2b_1031(client: Client) -> None:
    """Killing one command's tree leaves the others alone."""
    session = await client.open("open")
    other = await session.start(["cat"])
    command = await start_daemons(session, f"mark-{session.id}")
    await command.kill()  # type: ignore[attr-defined]
    await other.write(b"alive\n")
    piece = await other.next()
    assert isinstance(piece, Output)
    assert piece.data == b"alive\n"


@pytest.mark.parametrize("size", [10, 100_000])
async def test_here_document_does_not_hang_daytona_4230(client: Client, size: int) -> None:
    """Small ones go through a pipe inside, large ones through a file: both end."""
    session = await client.open("open")
    line = "x" * 99
    lines = size // 100 or 1
    script = f"for n in $(seq {lines}); do cat <<END\n{line}\nEND\ndone; python3 - <<'END'\nprint('python')\nEND\n"
    result = await session.run(script)
    assert result.stdout.decode() == f"{line}\n" * lines + "python\n"
    text = "\n".join([line] * min(lines, 400))
    assert (await session.run(f"cat <<END\n{text}\nEND")).stdout.decode() == text + "\n"


async def test_output_before_a_timeout_is_kept_swe_rex_151(client: Client) -> None:
    session = await client.open("open")
    result = await session.run("echo before; echo bad >&2; sleep 3600", timeout=0.5, grace=0.2)
    assert (result.cause, result.timed_out, result.exit_code) == ("timeout", True, None)
    assert (result.stdout, result.stderr) == (b"before\n", b"bad\n")
    result = await session.run(
        "trap 'echo at TERM; exit 5' TERM; echo before; while :; do sleep 0.05; done", timeout=0.5
    )
    assert (result.cause, result.exit_code) == ("timeout", 5)
    assert result.stdout == b"before\nat TERM\n"


async def begin(session: Session) -> tuple[object, asyncio.Task[object]]:
    """A command in the middle of its output, and somebody who waits for its end."""
    command = await session.start(python("import time; print('half', flush=True); time.sleep(3600)"))
    piece = await command.next()
    assert isinstance(piece, Output)
    assert piece.data == b"half\n"
    return command, asyncio.create_task(command.wait())  # type: ignore[arg-type]


async def test_exit_code_is_not_invented_when_the_guest_dies_cloudflare_873(
    client: Client, daemon: DaemonProcess
) -> None:
    """PID 1 killed from outside in mid-command: a typed error, never an exit code."""
    session = await client.open("open")
    pid = daemon.first_process(await sandbox_of(session))
    command, waiting = await begin(session)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(CommandLostError) as lost:
        await waiting
    assert lost.value.code == "gone"
    with pytest.raises(CommandLostError):
        await command.next()  # type: ignore[attr-defined]
    assert (await session.run(["true"])).exit_code == 0
    assert (await session.info()).generation == 2
    (record,) = [
        record for record in daemon.audit(session.id) if record["event"] == "end" and record["cause"] == "lost"
    ]
    assert (record["exit_code"], record["signal"]) == (None, None)


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_exit_code_is_not_invented_when_the_container_is_killed_cloudflare_873(
    client: Client, daemon: DaemonProcess
) -> None:
    """`docker kill` in mid-command."""
    session = await client.open("open")
    sandbox = await sandbox_of(session)
    _, waiting = await begin(session)
    daemon.docker_kill(sandbox)
    with pytest.raises(CommandLostError):
        await waiting


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_exit_code_is_not_invented_when_the_daemon_dies_cloudflare_873(
    make_daemon: Callable[..., DaemonProcess], number: signal.Signals
) -> None:
    """SIGKILL in mid-command, and SIGTERM without the patience to wait for it: a typed error each."""
    daemon = make_daemon(settings={"drain": 0}).start()
    async with connect(daemon.url, reconnect_timeout=0) as client:
        session = await client.open("open")
        _, waiting = await begin(session)
        daemon.running.send_signal(number)
        expected = ConnectionLostError if number == signal.SIGKILL else CommandError
        with pytest.raises(expected):
            await waiting
    assert daemon.wait() == (0 if number == signal.SIGTERM else -number)
    daemon.start()  # erases what the killed one left
    async with connect(daemon.url) as client:
        assert (await (await client.open("open")).run(["echo", "new"])).stdout == b"new\n"


async def test_a_dead_pooled_sandbox_is_never_handed_out_deer_flow_3474(client: Client, daemon: DaemonProcess) -> None:
    """Sandboxes that died in the pool are found out before or at the opening; the session gets a live one."""
    before = daemon.pool("open")["died"]
    for number in range(1, 4):
        (dead,) = pooled(daemon, "open")
        os.kill(daemon.first_process(dead), signal.SIGKILL)
        session = await client.open("open")
        assert await sandbox_of(session) != dead
        assert (await session.run(["echo", "live"])).stdout == b"live\n"
        await session.close()
        await eventually("the pool is full again", lambda: daemon.settled(sessions=1))
        assert daemon.pool("open")["died"] == before + number


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_a_killed_pooled_container_is_never_handed_out_deer_flow_3474(
    client: Client, daemon: DaemonProcess
) -> None:
    """The same by `docker kill`, and by `docker pause`: a guest that does not answer is as good as dead."""
    for harm in (daemon.docker_kill, daemon.docker_pause):
        (dead,) = pooled(daemon, "open")
        harm(dead)
        session = await client.open("open")
        assert await sandbox_of(session) != dead
        assert (await session.run(["echo", "live"])).stdout == b"live\n"
        await session.close()
        await eventually("the pool is full again", lambda: daemon.settled(sessions=1))


def pooled(daemon: DaemonProcess, profile: str) -> set[str]:
    """Sandboxes of a profile that no session has. The bystander has one of profile "open"."""
    ours = {name for name in daemon.sandboxes() if name.startswith(f"{profile}-")}
    with_commands = {name for name in ours if any("cat" in line for line in inside(daemon.first_process(name)))}
    return ours - with_commands


def inside(pid: int) -> list[str]:
    """Command lines of a sandbox's PID 1's children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline").read_bytes().decode() for child in children]


async def test_nothing_polls_for_output_or_exit_opensandbox_1661(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """While a command blocks, the guest has no timer, and the daemon only that of its sweep of lifetimes.

    Proved by what they do, not by how long it takes: their system calls over 3 s. The daemon's timers that may wake it
    then: the sweep of sessions' lifetimes (once a second), pings of connections and health checks (20 s and more).
    """
    profiles = {"open": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}}}
    daemon = make_daemon(profiles=profiles, environment=UNDEBUGGED).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        guest = daemon.first_process(await sandbox_of(session))
        command = await session.start(["cat"])
        await asyncio.sleep(0.5)  # what was said before may be acknowledged late
        for busy in (True, False):
            calls = await traced((guest, daemon.pid), tmp_path / f"trace-{busy}")
            assert calls[guest] == []
            wakes = [call for call in calls[daemon.pid] if call.startswith("epoll_wait")]
            assert all(call.endswith("= 0") for call in wakes), wakes  # timers only: nothing was read
            assert len(wakes) <= 2 * 4 + 1, wakes
            assert {call.partition("(")[0] for call in calls[daemon.pid]} <= {"epoll_wait", "getpid"}, calls[daemon.pid]
            if busy:
                await command.write(b"x")
                await command.close_stdin()
                assert (await command.wait()).exit_code == 0
                await asyncio.sleep(0.5)


async def traced(pids: tuple[int, ...], path: Path) -> dict[int, list[str]]:
    """System calls of processes in three seconds, without those that were interrupted by the tracer itself."""
    options = [option for pid in pids for option in ("-p", str(pid))]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-ff", "-o", str(path), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await eventually("strace has begun", lambda: all(path.with_name(f"{path.name}.{pid}").exists() for pid in pids))
        await asyncio.sleep(3)  # what is observed is that nothing happens: no event tells that
    finally:
        tracer.terminate()
        tracer.wait()
    return {
        pid: [
            line
            for line in path.with_name(f"{path.name}.{pid}").read_text().splitlines()
            if line and "unfinished" not in line and "detached" not in line and "resumed" not in line
        ]
        for pid in pids
    }
