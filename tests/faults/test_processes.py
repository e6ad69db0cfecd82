"""Processes that will not go, and attacks on PID 1, from inside a sandbox."""

from __future__ import annotations

import signal

import pytest
from msgpack import packb
from sessiond_client import Client, CommandNotStartedError, Output, Session
from sessiond_protocol.messages import CommandStart, Error, Exited
from sessiond_protocol.messages import Output as OutputMessage

from tests.daemon import DaemonProcess, eventually, python, running
from tests.wire import Wire

ATTACK = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
long = ctypes.c_ulong
libc.process_vm_readv.argtypes = [ctypes.c_int, ctypes.c_void_p, long, ctypes.c_void_p, long, long]
def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")
buffer = ctypes.create_string_buffer(16)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 16)
attacks = {
    "attach": lambda: call(libc.ptrace, 16, 1, 0, 0),
    "seize": lambda: call(libc.ptrace, 0x4206, 1, 0, 0),
    "read memory": lambda: call(libc.process_vm_readv, 1, vector, 1, vector, 1, 0),
    "open memory": lambda: open("/proc/1/mem", "r+b"),
    "list descriptors": lambda: os.listdir("/proc/1/fd"),
    "open a descriptor": lambda: open("/proc/1/fd/3", "r+b"),
    "environment": lambda: open("/proc/1/environ").read(),
    "maps": lambda: open("/proc/1/maps").read(),
    "root": lambda: os.listdir("/proc/1/root/"),
    "cwd": lambda: os.listdir("/proc/1/cwd/"),
    "exe": lambda: os.readlink("/proc/1/exe"),
    "oom score": lambda: open("/proc/1/oom_score_adj", "w").write("1000"),
    "take a descriptor": lambda: call(libc.syscall, 438, os.pidfd_open(1), 3, 0),
}
for name, attack in attacks.items():
    try:
        attack()
        print(name, "worked")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
"""

IMPERSONATE = """
import socket, struct, sys, os
hello = struct.pack("<IBBHI", 32, 0x81, 0, 0, 0) + struct.pack("<IHH16sII", 0x444E5353, 1, 0, b"x" * 16, 1 << 20, 64)
heard = 0
for _ in range(int(sys.argv[1])):
    with socket.socket(socket.AF_UNIX) as channel:
        try:
            channel.connect("/run/sessiond/channel.sock")
            channel.sendall(hello)
            heard += len(channel.recv(100))
        except OSError:
            pass
print(heard)
"""


async def usable(session: Session) -> None:
    assert (await session.run(["echo", "fine"])).stdout == b"fine\n"


async def test_daemons_are_killed_at_the_end_of_the_session(client: Client) -> None:
    """Row 9: whatever left its group, its session, its parent and its environment behind."""
    session = await client.open("open")
    mark = f"mark-{session.id}"
    code = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    if os.fork():
        os._exit(0)
    os.closerange(0, 100)
    os.execve("/usr/bin/env", ["env", "-i", "sleep", "3600.%s" % sum(sys.argv[1].encode())], {})
"""
    name = f"3600.{sum(mark.encode())}"
    assert (await session.run(python(code, mark))).exit_code == 0
    await eventually("it runs", lambda: len(running(name)) == 1)
    await session.close()
    await eventually("it does not", lambda: not running(name))


async def test_output_of_a_process_left_behind(client: Client, daemon: DaemonProcess) -> None:
    """A process that outlives its command goes on writing to whoever follows; the command's end came before."""
    session = await client.open("open")
    text = "mkfifo fifo; (read line < fifo; echo late) & echo early"
    async with await Wire.greeted(daemon) as wire:
        start = CommandStart(id=99, session=session.id, command="c", text=text, window=65536)
        await wire.send(start)
        assert (await wire.expect(OutputMessage)).data == b"early\n"
        assert (await wire.expect(Exited)).exit.output_bytes == 6
        await session.run("echo go > fifo")
        late = await wire.expect(OutputMessage)
        assert (late.offset, late.data) == (6, b"late\n")


async def test_kill_everything_from_inside(client: Client) -> None:
    """Row 10: `kill -9 -1` takes the session's commands, which report signal 9, and not the guest."""
    session = await client.open("open")
    victims = [await session.start(["sleep", "3600"]) for _ in range(3)]
    result = await session.run("kill -9 -1; echo survived")
    assert result.stdout in (b"survived\n", b"")
    for victim in victims:
        status = await victim.wait()
        assert (status.signal, status.cause) == (9, "signal")
    await usable(session)


