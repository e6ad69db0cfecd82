"""A jail's command line and what jails promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.engine.bubblewrap_options import (
    ETC,
    Descriptors,
    Surroundings,
    capabilities,
    etc_files,
    host_root,
    jail_arguments,
)
from sessiond.engine.port import ExecMode, Limits, SandboxSpec

AROUND = Surroundings("/usr/bin/bwrap", "/usr/bin/prlimit", ("--ro-bind", "/usr", "/usr"), Path("/state"))
SPEC = SandboxSpec("s-1", "p", limits=Limits(open_files=8, file_bytes=9, workspace_bytes=10, tmp_bytes=11, pids=12))


def arguments(memory: Path | None = None, spec: SandboxSpec = SPEC) -> list[str]:
    fds = Descriptors(guest=10, info=11, status=12, block=13)
    return jail_arguments(spec, AROUND, mount=Path("/state/s-1/mount"), memory=memory, fds=fds)


def has(words: list[str], *run: str) -> bool:
    return any(tuple(words[at : at + len(run)]) == run for at in range(len(words)))


def test_every_namespace_and_no_capability():
    words = arguments()
    assert {"--unshare-all", "--clearenv", "--new-session", "--as-pid-1"} <= set(words)
    assert "--share-net" not in words
    assert has(words, "--cap-drop", "ALL")
    assert has(words, "--uid", "1000")
    assert has(words, "--gid", "1000")
    assert has(words, "--hostname", "s-1")


def test_jail_outlives_the_daemon():
    assert "--die-with-parent" not in arguments()


def test_nothing_of_the_host_is_writable_or_a_device():
    words = arguments()
    assert not {"--bind", "--dev-bind", "--bind-try", "--dev-bind-try"} & set(words)
    assert has(words, "--remount-ro", "/")
    assert has(words, "--remount-ro", "/dev")


def test_root_is_made_read_only_after_everything_is_mounted():
    words = arguments()
    assert max(at for at, word in enumerate(words) if word in {"--tmpfs", "--dir", "--ro-bind"}) < words.index(
        "--remount-ro"
    )


def test_writable_places_are_sized():
    words = arguments()
    assert has(words, "--size", "10", "--tmpfs", "/workspace")
    assert has(words, "--size", "11", "--tmpfs", "/tmp")
    assert has(words, "--size", "11", "--tmpfs", "/dev/shm")
    assert words.count("--tmpfs") == words.count("--size") == 3


def test_files_of_etc_hold_no_secret():
    assert not {"/etc/shadow", "/etc/gshadow", "/etc/passwd", "/etc/hosts", "/etc/ssl/private", "/etc/ssl"} & set(ETC)
    passwd = etc_files()["passwd"].splitlines()
    assert [line.split(":")[:3] for line in passwd] == [["root", "x", "0"], ["sandbox", "x", "1000"]]


def test_rlimits_stand_in_for_cgroups_only_where_there_are_none():
    without, within = arguments(), arguments(Path("/sys/fs/cgroup/memory/sessiond/i.s-1"))
    assert {"--nproc=12", f"--data={SPEC.limits.memory_bytes}"} <= set(without)
    assert not [word for word in within if word.startswith(("--nproc", "--data"))]
    for words in (without, within):
        assert {"--core=0:0", "--nofile=8", "--fsize=9"} <= set(words)
    assert has(within, "--ro-bind", "/sys/fs/cgroup/memory/sessiond/i.s-1", "/sys/fs/cgroup/memory")


def test_guest_is_the_program_and_installs_the_filter():
    tail = arguments()[-5:]
    assert tail == ["/run/sessiond/guest", "init", "--dial", "/run/sessiond/channel.sock", "--seccomp"]


@pytest.mark.parametrize(
    ("mode", "noexec"),
    [("any", []), ("workspace", ["/tmp", "/dev/shm"]), ("strict", ["/tmp", "/dev/shm", "/workspace"])],
)
def test_where_written_files_may_be_executed(mode: ExecMode, noexec: list[str]):
    """The guest remounts them; only for that it is left two capabilities, which it gives up."""
    words = arguments(spec=replace(SPEC, exec_in=mode))
    at = words.index("--seccomp")
    assert words[at + 1 :] == [word for path in noexec for word in ("--noexec", path)]
    added = [words[at + 1] for at, word in enumerate(words) if word == "--cap-add"]
    assert added == (["CAP_SYS_ADMIN", "CAP_SETPCAP"] if noexec else [])
    assert words.index("--cap-drop") < (words.index("--cap-add") if noexec else len(words))


def test_host_root_follows_the_machine(tmp_path: Path):
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").mkdir()
    assert host_root(tmp_path) == (
        *("--ro-bind", str(tmp_path / "usr"), "/usr"),
        *("--symlink", "usr/bin", "/bin"),
        *("--ro-bind", str(tmp_path / "lib"), "/lib"),
    )


def test_promises_without_cgroups_are_smaller_and_said():
    whole = capabilities("0.8", held=frozenset({"memory_bytes", "pids", "cpus"}), root=True)
    lesser = capabilities("0.8", held=frozenset(), root=False)
    partly = capabilities("0.8", held=frozenset({"memory_bytes", "pids"}), root=True)
    assert "cpus" not in partly.limits
    assert any("Processor time" in sentence for sentence in partly.weaknesses)
    assert {"memory_bytes", "cpus"} <= whole.limits
    assert not {"memory_bytes", "cpus"} & lesser.limits
    assert "memory_bytes" in lesser.process_limits
    assert "cpus" not in lesser.process_limits
    assert len(lesser.weaknesses) == len(whole.weaknesses) + 2
