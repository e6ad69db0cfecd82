"""`sessiond doctor` on the real path: it says what holds, and above all what does not."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest
from sessiond_client import Result, Session

from sessiond.doctor.examine import probe
from sessiond.engine.port import Capabilities, Limits
from tests.engines import require
from tests.integration.cli.conftest import CommandLine, parsed
from tests.integration.cli.weakened import weakened_bwrap, weakening_proxy

PROFILE = """
[profiles.small.limits]
memory_bytes = "128MiB"
cpus = 0.5
pids = 32
open_files = 128
file_bytes = "40MiB"
workspace_bytes = "32MiB"
tmp_bytes = "8MiB"
"""

LIMITS = {
    *("pids_limit", "memory_limit", "nofile_limit", "file_size_limit", "cpu_limit"),
    *("tmp_size", "workspace_size", "shm_size"),
}


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in report["checks"]}


def test_everything_promised_holds(command_line: CommandLine) -> None:
    done = command_line.on_engine("doctor", "--json", *command_line.image_options())
    report = parsed(done)
    assert [check for check in report["checks"] if check["promised"] and not check["held"]] == []
    assert (done.returncode, report["ok"]) == (0, True)
    assert set(by_name(report)) >= LIMITS | {"identity", "capabilities", "seccomp", "network", "rootfs_readonly"}
    assert report["engine"] == command_line.engine.name
    assert set(report["facts"]) >= {"kernel", "cgroups", "guest", "system calls"}


def test_the_limits_tried_are_the_profiles(command_line: CommandLine) -> None:
    (command_line.directory / "sessiond.toml").write_text(PROFILE)
    done = command_line.on_engine("doctor", "--json", "--profile", "small", *command_line.image_options())
    checks = by_name(parsed(done))
    assert done.returncode == 0, [check for check in checks.values() if not check["held"]]
    assert checks["nofile_limit"]["detail"].startswith("128 descriptors")
    assert checks["tmp_size"]["detail"].startswith("8 MiB")
    assert checks["workspace_size"]["detail"].startswith("32 MiB")


def test_it_prints_a_line_for_each_check(command_line: CommandLine) -> None:
    done = command_line.on_engine("doctor", *command_line.image_options())
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("held ")]
    assert {line[1] for line in lines} >= LIMITS


WEAKENINGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "writable root": ({"ReadonlyRootfs": False, "User": "0"}, {"rootfs_readonly"}),
    "no seccomp": (
        {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"]},
        {"seccomp", "io_uring", "unshare"},
    ),
    "Docker's own seccomp list": ({"SecurityOpt": ["no-new-privileges"]}, {"io_uring", "memfd_exec", "vsock"}),
    "no memory limit": ({"Memory": 0, "MemorySwap": 0}, {"memory_limit"}),
    "no process limit": ({"PidsLimit": 0}, {"pids_limit"}),
    "no processor limit": ({"NanoCpus": 0}, {"cpu_limit"}),
    "no file limits": ({"Ulimits": []}, {"file_size_limit", "core_limit"}),
    "large tmpfs": ({"Tmpfs": {"/workspace": "rw,exec,mode=1777", "/tmp": "rw,mode=1777"}}, {"tmp_size"}),
}


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
@pytest.mark.parametrize("weakening", WEAKENINGS)
def test_a_lock_that_docker_leaves_out_is_reported(command_line: CommandLine, weakening: str) -> None:
    changes, expected = WEAKENINGS[weakening]
    host = command_line.engine.docker_host
    assert host is not None
    (command_line.directory / "sessiond.toml").write_text(PROFILE)
    with weakening_proxy(host, command_line.directory / "d.sock", changes) as url:
        done = command_line.on_engine("doctor", "--json", "--profile", "small", *command_line.image_options(), host=url)
    report = parsed(done)
    broken = {check["name"] for check in report["checks"] if not check["held"]}
    assert broken >= expected, broken
    assert (done.returncode, report["ok"]) == (1, False)


@pytest.mark.parametrize("engine", ["bubblewrap"], indirect=True)
def test_a_lock_that_bwrap_leaves_out_is_reported(command_line: CommandLine) -> None:
    with weakened_bwrap(require("bwrap")) as weak:
        command_line.environment["PATH"] = f"{weak}:{os.environ['PATH']}"
        done = command_line.on_engine("doctor", "--json")
    report = parsed(done)
    assert "rootfs_readonly" in {check["name"] for check in report["checks"] if not check["held"]}
    assert (done.returncode, report["ok"]) == (1, False)


@pytest.mark.parametrize("engine", ["bubblewrap"], indirect=True)
def test_an_engine_that_does_not_answer_is_one_plain_message(command_line: CommandLine) -> None:
    done = command_line.run("doctor", "--engine", "docker", "--docker-host", "unix:///nowhere/docker.sock")
    assert done.returncode == 1
    assert "cannot connect to unix:///nowhere/docker.sock" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense", b"[]", b"{}", b'{"held":true}', b'{"held":"yes","detail":""}', b'{"held":false,"detail":""}'],
)
async def test_a_probe_without_a_clear_answer_has_not_held(answer: bytes) -> None:
    check = await probe(cast("Session", Answering(0, answer)), "mount", Limits(), NOTHING)
    assert not check.held
    assert not check.good


async def test_a_probe_that_fails_has_not_held_whatever_it_says() -> None:
    session = cast("Session", Answering(1, b'{"held": true, "detail": ""}'))
    assert not (await probe(session, "mount", Limits(), NOTHING)).held


async def test_what_the_engine_does_not_promise_is_tried_and_does_not_count() -> None:
    session = cast("Session", Answering(1, b'{"held": false, "detail": "no end"}'))
    check = await probe(session, "memory_limit", Limits(), NOTHING)
    assert (check.held, check.promised, check.good) == (False, False, True)


NOTHING = Capabilities(
    engine="none",
    version="0",
    root="host",
    limits=frozenset(),
    process_limits=frozenset(),
    seccomp=False,
    pause=False,
    survives_daemon=False,
)


class Answering:
    """A session whose every command ends with the same exit code and output."""

    def __init__(self, code: int, out: bytes) -> None:
        self._result = Result(code, None, "exit", 0.0, 0.0, 0.0, 0, len(out), out, b"", out)

    async def run(self, *_: object, **__: object) -> Result:
        return self._result
