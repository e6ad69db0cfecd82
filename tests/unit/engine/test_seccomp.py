"""The allowlist's loader and its translation for Docker."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.engine.seccomp import SeccompListError, docker_profile, load, packaged, remaining_blocks

GOOD = """
default_errno = "EPERM"
[[allow]]
reason = "r"
syscalls = ["read", "clone", "ioctl", "socket"]
[[errno]]
reason = "r"
errno = "ENOSYS"
syscalls = ["clone3"]
"""


def test_every_entry_of_the_shipped_list_gives_a_reason_and_names_no_call_twice():
    text = (Path(__file__).parents[3] / "sessiond" / "guest" / "seccomp.toml").read_text()
    table = tomllib.loads(text)
    entries = [*table["allow"], *table["errno"], *table["argument"]]
    assert all(len(entry["reason"]) > 5 for entry in entries)
    assert packaged() == load(text)


@pytest.mark.parametrize(
    "name",
    [
        *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "bpf", "userfaultfd", "vmsplice"),
        *("perf_event_open", "keyctl", "add_key", "request_key", "mount", "umount2", "fsopen", "move_mount", "unshare"),
        *("setns", "pivot_root", "chroot", "init_module", "finit_module", "delete_module", "kexec_load", "reboot"),
        *(
            "io_uring_setup",
            "io_uring_enter",
            "io_setup",
            "memfd_create",
            "memfd_secret",
            "modify_ldt",
            "iopl",
            "ioperm",
        ),
        *(
            "ioperm",
            "open_by_handle_at",
            "name_to_handle_at",
            "quotactl",
            "acct",
            "swapon",
            "settimeofday",
            "clock_settime",
        ),
        *("adjtimex", "syslog", "sethostname", "personality2", "clone3", "fanotify_init", "lookup_dcookie", "vm86"),
    ],
)
def test_dangerous_call_is_not_allowed(name: str):
    assert name not in packaged().allow


@pytest.mark.parametrize(
    "name",
    [
        *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp", "pidfd_open", "openat2"),
        *("close_range", "rseq", "futex", "epoll_pwait2", "statx", "arch_prctl", "prctl", "clone", "vfork", "execve"),
    ],
)
def test_needed_call_is_allowed(name: str):
    assert name in packaged().allow


def allows(profile: dict, name: str, *arguments: int) -> bool:
    """What libseccomp makes of the profile: rules of one call are alternatives, all conditions of one must hold."""

    def holds(condition: dict) -> bool:
        value = arguments[condition["index"]] & (2**64 - 1)
        if condition["op"] == "SCMP_CMP_EQ":
            return value == condition["value"]
        assert condition["op"] == "SCMP_CMP_MASKED_EQ"
        return value & condition["value"] == condition["valueTwo"]

    return any(
        rule["action"] == "SCMP_ACT_ALLOW" and name in rule["names"] and all(map(holds, rule["args"]))
        for rule in profile["syscalls"]
    )


@pytest.fixture(scope="module")
def profile() -> dict:
    return json.loads(docker_profile())


def test_docker_profile_denies_by_default_and_only_native_numbering(profile: dict):
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["archMap"] == [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
    ]
    refused = [rule for rule in profile["syscalls"] if rule["action"] != "SCMP_ACT_ALLOW"]
    assert [(rule["errnoRet"], "clone3" in rule["names"]) for rule in refused] == [(38, True)]


def test_docker_profile_has_at_most_one_condition_an_argument(profile: dict):
    """runc turns several conditions on one argument into alternatives."""
    for rule in profile["syscalls"]:
        indices = [condition["index"] for condition in rule["args"]]
        assert len(indices) == len(set(indices))


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        (("read", 0, 0, 0), True),
        (("clone", 17), True),
        (("clone", 0x10000000 | 17), False),
        (("clone", 0x00020000), False),
        (("clone", 0x40000000), False),
        (("socket", 1, 1, 0), True),
        (("socket", 2, 1, 6), True),
        (("socket", 16, 3, 0), True),
        (("socket", 16, 3, 12), False),
        (("socket", 2, 1, 132), False),
        (("socket", 40, 1, 0), False),
        (("socket", 1 << 32 | 1, 1, 0), False),
        (("ioctl", 0, 0x5401), True),
        (("ioctl", 0, 0x5412), False),
        (("ioctl", 0, 0x1_0000_5412), False),
        (("ioctl", 0, 0xFFFFFFFF_80045430), True),
        (("ioctl", 0, 0x541C), False),
        (("ioctl", 0, 0x5423), False),
        (("personality", 0), True),
        (("personality", 0xFFFFFFFF), True),
        (("personality", 0x40000), False),
        (("mknodat", -100, 0, 0o010666), True),
        (("mknodat", -100, 0, 0o020666), False),
        (("mknodat", -100, 0, 0o060666), False),
        (("mknodat", -100, 0, 0o140666), True),
        (("prlimit64", 0), True),
        (("prlimit64", 1), False),
        (("ptrace", 0), False),
        (("clone3", 0), False),
    ],
)
def test_docker_profile_decides_arguments(profile: dict, call: tuple, allowed: bool):
    assert allows(profile, *call) is allowed


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_remaining_blocks_hold_every_other_number_once(values: list[int], number: int):
    blocks = list(remaining_blocks(tuple(values)))
    assert sum(1 << (32 - mask.bit_count()) for mask, _bits in blocks) == 2**32 - len(set(values))
    for probe in (number, *values):
        assert sum(probe & mask == bits for mask, bits in blocks) == (probe not in values)


@pytest.mark.parametrize(
    ("addition", "problem"),
    [
        ("[[allow]]\nsyscalls = ['x']", "no reason"),
        ("[[allow]]\nreason = 'r'\nsyscalls = ['read']", "twice"),
        ("[[errno]]\nreason = 'r'\nerrno = 'EPERM'\nsyscalls = ['read']", "twice"),
        ("[[errno]]\nreason = 'r'\nerrno = 'ENOTHING'\nsyscalls = ['x']", "not an errno"),
        ("[[allow]]\nreason = 'r'\nsyscalls = ['x']\nsycalls = ['y']", "unknown keys"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'x'\nindex = 0\nop = 'in'\nvalues = [1]", "not allowed at all"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'read'\nindex = 6\nop = 'in'\nvalues = [1]", "no argument 6"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'read'\nindex = 0\nop = 'is'\nvalues = [1]", "unknown op"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'read'\nindex = 0\nop = 'in'\nmask = 1", "takes values"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'read'\nindex = 0\nop = 'masked_zero'\nvalues = [1]", "takes a mask"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'read'\nindex = 0\nop = 'in'\nvalues = [-1]", "64 bits"),
        ("[[argument]]\nreason = 'r'\nsyscall = 'read'\nindex = 0\nop = 'in'\nvalues = [1]\n" * 2, "two"),
    ],
)
def test_list_that_is_not_of_the_documented_form_is_refused(addition: str, problem: str):
    assert load(GOOD).allow == {"read", "clone", "ioctl", "socket"}
    with pytest.raises(SeccompListError, match=problem):
        load(f"{GOOD}\n{addition}\n")
