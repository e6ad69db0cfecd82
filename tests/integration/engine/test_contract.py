"""What every engine must do, tried on real ones: limits and locks from inside, not read from a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.engine.port import EngineError, ExecMode, Limits, SandboxGoneError, SandboxState, SandboxStatus
from tests.integration.engine.ground import Ground

MIB = 1024**2

SMALL = Limits(
    memory_bytes=64 * MIB,
    cpus=0.5,
    pids=32,
    open_files=64,
    file_bytes=MIB,
    workspace_bytes=8 * MIB,
    tmp_bytes=2 * MIB,
)


async def test_guest_of_a_started_sandbox_dials_and_runs_commands(ground: Ground):
    guest = await ground.sandbox()
    assert guest.hello is not None
    assert guest.hello.version == 1
    assert (await guest.run("sh", "-c", "echo $((6 * 7)); pwd")).output == "42\n/workspace\n"


async def test_sandbox_that_is_created_only_is_listed_as_such(ground: Ground):
    engine = await ground.open()
    await engine.create(ground.spec(a="1"), asyncio.Protocol)
    assert await engine.list() == [SandboxStatus("s-1", SandboxState.CREATED, {"a": "1"})]
    engine = await ground.again()
    assert await engine.list() == [SandboxStatus("s-1", SandboxState.CREATED, {"a": "1"})]
    await engine.remove("s-1")
    assert await engine.list() == []


async def test_id_is_used_once(ground: Ground):
    engine = await ground.open()
    guest = await ground.sandbox()
    with pytest.raises(EngineError, match="s-1"):
        await engine.create(ground.spec(), asyncio.Protocol)
    assert (await guest.run("true")).code == 0


@pytest.mark.parametrize("bad", ["", "A", "../x", "a/b", "x" * 41, "-a", "a\n"])
async def test_id_that_could_be_a_path_is_refused(ground: Ground, bad: str):
    engine = await ground.open()
    with pytest.raises(EngineError, match="form"):
        await engine.create(ground.spec(bad), asyncio.Protocol)
    with pytest.raises(EngineError):
        await engine.remove(bad)


async def test_labels_return_as_they_were_given(ground: Ground):
    labels = {"sessiond.instance": "forged", "generation": "3", "text": "ä b=c,d"}
    await ground.sandbox(**labels)
    engine = await ground.again()
    assert await engine.list() == [SandboxStatus("s-1", SandboxState.RUNNING, labels)]


async def test_restarted_daemon_adopts_a_sandbox_and_its_processes(ground: Ground):
    guest = await ground.sandbox()
    boot = (await guest.meet()).boot
    await guest.run("sh", "-c", "echo kept >/workspace/file; sleep 1000 >/dev/null 2>&1 &")
    await ground.again()
    adopted = await ground.adopt()
    assert (await adopted.meet()).boot == boot
    assert (await adopted.run("cat", "/workspace/file")).output == "kept\n"
    assert (await adopted.run("sh", "-c", "cat /proc/[0-9]*/comm")).output.count("sleep") == 1


async def test_newer_connection_of_the_guest_replaces_the_older(ground: Ground):
    guest = await ground.sandbox()
    engine = await ground.open()
    await engine.channel("s-1", guest.link)
    await asyncio.wait_for(guest.lost.wait(), 5)
    while guest.connections < 2:
        await asyncio.sleep(0.01)
    assert (await guest.run("true")).code == 0


DIAL = """
import socket, sys
for _ in range(int(sys.argv[1])):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect("/run/sessiond/channel.sock")
        try:
            s.sendall(bytes.fromhex("20000000810000000000000053534e4401000000") + b"x" * 24)
            print("closed" if s.recv(100) == b"" else "heard")
        except OSError:
            print("closed")
