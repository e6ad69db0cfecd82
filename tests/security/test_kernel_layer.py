"""What the kernel stops when an allowed program turns on its session: each attack, with the rules and without.

docs/policy-kernel.md lists what holds. An attack that would not work without the rules would prove nothing.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sessiond_client import Client, CommandError, Session, UnavailableError, connect
from sessiond_protocol.messages import CommandLimits

from tests import engines
from tests.conftest import ends_clean
from tests.daemon import COMMAND, DaemonProcess, EngineUnderTest, eventually

WITHOUT_LANDLOCK = str(Path(__file__).parents[1] / "without_landlock.py")

KERNEL = {"executables": ["python3", "pytest", "cat", "sleep"], "network": False, "landlock": "require"}
BASE = {"policy": {"open": True}, "limits": {"memory_bytes": "256MiB"}}
PROFILES = {
    "open": {**BASE, "pool": {"min": 1, "max": 8}},
    "locked": {**BASE, "pool": {"min": 1, "max": 8}, "kernel": {**KERNEL, "exec": "strict"}},
    "derived": {
        **BASE,
        "policy": {"use": "strict"},
        "pool": {"min": 1, "max": 8},
        "kernel": {"executables": "policy", "exec": "strict", "network": False, "landlock": "require"},
    },
    "compiling": {**BASE, "pool": {"min": 0, "max": 8}, "kernel": {**KERNEL, "exec": "workspace"}},
    "narrow": {
        **BASE,
        "pool": {"min": 0, "max": 8},
        "kernel": {"read": ["system", "/usr/bin"], "write": ["/workspace", "/dev/null"]},
    },
}

PRELUDE = """
import ctypes, errno, os, shutil, socket, subprocess, sys
PYTHON = os.path.realpath(sys.executable)
LOADER = next(path for path in (
    "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1"
) if os.path.exists(path))
SAY = ["-I", "-S", "-c", "print('did it')"]

def copied(name="./copy"):
    shutil.copyfile(PYTHON, name)
    os.chmod(name, 0o755)
    return name

def written(name, text):
    with open(name, "w") as file:
        file.write(text)
    os.chmod(name, 0o755)
    return name

def output(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, "did it" if done.returncode == 0 else "refused", done.stderr)

try:
"""
EPILOGUE = """
except OSError as error:
    print("refused", errno.errorcode.get(error.errno), error)
"""

ATTACKS = {
    "execv": "os.execv('/usr/bin/git', ['git', '--version'])",
    "subprocess": "output('git', '--version')",
    "posix_spawn": "os.waitpid(os.posix_spawn('/usr/bin/git', ['git', '--version'], os.environ), 0)",
    "a shell": "output('/bin/sh', '-c', 'echo')",
    "another name of an unlisted program": "os.symlink('/usr/bin/git', 'cat'); output('./cat', '--version')",
    "a copied binary": "os.execv(copied(), ['copy', *SAY])",
    "a binary that was brought along": (
        "open('x', 'wb').write(sys.stdin.buffer.read()); os.chmod('x', 0o755); output('./x', 'version')"
    ),
    "a program by its descriptor": (
        "fd = os.open('/usr/bin/git', os.O_PATH); os.execve(fd, ['git', '--version'], os.environ)"
    ),
    "a program by way of /proc": "os.execv('/proc/self/root/usr/bin/git', ['git', '--version'])",
    "ld.so and a copied binary": "output(LOADER, copied(), *SAY)",
    "ld.so and an unlisted program": "output(LOADER, '/usr/bin/git', '--version')",
    "ld.so and a program in a library's directory": "output(LOADER, '/usr/lib/git-core/git', '--version')",
    "a copy of an unlisted program": "shutil.copy('/usr/bin/git', 'mine'); output('./mine', '--version')",
    "dlopen from the workspace": (
        "library = next(line.split()[-1] for line in open('/proc/self/maps') if '/libm.so' in line);"
        " shutil.copy(library, 'mine.so'); ctypes.CDLL('./mine.so').cos; print('did it')"
    ),
    "mapping a file as code": (
        "import mmap; file = open('code', 'w+b'); file.write(bytes(4096)); file.flush();"
        " mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC); print('did it')"
    ),
    "making a mapped file code": (
        "import mmap; file = open('code', 'w+b'); file.write(bytes(4096)); file.flush();"
        " memory = mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE); data = ctypes.c_char.from_buffer(memory);"
        " libc = ctypes.CDLL(None, use_errno=True); READ_EXEC = 5;"
        " bad = libc.mprotect(ctypes.c_void_p(ctypes.addressof(data)), 4096, READ_EXEC);"
        " print(errno.errorcode[ctypes.get_errno()] if bad else 'did it')"
    ),
    "a script of an unlisted interpreter": "output(written('./s', '#!/bin/sh\\necho did it\\n'))",
    "a script of a listed interpreter in the workspace": "output(written('./s', f'#!{PYTHON}\\nprint(\"did it\")\\n'))",
    "TCP bind": "socket.create_server(('127.0.0.1', 0)); print('did it')",
    "TCP connect": (
        "server = socket.socket(); server.listen(); socket.create_connection(server.getsockname()); print('did it')"
    ),
    "reading an unlisted program": "open('/usr/bin/git', 'rb').read(4); print('did it')",
    "reading outside the trees": "open('/usr/lib/git-core/git', 'rb').read(4); print('did it')",
    "listing programs": "os.listdir('/usr/bin'); print('did it')",
}


REFUSALS = ("EACCES", "EPERM", "ermission denied", "not permitted", "failed to map segment")
"""The last are the loader's words for a mapping that was refused."""


