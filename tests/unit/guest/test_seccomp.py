"""The filter does what seccomp.toml says."""

from __future__ import annotations

import json
import platform
import signal
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from sessiond_protocol.guest import Exited

from sessiond.guest.build import SECCOMP, GuestBuildError, seccomp_header

from .harness import Guest

SCRIPT = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*(ctypes.c_ulong(argument) for argument in arguments))
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps([call(*arguments) for arguments in json.loads(sys.argv[1])]))
"""
X86_64 = {"socket": 41, "personality": 135, "ioctl": 16, "clone": 56, "clone3": 435, "mknodat": 259, "ptrace": 101}
AARCH64 = {"socket": 198, "personality": 92, "ioctl": 29, "clone": 220, "clone3": 435, "mknodat": 33, "ptrace": 117}
NUMBERS = X86_64 if platform.machine() == "x86_64" else AARCH64
AF_UNIX, AF_INET, AF_NETLINK, AF_ALG, AF_VSOCK, STREAM = 1, 2, 16, 38, 40, 1


@pytest.fixture
def filtered(make_guest: Callable[..., Guest]) -> Guest:
    guest = make_guest(arguments=["--seccomp"])
    guest.connect()
    return guest


def calls(guest: Guest, *wanted: tuple[object, ...]) -> list[str]:
    numbered = [(NUMBERS.get(str(name), name), *arguments) for name, *arguments in wanted]
    run = guest.run(sys.executable, "-c", SCRIPT, json.dumps(numbered))
    assert run.exit.code == 0, run.stderr
    answers: list[str] = json.loads(run.stdout)
    return answers


def test_ordinary_programs_run(filtered: Guest) -> None:
    assert filtered.shell("echo hi | cat; ls / > /dev/null && grep Seccomp: /proc/self/status").stdout == (
        b"hi\nSeccomp:\t2\n"
    )
    assert filtered.run("cat", stdin=b"through").stdout == b"through"
    assert filtered.run(sys.executable, "-c", "import threading, socket, subprocess; print(1)").stdout == b"1\n"


def test_one_of_several_values(filtered: Guest) -> None:
    wanted = [("socket", family, STREAM, 0) for family in (AF_UNIX, AF_INET, AF_ALG, AF_VSOCK)]
    assert calls(filtered, *wanted) == ["ok", "ok", "EPERM", "EPERM"]
    # Two conditions on one call: a good family with a bad protocol is refused too.
    assert calls(filtered, ("socket", AF_INET, STREAM, 6), ("socket", AF_INET, STREAM, 132)) == ["ok", "EPERM"]
    assert calls(filtered, ("personality", 0xFFFFFFFF), ("personality", 0x0400000)) == ["ok", "EPERM"]


def test_rubbish_in_the_upper_half_of_an_argument(filtered: Guest) -> None:
    high = 1 << 32
    assert calls(filtered, ("socket", high + AF_INET, STREAM, 0)) == ["EPERM"]
    assert calls(filtered, ("ioctl", 0, 0x5412, 0), ("ioctl", 0, high + 0x5412, 0)) == ["EPERM", "EPERM"]
    assert calls(filtered, ("ioctl", 0, 0x5413, 0)) == ["ENOTTY"]


def test_no_file_can_leave_its_volumes_project(filtered: Guest) -> None:
    set_flags, set_flags_32, set_attributes, get_attributes = 0x40086602, 0x40046602, 0x401C5820, 0x801C581F
    asked = [("ioctl", 0, request, 0) for request in (set_flags, set_flags_32, set_attributes)]
    assert calls(filtered, *asked) == ["EPERM"] * 3
    assert calls(filtered, ("ioctl", 0, get_attributes, 0)) != ["EPERM"]


def test_no_bit_of_a_mask(filtered: Guest) -> None:
    newuser, newnet, device, fifo = 0x10000000, 0x40000000, 0o020600, 0o010600
    assert calls(filtered, ("clone", newuser | signal.SIGCHLD), ("clone", newnet)) == ["EPERM", "EPERM"]
    target = 0  # a NULL path: EFAULT shows that the filter let it pass
    assert calls(filtered, ("mknodat", 0, target, fifo, 0), ("mknodat", 0, target, device, 0)) == ["EFAULT", "EPERM"]


def test_refusals_have_the_errno_that_makes_programs_cope(filtered: Guest) -> None:
    assert calls(filtered, ("clone3", 0, 0), ("ptrace", 0), (100_000,)) == ["ENOSYS", "EPERM", "EPERM"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 has the two other system call tables")
def test_other_tables_of_system_calls_are_closed(filtered: Guest) -> None:
    getpid, x32 = 39, 0x40000000
    assert calls(filtered, (getpid,), (x32 + getpid,)) == ["ok", "ENOSYS"]
    # mov $20, %eax; int $0x80; ret: getpid as a 32-bit program calls it
    script = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex("b814000000cd80c3"))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))())
"""
    handle = filtered.start(sys.executable, "-c", script)
    filtered.until(lambda frame: isinstance(frame, Exited))
    assert filtered.finish(handle).exit.signal == signal.SIGSYS


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table["allow"].append({"syscalls": ["read"]}), "named twice: read"),
        (lambda table: table["argument"].append({"syscall": "mount"}), "not allowed: mount"),
        (lambda table: table.update(default_errno="ENONSENSE"), "not an errno"),
        (lambda table: table["argument"][0].update(op="sometimes"), "bad condition"),
        (lambda table: table["argument"][0].update(index=6), "out of range"),
        (lambda table: table["argument"][0].update(op="in", values=[]), "bad condition"),
        (lambda table: table["argument"][0].update(op="in", values=[1 << 32]), "out of range"),
    ],
)
def test_a_table_that_makes_no_sense_is_not_built(change: Callable[[dict[str, Any]], None], reason: str) -> None:
    table = tomllib.loads(SECCOMP.read_text())
    change(table)
    with pytest.raises(GuestBuildError, match=reason):
        seccomp_header(table)