"""


async def test_code_inside_cannot_pass_for_the_guest(ground: Ground):
    guest = await ground.sandbox()
    outcome = await guest.run("python3", "-c", DIAL, "3")
    assert outcome.output == "closed\n" * 3
    assert await ground.refused() == 3
    assert guest.connections == 1
    assert (await guest.run("echo", "still here")).output == "still here\n"


async def test_code_inside_cannot_pass_for_the_guest_of_an_adopted_sandbox(ground: Ground):
    await ground.sandbox()
    await ground.again()
    guest = await ground.adopt()
    assert (await guest.run("python3", "-c", DIAL, "20")).output == "closed\n" * 20
    assert await ground.refused() == 20
    assert guest.connections == 1


async def test_channel_cannot_be_replaced_from_inside(ground: Ground):
    guest = await ground.sandbox()
    script = (
        "rm -f /run/sessiond/channel.sock; touch /run/sessiond/x; echo x >/run/sessiond/guest; chmod 0 /run/sessiond"
    )
    outcome = await guest.run("sh", "-c", script)
    assert outcome.code != 0
    assert {"channel.sock", "guest"} <= set((await guest.run("ls", "/run/sessiond")).output.split())
    assert not {"x"} & set((await guest.run("ls", "/run/sessiond")).output.split())


async def test_paused_sandbox_stands_still_and_goes_on(ground: Ground):
    engine = await ground.open()
    guest = await ground.sandbox()
    handle, _end = guest.start("sh", "-c", "while :; do echo x; sleep 0.01; done")
    await until(lambda: len(guest.output(handle)) > 4)
    await engine.pause("s-1")
    assert (await engine.list())[0].state is SandboxState.PAUSED
    await asyncio.sleep(0.05)
    said = len(guest.output(handle))
    await asyncio.sleep(0.2)
    assert len(guest.output(handle)) == said
    await engine.resume("s-1")
    assert (await engine.list())[0].state is SandboxState.RUNNING
    await until(lambda: len(guest.output(handle)) > said)


async def test_pause_is_seen_and_undone_by_a_restarted_daemon(ground: Ground):
    engine = await ground.open()
    await ground.sandbox()
    await engine.pause("s-1")
    engine = await ground.again()
    assert (await engine.list())[0].state is SandboxState.PAUSED
    await engine.resume("s-1")
    guest = await ground.adopt()
    assert (await guest.run("true")).code == 0


async def test_paused_sandbox_can_be_removed(ground: Ground):
    engine = await ground.open()
    await ground.sandbox()
    pid = await ground.host_pid()
    await engine.pause("s-1")
    await engine.remove("s-1")
    assert await engine.list() == []
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_remove_is_idempotent_and_leaves_nothing(ground: Ground, tmp_path: Path):
    engine = await ground.open()
    guest = await ground.sandbox()
    # A process that left its session and its parent is gone with the others.
    await guest.run("sh", "-c", "setsid sh -c 'sleep 7777 >/dev/null 2>&1 & exit'")
    pid = await ground.host_pid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children
    await engine.remove("s-1")
    for process in [str(pid), *children]:
        await until(lambda process=process: not Path("/proc", process).exists())
    await engine.remove("s-1")
    await engine.remove("never-was")
    assert await engine.list() == []
    assert groups_of("s-1") == []
    assert list(tmp_path.rglob("s-1")) == []


async def test_removals_at_once_all_end(ground: Ground):
    engine = await ground.open()
    await ground.sandbox()
    await asyncio.gather(*(engine.remove("s-1") for _ in range(4)))
    assert await engine.list() == []


async def test_death_from_outside_is_told_and_listed(ground: Ground):
    engine = await ground.open()
    await ground.sandbox()
    waits = [asyncio.create_task(engine.wait("s-1")) for _ in range(3)]
    await asyncio.sleep(0.05)
    os.kill(await ground.host_pid(), signal.SIGKILL)
    started = time.monotonic()
    causes = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert time.monotonic() - started < 5
    assert all("signal 9" in cause for cause in causes)
    assert (await engine.list())[0].state is SandboxState.DEAD
    assert "signal 9" in await asyncio.wait_for(engine.wait("s-1"), 5)


async def test_death_while_no_daemon_looked_is_told(ground: Ground):
    await ground.sandbox()
    pid = await ground.host_pid()
    engine = await ground.open()
    await engine.close()
    os.kill(pid, signal.SIGKILL)
    ground._engine = None
    await until(lambda: not Path(f"/proc/{pid}").exists())
    engine = await ground.open()
    assert [status.state for status in await engine.list()] == [SandboxState.DEAD]
    assert await asyncio.wait_for(engine.wait("s-1"), 5)
    with pytest.raises(EngineError):
        await engine.channel("s-1", asyncio.Protocol)


async def test_removal_ends_a_wait(ground: Ground):
    engine = await ground.open()
    await ground.sandbox()
    wait = asyncio.create_task(engine.wait("s-1"))
    await asyncio.sleep(0.05)
    await engine.remove("s-1")
    assert await asyncio.wait_for(wait, 5)


async def test_what_does_not_exist_is_said_to_be_gone(ground: Ground):
    engine = await ground.open()
    for call in (engine.start, engine.wait, engine.stats, engine.pause, engine.resume):
        with pytest.raises(SandboxGoneError):
            await call("nobody")


async def test_death_of_pid_1_kills_all_others(ground: Ground):
    guest = await ground.sandbox()
    handle, _end = guest.start("sh", "-c", "echo started; sleep 1000")
    await until(lambda: bool(guest.output(handle)))
    pid = await ground.host_pid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for child in children:
        await until(lambda child=child: not Path("/proc", child).exists())


async def test_stats_tell_of_use(ground: Ground):
    engine = await ground.open()
    guest = await ground.sandbox()
    before = await engine.stats("s-1")
    guest.start("python3", "-c", "x = b'x' * (50 << 20); sum(range(3_000_000)); print('ready', flush=True); input()")
    handle, _ = guest.start("sh", "-c", "sleep 0.7; echo ready; sleep 100")
    await until(lambda: "ready" in guest.output(handle))
    after = await engine.stats("s-1")
    assert before.pids is not None and after.pids is not None and after.pids > before.pids
    assert before.cpu_seconds is not None and after.cpu_seconds is not None
    assert after.cpu_seconds > before.cpu_seconds


async def test_memory_is_limited_as_a_whole(ground: Ground):
    engine = await ground.open()
    guest = await ground.sandbox(limits=SMALL)
    assert ground.capabilities is not None and "memory_bytes" in ground.capabilities.limits
    # Two processes, 40 MiB each: neither is above the limit, both together are.
    script = (
        "import os, time; pid = os.fork(); x = b'x' * (40 << 20); time.sleep(1)\n"
        "if pid: print('child', os.waitpid(pid, 0)[1])"
    )
    outcome = await guest.run("python3", "-c", script)
    assert outcome.signal == signal.SIGKILL or outcome.output == "child 9\n", outcome
    bomb = await guest.run("python3", "-c", "x = bytearray(200 << 20); print('survived')")
    assert (bomb.code, bomb.signal, bomb.oom) == (0, 9, True), bomb
    assert (await guest.run("true")).code == 0
    assert (await engine.list())[0].state is SandboxState.RUNNING


async def test_tmpfs_counts_as_memory(ground: Ground):
    guest = await ground.sandbox(limits=Limits(memory_bytes=32 * MIB, workspace_bytes=256 * MIB))
    outcome = await guest.run("sh", "-c", "head -c 100M /dev/zero >/workspace/file; echo $?")
    # What runs after this is the kernel's choice: with no memory left it may kill anything in the sandbox.
    assert outcome.output != "0\n" or outcome.signal == 9


FORKS = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(100)
        count += 1
except BlockingIOError:
    print("EAGAIN", count)
"""


