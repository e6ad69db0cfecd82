"""RESTRICT: what the kernel holds afterwards, and what of the guest's own work must go on."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sessiond_protocol.guest import (
    ACCESS_EXECUTE,
    ACCESS_PROGRAM,
    ACCESS_READ,
    ACCESS_WRITE,
    MOST_GRANTS,
    RESTRICT_EXECUTE,
    RESTRICT_IOCTL,
    RESTRICT_READ,
    RESTRICT_SCOPE,
    RESTRICT_TCP,
    RESTRICT_WRITE,
    SCOPE_TREE,
    GuestError,
    Restrict,
    Restricted,
    Signal,
    Start,
    Synced,
    encode,
)

from .harness import Closed, Guest

FILES = RESTRICT_EXECUTE | RESTRICT_READ | RESTRICT_WRITE
ALL = FILES | RESTRICT_TCP | RESTRICT_SCOPE | RESTRICT_IOCTL
SYSTEM = tuple((ACCESS_READ, path) for path in (b"/usr/lib/*-linux-gnu", b"/usr/lib64", b"/lib*", b"/etc", b"/dev"))
SEARCH = b"/usr/local/bin:/usr/bin:/bin"

FEATURE_LANDLOCK = 8

WITHOUT_LANDLOCK = Path(__file__).parents[2] / "without_landlock.py"


def abi() -> int:
    return max(0, ctypes.CDLL(None).syscall(444, None, 0, 1))


def restrict(guest: Guest, flags: int = FILES, *grants: tuple[int, bytes], search: bytes = SEARCH) -> Restricted:
    guest.send(Restrict(flags, search, grants))
    (answer,) = (frame for frame in guest.until(lambda frame: isinstance(frame, Restricted)) if frame.command == 0)
    assert isinstance(answer, Restricted)
    return answer


def refused(guest: Guest) -> GuestError:
    reasons: list[GuestError] = []
    with pytest.raises(Closed):
        while True:
            reasons += [frame for frame in guest.receive() if isinstance(frame, GuestError)]
    assert len(reasons) == 1
    return reasons[0]


@pytest.fixture
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of programs that everybody can reach."""
    directory = Path(f"/tmp/restrict-{secrets.token_hex(4)}")
    directory.mkdir(mode=0o755)
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def write(path: Path, text: str) -> bytes:
    path.write_text(text)
    path.chmod(0o755)
    return str(path).encode()


def test_this_kernel_has_what_the_tests_need(guest: Guest) -> None:
    """A kernel without it would make every test below mean nothing."""
    assert abi() >= 6
    assert guest.hello is not None and guest.hello.features & FEATURE_LANDLOCK


def test_only_what_is_granted(guest: Guest) -> None:
    answer = restrict(guest, ALL, (ACCESS_PROGRAM, b"cat"), (ACCESS_PROGRAM, b"ls"), *SYSTEM)
    assert answer.abi == abi() and answer.applied == ALL and answer.error == 0
    assert guest.run("cat", "/etc/passwd").stdout == Path("/etc/passwd").read_bytes()
    assert guest.run("id").failed[0].errno == 13
    assert guest.run("/usr/bin/id").failed[0].errno == 13
    assert guest.run("cat", "/usr/bin/id").exit.code == 1
    assert guest.run("ls", "/usr").exit.code == 2
    assert guest.run("ls", "/etc").exit.code == 0


def test_a_tree_may_be_executed_or_written(guest: Guest, scripts: Path) -> None:
    write(scripts / "cat", "")
    scripts.chmod(0o777)
    both = (ACCESS_READ | ACCESS_WRITE, str(scripts).encode())
    programs = tuple(
        (ACCESS_READ | ACCESS_EXECUTE, path) for path in (b"/usr/bin", b"/lib64/ld-*.so*", b"/lib/ld-*.so*")
    )
    restrict(guest, FILES, *programs, both, *SYSTEM, (ACCESS_WRITE, b"/dev/null"))
    assert guest.shell(f"cd {scripts} && echo x > a && mv a b && rm b && id > /dev/null").exit.code == 0
    assert guest.shell(f"echo x > {guest.directory}/a").exit.code != 0
    assert guest.run(f"{scripts}/cat").failed[0].errno == 13


def test_programs_come_with_what_they_need(guest: Guest, scripts: Path) -> None:
    """A loader, an interpreter, an interpreter's own, env and what env runs, behind links."""
    plain = write(scripts / "plain", "#!/bin/sh\necho plain\n")
    nested = write(scripts / "nested", f"#! {scripts}/plain  argument\n")
    env = write(scripts / "env", "#!/usr/bin/env -S A=1 dash\necho $A\n")
    (scripts / "link").symlink_to("plain")
    grants = [(ACCESS_PROGRAM, name) for name in (nested, env, str(scripts / "link").encode())]
    answer = restrict(guest, FILES, *grants, *SYSTEM, (ACCESS_WRITE, b"/dev/null"))
    assert answer.error == 0
    assert guest.run(plain).stdout == b"plain\n"
    assert guest.run(str(scripts / "link")).stdout == b"plain\n"
    assert guest.run(nested).stdout == b"plain\n"
    assert guest.run(env).stdout == b"1\n"
    assert guest.run("id").failed[0].errno == 13


