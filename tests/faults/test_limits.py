"""Commands that take all they can get: each meets its limit, inside only, and the session can be used afterwards."""

from __future__ import annotations

import errno
import hashlib

import pytest
from sessiond_client import (
    Client,
    CommandLimits,
    CommandNotStartedError,
    Gap,
    Output,
    Session,
    SessionLimits,
    UsageError,
)
from sessiond_protocol.messages import (
    Ack,
    CommandFollow,
    CommandInfo,
    CommandReply,
    CommandSignal,
    CommandStart,
    Ok,
    Started,
)
from sessiond_protocol.messages import Output as OutputMessage

from tests.daemon import PROFILES, DaemonProcess, python
from tests.wire import Wire

RING = 1 << 20
"""What the guest may hold of a command's output beyond what the daemon took."""

SPOOL = 1 << 20
"""What the profile "small" says."""

BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError as error:
        os.write(1, b"%d\\n" % error.errno)
        time.sleep(0.05)
"""

FILL = """
import os, sys
n = total = 0
try:
    while True:
        with open(f"{sys.argv[1]}/fill{n}", "wb", buffering=0) as file:
            for _ in range(4):
                total += file.write(b"x" * 65536)
        n += 1
except OSError as error:
    print(error.errno, total)
"""

ZOMBIES = """
import os
for _ in range(40):
    child = os.fork()
    if child == 0:
        for _ in range(5):
            if os.fork() == 0:
                os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
"""

COUNT_ZOMBIES = """
import glob
n = 0
for path in glob.glob("/proc/[0-9]*/stat"):
    try:
        n += open(path).read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        pass
print(n)
"""

assert PROFILES["small"]["output"] == {"command_bytes": "1MiB"}


async def usable(session: Session) -> None:
    """A session does what is asked of it."""
    assert (await session.run(["echo", "fine"])).stdout == b"fine\n"


async def first_output(command: object) -> bytes:
    piece = await command.next()  # type: ignore[attr-defined]
    assert isinstance(piece, Output), piece
    return piece.data


async def test_fork_bomb_meets_the_limit_and_can_be_killed(client: Client) -> None:
    """Row 1: EAGAIN inside at the limit; kill ends it."""
    session = await client.open("small")
    command = await session.start(python(BOMB))
    assert int((await first_output(command)).split()[0]) == errno.EAGAIN
    await command.kill()
    status = await command.wait()
    assert (status.exit_code, status.signal, status.cause) == (None, 9, "killed")
    await usable(session)


async def test_fork_bomb_ends_at_its_timeout(client: Client) -> None:
    """Row 1: the timeout takes the whole tree."""
    session = await client.open("small")
    result = await session.run(python(BOMB), timeout=1.0, grace=0.1)
    assert result.timed_out
    assert int(result.stdout.split()[0]) == errno.EAGAIN
    await usable(session)
    assert (
        int((await session.run(python("import os; print(sum(p.isdigit() for p in os.listdir('/proc')))"))).stdout) <= 2
    )


async def test_no_process_left_for_a_new_command(client: Client) -> None:
    """Row 2: a typed `limit` error; usable after a kill."""
    session = await client.open("small")
    fill = "import os, time\ntry:\n  while os.fork(): pass\nexcept OSError: print('full', flush=True)\ntime.sleep(3600)"
    command = await session.start(python(fill))
    assert await first_output(command) == b"full\n"
    with pytest.raises(CommandNotStartedError) as refused:
        await session.run(["true"])
    assert refused.value.code == "limit"
    await command.kill()
    await command.wait()
    await usable(session)


async def test_memory_bomb(client: Client) -> None:
    """Row 3: SIGKILL (137) with the cause `oom`; the guest lives."""
    session = await client.open("small")
    result = await session.run(python("x = bytearray()\nwhile True: x += b'x' * (1 << 20)"))
    assert (result.signal, result.cause, result.status) == (9, "oom", 137)
    await usable(session)


async def test_child_out_of_memory(client: Client) -> None:
    """Row 3: what kills a child is told too, when it makes the command fail."""
    session = await client.open("small")
    result = await session.run(
        "python3 -c 'x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1'; exit $?"
    )
    assert result.status == 137
    assert result.cause == "oom"
    await usable(session)


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm"])
async def test_fill_temporary_files(client: Client, where: str) -> None:
    """Row 4: ENOSPC at the promised size; it is memory, no disk."""
    session = await client.open("small")
    result = await session.run(python(FILL, where))
    number, total = map(int, result.stdout.split())
    assert number == errno.ENOSPC
    assert (1 << 20) < total <= (2 << 20)
    assert (await session.run(["stat", "-f", "-c", "%T", where])).stdout == b"tmpfs\n"
    await usable(session)


async def test_fill_workspace(client: Client) -> None:
    """Row 5: ENOSPC at the promised size."""
    session = await client.open("small")
    result = await session.run(python(FILL, "/workspace"))
    number, total = map(int, result.stdout.split())
    assert number == errno.ENOSPC
    assert (7 << 20) < total <= (8 << 20)
    assert (await session.run(["stat", "-f", "-c", "%T", "/workspace"])).stdout == b"tmpfs\n"
    assert (await session.run("rm fill*; echo small > file; cat file")).stdout == b"small\n"


async def test_file_larger_than_allowed(client: Client) -> None:
    """Row 5: SIGXFSZ or EFBIG at the limit of one file."""
    session = await client.open("small", limits=SessionLimits(file_bytes=1 << 20))
    code = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    open("big", "wb", 0).write(b"x" * (1 << 20))
    open("big", "ab", 0).write(b"x")
except OSError as error:
    print(error.errno)
"""
    assert int((await session.run(python(code))).stdout) == errno.EFBIG
    assert (await session.run(["head", "-c", "2M", "/dev/zero"], merge_stderr=False)).exit_code == 0
    assert (await session.run("exec head -c 2M /dev/zero > big")).signal == 25