async def test_processes_are_limited(ground: Ground):
    guest = await ground.sandbox(limits=SMALL)
    outcome = await guest.run("python3", "-c", FORKS)
    word, count = outcome.output.split()
    assert word == "EAGAIN"
    assert 20 <= int(count) < 32


async def test_processor_time_is_limited(ground: Ground):
    guest = await ground.sandbox(limits=SMALL)
    script = (
        "import time; s = time.monotonic(); c = time.process_time()\nwhile time.monotonic() < s + 1.5: pass\n"
        "print((time.process_time() - c) / (time.monotonic() - s))"
    )
    outcome = await guest.run("python3", "-c", script)
    assert float(outcome.output) < 0.65


async def test_files_and_descriptors_are_limited(ground: Ground):
    guest = await ground.sandbox(limits=SMALL)
    outcome = await guest.run("python3", "-c", "import os\nwhile True: os.open('/dev/null', 0)")
    assert "Too many open files" in outcome.output
    outcome = await guest.run("sh", "-c", "head -c 3M /dev/zero >/workspace/big; stat -c %s /workspace/big")
    assert outcome.output.split()[-1] == str(MIB)
    outcome = await guest.run("sh", "-c", "ulimit -c; ulimit -n 100000 || echo hard")
    assert outcome.output.startswith("0\n")
    assert outcome.output.endswith("hard\n")