def attack(code: str) -> list[str]:
    """A command that tries it and prints `did it`, or `refused`."""
    indented = "\n".join(f"    {line}" for line in code.splitlines())
    return ["python3", "-I", "-S", "-c", PRELUDE + indented + EPILOGUE]


async def tried(session: Session, code: str) -> str:
    """What it printed; its complaints are in it without what a traceback may quote of the code."""
    result = await session.run(attack(code), stdin=engines.guest().read_bytes())
    return result.stdout.decode() + result.stderr.decode().replace("did it", "")


def worked(said: str) -> bool:
    return "did it" in said or "git version" in said


@pytest.fixture(scope="module")
def daemon(engine: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with and without kernel rules."""
    daemon = DaemonProcess(engine, tmp_path_factory.mktemp(f"kernel-{engine.name}"), profiles=PROFILES)
    with ends_clean(daemon):
        yield daemon


@pytest.mark.parametrize("name", ATTACKS)
async def test_kernel_stops_it(client: Client, name: str) -> None:
    said = await tried(await client.open("locked"), ATTACKS[name])
    assert not worked(said), said
    assert any(word in said for word in REFUSALS), said


@pytest.mark.parametrize("name", ATTACKS)
async def test_it_would_work_without_the_rules(client: Client, name: str) -> None:
    said = await tried(await client.open("open"), ATTACKS[name])
    assert worked(said), said


async def brought(session: Session, **files: str) -> None:
    """Put Python files into the workspace, as a client does where the policy lets no code through."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{name}.py")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    archive.seek(0)
    await session.import_workspace(archive)


@pytest.mark.parametrize("name", ATTACKS)
async def test_kernel_derived_from_the_strict_policy_stops_it(client: Client, name: str) -> None:
    """The policy lets a script of the workspace run; the kernel lets the script start what the policy names only."""
    session = await client.open("derived")
    await brought(session, attack=attack(ATTACKS[name])[-1])
    result = await session.run(["python3", "attack.py"], stdin=engines.guest().read_bytes())
    said = result.stdout.decode() + result.stderr.decode().replace("did it", "")
    assert not worked(said), said
    assert any(word in said for word in REFUSALS), said