def test_a_script_that_names_itself_ends(guest: Guest, scripts: Path) -> None:
    loop = write(scripts / "loop", f"#!{scripts}/loop\n")
    assert restrict(guest, FILES, (ACCESS_PROGRAM, loop)).rules > 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#!",
        b"#!\n",
        b"#! \t",
        b"\x7fELF",
        b"\x7fELF\x02" + b"\xff" * 200,
        b"#!" + b"x" * 5000,
        b"#!/usr/bin/env\n",
    ],
)
def test_a_program_that_is_none_harms_nobody(guest: Guest, scripts: Path, content: bytes) -> None:
    (scripts / "odd").write_bytes(content)
    (scripts / "odd").chmod(0o755)
    answer = restrict(guest, FILES, (ACCESS_PROGRAM, str(scripts / "odd").encode()), (ACCESS_PROGRAM, b"cat"), *SYSTEM)
    assert answer.error == 0
    assert guest.run("cat", "/etc/passwd").exit.code == 0


def test_names_are_looked_up_as_execvp_would_but_not_along_relative_entries(guest: Guest, scripts: Path) -> None:
    write(scripts / "mine", "#!/bin/sh\necho mine\n")
    (scripts / "id").write_text("not executable")
    search = b"::relative:." + b":" + str(scripts).encode() + b":/usr/bin"
    names = (b"mine", b"id", b"no-such-program")
    answer = restrict(guest, FILES, *((ACCESS_PROGRAM, name) for name in names), *SYSTEM, search=search)
    assert guest.run(str(scripts / "mine")).stdout == b"mine\n"
    assert guest.run("/usr/bin/id").exit.code == 0
    assert answer.missing >= 1


@pytest.mark.parametrize(
    "first", ["#!cat", "#! ./cat", "#!/usr/bin/env ./cat", "#!usr/bin/cat", "#!/usr/bin/env -S ../bin/cat"]
)
def test_a_relative_interpreter_allows_nothing(guest: Guest, scripts: Path, first: str) -> None:
    """It means another file in each working directory."""
    restrict(guest, FILES, (ACCESS_PROGRAM, write(scripts / "odd", f"{first}\n")), *SYSTEM)
    assert guest.run("cat").failed[0].errno == 13


def test_what_is_not_there_is_counted(guest: Guest) -> None:
    grants = ((ACCESS_READ, b"/no/such/tree"), (ACCESS_READ, b"/no/such/*"), (ACCESS_PROGRAM, b"no-such-program"))
    answer = restrict(guest, FILES, *grants, (ACCESS_READ, b"/etc"))
    assert (answer.missing, answer.error, answer.applied) == (3, 0, FILES)


def test_a_pattern_stands_for_all_that_match(guest: Guest, scripts: Path) -> None:
    for name in ("a.1", "a.2", "b.1"):
        write(scripts / name, name)
    restrict(guest, FILES, (ACCESS_PROGRAM, b"cat"), *SYSTEM, (ACCESS_READ, str(scripts / "a.*").encode()))
    run = guest.run("cat", *(str(scripts / name) for name in ("a.1", "a.2", "b.1")))
    assert run.stdout == b"a.1a.2" and run.exit.code == 1


def test_only_what_is_asked_is_restricted(guest: Guest) -> None:
    """Without RESTRICT_WRITE even renames into another directory, which any ruleset about files forbids by default."""
    assert restrict(guest, RESTRICT_READ, (ACCESS_READ, b"/")).applied == RESTRICT_READ
    where = guest.directory
    assert guest.shell(f"mkdir {where}/a && echo x > {where}/x && mv {where}/x {where}/a/y && id").exit.code == 0
    script = f"import os; os.link({str(where / 'a/y')!r}, {str(where / 'z')!r})"
    assert guest.run(sys.executable, "-c", script).exit.code == 0


def test_network_and_scope_alone(make_guest: Callable[..., Guest]) -> None:
    """Sockets and signals out, seen from a session that shares the machine's namespaces with the test."""
    name = f"\0{secrets.token_hex(8)}"
    script = f"""
import os, socket
def tried(call):
    try:
        call()
        print("ok")
    except OSError as error:
        print(error.errno)
tried(lambda: socket.socket().bind(("127.0.0.1", 0)))
tried(lambda: socket.socket().connect(("127.0.0.1", %d)))
tried(lambda: socket.socket(socket.AF_UNIX).connect({name!r}))
tried(lambda: os.kill({os.getpid()}, 0))
"""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        script = script % server.getsockname()[1]
        free, bound = make_guest(), make_guest()
        free.connect()
        bound.connect()
        assert restrict(bound, RESTRICT_TCP | RESTRICT_SCOPE).applied == RESTRICT_TCP | RESTRICT_SCOPE
        assert free.run(sys.executable, "-c", script).stdout.split() == [b"ok"] * 4
        assert bound.run(sys.executable, "-c", script).stdout.split() == [b"13", b"13", b"1", b"1"]
    assert bound.run("id").exit.code == 0