@pytest.mark.parametrize(("place", "size"), [("/workspace", 8 * MIB), ("/tmp", 2 * MIB), ("/dev/shm", 2 * MIB)])
async def test_writable_places_have_their_size(ground: Ground, place: str, size: int):
    guest = await ground.sandbox(limits=SMALL)
    script = f"i=0; while head -c 512K /dev/zero >{place}/$i; do i=$((i+1)); [ $i -lt 100 ] || break; done"
    outcome = await guest.run("sh", "-c", script)
    assert "No space left" in outcome.output
    used = await guest.run("sh", "-c", f"cat {place}/* | wc -c")
    assert 0.8 * size <= int(used.output) <= size


async def test_nothing_else_is_writable(ground: Ground):
    guest = await ground.sandbox()
    script = r"""
import os
for top, directories, files in os.walk("/", followlinks=False):
    if top.startswith(("/proc", "/sys/fs/cgroup")):
        directories[:] = []
        continue
    if os.access(top, os.W_OK) and not os.path.islink(top):
        print(top)
"""
    outcome = await guest.run("python3", "-c", script)
    places = {line for line in outcome.output.split() if not line.startswith(("/workspace", "/tmp", "/dev/shm"))}
    # Both say that they are writable, and neither takes a file: terminals and message queues only.
    assert places <= {"/dev/mqueue", "/dev/pts"}
    assert (await guest.run("touch", "/dev/pts/x")).code != 0
    for path in ("/x", "/etc/x", "/usr/x", "/dev/x", "/var/x", "/run/x", "/home/x", "/sys/x"):
        outcome = await guest.run("touch", path)
        assert outcome.code != 0, path


@pytest.mark.parametrize(
    ("mode", "runnable"), [("any", {"/workspace"}), ("workspace", {"/workspace"}), ("strict", set())]
)
async def test_what_was_written_runs_only_where_the_recipe_says(ground: Ground, mode: ExecMode, runnable: set[str]):
    """Also after a restart of the daemon; and what it took to arrange that, the guest has given up."""
    await ground.sandbox_of(replace(ground.spec(), exec_in=mode))
    await ground.again()
    guest = await ground.adopt()
    places = ["/workspace", "/tmp", "/dev/shm"]
    ran = {place for place in places if (await guest.run("sh", "-c", f"cp /bin/true {place}/x && {place}/x")).code == 0}
    assert runnable <= ran
    if mode != "any":
        assert ran == runnable
    for who in ("self", "1"):
        status = (await guest.run("cat", f"/proc/{who}/status")).output
        assert {line.split()[1] for line in status.splitlines() if line.startswith("Cap")} == {"0" * 16}


async def test_kernel_files_cannot_be_written(ground: Ground):
    guest = await ground.sandbox()
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/sys/vm/drop_caches",
        "/proc/1/mem",
        "/proc/1/oom_score_adj",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/kernel/uevent_helper",
    ):
        outcome = await guest.run("sh", "-c", f"echo 1 >{path}")
        assert outcome.code != 0, path


async def test_identity_and_locks(ground: Ground):
    guest = await ground.sandbox()
    assert (await guest.run("id")).output.startswith("uid=1000")
    assert (await guest.run("sh", "-c", "id -u; id -g; hostname")).output == "1000\n1000\ns-1\n"
    lines = (await guest.run("cat", "/proc/self/status")).output.splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Groups"].strip() in {"", "1000"}
    environment = (await guest.run("env")).output
    assert set(environment.split("\n")) >= {"HOME=/workspace"}
    assert (await guest.run("cat", "/proc/1/environ")).code != 0
    assert (await guest.run("ls", "/proc/1/fd")).code != 0


async def test_network_is_only_lo(ground: Ground):
    guest = await ground.sandbox()
    assert (await guest.run("sh", "-c", "cat /proc/net/dev | tail -n +3 | cut -d: -f1")).output.split() == ["lo"]
    script = "import socket; socket.create_connection(('169.254.169.254', 80), 3)"
    assert "unreachable" in (await guest.run("python3", "-c", script)).output
    script = "import socket; print(socket.if_nameindex(), socket.getaddrinfo('127.0.0.1', 80)[0][0])"
    assert (await guest.run("python3", "-c", script)).output == "[(1, 'lo')] 2\n"


REFUSED = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) for a in arguments])
    return errno.errorcode.get(ctypes.get_errno(), "") if result == -1 else "allowed"
