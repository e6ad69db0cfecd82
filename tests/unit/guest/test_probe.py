"""Probes tell a sandbox from what is none. Here they run in a pid namespace, with and without the filter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Guest

WITH_FILTER = {
    *("identity", "no_new_privs", "seccomp", "setuid_gain", "mount", "unshare", "setns", "ptrace_pid1", "bpf"),
    *("keyctl", "io_uring", "perf_event_open", "userfaultfd", "memfd_exec", "kernel_module", "raw_socket", "vsock"),
    *(
        "tiocsti",
        "mknod",
        "proc1_fd",
        "proc1_mem",
        "kill_pid1",
        "prlimit_pid1",
        "host_pids",
        "proc_sys_write",
        "cgroup_write",
    ),
}
"""What a pid namespace, an ordinary user and the filter are enough for; the rest takes a whole sandbox."""

LET_THROUGH = {"seccomp", "keyctl", "memfd_exec"}
"""What fails without the filter, whatever the kernel."""

RLIMIT_FSIZE, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_AS = 1, 6, 7, 9


def probe(guest: Guest, binary: Path, *words: str, **fields: object) -> bool:
    run = guest.run(str(binary), "probe", *words, env=(b"ASAN_OPTIONS=detect_leaks=0",), **fields)
    answer = json.loads(run.stdout)
    assert answer["probe"] == words[0] and answer["detail"], answer
    assert run.exit.code == (0 if answer["held"] else 1)
    return bool(answer["held"])


def names(binary: Path) -> dict[str, str]:
    done = subprocess.run([binary, "probe", "list"], capture_output=True, check=True, text=True)
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}


@pytest.fixture
def filtered(make_guest: Callable[..., Guest]) -> Guest:
    guest = make_guest(first=True, arguments=["--seccomp"])
    guest.connect()
    return guest


def test_what_the_filter_and_the_namespace_hold(filtered: Guest, binary: Path) -> None:
    if binary.name == "guest-sanitized":
        pytest.skip("the sanitizer's runtime needs more than the filter allows")
    held = {name for name, unit in names(binary).items() if not unit and probe(filtered, binary, name)}
    assert held >= WITH_FILTER


def test_what_nothing_holds(init: Guest, binary: Path) -> None:
    assert not any(probe(init, binary, name) for name in LET_THROUGH)


def test_limits_on_processes(init: Guest, binary: Path) -> None:
    if binary.name == "guest-sanitized":
        pytest.skip("the sanitizer's shadow is larger than any limit")
    nproc, nofile, fsize, space = (RLIMIT_NPROC, 20), (RLIMIT_NOFILE, 64), (RLIMIT_FSIZE, 5000), (RLIMIT_AS, 50 << 20)
    assert probe(init, binary, "pids_limit", "20", rlimits=(nproc,))
    assert not probe(init, binary, "pids_limit", "15", rlimits=(nproc,))
    assert probe(init, binary, "nofile_limit", "64", rlimits=(nofile,))
    assert not probe(init, binary, "nofile_limit", "50", rlimits=(nofile,))
    assert probe(init, binary, "file_size_limit", "5000", rlimits=(fsize,))
    assert not probe(init, binary, "file_size_limit", "4000", rlimits=(fsize,))
    assert probe(init, binary, "memory_limit", "10", rlimits=(space,))
    assert not probe(init, binary, "memory_limit", "1")
    assert probe(init, binary, "cpu_limit", "64") and not probe(init, binary, "cpu_limit", "0.1")


def test_a_probe_leaves_nothing_behind(init: Guest, binary: Path) -> None:
    probe(init, binary, "pids_limit", "10")
    probe(init, binary, "tmp_size", "1")
    assert init.shell("ls /proc | grep -c '^[0-9]'; ls -a /tmp | grep -c sessiond-probe").stdout.split()[1:] == [b"0"]
    assert int(init.shell("ls -d /proc/[0-9]* | wc -l").stdout) <= 5


def test_only_probes_that_look_are_tried_as_root(binary: Path) -> None:
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("not root")
    done = subprocess.run([binary, "probe", "mount"], capture_output=True, text=True)
    assert done.returncode == 1 and json.loads(done.stdout)["detail"] == "not tried as root"


@pytest.mark.parametrize(
    "words", [["probe"], ["probe", "nonsense"], ["probe", "pids_limit"], ["probe", "tmp_size", "x"]]
)
def test_a_probe_that_cannot_be_run(binary: Path, words: list[str]) -> None:
    done = subprocess.run([binary, *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr and not done.stdout
