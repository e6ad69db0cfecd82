"""A sandbox's recipe as Docker's options: every lock of a container in one pure function.

What each lock is for, and where Docker's own default would be weaker:

- no network, no capability, no new privileges, never root, read-only root file system;
- our seccomp list instead of Docker's (see sessiond/guest/seccomp.toml); masked and read-only paths stay Docker's;
- memory = memory + swap, so that swapping is no way around the limit; pids, processor time, descriptors, file size, no
  core dumps;
- everything writable is a tmpfs with a size, so nothing a sandbox writes reaches the host's disk, but for a workspace
  that is a volume; that covers the image's VOLUMEs, which would otherwise become anonymous volumes on it;
- private ipc and cgroup namespaces, no log driver (logs would be an unbounded file), no restart, no health check of the
  image's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessiond.core.paths import WORKSPACE
from sessiond.engine.directory import GUEST, SOCKET
from sessiond.engine.port import GUEST_DIRECTORY, SANDBOX_UID, Limits, SandboxSpec

INSTANCE_LABEL = "sessiond.instance"
SANDBOX_LABEL = "sessiond.sandbox"
PROFILE_LABEL = "sessiond.profile"
OWN_LABELS = "sessiond.label."
"""Prefix of `SandboxSpec.labels`, so that no caller's label can pass for one of the engine's."""

OOM_SCORE_ADJ = 500
"""Under memory pressure of the whole host a sandbox dies before the daemon and before the host's services."""

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """Arguments of docker.APIClient's create_container and create_host_config."""

    container: dict[str, Any]
    host: dict[str, Any]


def container_name(instance: str, sandbox: str) -> str:
    """The container's name, by which it is found again."""
    return f"sessiond-{instance}-{sandbox}"


def container_options(
    spec: SandboxSpec,
    *,
    instance: str,
    mount: Path,
    seccomp: str,
    volumes: Iterable[str] = (),
    runtime: str | None = None,
) -> ContainerOptions:
    """The options for `spec`. `mount` is the host directory for /run/sessiond, `volumes` the image's VOLUME paths."""
    limits = spec.limits
    host: dict[str, Any] = {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", f"seccomp={seccomp}"],
        "ipc_mode": "private",
        "cgroupns": "private",
        "pids_limit": limits.pids,
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "nano_cpus": round(limits.cpus * NANO),
        "ulimits": [
            {"name": "nofile", "soft": limits.open_files, "hard": limits.open_files},
            {"name": "core", "soft": 0, "hard": 0},
            {"name": "fsize", "soft": limits.file_bytes, "hard": limits.file_bytes},
        ],
        "shm_size": limits.tmp_bytes,
        "tmpfs": _tmpfs(spec, volumes),
        "binds": [f"{mount}:{GUEST_DIRECTORY}:ro"],
        "mounts": _mounts(spec.volume),
        "log_config": {"type": "none", "config": {}},
        "restart_policy": {"Name": "no"},
        "oom_score_adj": OOM_SCORE_ADJ,
        "init": False,
    }
    if spec.volume is not None:
        del host["tmpfs"][WORKSPACE]
    if runtime is not None:
        host["runtime"] = runtime
    container: dict[str, Any] = {
        "image": spec.image,
        "name": container_name(instance, spec.id),
        "hostname": spec.id,
        "user": f"{SANDBOX_UID}:{SANDBOX_UID}",
        "entrypoint": [f"{GUEST_DIRECTORY}/{GUEST}", "init", "--dial", f"{GUEST_DIRECTORY}/{SOCKET}"],
        "command": [],
        "working_dir": "/",
        "stop_signal": "SIGKILL",
        "healthcheck": {"test": ["NONE"]},
        "network_disabled": True,
        "labels": {
            **{OWN_LABELS + name: value for name, value in spec.labels.items()},
            INSTANCE_LABEL: instance,
            SANDBOX_LABEL: spec.id,
            PROFILE_LABEL: spec.profile,
        },
    }
    return ContainerOptions(container, host)


def _mounts(volume: Path | None) -> list[dict[str, Any]]:
    """The workspace, when it is a volume. Not as one of `binds`: of those Docker makes what is missing, on the host's
    disk and without a limit."""
    if volume is None:
        return []
    return [{"Target": WORKSPACE, "Source": str(volume), "Type": "bind", "ReadOnly": False}]


def tighter(limits: Limits) -> dict[str, int]:
    """The body of POST /containers/NAME/update that sets the limits which can change while the container runs."""
    return {
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": round(limits.cpus * NANO),
        "PidsLimit": limits.pids,
    }


def own_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels that `SandboxSpec.labels` held, from a container's."""
    return {name.removeprefix(OWN_LABELS): value for name, value in labels.items() if name.startswith(OWN_LABELS)}


def _tmpfs(spec: SandboxSpec, volumes: Iterable[str]) -> dict[str, str]:
    """Writable places. Docker adds noexec to a tmpfs unless told otherwise: right for /tmp, wrong for the workspace,
    unless nothing written may be executed.

    Owned by uid=, not opened by mode=1777 alone: over a directory that the image has, runc 1.1 keeps root's ownership
    otherwise.
    """
    limits = spec.limits
    owner = f"uid={SANDBOX_UID},gid={SANDBOX_UID}"
    run = "noexec" if spec.exec_in == "strict" else "exec"
    mounts = dict.fromkeys(volumes, f"rw,nosuid,nodev,noexec,size={limits.tmp_bytes},mode=0755,{owner}")
    mounts[WORKSPACE] = f"rw,nosuid,nodev,{run},size={limits.workspace_bytes},mode=0755,{owner}"
    mounts["/tmp"] = f"rw,nosuid,nodev,noexec,size={limits.tmp_bytes},mode=1777"  # noqa: S108 - inside the sandbox
    return mounts
