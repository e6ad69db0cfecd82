"""What a sandbox looks like from inside, by what can be done there, not by how it was asked for."""

from __future__ import annotations

import json
import os

import pytest
from sessiond_client import Client, Session

from tests.daemon import PROFILES, python

GUEST = "/run/sessiond/guest"

LIMITS = {
    "pids_limit": "32",
    "memory_limit": "64",
    "nofile_limit": "64",
    "file_size_limit": str(16 << 20),
    "cpu_limit": "0.5",
    "tmp_size": "2",
    "shm_size": "2",
    "workspace_size": "8",
}
"""Numbers for the probes that take one, as the profile "small" has them."""

CGROUPS = {"memory_limit", "cpu_limit"}
"""What bubblewrap without root does not promise for a sandbox as a whole."""

PROBES = (
    *("identity", "capabilities", "no_new_privs", "seccomp", "setuid_gain", "core_limit", "mount", "unshare", "setns"),
    *("ptrace_pid1", "bpf", "keyctl", "io_uring", "perf_event_open", "userfaultfd", "memfd_exec", "kernel_module"),
    *("raw_socket", "vsock", "tiocsti", "mknod", "rootfs_readonly", "network", "proc1_fd", "proc1_mem", "kill_pid1"),
    *("prlimit_pid1", "host_pids", "docker_sock", "proc_sys_write", "cgroup_write", *LIMITS),
)

assert PROFILES["small"]["limits"]["pids"] == int(LIMITS["pids_limit"])


async def read(session: Session, path: str) -> str:
    return (await session.run(["cat", path], check=True)).stdout.decode()


async def test_every_probe_is_tried(client: Client) -> None:
    """The list below is the guest's own."""
    session = await client.open("small")
    listed = (await session.run([GUEST, "probe", "list"], check=True)).stdout.decode().splitlines()
    assert {line.split()[0] for line in listed} == set(PROBES)


@pytest.mark.parametrize("name", PROBES)
async def test_lock_or_limit_holds_when_tried(client: Client, name: str) -> None:
    """Rows 1 to 7, 11, 18 to 23: the guest's probe tries it and reports that it held."""
    session = await client.open("small")
    number = [LIMITS[name]] if name in LIMITS else []
    result = await session.run([GUEST, "probe", name, *number])
    answer = json.loads(result.stdout)
    if os.geteuid() != 0 and (await session.info()).engine == "bubblewrap" and name in CGROUPS:
        return
    assert answer["held"] is True, answer
    assert result.exit_code == 0
    assert (await session.run(["true"])).ok


async def test_identity(client: Client) -> None:
    """Not root, no capability, no way to gain one, system calls filtered; PID 1 the same as commands."""
    session = await client.open("open")
    assert (await session.run(["id", "-u"])).stdout == b"1000\n"
    for who in ("self", "1"):
        status = dict(
            line.split(":\t", 1) for line in (await read(session, f"/proc/{who}/status")).splitlines() if ":\t" in line
        )
        assert status["Uid"].split() == ["1000"] * 4
        assert status["Gid"].split() == ["1000"] * 4
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0, (who, capabilities)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
    assert (await read(session, "/proc/1/comm")).strip() == "guest"


async def test_root_is_read_only(client: Client) -> None:
    """And what can be written is a tmpfs with a size, without devices and set-uid programs."""
    session = await client.open("open")
    mounts = {line.split()[1]: line.split() for line in (await read(session, "/proc/self/mounts")).splitlines()}
    assert "ro" in mounts["/"][3].split(",")
    code = "import os, sys; print(*(path for path in sys.argv[1:] if os.path.isdir(path) and os.access(path, os.W_OK)))"
    writable = (await session.run(python(code, *mounts))).stdout.decode().split()
    assert set(writable) - {"/dev/mqueue", "/dev/pts"} == {"/workspace", "/tmp", "/dev/shm"}
    for where in writable:
        _, _, kind, options, *_ = mounts[where]
        assert "nosuid" in options.split(","), (where, options)
        assert kind in ("mqueue", "devpts") or "size=" in options, (where, options)


async def test_no_network_but_loopback(client: Client) -> None:
    """Row 22: no interface but lo, no name server, no metadata address, no host loopback, no docker.sock."""
    session = await client.open("open")
    lines = (await read(session, "/proc/net/dev")).splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    code = """
import errno, os, socket
for address in (("169.254.169.254", 80), ("1.1.1.1", 53), ("127.0.0.1", 22), ("10.0.0.1", 80)):
    with socket.socket() as dial:
        dial.settimeout(3)
        try:
            dial.connect(address)
            print("connected", address)
        except OSError as error:
            print(errno.errorcode.get(error.errno, "timeout"))
try:
    print(socket.getaddrinfo("example.org", 80))
except OSError:
    print("no name")
print([path for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd") if os.path.exists(path)])
"""
    said = (await session.run(python(code))).stdout.decode().splitlines()
    assert set(said[:4]) <= {"ENETUNREACH", "ECONNREFUSED", "EPERM"}
    assert said[4:] == ["no name", "[]"]


