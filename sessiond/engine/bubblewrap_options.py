"""A jail's command line, as a pure function of its recipe.

The jail sees this machine's /usr read-only and nothing else of its files but the few of ETC. Its root, /dev and /etc
are read-only; what it can write is a tmpfs with a size, counted by the jail's memory limit: /workspace, unless that is
a volume, /tmp and /dev/shm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sessiond.core.paths import WORKSPACE
from sessiond.engine.directory import GUEST, SOCKET
from sessiond.engine.port import GUEST_DIRECTORY, SANDBOX_UID, Capabilities, ExecMode, Limits, SandboxSpec

ETC = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates.conf",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/mime.types",
    "/etc/fonts",
    "/etc/perl",
    "/etc/python3",
    "/etc/python3.11",
    "/etc/os-release",
)
"""The host's files that programs of /usr need: the linker's, Debian's alternatives (awk, editor), certificates, name
tables, the time zone, fonts (matplotlib), perl's and Python's site files. No secrets, no names of users or hosts.
Absent ones are skipped."""

ETC_OWN = {
    "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:{uid}:{uid}:sandbox:{home}:/bin/sh\n",
    "group": "root:x:0:\nsandbox:x:{uid}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
"""Files of /etc that the jail gets instead of the host's."""

ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Links into /usr on a machine with merged /usr, directories elsewhere; the jail has them as the machine does."""

TOOLS = "bin"
"""Directory in the sandbox's /run/sessiond with programs that the host lacks: a `python` where there is only a
python3."""


TEMPORARY = ("/tmp", "/dev/shm")  # noqa: S108 - inside the jail

NOEXEC: dict[ExecMode, tuple[str, ...]] = {"any": (), "workspace": TEMPORARY, "strict": (*TEMPORARY, WORKSPACE)}
"""Mounts that the guest makes noexec, for want of such an option of bwrap's. It needs NOEXEC_CAPABILITIES for that, in
the jail's user namespace, and gives them up before it listens to anybody."""

NOEXEC_CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP")


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Numbers of the open files that bwrap inherits."""

    guest: int
    """The guest's binary, to read."""
    info: int
    """A pipe: bwrap writes the pid of the jail's PID 1."""
    status: int
    """A file: bwrap writes that pid and, in the end, the exit code."""
    block: int
    """The jail does not run anything until a byte comes."""


def etc_files() -> dict[str, str]:
    """Contents of ETC_OWN's files by name."""
    return {name: text.format(uid=SANDBOX_UID, home=WORKSPACE) for name, text in ETC_OWN.items()}


def host_root(root: Path = Path("/")) -> tuple[str, ...]:
    """Arguments that give the jail the machine's programs."""
    arguments = ["--ro-bind", str(root / "usr"), "/usr"]
    for name in ROOT_LINKS:
        path = root / name
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), f"/{name}"]
    return tuple(arguments)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of this machine a jail is made with."""

    bwrap: str
    prlimit: str
    """Paths of the programs; prlimit runs inside."""
    root: tuple[str, ...]
    """From `host_root`."""
    etc: Path
    """Directory with `etc_files`, each as etc-NAME."""


def rlimit_arguments(limits: Limits, *, whole: bool) -> list[str]:
    """Arguments of prlimit(1) for each process of the jail.

    With `whole` also for what cgroups would limit for the jail as a whole: processes, which the kernel counts within
    the jail's own user namespace since 5.14 (so it is set inside), and private memory process by process: RLIMIT_DATA,
    not RLIMIT_AS, because node and Go reserve far more addresses than they use.
    """
    arguments = ["--core=0:0", f"--nofile={limits.open_files}", f"--fsize={limits.file_bytes}"]
    if whole:
        arguments += [f"--nproc={limits.pids}", f"--data={limits.memory_bytes}"]
    return arguments


def jail_arguments(
    spec: SandboxSpec,
    around: Surroundings,
    *,
    mount: Path,
    volume: Path | None = None,
    memory: Path | None,
    fds: Descriptors,
) -> list[str]:
    """The whole command line. `mount` is shown as /run/sessiond, `volume` as the workspace, `memory` is the jail's
    memory cgroup, where the guest sees OOM kills."""
    limits = spec.limits
    arguments = [around.bwrap, "--unshare-all", "--as-pid-1", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    noexec = NOEXEC[spec.exec_in]
    for name in NOEXEC_CAPABILITIES if noexec else ():
        arguments += ["--cap-add", name]
    arguments += ["--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", spec.id]
    arguments += ["--info-fd", str(fds.info), "--json-status-fd", str(fds.status), "--block-fd", str(fds.block)]
    arguments += around.root
    arguments += ["--dir", "/etc"]
    for path in ETC:
        arguments += ["--ro-bind-try", path, path]
    for name in ETC_OWN:
        arguments += ["--ro-bind", str(around.etc / f"etc-{name}"), f"/etc/{name}"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/dev/shm", "/tmp"):  # noqa: S108 - inside the jail
        arguments += ["--perms", "1777", "--size", str(limits.tmp_bytes), "--tmpfs", path]
    if volume is None:
        arguments += ["--perms", "0755", "--size", str(limits.workspace_bytes), "--tmpfs", WORKSPACE]
    else:  # bwrap itself adds nosuid and nodev
        arguments += ["--bind", str(volume), WORKSPACE]
    arguments += ["--dir", "/var", "--symlink", "../tmp", "/var/tmp", "--dir", "/home"]  # noqa: S108
    if memory is not None:
        where = "/sys/fs/cgroup" if (memory / "memory.max").exists() else "/sys/fs/cgroup/memory"
        arguments += ["--dir", "/sys", "--ro-bind", str(memory), where]
    # The guest is put over its own file in the directory: the state directory may be mounted noexec, as Debian mounts
    # /run.
    arguments += ["--dir", "/run", "--ro-bind", str(mount), GUEST_DIRECTORY]
    arguments += ["--perms", "0555", "--ro-bind-data", str(fds.guest), f"{GUEST_DIRECTORY}/{GUEST}"]
    # bwrap leaves its own tmpfs for / and /dev writable, and they have no size.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]
    arguments += [around.prlimit, *rlimit_arguments(limits, whole=memory is None), "--"]
    arguments += [f"{GUEST_DIRECTORY}/{GUEST}", "init", "--dial", f"{GUEST_DIRECTORY}/{SOCKET}", "--seccomp"]
    for path in noexec:
        arguments += ["--noexec", path]
    return arguments


def capabilities(version: str, *, held: frozenset[str], root: bool) -> Capabilities:
    """What jails promise. `held` are the `Limits` fields that cgroups hold here; without them rlimits have to do."""
    weaknesses = ["Sandboxes see and can read this machine's /usr."]
    if not root:
        weaknesses.append("All jails and the daemon have the same host user: a hole in one jail opens all.")
    if not held:
        weaknesses.append(
            "No cgroups may be made here: memory is limited process by process only, processor time not at all, and a"
            " paused sandbox is one whose processes got SIGSTOP."
        )
    elif "cpus" not in held:
        weaknesses.append("Processor time cannot be limited: the cpu controller is not delegated.")
    process_limits = {"open_files", "file_bytes"}
    return Capabilities(
        engine="bubblewrap",
        version=version,
        root="host",
        limits=held | {"workspace_bytes", "tmp_bytes", "pids"},
        process_limits=frozenset(process_limits if held else process_limits | {"memory_bytes"}),
        seccomp=True,
        pause=True,
        survives_daemon=True,
        weaknesses=tuple(weaknesses),
    )