@pytest.mark.parametrize("where", ["/", "/usr", "/etc", "/var", "/run", "/home", "/run/sessiond", "/dev"])
async def test_write_to_the_root(client: Client, where: str) -> None:
    """Row 6: EROFS."""
    session = await client.open("open")
    code = "import sys\ntry: open(sys.argv[1] + '/new', 'w')\nexcept OSError as error: print(error.errno)"
    refused = int((await session.run(python(code, where))).stdout)
    assert refused == errno.EROFS or (where == "/dev" and refused == errno.EACCES)


async def test_descriptors_run_out_inside(client: Client, daemon: DaemonProcess) -> None:
    """Row 7: EMFILE inside only."""
    session = await client.open("small")
    before = daemon.descriptors()
    code = "import os\nn = 0\ntry:\n  while True: os.dup(0); n += 1\nexcept OSError as error: print(error.errno, n)"
    number, count = map(int, (await session.run(python(code))).stdout.split())
    assert number == errno.EMFILE
    assert 50 <= count < 64
    assert daemon.descriptors() < before + 40
    await usable(session)


async def test_zombie_storm(client: Client) -> None:
    """Row 8: 200 orphans that nobody waits for; none stays."""
    session = await client.open("open")
    assert (await session.run(python(ZOMBIES))).exit_code == 0
    for _ in range(200):
        if (await session.run(python(COUNT_ZOMBIES))).stdout == b"0\n":
            return
    raise AssertionError("zombies stay")


async def test_endless_output_with_a_reader(client: Client, daemon: DaemonProcess) -> None:
    """Row 13: backpressure; the spool stays within its cap, the daemon's memory flat."""
    session = await client.open("small")
    command = await session.start(["yes"])
    taken, before = 0, 0
    while taken < 48 << 20:
        piece = await command.next()
        assert isinstance(piece, Output), piece
        assert piece.offset == taken
        taken += len(piece.data)
        if not before and taken > 4 << 20:
            before = daemon.memory()
    (info,) = await session.commands()
    assert info.output_to - info.output_from <= SPOOL + RING
    assert daemon.memory() - before < 16 << 20
    await command.kill()


async def test_endless_output_without_a_reader(client: Client, daemon: DaemonProcess) -> None:
    """Row 14: the spool fills, then the producer blocks; nothing is dropped."""
    session = await client.open("small")
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Started, CommandStart, session=session.id, command="yes", argv=["yes"], window=0)
        before = await blocked(client, session, "yes")
        assert before.output_from == 0
        assert SPOOL <= before.output_to <= SPOOL + RING
        await wire.ask(CommandReply, CommandFollow, session=session.id, command="yes", offset=0, window=1 << 20)
        taken = 0
        while taken < 8 << 20:
            piece = await wire.expect(OutputMessage)
            assert piece.offset == taken
            assert piece.data == (b"y\n" * len(piece.data))[taken % 2 :][: len(piece.data)]
            taken += len(piece.data)
            await wire.send(Ack(session=session.id, command="yes", offset=taken, window=1 << 20))
        await wire.ask(Ok, CommandSignal, session=session.id, command="yes", signal=9)


async def blocked(client: Client, session: Session, name: str) -> CommandInfo:
    """What is known of the command once its output does not grow, however much else is done meanwhile."""
    seen: list[CommandInfo] = []
    while True:
        await session.run(["true"])
        info = next(info for info in await session.commands() if info.command == name)
        seen = [*seen, info] if seen and seen[-1].output_to == info.output_to > 0 else [info]
        if len(seen) > 20:
            return info