async def test_every_signal_to_the_guest(client: Client) -> None:
    """Row 10: STOP, KILL and all others, sent to PID 1 from inside, change nothing."""
    session = await client.open("open")
    code = """
import os
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError as error:
        print(number, error)
"""
    assert (await session.run(python(code))).output == b""
    await usable(session)
    cat = await session.start(["cat"])
    await session.run(python(code))
    await cat.write(b"x")
    await cat.close_stdin()
    assert (await cat.wait()).output_bytes == 1


async def test_attacks_on_the_guest(client: Client) -> None:
    """Row 11: no way into PID 1 for its own user."""
    session = await client.open("open")
    result = await session.run(["python3", "-c", ATTACK])
    outcome = dict(line.rsplit(" ", 1) for line in result.stdout.decode().splitlines())
    assert len(outcome) == 13, result.text
    assert set(outcome.values()) <= {"EPERM", "EACCES", "ENOSYS"}, outcome
    await usable(session)


async def test_impersonating_the_guest(client: Client, daemon: DaemonProcess) -> None:
    """Row 12: the daemon hears nobody but PID 1 on the channel; output that runs meanwhile arrives whole."""
    session = await client.open("open")
    stream = await session.start("i=0; while read -r line; do echo $line; done")
    await eventually("the pool is full again", daemon.full)
    before = daemon.descriptors()
    for number in range(20):
        assert (await session.run(python(IMPERSONATE, "5"))).stdout == b"0\n"
        await stream.write(b"%d\n" % number)
    await stream.close_stdin()
    heard = b"".join([piece.data async for piece in stream if isinstance(piece, Output)])
    assert heard == b"".join(b"%d\n" % number for number in range(20))
    assert (await stream.wait()).exit_code == 0
    await eventually("descriptors given back", lambda: daemon.descriptors() <= before)


async def test_holding_the_channel_busy(client: Client, daemon: DaemonProcess) -> None:
    """Row 12: who opens many connections to the channel and keeps them gets none, and costs the daemon none."""
    session = await client.open("open")
    await eventually("the pool is full again", daemon.full)
    before = daemon.descriptors()
    code = """
import socket, sys
held = []
for _ in range(100):
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(5)
    try:
        channel.connect("/run/sessiond/channel.sock")
    except OSError:
        continue
    held.append(channel)
print("held", flush=True)
sys.stdin.read()
"""
    command = await session.start(python(code))
    piece = await command.next()
    assert isinstance(piece, Output)
    await usable(session)
    await eventually("the daemon keeps none of them", lambda: daemon.descriptors() <= before + 1)
    await command.close_stdin()
    await command.wait()


async def test_replacing_the_channel(client: Client) -> None:
    """Row 12: the channel's socket and the guest's binary cannot be moved, removed or written."""
    session = await client.open("open")
    for text in (
        "mv /run/sessiond/channel.sock /run/sessiond/other",
        "rm -f /run/sessiond/channel.sock",
        "ln -s /tmp /run/sessiond/link",
        "echo > /run/sessiond/guest",
        "chmod 777 /run/sessiond/guest",
        "chmod 777 /run/sessiond",
        "mv /run/sessiond /run/other",
    ):
        assert (await session.run(text)).exit_code not in (0, None), text
    await usable(session)


async def test_standard_input_that_nobody_gives(client: Client) -> None:
    """Row 16: a command that reads gets the end at once; with an open one its timeout works."""
    session = await client.open("open")
    assert (await session.run(["cat"])).exit_code == 0
    assert (await session.run(["cat"], stdin=b"given")).stdout == b"given"
    command = await session.start(["cat"], timeout=0.3, grace=0.1)
    assert (await command.wait()).timed_out
    await usable(session)


async def test_command_that_ignores_term(client: Client) -> None:
    """Row 17: KILL after the grace; `timed_out`."""
    session = await client.open("open")
    code = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(3600)
