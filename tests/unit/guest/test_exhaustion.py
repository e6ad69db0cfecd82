"""When the sandbox has no more processes or memory to give, the guest says so and lives."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sessiond_protocol.guest import STAGE_FORK, STAGE_PIPES, Failed, Signal

from .harness import Guest

HIERARCHY = Path("/sys/fs/cgroup/memory")
LIMIT = 96 << 20


def test_no_process_left_for_a_command(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(first=True, within=["prlimit", "--nproc=4"])
    guest.connect()
    sleepers = [guest.start("sleep", "1000") for _ in range(3)]
    guest.settled()
    run = guest.run("true")
    assert [(frame.errno, frame.stage) for frame in run.failed] == [(errno.EAGAIN, STAGE_FORK)]
    guest.send(*(Signal(handle, signal.SIGKILL) for handle in sleepers))
    for handle in sleepers:
        guest.finish(handle)
    assert guest.run("echo", "room again").stdout == b"room again\n"


def test_commands_leave_the_guest_descriptors_to_live_on(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(within=["prlimit", "--nofile=40:40"])
    guest.connect()
    sleepers = []
    while True:
        handle = guest.start("sh", "-c", "setsid sleep 1000")
        guest.wait(lambda run=guest.runs[handle]: bool(run.started or run.failed))  # type: ignore[misc]
        if guest.runs[handle].failed:
            break
        sleepers.append(handle)
    assert guest.runs[handle].failed == [Failed(handle, errno.EMFILE, STAGE_PIPES)]
    guest.hang_up()
    guest.connect()
    guest.send(*(Signal(handle, signal.SIGKILL, 1) for handle in sleepers))
    for sleeper in sleepers:
        assert guest.finish(sleeper).exit.killed
    guest.wait(lambda: all(guest.runs[sleeper].eof.keys() == {1, 2} for sleeper in sleepers))


@pytest.fixture
def memory_group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A memory cgroup of this test's own, of either version."""
    version_1 = (HIERARCHY / "memory.limit_in_bytes").exists()
    own = next(
        (line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), ""
    )
    parent = HIERARCHY / own.lstrip("/") if version_1 else HIERARCHY.parent
    group = parent / f"guest-test-{abs(hash(request.node.name)) % 10**8}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(LIMIT))
    except OSError:
        pytest.skip("no memory cgroup can be made here")
    yield group
    group.rmdir()


def test_the_oom_killer_is_named_and_the_guest_survives(memory_group: Path, make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(within=["sh", "-c", f'echo $$ > {memory_group}/cgroup.procs; exec "$@"', "sh"])
    guest.connect()
    record = guest.run("tail", "/dev/zero").exit
    assert (record.signal, record.oom, record.killed) == (signal.SIGKILL, True, False)
    # The command's own process may be the victim's parent: a shell reports 137.
    record = guest.shell("tail /dev/zero").exit
    assert record.oom and (record.code or record.signal + 128) == 137
    record = guest.shell("kill -9 $$").exit
    assert (record.signal, record.oom) == (signal.SIGKILL, False)