AT_FDCWD = -100
print(json.dumps({
    "unshare": call(272, 0x10000000), "mount": call(165, 0, 0, 0, 0, 0), "bpf": call(321, 0, 0, 0),
    "keyctl": call(250, 0, 0, 0), "add_key": call(248, 0, 0, 0, 0, 0), "io_uring_setup": call(425, 1, 0),
    "perf_event_open": call(298, 0, 0, 0, 0, 0), "userfaultfd": call(323, 0), "ptrace": call(101, 0, 0, 0, 0),
    "process_vm_readv": call(310, 1, 0, 0, 0, 0, 0), "memfd_create": call(319, 0, 0), "setns": call(308, 0, 0),
    "clone newuser": call(56, 0x10000000 | 17, 0, 0, 0, 0), "clone3": call(435, 0, 0), "vmsplice": call(278, 0, 0, 0),
    "vsock": call(41, 40, 1, 0), "packet": call(41, 17, 3, 0), "alg": call(41, 38, 5, 0), "sctp": call(41, 2, 1, 132),
    "netfilter": call(41, 16, 3, 12), "tiocsti": call(16, 0, 0x5412, 0), "tiocsti high": call(16, 0, 0x100005412, 0),
    "personality": call(135, 0x400000), "personality norandom": call(135, 0x40000), "modify_ldt": call(154, 0, 0, 0),
    "mknod": call(133, 0, 0o020666, 0), "mknodat": call(259, AT_FDCWD, 0, 0o060666, 0),
    "open_by_handle_at": call(304, 0, 0, 0), "kexec_load": call(246, 0, 0, 0, 0), "reboot": call(169, 0, 0, 0, 0),
    "chroot": call(161, 0), "pivot_root": call(155, 0, 0), "quotactl": call(179, 0, 0, 0, 0), "iopl": call(172, 3),
    "init_module": call(175, 0, 0, 0), "swapon": call(167, 0, 0), "settimeofday": call(164, 0, 0), "acct": call(163, 0),
    "process_madvise": call(440, 0, 0, 0, 0, 0), "pidfd_getfd": call(438, 0, 0, 0), "fsopen": call(430, 0, 0),
}))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
async def test_dangerous_system_calls_are_refused(ground: Ground):
    guest = await ground.sandbox()
    outcome = await guest.run("python3", "-c", REFUSED)
    results = json.loads(outcome.output)
    wrong = {name: result for name, result in results.items() if result not in {"EPERM", "ENOSYS"}}
    assert wrong == {}
    assert results["clone3"] == results["io_uring_setup"] == results["memfd_create"] == "ENOSYS"


ALLOWED = """
import ctypes, os, socket, subprocess, tempfile, threading, multiprocessing, sqlite3, mmap, select, time, fcntl, signal
os.mkfifo("/workspace/fifo")
socket.socketpair(); socket.socket(socket.AF_INET6); socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
threading.Thread(target=time.sleep, args=(0,)).start()
assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
database = sqlite3.connect("/workspace/db"); database.execute("create table t (a)"); database.commit()
os.posix_spawn("/bin/true", ["true"], {})
os.pidfd_open(os.getpid()); os.getrandom(4); select.epoll()
mmap.mmap(-1, 4096); os.copy_file_range
assert ctypes.CDLL(None).personality(ctypes.c_ulong(0xFFFFFFFF)) == 0
print("all")
"""


async def test_ordinary_programs_work(ground: Ground):
    guest = await ground.sandbox()
    assert (await guest.run("python3", "-c", ALLOWED)).output == "all\n"
    script = (
        "set -e; git init -q repo; cd repo; git config user.email a@b; git config user.name a; echo x >f; git add f;"
        " git commit -qm one; git log --oneline | wc -l; grep -c x f"
    )
    assert (await guest.run("sh", "-c", script)).output == "1\n1\n"
    assert (await guest.run("python", "-c", "print(1)")).output == "1\n"


PROBE_LIMITS = {
    "pids_limit": "32",
    "memory_limit": "64",
    "nofile_limit": "64",
    "file_size_limit": "1",
    "cpu_limit": "0.5",
    "tmp_size": "2",
    "workspace_size": "8",
    "shm_size": "2",
}


