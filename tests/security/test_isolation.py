"""Two sessions: neither finds anything of the other, and a sandbox serves one session only."""

from __future__ import annotations

import secrets

import pytest
from sessiond_client import Client

from tests.daemon import DaemonProcess, eventually, python

LOOK = """
import os, socket, sys
secret, found = sys.argv[1], []
for base in ("/workspace", "/tmp", "/dev/shm", "/var/tmp", "/home", "/run"):
    for where, directories, files in os.walk(base, onerror=lambda error: None):
        found += [where + "/" + name for name in directories + files if secret in name]
for entry in os.listdir("/proc"):
    if entry.isdigit() and int(entry) != os.getpid():
        try:
            for name in ("cmdline", "environ"):
                if secret.encode() in open(f"/proc/{entry}/{name}", "rb").read():
                    found.append(entry)
        except OSError:
            pass
with socket.socket(socket.AF_UNIX) as dial:
    try:
        dial.connect("\\0" + secret)
        found.append("abstract socket")
    except OSError:
        pass
with socket.socket() as dial:
    try:
        dial.connect(("127.0.0.1", 34567))
        found.append("port")
    except OSError:
        pass
found += [line for line in open("/proc/net/unix") if secret in line]
found += [line for line in open("/proc/sysvipc/shm").readlines()[1:]]
print(found)
"""

LEAVE = """
import os, socket, sys, time
secret = sys.argv[1]
for base in ("/workspace", "/tmp", "/dev/shm"):
    open(f"{base}/{secret}", "w").write(secret)
listener = socket.socket(socket.AF_UNIX); listener.bind("\\0" + secret); listener.listen()
port = socket.socket(); port.bind(("127.0.0.1", 34567)); port.listen()
print("left", flush=True)
time.sleep(3600)
"""


async def test_sessions_do_not_see_each_other(client: Client) -> None:
    """Row 24: files, processes, environments, sockets, ports, shared memory of A are absent in B."""
    secret = f"secret{secrets.token_hex(8)}"
    one = await client.open("open")
    two = await client.open("open")
    left = await one.start(python(LEAVE, secret), env={"SECRET": secret})
    assert await left.next() is not None
    assert b"abstract" in (await one.run(python(LOOK, secret))).stdout  # the search finds what there is
    assert (await two.run(python(LOOK, secret))).stdout == b"[]\n"
    assert (await two.run("kill -9 -1; exit 0")).stdout == b""
    assert not left.ended
    assert (await one.run(["cat", secret])).stdout.decode() == secret


@pytest.mark.parametrize("profile", ["open", "strict"])
async def test_sandbox_is_never_used_again(client: Client, daemon: DaemonProcess, profile: str) -> None:
    """Row 24: ten sessions one after another: ten sandboxes, each without a trace of those before."""
    seen: set[bytes] = set()
    secret = f"secret{secrets.token_hex(8)}"
    for _ in range(10):
        session = await client.open(profile)
        seen.add((await session.run(["cat", "/proc/sys/kernel/hostname"], check=True)).stdout)
        assert (await session.run(["ls", "-A", "/workspace", "/tmp", "/dev/shm"])).stdout.count(b"secret") == 0
        code = f"open('/workspace/{secret}', 'w'), open('/tmp/{secret}', 'w'), open('/dev/shm/{secret}', 'w')"
        assert (await session.run(python(code))).exit_code == 0
        await session.close()
    assert len(seen) == 10
    await eventually("back to target", lambda: daemon.settled(sessions=1))


async def test_session_uses_up_only_its_own(client: Client) -> None:
    """What one takes away is not missed by the other: processes, memory, descriptors, space."""
    greedy = await client.open("small")
    other = await client.open("small")
    fill = "import os, time\ntry:\n  while os.fork(): pass\nexcept OSError: print('full', flush=True)\ntime.sleep(3600)"
    processes = await greedy.start(python(fill))
    assert await processes.next() is not None
    fork = "import os; pids = [os.fork() or os._exit(0) for _ in range(20)]; print(len(pids))"
    assert (await other.run(python(fork))).stdout == b"20\n"
    assert (await other.run(["head", "-c", "900000", "/dev/zero"])).output_bytes == 900_000
    assert (await other.run("head -c 900000 /dev/zero > /workspace/file")).exit_code == 0
    await processes.kill()


async def test_identity_of_the_host_is_not_shown(client: Client) -> None:
    """Its name, its processes and its users are not in the sandbox."""
    session = await client.open("open")
    code = "import os; print(*sorted(int(entry) for entry in os.listdir('/proc') if entry.isdigit()))"
    processes = (await session.run(python(code))).stdout.split()
    assert processes[0] == b"1"
    assert len(processes) <= 3
    assert (await session.run(["cat", "/proc/sys/kernel/hostname"])).stdout.startswith(b"open-")