"""
    result = await session.run(python(code), timeout=1.0, grace=0.2)
    assert (result.cause, result.signal, result.exit_code) == ("timeout", signal.SIGKILL, None)
    assert result.stdout == b"deaf\n"
    result = await session.run(python(code), timeout=0.5, grace=0)
    assert (result.cause, result.signal) == ("timeout", signal.SIGKILL)


async def test_stopped_command_is_ended(client: Client) -> None:
    """Row 17: one that is stopped does not act on TERM, nor does it escape."""
    session = await client.open("open")
    command = await session.start(["sleep", "3600"], timeout=1.0, grace=0.1)
    await command.signal(signal.SIGSTOP)
    status = await command.wait()
    assert (status.cause, status.signal) == ("timeout", signal.SIGKILL)


@pytest.mark.parametrize(
    ("cwd", "where"),
    [("", "/workspace"), ("..", "/"), ("../../../../etc", "/etc"), ("/usr/bin", "/usr/bin"), (".", "/workspace")],
)
async def test_working_directory_is_inside(client: Client, cwd: str, where: str) -> None:
    """Row 25: resolved inside the sandbox, wherever it points."""
    session = await client.open("open")
    assert (await session.run(["pwd", "-P"], cwd=cwd)).stdout.decode() == f"{where}\n"


@pytest.mark.parametrize(
    "cwd", ["/proc/self/fd/7", "/proc/self/fd/3", "/proc/1/root", "/proc/1/cwd", "missing", "/etc/passwd", "x" * 300]
)
async def test_working_directory_that_cannot_be(client: Client, cwd: str) -> None:
    """Row 25: none of the guest's descriptors can be reached by it; the error says that it is the directory."""
    session = await client.open("open")
    with pytest.raises(CommandNotStartedError) as refused:
        await session.run(["pwd"], cwd=cwd)
    assert refused.value.code == "invalid"
    assert "directory" in refused.value.message


@pytest.mark.parametrize(
    "where", [{"cwd": "a\0b"}, {"argv": ["true", "a\0b"]}, {"env": {"A": "a\0b"}}, {"env": {"A\0": "b"}}], ids=str
)
async def test_nul(client: Client, daemon: DaemonProcess, where: dict[str, object]) -> None:
    """Row 25: `invalid`, whichever client sends it."""
    session = await client.open("open")
    async with await Wire.greeted(daemon) as wire:
        body = {"type": "command.start", "id": 8, "session": session.id, "command": "c", "argv": ["true"], **where}
        await wire.send_frame(packb(body))
        error = await wire.expect(Error)
        assert (error.re, error.code) == (8, "invalid")
    assert await session.commands() == []


async def test_link_out_of_the_workspace(client: Client) -> None:
    """Row 26: a link to a host path leads nowhere but inside."""
    session = await client.open("open")
    script = "ln -s /etc/new link && echo x > link; ln -s /proc/1/root/etc/new link2 && echo x > link2"
    assert (await session.run(script)).exit_code != 0
    assert b"new" not in (await session.run(["ls", "/etc"])).stdout


async def test_missing_program(client: Client) -> None:
    """What cannot be executed is an error with its reason, not an exit code."""
    session = await client.open("open")
    with pytest.raises(CommandNotStartedError) as refused:
        await session.run("no-such-program --option")
    assert refused.value.message.startswith("'no-such-program' cannot be executed")
    for argv, reason in (
        (["no-such-program"], "No such file"),
        (["/etc/passwd"], "denied"),
        (["/workspace"], "denied"),
    ):
        with pytest.raises(CommandNotStartedError) as refused:
            await session.run(argv)
        assert refused.value.code == "invalid"
        assert reason in refused.value.message
    assert (await session.run("no-such-program; exit $?")).exit_code == 127


async def test_standard_input_that_is_not_read(client: Client, daemon: DaemonProcess) -> None:
    """A command that never reads holds the writer back, not the daemon; one that ends early does not fail the rest."""
    session = await client.open("open")
    result = await session.run(["head", "-c", "5"], stdin=b"x" * (8 << 20))
    assert result.stdout == b"xxxxx"
    before = daemon.memory()
    result = await session.run(["sleep", "3600"], stdin=b"x" * (32 << 20), timeout=1.0, grace=0.1)
    assert result.timed_out
    assert daemon.memory() - before < 8 << 20


async def test_large_standard_input_arrives_whole(client: Client) -> None:
    """32 MiB through `cat`, which writes as it reads."""
    session = await client.open("open")
    data = bytes(range(256)) * (32 << 12)
    assert (await session.run(["cat"], stdin=data)).stdout == data


async def test_errors_of_the_guest_do_not_leak_paths(client: Client) -> None:
    """A refusal names what the client named."""
    session = await client.open("open")
    with pytest.raises(CommandNotStartedError) as refused:
        await session.run(["./missing"])
    assert "/var/lib" not in refused.value.message
    assert refused.value.message.startswith("'./missing'")