async def test_what_the_strict_policy_names_works(client: Client) -> None:
    session = await client.open("derived")
    await brought(session, test_it="def test_it(tmp_path):\n    (tmp_path / 'x').write_text( 'x' )\n")
    assert b"1 passed" in (await session.run("pytest -q -p no:cacheprovider")).stdout
    with pytest.raises(CommandError, match="git"):
        await session.run(["git", "--version"])


MEMFD = """
import errno, os, shutil, sys
try:
    fd = os.memfd_create("x", 0)
    os.write(fd, open(os.path.realpath(sys.executable), "rb").read())
    os.execve(fd, ["x", "-I", "-S", "-c", "print('did it')"], os.environ)
except OSError as error:
    print("refused", errno.errorcode[error.errno])
"""


async def test_programs_in_memory_are_refused_everywhere(client: Client) -> None:
    """memfd_create and fexecve: by seccomp, whatever the profile; out here it works."""
    here = subprocess.run([sys.executable, "-I", "-S", "-c", MEMFD], capture_output=True, check=True)
    assert here.stdout == b"did it\n"
    for profile in ("open", "locked"):
        session = await client.open(profile)
        assert (await session.run(["python3", "-I", "-S", "-c", MEMFD])).stdout == b"refused ENOSYS\n"


async def test_command_itself_must_be_listed(client: Client) -> None:
    session = await client.open("locked")
    with pytest.raises(CommandError) as caught:
        await session.run(["git", "--version"])
    assert "ermission" in str(caught.value)
    assert (await session.run(["cat", "/etc/os-release"])).ok


async def test_writable_places_are_noexec(client: Client) -> None:
    """Under `strict` all of them, under `workspace` all but the workspace."""
    for profile, runnable in (("locked", set()), ("compiling", {"/workspace"})):
        session = await client.open(profile)
        mounts = (await session.run(["cat", "/proc/self/mounts"])).stdout.decode().splitlines()
        options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
        places = {"/workspace", "/tmp", "/dev/shm"}
        assert {place for place in places if "noexec" not in options[place]} == runnable
        assert all({"nosuid", "nodev"} <= set(options[place]) for place in places)


