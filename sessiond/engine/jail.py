"""The processes of one bubblewrap jail: its start, identity, death and signals."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sessiond.engine.bubblewrap_options import Descriptors
from sessiond.engine.directory import GUEST, SandboxDirectory
from sessiond.engine.port import GUEST_DIRECTORY, EngineError, EngineTimeoutError, Limits

STATUS = "bwrap.json"
"""What bwrap itself writes about the jail, a JSON document a line: the pid of its PID 1 as soon as it exists, which
therefore survives a daemon that dies in mid-start, and its exit code when it ends."""

START_SECONDS = 10.0
"""From bwrap's start to the guest's. Measured: 10 to 20 ms."""

MOST_ERROR_BYTES = 4096
"""Of bwrap's words on stderr."""


@dataclass(frozen=True, slots=True)
class Started:
    """A jail that runs."""

    monitor: subprocess.Popen[bytes]
    """The outer bwrap process, our child: it waits for the jail's PID 1 and ends with its exit code."""
    pid: int
    """The jail's PID 1, as this process sees it."""
    pidfd: int
    """The same as a descriptor, the caller's to close."""


class _Pipes:
    """The descriptors that start a jail, closed with the `with` block whatever happens."""

    def __init__(self, stack: contextlib.ExitStack, place: SandboxDirectory) -> None:
        def keep(descriptor: int) -> int:
            stack.callback(self._close, descriptor)
            return descriptor

        self._closed: set[int] = set()
        self.info, info = map(keep, os.pipe())
        block, self.block = map(keep, os.pipe())
        self.error, self.stderr = map(keep, os.pipe())
        self.inside = Descriptors(
            guest=keep(os.open(place.mount / GUEST, os.O_RDONLY | os.O_CLOEXEC)),
            info=info,
            status=keep(os.open(place.root / STATUS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)),
            block=block,
        )

    def hand_over(self) -> None:
        """bwrap has its copies: close ours, so that the pipes end when it ends."""
        for descriptor in (self.inside.info, self.inside.block, self.stderr):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        if descriptor not in self._closed:
            self._closed.add(descriptor)
            os.close(descriptor)