async def test_every_lock_and_limit_that_the_guest_can_try_holds(ground: Ground):
    """The guest's own probes, which `sessiond doctor` uses too: each tries what must not work."""
    guest = await ground.sandbox(limits=SMALL)
    listed = await guest.run("/run/sessiond/guest", "probe", "list")
    failed = {}
    for line in listed.output.splitlines():
        name, _, unit = line.partition(" ")
        limit = [PROBE_LIMITS[name]] if unit else []
        if unit == "bytes":
            limit = [str(MIB)]
        outcome = await guest.run("/run/sessiond/guest", "probe", name, *limit)
        if (outcome.code, outcome.signal) != (0, 0):
            failed[line] = outcome
    assert len(listed.output.splitlines()) > 30
    assert failed == {}


async def test_two_sandboxes_share_nothing(ground: Ground):
    first = await ground.sandbox("s-1")
    second = await ground.sandbox("s-2")
    secret = "only-the-first-has-it"
    await first.run("sh", "-c", f"echo {secret} >/workspace/f; cp /workspace/f /tmp/f; cp /tmp/f /dev/shm/f")
    first.start("sh", "-c", f"exec -a {secret} sleep 1000")
    listen = (
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0abstract'); s.listen(); print(1, flush=True); time.sleep(99)"
    )
    handle, _end = first.start("python3", "-c", f"import socket, time; {listen}")
    await until(lambda: bool(first.output(handle)))
    seen = await second.run("sh", "-c", "cat /workspace/* /tmp/* /dev/shm/* 2>&1; cat /proc/[0-9]*/cmdline")
    assert secret not in seen.output
    dial = "import socket; socket.socket(socket.AF_UNIX).connect('\\0abstract')"
    assert "refused" in (await second.run("python3", "-c", dial)).output
    assert (await second.run("sh", "-c", "ls -d /proc/[0-9]* | wc -l")).output.strip() in {"2", "3", "4"}
    namespaces = "for n in user pid mnt net ipc uts; do readlink /proc/self/ns/$n; done"
    one, two = [set((await guest.run("sh", "-c", namespaces)).output.split()) for guest in (first, second)]
    shared = {name.split(":")[0] for name in one & two}
    assert shared <= {"user"}


async def test_two_instances_do_not_see_each_other(ground: Ground, tmp_path: Path, request: pytest.FixtureRequest):
    from tests.integration.engine import conftest

    await ground.sandbox()
    if ground.name == "docker":
        other = conftest.docker_ground(tmp_path / "other", request.getfixturevalue("dockerd").url, ground.image)
    else:
        other = conftest.bubblewrap_ground(tmp_path / "other")
    engine = await other.open()
    assert await engine.list() == []
    await other.sandbox("s-1")
    await engine.remove("s-1")
    await other.clear()
    mine = await ground.open()
    assert [status.state for status in await mine.list()] == [SandboxState.RUNNING]


async def test_tightened_limits_hold(ground: Ground):
    engine = await ground.open()
    guest = await ground.sandbox(limits=Limits(memory_bytes=256 * MIB, cpus=1.0, pids=64))
    assert (await guest.run("python3", "-c", "x = bytearray(100 << 20); print(len(x) >> 20)")).output == "100\n"
    await engine.tighten("s-1", Limits(memory_bytes=64 * MIB, cpus=0.5, pids=16))
    assert (await guest.run("python3", "-c", "x = bytearray(100 << 20)")).signal == signal.SIGKILL
    assert int((await guest.run("python3", "-c", FORKS)).output.split()[1]) < 16


async def test_many_sandboxes_at_once(ground: Ground):
    engine = await ground.open()
    guests = await asyncio.gather(*(ground.sandbox(f"s-{number}") for number in range(8)))
    outputs = await asyncio.gather(*(guest.run("hostname") for guest in guests))
    assert [outcome.output.strip() for outcome in outputs] == [f"s-{number}" for number in range(8)]
    await asyncio.gather(*(engine.remove(f"s-{number}") for number in range(8)))


async def test_nothing_is_left_in_this_process(ground: Ground):
    async def churn(first: int) -> None:
        engine = await ground.open()
        for number in range(first, first + 10):
            await ground.sandbox(f"s-{number}")
            await engine.remove(f"s-{number}")

    await churn(0)
    before = descriptors()
    await churn(10)
    await asyncio.sleep(0.05)
    left = descriptors() - before
    assert sum(left.values()) <= 1, left


async def until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[re.sub(r"\d+", "N", str(path.readlink()))] += 1
    return found


def groups_of(sandbox: str) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob(f"*/sessiond/*.{sandbox}") if "test-" in path.name]
