"""A sandbox's recipe as Docker's options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.engine.docker_options import container_options, own_labels, tighter
from sessiond.engine.port import ExecMode, Limits, SandboxSpec

LIMITS = Limits(
    memory_bytes=100,
    cpus=0.25,
    pids=7,
    open_files=8,
    file_bytes=9,
    workspace_bytes=10,
    tmp_bytes=11,
)
SPEC = SandboxSpec("s-1", "strict", "image:1", LIMITS, {"a": "b", "sessiond.instance": "forged"})


def options(**more):
    return container_options(SPEC, instance="i", mount=Path("/state/s-1/mount"), seccomp="{}", **more)


def test_every_lock_is_set():
    host = options().host
    assert host["network_mode"] == "none"
    assert host["read_only"] is True
    assert host["cap_drop"] == ["ALL"]
    assert "cap_add" not in host
    assert host["security_opt"] == ["no-new-privileges", "seccomp={}"]
    assert host["ipc_mode"] == host["cgroupns"] == "private"
    assert host["log_config"]["type"] == "none"
    assert host["restart_policy"] == {"Name": "no"}
    assert host["init"] is False
    assert host["oom_score_adj"] > 0
    assert not {"privileged", "devices", "pid_mode", "userns_mode", "port_bindings", "auto_remove"} & host.keys()


def test_every_limit_is_set():
    host = options().host
    assert (host["mem_limit"], host["memswap_limit"]) == (100, 100)
    assert (host["nano_cpus"], host["pids_limit"], host["shm_size"]) == (250_000_000, 7, 11)
    assert {limit["name"]: (limit["soft"], limit["hard"]) for limit in host["ulimits"]} == {
        "nofile": (8, 8),
        "core": (0, 0),
        "fsize": (9, 9),
    }


def test_writable_places_are_sized_and_without_devices_or_setuid():
    tmpfs = options(volumes=["/data"]).host["tmpfs"]
    assert set(tmpfs) == {"/workspace", "/tmp", "/data"}
    for mount in tmpfs.values():
        assert {"nosuid", "nodev"} <= set(mount.split(","))
    assert "size=10," in tmpfs["/workspace"]
    assert "size=11," in tmpfs["/tmp"]
    assert "size=11," in tmpfs["/data"]
    assert "noexec" in tmpfs["/tmp"]
    assert "noexec" not in tmpfs["/workspace"]


@pytest.mark.parametrize(("mode", "runs"), [("any", True), ("workspace", True), ("strict", False)])
def test_where_written_files_may_be_executed(mode: ExecMode, runs: bool):
    spec = replace(SPEC, exec_in=mode)
    made = container_options(spec, instance="i", mount=Path("/m"), seccomp="{}", volumes=["/data"])
    runnable = {path for path, mount in made.host["tmpfs"].items() if "noexec" not in mount.split(",")}
    assert runnable == ({"/workspace"} if runs else set())


def test_image_that_has_the_workspace_as_a_volume_changes_nothing():
    assert options(volumes=["/workspace", "/tmp"]).host["tmpfs"] == options().host["tmpfs"]


def test_channel_is_the_only_thing_of_the_host_and_read_only():
    assert options().host["binds"] == ["/state/s-1/mount:/run/sessiond:ro"]


def test_guest_is_pid_1_and_never_root():
    container = options().container
    assert container["user"] == "1000:1000"
    assert container["entrypoint"] == ["/run/sessiond/guest", "init", "--dial", "/run/sessiond/channel.sock"]
    assert container["command"] == []
    assert container["healthcheck"] == {"test": ["NONE"]}
    assert container["hostname"] == "s-1"
    assert container["name"] == "sessiond-i-s-1"


def test_labels_of_the_caller_cannot_pass_for_the_engines():
    labels = options().container["labels"]
    assert labels["sessiond.instance"] == "i"
    assert labels["sessiond.sandbox"] == "s-1"
    assert labels["sessiond.profile"] == "strict"
    assert own_labels(labels) == SPEC.labels


def test_runtime_is_passed_only_when_asked_for():
    assert "runtime" not in options().host
    assert options(runtime="runsc").host["runtime"] == "runsc"


def test_tightening_sets_swap_with_memory():
    assert tighter(LIMITS) == {"Memory": 100, "MemorySwap": 100, "NanoCpus": 250_000_000, "PidsLimit": 7}