async def test_binary_output(client: Client) -> None:
    """Row 15: every byte arrives as it was written: NUL, split UTF-8, 128 MiB."""
    session = await client.open("open")
    code = """
import hashlib, os, sys
digest = hashlib.sha256()
block = bytes(range(256)) * 4096 + "ä€𝄞".encode() * 9999
for n in range(118):
    piece = n.to_bytes(3, "big") + block[n:]
    digest.update(piece)
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
os.write(2, digest.hexdigest().encode())
"""
    command = await session.start(python(code), stdin=False)
    digest, told, offset = hashlib.sha256(), b"", 0
    async for piece in command:
        assert isinstance(piece, Output)
        assert piece.offset == offset
        offset += len(piece.data)
        if piece.stream == "stdout":
            digest.update(piece.data)
        else:
            told += piece.data
    assert (await command.wait()).output_bytes == offset > 128 << 20
    assert told.decode() == digest.hexdigest()


async def test_processor_time(client: Client) -> None:
    """Row 18: four that spin get half a processor together, as the profile says."""
    session = await client.open("small")
    code = """
import os, time
end = time.monotonic() + 2
for _ in range(4):
    if os.fork() == 0:
        while time.monotonic() < end:
            pass
        os._exit(0)
for _ in range(4):
    os.wait()
used = os.times()
print((used.children_user + used.children_system) / 2)
"""
    assert float((await session.run(python(code))).stdout) < 0.75


async def test_core_dumps_and_hard_limits(client: Client) -> None:
    """Row 19: no core, and no limit can be raised."""
    session = await client.open("small", limits=SessionLimits(file_bytes=1 << 20))
    result = await session.run(python("import os; os.abort()"))
    assert result.signal == 6
    assert (await session.run(["ls", "-A"])).stdout == b""
    code = """
import resource
for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
    soft, hard = resource.getrlimit(limit)
    try:
        resource.setrlimit(limit, (hard + 1, hard + 1))
    except (ValueError, OSError):
        print(hard)
"""
    assert (await session.run(["python3", "-c", code])).stdout.split() == [b"0", b"64", b"1048576"]


async def test_limits_of_a_command(client: Client) -> None:
    """A command's own limits hold for it, and not for the next."""
    session = await client.open("open")
    code = """
import resource as r
print(*(r.getrlimit(limit)[1] for limit in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)))
"""
    limits = CommandLimits(memory_bytes=128 << 20, cpu_seconds=7, open_files=20, file_bytes=1000)
    limited = await session.run(["python3", "-c", code], limits=limits)
    assert limited.stdout.split() == [b"%d" % (128 << 20), b"7", b"20", b"1000"]
    assert b"1000" not in (await session.run(["python3", "-c", code])).stdout.split()
    spin = await session.run(python("while True: pass"), limits=CommandLimits(cpu_seconds=1))
    assert spin.signal in (9, 24)


async def test_too_many_commands_at_once(client: Client) -> None:
    """Row 2: the profile's own limit on commands is a typed error, too, and ends with the commands."""
    session = await client.open("small")
    commands = [await session.start(["cat"]) for _ in range(8)]
    with pytest.raises(CommandNotStartedError) as refused:
        await session.run(["true"])
    assert refused.value.code == "limit"
    for command in commands:
        await command.close_stdin()
        assert (await command.wait()).exit_code == 0
    await usable(session)


async def test_arguments_and_environment(client: Client) -> None:
    """What does not fit into a frame is refused before it is sent; what just fits runs."""
    session = await client.open("open")
    with pytest.raises(UsageError):
        await session.run(["true"], env={"BIG": "x" * 65_536})
    result = await session.run("echo ${#BIG}", env={"BIG": "x" * 65_000})
    assert result.stdout == b"65000\n"


async def test_window_larger_than_what_is_kept(client: Client) -> None:
    """A client that grants more than is kept, and acknowledges half of it at a time, does not wait for ever."""
    session = await client.open("small")
    result = await session.run(["head", "-c", "8000000", "/dev/zero"], window=16 << 20)
    assert len(result.stdout) == result.output_bytes == 8_000_000


async def test_gap_is_told(client: Client) -> None:
    """Row 45: who resumes behind what is kept is told `gap {from, to}`, and then everything else."""
    session = await client.open("small")
    size = 4 << 20
    code = f"import os\nfor n in range({size} // 4096): os.write(1, b'%08d' % n * 512)"
    first = await session.run(python(code), command_id="long")
    assert first.output_bytes == size
    command = await session.command("long")
    pieces = [piece async for piece in command]
    gap, rest = pieces[0], pieces[1:]
    assert isinstance(gap, Gap)
    assert (gap.start, gap.end > 0) == (0, True)
    kept = b"".join(piece.data for piece in rest if isinstance(piece, Output))
    assert kept == first.stdout[gap.end :]
    assert SPOOL // 2 <= len(kept) <= SPOOL + RING