async def test_guest_keeps_no_capability(client: Client) -> None:
    """The one that remounted them on bubblewrap is gone, from PID 1 as well."""
    session = await client.open("locked")
    for who in ("self", "1"):
        status = (await session.run(["cat", f"/proc/{who}/status"])).stdout.decode()
        capabilities = {line.split()[0]: line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
        assert {int(value, 16) for value in capabilities.values()} == {0}, (who, capabilities)
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


async def test_listed_programs_work(client: Client) -> None:
    """pytest with what tests do: child processes, pools, threads, temporary files, unix sockets."""
    session = await client.open("locked")
    test = """
import multiprocessing, os, socket, ssl, sqlite3, subprocess, sys, tempfile, threading

def square(number):
    return number * number

def test_pool():
    with multiprocessing.Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

def test_child(tmp_path):
    (tmp_path / "a").mkdir(); (tmp_path / "a" / "x").write_text("x")
    os.rename(tmp_path / "a" / "x", tmp_path / "y")
    assert subprocess.check_output([sys.executable, "-c", "print(1)"], cwd=tmp_path) == b"1\\n"

def test_sockets(tmp_path):
    socket.socketpair()
    server = socket.socket(socket.AF_UNIX); server.bind(str(tmp_path / "s")); server.listen()
    socket.socket(socket.AF_UNIX).connect(str(tmp_path / "s"))

def test_rest():
    thread = threading.Thread(target=sqlite3.connect, args=(":memory:",)); thread.start(); thread.join()
    assert os.urandom(4) and open(os.devnull, "w").write("x") and os.listdir("/proc/self/fd")
    assert tempfile.TemporaryFile().write(b"x") and ssl.create_default_context()

def test_terminal():
    import pty
    master, slave = pty.openpty()
    os.write(slave, b"x"); assert os.read(master, 1) == b"x" and os.isatty(slave)
"""
    await session.run(["python3", "-c", "import sys; open('test_it.py', 'w').write(sys.argv[1])", test], check=True)
    for command in (["python3", "-m", "pytest", "-q"], ["pytest", "-q"]):
        result = await session.run(command, env={"PYTHONDONTWRITEBYTECODE": "1"})
        assert result.exit_code == 0, result.stdout.decode() + result.stderr.decode()
        assert b"5 passed" in result.stdout


async def test_commands_of_a_session_may_signal_each_other(client: Client) -> None:
    """And nobody else; and the guest still ends what it started."""
    session = await client.open("locked")
    sleeper = await session.start(["sleep", "3600"])
    code = """
import os, signal
for entry in os.listdir("/proc"):
    if entry.isdigit() and open(f"/proc/{entry}/comm").read() == "sleep\\n":
        os.kill(int(entry), signal.SIGTERM)
"""
    assert (await session.run(["python3", "-c", code])).ok
    assert (await sleeper.wait()).signal == 15
    child = """
import subprocess, time
subprocess.Popen(["sleep", "3600"], start_new_session=True)
print("there", flush=True)
time.sleep(3600)
"""
    command = await session.start(["python3", "-c", child])
    assert await command.next() is not None
    await command.kill()
    names = "import os; print([open(f'/proc/{pid}/comm').read() for pid in os.listdir('/proc') if pid.isdigit()])"
    assert b"sleep" not in (await session.run(["python3", "-c", names])).stdout


async def test_compiled_outputs_run_in_the_workspace_if_the_profile_says_so(client: Client) -> None:
    """exec = "workspace": what was written there runs, with listed interpreters only, and nothing from /tmp."""
    session = await client.open("compiling")
    assert worked(await tried(session, ATTACKS["a copied binary"]))
    assert worked(await tried(session, ATTACKS["dlopen from the workspace"]))
    assert worked(await tried(session, ATTACKS["a script of a listed interpreter in the workspace"]))
    for code in (
        ATTACKS["a script of an unlisted interpreter"],
        ATTACKS["a copy of an unlisted program"],
        "os.execv(copied('/tmp/copy'), ['copy', *SAY])",
        "output(LOADER, copied('/dev/shm/copy'), *SAY)",
    ):
        said = await tried(session, code)
        assert not worked(said), said


async def test_reading_and_writing_alone(client: Client) -> None:
    """Rules without a list of programs: any may run that can be read, and only the trees are open."""
    session = await client.open("narrow")
    open_session = await client.open("open")
    assert worked(await tried(session, ATTACKS["execv"]))
    assert worked(await tried(session, "open('/workspace/x', 'w').write('x'); print('did it')"))
    assert worked(await tried(session, "os.mkdir('a'); os.rename('x', 'a/x'); os.link('a/x', 'y'); print('did it')"))
    for code in (
        "open('/tmp/x', 'w'); print('did it')",
        "os.mkdir('/tmp/d'); print('did it')",
        "os.mkfifo('/dev/shm/f'); print('did it')",
        "os.listdir('/home'); print('did it')",
    ):
        said = await tried(session, code)
        assert "EACCES" in said, said
        assert worked(await tried(open_session, code))


OPEN = {
    "machine code in memory of its own": """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex("c3") if os.uname().machine == "x86_64" else bytes.fromhex("c0035fd6"))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
print("did it")
""",
    "code in a listed interpreter": "exec('print(\"did it\")')",
    "ld.so and a listed program": "output(LOADER, PYTHON, *SAY)",
    "UDP on the loopback": """
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", server.getsockname())
print("did it" if server.recv(1) else "")
""",
    "a unix socket with a path": """
server = socket.socket(socket.AF_UNIX)
server.bind("/tmp/socket")
server.listen()
socket.socket(socket.AF_UNIX).connect("/tmp/socket")
print("did it")
""",
    "looking at names and attributes": "os.stat('/usr/bin/git'); os.chdir('/usr/bin'); print('did it')",
    "changing attributes": "open('a', 'w'); os.chmod('a', 0o600); os.utime('a'); print('did it')",
}


@pytest.mark.parametrize("name", OPEN)
async def test_what_the_documentation_says_stays_open(client: Client, name: str) -> None:
    """Not a promise: docs/policy-kernel.md must change when one of these is closed."""
    said = await tried(await client.open("locked"), OPEN[name].strip())
    assert worked(said), said


async def test_rules_survive_whatever_a_command_does(client: Client) -> None:
    """Another ruleset only adds; a later command is bound like the first."""
    session = await client.open("locked")
    await session.run(["python3", "-c", "import os; os.fork(); os.setsid(); os.kill(1, 9)"])
    assert not worked(await tried(session, ATTACKS["execv"]))
    result = await session.run(["cat", "/etc/os-release"], limits=CommandLimits(cpu_seconds=5))
    assert result.ok


async def test_pool_hands_out_unrestricted_sandboxes_to_be_restricted(client: Client) -> None:
    """The rules bind at the claim: the sandbox was warm."""
    for profile in ("locked", "open"):
        session = await client.open(profile)
        assert worked(await tried(session, ATTACKS["execv"])) == (profile == "open")


async def test_black_and_pylint_work(docker_engine: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The four programs of a strict profile, in the image that has them: on Docker, which has images."""
    assert docker_engine.docker_host is not None
    full = replace(docker_engine, image=engines.image(docker_engine.docker_host, "full"))
    kernel = {**KERNEL, "executables": ["python", "pytest", "black", "pylint"], "exec": "strict"}
    profiles = {
        "strict": {**BASE, "pool": {"min": 1, "max": 2}, "kernel": kernel},
        "derived": {**PROFILES["derived"], "pool": {"min": 1, "max": 2}},
    }
    daemon = DaemonProcess(full, tmp_path_factory.mktemp("full"), profiles=profiles)
    with ends_clean(daemon):
        async with connect(daemon.url) as client:
            session = await client.open("strict")
            write = "open('a.py', 'w').write('\"\"\"A.\"\"\"\\nX = [ 1,2 ]\\n')"
            await session.run(["python", "-c", write], check=True)
            for command in (["black", "a.py"], ["pylint", "a.py"], ["python", "-m", "black", "--check", "a.py"]):
                result = await session.run(command)
                assert result.exit_code == 0, result.stdout.decode() + result.stderr.decode()
            assert not worked(await tried(session, ATTACKS["execv"]))
            derived = await client.open("derived")
            await brought(derived, a='"""A."""\nX = [ 1,2 ]\n', git=attack(ATTACKS["execv"])[-1])
            for command in (["black", "a.py"], ["pylint", "a.py"], ["python3", "-m", "black", "--check", "a.py"]):
                result = await derived.run(command)
                assert result.exit_code == 0, result.stdout.decode() + result.stderr.decode()
            refused = await derived.run(["python3", "git.py"])
            assert b"refused EACCES" in refused.stdout, refused


async def test_kernel_without_landlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`require` opens no session there; `use` does, says what is missing, and has noexec mounts all the same.

    On bubblewrap, whose sandboxes are the daemon's own children and have its filter.
    """
    monkeypatch.setattr("tests.daemon.COMMAND", (sys.executable, WITHOUT_LANDLOCK, *COMMAND))
    kernel = {**KERNEL, "exec": "strict"}
    profiles = {
        "require": {**BASE, "pool": {"min": 1, "max": 2}, "kernel": kernel},
        "use": {**BASE, "pool": {"min": 1, "max": 2}, "kernel": {**kernel, "landlock": "use"}},
    }
    daemon = DaemonProcess(EngineUnderTest("bubblewrap"), tmp_path, profiles=profiles)
    with ends_clean(daemon):
        async with connect(daemon.url) as client:
            with pytest.raises(UnavailableError, match="no landlock"):
                await client.open("require")
            session = await client.open("use")
            assert "kernel layer incomplete" in daemon.log
            assert worked(await tried(session, ATTACKS["execv"]))
            assert not worked(await tried(session, ATTACKS["ld.so and a copied binary"]))
            await eventually("the refused sandbox is replaced", lambda: daemon.settled(sessions=1))