def test_commands_of_a_session_reach_each_other(guest: Guest) -> None:
    """They are in one domain: signals and abstract sockets work between them."""
    restrict(guest, ALL, (ACCESS_READ | ACCESS_EXECUTE, b"/"), (ACCESS_WRITE, b"/dev"))
    name = f"\0{secrets.token_hex(8)}"
    serve = f"""
import socket
server = socket.socket(socket.AF_UNIX)
server.bind({name!r})
server.listen()
print(1, flush=True)
server.accept()
"""
    server = guest.start(sys.executable, "-c", serve)
    guest.wait(lambda: guest.runs[server].length == 2)
    assert (
        guest.run(sys.executable, "-c", f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})").exit.code
        == 0
    )
    assert guest.finish(server).exit.code == 0
    sleeper = guest.start("sleep", "1000")
    guest.wait(lambda: bool(guest.runs[sleeper].started))
    guest.shell(f"kill {guest.runs[sleeper].started[0].pid}")
    assert guest.finish(sleeper).exit.signal == signal.SIGTERM


def test_the_guest_goes_on_with_its_work(init: Guest) -> None:
    """Whatever little is granted, it finds and kills a whole tree, takes a new connection, and ends in peace."""
    restrict(init, ALL, (ACCESS_PROGRAM, b"sh"), (ACCESS_PROGRAM, b"sleep"), (ACCESS_PROGRAM, b"setsid"), *SYSTEM)
    handle = init.start("sh", "-c", "setsid sleep 1000 & echo up; exec sleep 1000")
    init.wait(lambda: init.runs[handle].length == 3)
    assert [frame for frame in init.connect() if isinstance(frame, Synced)]
    init.send(Signal(handle, signal.SIGKILL, SCOPE_TREE))
    init.finish(handle)
    init.wait(lambda: len(init.runs[handle].eof) == 2)  # nobody holds the pipes any more
    assert init.run("id").failed[0].errno == 13


def test_it_comes_once_and_before_the_first_start(make_guest: Callable[..., Guest]) -> None:
    frame = Restrict(RESTRICT_READ, b"", ((ACCESS_READ, b"/"),))
    twice = make_guest()
    twice.connect()
    restrict(twice, RESTRICT_EXECUTE, (ACCESS_PROGRAM, b"cat"), *SYSTEM)
    twice.send(frame)
    assert refused(twice).code == 4
    twice.connect()
    assert twice.run("id").failed[0].errno == 13

    late = make_guest()
    late.connect()
    assert late.run("true").exit.code == 0
    late.send(frame)
    assert refused(late).code == 4
    late.connect()
    assert late.run("id").exit.code == 0


def test_a_start_right_behind_it_is_bound(guest: Guest) -> None:
    start = Start(command=1, argv=(b"id",), cwd=b"/", env=(b"PATH=/usr/bin",))
    guest.send_raw(encode(Restrict(RESTRICT_EXECUTE, SEARCH, ((ACCESS_PROGRAM, b"cat"),))) + encode(start))
    guest.wait(lambda: bool(guest.runs.get(1) and guest.runs[1].failed))
    assert guest.runs[1].failed[0].errno == 13


def test_nobody_gets_out(guest: Guest) -> None:
    """Another ruleset only adds to the first."""
    program = os.path.realpath(sys.executable).encode()
    restrict(guest, RESTRICT_EXECUTE, (ACCESS_PROGRAM, program))
    script = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(444, struct.pack("<Q", 1), 8, 0)
assert libc.syscall(445, fd, 1, struct.pack("<Qi", 1, os.open("/", os.O_PATH)), 0) == 0
assert libc.syscall(446, fd, 0) == 0
os.execv("/usr/bin/id", ["id"])
"""
    run = guest.run(program, "-I", "-S", "-c", script)
    assert b"PermissionError" in run.stderr and not run.stdout


def test_as_many_grants_as_there_may_be(guest: Guest) -> None:
    grants = ((ACCESS_READ, b"/no/such"),) * (MOST_GRANTS - 3) + ((ACCESS_PROGRAM, b"cat"), *SYSTEM[:2])
    answer = restrict(guest, FILES, *grants)
    assert answer.missing >= MOST_GRANTS - 3
    assert guest.run("cat", stdin=b"x").stdout == b"x"


def test_where_the_kernel_has_none(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(within=[sys.executable, str(WITHOUT_LANDLOCK)])
    guest.connect()
    assert guest.hello is not None and not guest.hello.features & FEATURE_LANDLOCK
    assert restrict(guest, ALL, (ACCESS_PROGRAM, b"cat")) == Restricted(abi=0, applied=0)
    assert guest.run("id").exit.code == 0