@pytest.mark.parametrize(
    ("name", "number", "arguments"),
    [
        ("unshare", 272, "0x10000000"),
        ("mount", 165, "0"),
        ("bpf", 321, "0"),
        ("add_key", 248, "0"),
        ("keyctl", 250, "0"),
        ("io_uring_setup", 425, "1"),
        ("perf_event_open", 298, "0"),
        ("userfaultfd", 323, "0"),
        ("ptrace", 101, "0"),
        ("process_vm_readv", 310, "1"),
        ("kexec_load", 246, "0"),
        ("init_module", 175, "0"),
        ("open_by_handle_at", 304, "0"),
        ("setns", 308, "0"),
        ("clone3", 435, "0"),
        ("pivot_root", 155, "0"),
        ("swapon", 167, "0"),
        ("reboot", 169, "0"),
        ("quotactl", 179, "0"),
        ("syslog", 103, "3"),
        ("move_mount", 429, "0"),
        ("fsopen", 430, "0"),
        ("name_to_handle_at", 303, "0"),
        ("personality", 135, "0x20000"),
    ],
)
async def test_system_calls_that_are_refused(client: Client, name: str, number: int, arguments: str) -> None:
    """Row 20: EPERM or ENOSYS from the filter."""
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are x86_64's")
    session = await client.open("open")
    code = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall({number}, {arguments}, 0, 0, 0, 0)
print(result, errno.errorcode.get(ctypes.get_errno()))
"""
    result, error = (await session.run(["python3", "-c", code])).stdout.decode().split()
    assert result == "-1", f"{name} worked"
    assert error in ("EPERM", "ENOSYS"), f"{name}: {error}"


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/proc/1/oom_score_adj",
        "/proc/self/uid_map",
        "/sys/kernel/profiling",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/cgroup.procs",
        "/dev/sda",
        "/dev/mem",
        "/dev/kmsg",
    ],
)
async def test_kernel_files_are_closed(client: Client, path: str) -> None:
    """Row 21: cannot be written, or are not there."""
    session = await client.open("open")
    code = """
import errno, sys
try:
    open(sys.argv[1], "wb", buffering=0).write(b"0 0 1")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert (await session.run(python(code, path))).stdout.decode().strip() in ("EROFS", "EACCES", "EPERM", "ENOENT")


async def test_set_uid_programs_gain_nothing(client: Client) -> None:
    """Row 23: they run as who runs them."""
    session = await client.open("open")
    found = (await session.run("find / -xdev -perm -4000 -type f 2>/dev/null; true")).stdout.decode().split()
    code = """
import os, sys
for path in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        os.closerange(1, 3)
        os.execv(path, [path, "--version"])
    print(*open(f"/proc/{pid}/status").read().split("Uid:")[1].split()[:4])
    os.waitpid(pid, 0)
"""
    for line in (await session.run(python(code, *found))).stdout.decode().splitlines():
        assert line == "1000 1000 1000 1000"
    copy = "cp $(command -v id) own-id && chmod 4755 own-id && ./own-id -u"
    assert (await session.run(copy)).stdout == b"1000\n"


async def test_environment_is_clean(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the daemon's own environment is seen; the guest's mark is all that is added."""
    session = await client.open("open", env={"FROM_SESSION": "s", "FROM_PROFILE": "overridden"})
    lines = (await session.run(["env"], env={"FROM_COMMAND": "c"})).stdout.decode().splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    mark = environment.pop("SESSIOND_COMMAND")
    assert mark.isdigit()
    assert environment.pop("PATH")
    assert {name: environment[name] for name in ("FROM_SESSION", "FROM_PROFILE", "FROM_COMMAND")} == {
        "FROM_SESSION": "s",
        "FROM_PROFILE": "overridden",
        "FROM_COMMAND": "c",
    }
    assert environment["HOME"] == "/workspace"
    assert not {"PWD_OF_DAEMON", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"} & set(
        environment
    )


async def test_descriptors_of_a_command(client: Client) -> None:
    """Its three streams and nothing of the guest's or the daemon's."""
    session = await client.open("open")
    code = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))"
    assert (await session.run(python(code))).stdout == b"[0, 1, 2, 3]\n"  # 3 is the listing itself