def start_jail(
    place: SandboxDirectory,
    arguments: Callable[[Descriptors], Sequence[str]],
    uid: int | None,
    confine: Callable[[int], None] | None,
) -> Started:
    """Start bwrap with these arguments, as host user `uid` if given; call `confine(pid)` before the jail runs anything.
    Blocks.

    The jail is in a session of its own and ends neither with this process nor with its terminal. Raises EngineError
    with bwrap's words.
    """
    with contextlib.ExitStack() as stack:
        pipes = _Pipes(stack, place)
        fds = pipes.inside
        monitor = subprocess.Popen(  # noqa: S603 - our own command line, no shell
            list(arguments(fds)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=pipes.stderr,
            pass_fds=(fds.guest, fds.info, fds.status, fds.block),
            start_new_session=True,
            cwd="/",
            env={},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
        )
        pipes.hand_over()
        try:
            pid = _child_pid(pipes.info, monitor, pipes.error)
            try:
                pidfd = os.pidfd_open(pid)
                stack.callback(lambda: os.close(pidfd))
                if confine is not None:
                    confine(pid)
            except ProcessLookupError:
                raise EngineError(_words(monitor, pipes.error)) from None
            os.write(pipes.block, b"\n")
            # bwrap closes its end when the jail is complete and the guest about to run, or when it failed.
            _wait(pipes.block, select.POLLERR, "to complete the jail")
            if dead(pidfd):
                raise EngineError(_words(monitor, pipes.error))
        except BaseException:
            # The jail does not end with its monitor, and a closed block pipe lets it run.
            _kill_tree(monitor.pid)
            monitor.wait()
            raise
        return Started(monitor, pid, os.dup(pidfd))


def find(place: SandboxDirectory) -> int | None:
    """A pidfd of the jail's PID 1 when it is alive, whoever started it; None when it is dead or was never started.

    The recorded pid may belong to another process by now. What the process sees as /run/sessiond tells: only the jail
    sees this sandbox's directory there. The descriptor was opened before, so it cannot come to mean another process
    afterwards.
    """
    try:
        pid = int(_status(place)["child-pid"])
        descriptor = os.pidfd_open(pid)
    except (KeyError, ProcessLookupError):
        return None
    try:
        inside = Path(f"/proc/{pid}/root{GUEST_DIRECTORY}").stat()
        ours = place.mount.stat()
        if (inside.st_dev, inside.st_ino) == (ours.st_dev, ours.st_ino) and not dead(descriptor):
            return descriptor
    except (FileNotFoundError, ProcessLookupError, PermissionError, NotADirectoryError):
        # Dead, or somebody else's process, into which we may not look.
        pass
    os.close(descriptor)
    return None


def end_unfinished(place: SandboxDirectory) -> None:
    """Kill what is left of a jail whose daemon died while bwrap was making it.

    Nothing on disk names those processes yet, and one of them waits for ever for a word from the daemon. Their command
    line tells whose they are: no other jail has this sandbox's directory.
    """
    mount = os.fsencode(place.mount)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # dead, or somebody else's
        if words[0].endswith(b"bwrap") and mount in words:
            _kill_tree(int(entry.name))  # its child may be the guest already, which says nothing of us


def exit_code(place: SandboxDirectory) -> int | None:
    """The exit code of the jail's PID 1, 128 + N after signal N; None while bwrap has not told it."""
    return _status(place).get("exit-code")


def dead(pidfd: int) -> bool:
    """Whether the process has ended (a pidfd is readable then)."""
    return bool(select.select([pidfd], [], [], 0)[0])


def pid_of(pidfd: int) -> int | None:
    """The process's pid; None when it is dead and reaped."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            pid = int(line.split()[1])
            return pid if pid > 0 else None
    return None


def tighten(pid: int, limits: Limits) -> None:
    """Lower the rlimits that stand in for cgroups, of the jail's PID 1, from which new processes inherit. OSError if
    that is forbidden."""
    for kind, value in ((resource.RLIMIT_NPROC, limits.pids), (resource.RLIMIT_DATA, limits.memory_bytes)):
        resource.prlimit(pid, kind, (value, value))


def tree(pid: int) -> list[int]:
    """The process and all its descendants, which is everybody in the pid namespace whose PID 1 it is; parents first."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _kill_tree(pid: int) -> None:
    for process in tree(pid):
        _signal(process, signal.SIGKILL)


def stop(pid: int) -> None:
    """SIGSTOP for the whole tree. A stopped process cannot fork, so a pass that meets nobody new has met all."""
    met: set[int] = set()
    while fresh := [process for process in tree(pid) if process not in met]:
        for process in fresh:
            _signal(process, signal.SIGSTOP)
        met.update(fresh)


def go_on(pid: int) -> None:
    """SIGCONT for the whole tree, PID 1 last, so that it finds its children as it left them."""
    for process in reversed(tree(pid)):
        _signal(process, signal.SIGCONT)


def stopped(pid: int) -> bool:
    """Whether the process is stopped."""
    return _state(pid) == "T"


def running(pid: int) -> bool:
    """Whether any process of the tree still runs: signals take effect a moment after they were sent.

    One in an uninterruptible sleep (D) stops before it returns from the kernel. It may sleep until a stopped process
    wakes it: the parent of a vfork does.
    """
    return any(_state(process) not in {"T", "D", "Z", "X", ""} for process in tree(pid))


def _state(pid: int) -> str:
    """The state letter of /proc/PID/stat (proc(5)); empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _status(place: SandboxDirectory) -> dict[str, int]:
    """bwrap's words in STATUS, all lines in one; empty when it said nothing yet."""
    said: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (place.root / STATUS).read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                said.update(json.loads(line))
    return said


def _child_pid(info: int, monitor: subprocess.Popen[bytes], error: int) -> int:
    """The jail's PID 1 from bwrap's --info-fd, which it closes after it has written one document."""
    text = b""
    while True:
        _wait(info, select.POLLIN, "to make the jail")
        part = os.read(info, MOST_ERROR_BYTES)
        if not part:
            break
        text += part
    if not text:
        raise EngineError(_words(monitor, error))
    return int(json.loads(text)["child-pid"])


def _wait(descriptor: int, events: int, what: str) -> None:
    poll = select.poll()
    poll.register(descriptor, events)
    if not poll.poll(START_SECONDS * 1000):
        raise EngineTimeoutError(f"bubblewrap took more than {START_SECONDS:g} s {what}")


def _words(monitor: subprocess.Popen[bytes], error: int) -> str:
    """What bwrap said before it ended."""
    code = monitor.wait(START_SECONDS)
    words = os.read(error, MOST_ERROR_BYTES).decode(errors="replace").strip()
    return f"bubblewrap ended with {code}: {words or 'it said nothing'}"
