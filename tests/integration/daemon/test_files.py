"""A session's files through the daemon, on the real path: read, written, listed, watched, carried in and out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sessiond_client import (
    Client,
    CommandDeniedError,
    FileChange,
    FileError,
    OutputLimitError,
    TunnelError,
    UsageError,
    connect,
    sync,
)

from tests.daemon import COMMAND, UNDEBUGGED, DaemonProcess

MIB = 1024**2
USAGE = 2
BINARY = bytes(range(256)) * 40


async def name_of(error: asyncio.Future[object] | object) -> str:
    with pytest.raises(FileError) as raised:
        await error  # type: ignore[misc]
    return raised.value.name


async def test_what_is_written_is_read_byte_for_byte(client: Client) -> None:
    files = (await client.open("open")).files
    written = await files.write("data", BINARY)
    assert (written.size, written.sha256) == (len(BINARY), hashlib.sha256(BINARY).hexdigest())
    assert await files.read("data") == BINARY
    assert await files.read("data", 250, 10) == BINARY[250:260]
    assert await files.read("data", len(BINARY) - 3, 100) == BINARY[-3:]
    assert await files.read("/workspace/data", 0, 0) == b""
    assert await files.checksum("data") == written.sha256
    await files.write("data", b"+", append=True)
    await files.write("data", b"at", offset=3)
    assert await files.read("data") == BINARY[:3] + b"at" + BINARY[5:] + b"+"
    large = os.urandom(3 * MIB)
    assert (await files.write("/tmp/large", large, mode=0o600)).size == len(large)
    assert await files.read("/tmp/large") == large
    with pytest.raises(OutputLimitError):
        await files.read("/tmp/large", max_bytes=MIB)
    assert (await files.write("empty", b"")).size == 0
    assert await files.read("empty") == b""


async def test_a_file_is_replaced_whole_and_keeps_its_permissions(client: Client) -> None:
    session = await client.open("open")
    files = session.files
    await files.write("run", b"one", mode=0o755)
    await session.run("exec 7<run; ln run other; sleep 0; true", check=True)
    await files.write("run", b"two")
    assert ((await files.stat("run")).mode, await files.read("run"), await files.read("other")) == (
        0o755,
        b"two",
        b"one",
    )
    await session.run("ln -s other link", check=True)
    await files.write("link", b"three")
    assert ((await files.stat("link")).kind, await files.read("other")) == ("file", b"one")
    assert [entry.path for entry in await files.list()] == ["link", "other", "run"]


async def test_names(client: Client) -> None:
    session = await client.open("open")
    files = session.files
    await files.mkdir("a/b/c", parents=True)
    await files.mkdir("a/b/c", parents=True)
    await files.write("a/b/x.py", b"x")
    await files.write("a/y.py", b"yy", mode=0o640)
    await files.write("a/ünï\nx", b"z")
    await session.run("ln -s y.py a/l; ln -s /etc a/out", check=True)
    entry = await files.stat("a/y.py")
    assert (entry.path, entry.kind, entry.mode, entry.size, entry.target) == ("a/y.py", "file", 0o640, 2, None)
    assert abs(entry.modified - float((await session.run("stat -c %.9Y a/y.py")).stdout)) < 1e-6
    link = await files.stat("a/l")
    assert (link.kind, link.target) == ("link", "y.py")
    assert [e.path for e in await files.list("a")] == ["b", "l", "out", "y.py", "ünï\nx"]
    assert [e.path for e in await files.list("a", recursive=True)] == [
        "b",
        "b/c",
        "b/x.py",
        "l",
        "out",
        "y.py",
        "ünï\nx",
    ]
    assert [e.path for e in await files.glob("**/*.py")] == ["a/b/x.py", "a/y.py"]
    assert [e.path for e in await files.glob("*/[xy].py")] == ["a/y.py"]
    assert [e.path for e in await files.glob("*.py", "a")] == ["y.py"]
    await files.rename("a/y.py", "/workspace/z.py")
    await files.chmod("z.py", 0o400)
    assert (await files.stat("z.py")).mode == 0o400
    await files.remove("z.py")
    assert await name_of(files.remove("a")) == "not_empty"
    await files.remove("a", recursive=True)
    assert await files.list() == []


async def test_search(client: Client) -> None:
    files = (await client.open("open")).files
    await files.mkdir("d")
    await files.write("d/a.txt", b"one\nsome Needle here\n" + b"x" * 200_000 + b"needle")
    await files.write("b.bin", b"\0needle\n")
    await files.write("c.py", b"needle")
    found = await files.search("needle")
    assert sorted((m.path, m.line, m.column) for m in found) == [("c.py", 1, 1), ("d/a.txt", 3, 200_001 - 3 * 65536)]
    assert [
        (m.path, m.line, m.column, m.text) for m in await files.search("needle", any_case=True, glob="**/a.*", limit=1)
    ] == [("d/a.txt", 2, 6, "some Needle here")]
    with pytest.raises(UsageError):
        await files.search("")


async def test_what_cannot_be_done_says_why(client: Client) -> None:
    session = await client.open("open")
    files = session.files
    await session.run(
        "mkdir d; mkfifo p; echo x >f; touch no; chmod 0 no; ln -s /etc/passwd l; ln -s l2 l2", check=True
    )
    for what, name in (
        (files.read("none"), "not_found"),
        (files.read("d"), "is_directory"),
        (files.read("p"), "not_a_file"),
        (files.read("no"), "permission"),
        (files.read("f/x"), "not_directory"),
        (files.read("l2"), "loop"),
        (files.list("f"), "not_directory"),
        (files.write("f", b"", create=True), "exists"),
        (files.write("d", b""), "is_directory"),
        (files.write("none/f", b""), "not_found"),
        (files.mkdir("d"), "exists"),
        (files.remove("none"), "not_found"),
        (files.rename("f", "/tmp/f"), "other_filesystem"),
        (files.remove(""), "busy"),
    ):
        assert await name_of(what) == name
    for path in ("l", "../x", "/etc/passwd", "/", "d/../../x", "/workspacex", "/tmp/../etc/passwd"):
        assert await name_of(files.read(path)) == "escapes", path
        assert await name_of(files.list(path + "/x")) == "escapes", path
    with pytest.raises(UsageError):
        await files.write("f", b"", append=True, create=True)
    with pytest.raises(UsageError):
        await files.read("\udcff")
    with pytest.raises(UsageError):
        await files.read("x\0y")


async def test_quotas(client: Client) -> None:
    session = await client.open("small")
    assert await name_of(session.files.write("x", bytes(10 * MIB))) == "no_space"
    assert await name_of(session.files.write("x", bytes(20 * MIB), append=True)) in ("no_space", "too_large")
    await session.files.remove("x")
    await session.files.write("y", b"kept")
    assert await name_of(session.files.write("y", bytes(10 * MIB))) == "no_space"
    assert await session.files.read("y") == b"kept"
    assert [entry.path for entry in await session.files.list()] == ["y"]


async def test_who_may_is_the_profiles_to_say_and_all_is_on_record(make_daemon: Callable[..., DaemonProcess]) -> None:
    profile = {"policy": {"allow": ["true"]}, "pool": {"min": 0, "max": 2}}
    daemon = make_daemon(profiles={"yes": profile, "no": {**profile, "files": False, "tunnels": False}}).start()
    async with connect(daemon.url) as client:
        allowed, denied = await client.open("yes"), await client.open("no")
        await allowed.files.write("x", b"x")
        for refused in (
            denied.files.read("x"),
            denied.files.list(),
            denied.connect(80),
            denied.export_workspace("/dev/null"),
        ):
            with pytest.raises(CommandDeniedError):
                await refused
        decisions = [r for r in daemon.audit(allowed.id) + daemon.audit(denied.id) if r["event"] == "decision"]
        assert [(r["verdict"], r["rule"]) for r in decisions][:3] == [
            ("allow", "files"),
            ("deny", "files"),
            ("deny", "files"),
        ]
        assert ("deny", "tunnels") in [(r["verdict"], r["rule"]) for r in decisions]
        await allowed.close()
        await denied.close()


async def test_kernel_rules_hold_for_the_guests_own_program(make_daemon: Callable[..., DaemonProcess]) -> None:
    """What the profile lets nobody write, read or connect to, a file operation or tunnel cannot either."""
    kernel = {"executables": ["true"], "write": ["/tmp"], "network": False}
    profile = {"policy": {"allow": ["true"]}, "pool": {"min": 0, "max": 2}, "kernel": kernel}
    daemon = make_daemon(profiles={"p": profile}).start()
    async with connect(daemon.url) as client:
        session = await client.open("p")
        await session.files.write("/tmp/x", b"x")
        assert await session.files.read("/tmp/x") == b"x"
        assert await name_of(session.files.write("x", b"x")) == "permission"
        assert await name_of(session.files.mkdir("d")) == "permission"
        with pytest.raises(TunnelError) as raised:
            await session.connect(80)
        assert raised.value.name in ("permission", "refused")
        await session.close()


async def test_trees_go_in_and_out(client: Client, tmp_path: Path) -> None:
    files = (await client.open("open")).files
    tree = tmp_path / "tree"
    (tree / "d" / "e").mkdir(parents=True)
    (tree / "d" / "data").write_bytes(BINARY)
    (tree / "d" / "run").write_bytes(b"x")
    (tree / "d" / "run").chmod(0o755)
    (tree / "link").symlink_to("d/data")
    seen: list[int] = []
    size = await files.upload(tree, "in/to", progress=seen.append)
    assert seen[-1] == size
    assert [e.path for e in await files.list("in/to", recursive=True)] == ["d", "d/data", "d/e", "d/run", "link"]
    came: list[int] = []
    await files.download("in/to", tmp_path / "back", progress=came.append)
    assert came == sorted(came)
    back = tmp_path / "back"
    assert (back / "d" / "data").read_bytes() == BINARY
    assert (back / "d" / "run").stat().st_mode & 0o777 == 0o755
    assert (back / "link").readlink() == Path("d/data")
    assert (back / "d" / "e").is_dir()
    one = tmp_path / "one"
    one.write_bytes(os.urandom(2 * MIB))
    await files.upload(one, "one")
    await files.download("one", tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == one.read_bytes()
    assert await name_of(files.download("none", tmp_path / "none")) == "not_found"
    assert not (tmp_path / "none").exists()


async def collect(watch: object, until: Callable[[FileChange], bool]) -> list[FileChange]:
    found: list[FileChange] = []
    async for change in watch:  # type: ignore[attr-defined]
        found.append(change)
        if until(change):
            return found
    raise AssertionError("the watch ended")


async def test_a_thousand_quick_changes_are_told(client: Client) -> None:
    session = await client.open("open")
    async with session.files.watch() as watch:
        await session.run("for i in $(seq 1000); do echo $i >f$i; done; echo >last", check=True)
        changes = await collect(watch, lambda change: change == FileChange("written", "last"))
    assert {f"f{number}" for number in range(1, 1001)} <= {c.path for c in changes if c.kind == "created"}
    assert {f"f{number}" for number in range(1, 1001)} <= {c.path for c in changes if c.kind == "written"}
    assert not [c for c in changes if c.kind == "overflow"]


async def test_what_happens_in_new_directories_is_told(client: Client) -> None:
    """Also when it happens before anybody can watch them, and after they were moved."""
    session = await client.open("open")
    async with session.files.watch() as watch:
        await session.run("for i in $(seq 100); do mkdir -p d$i/e; echo >d$i/e/f; done; echo >last", check=True)
        changes = await collect(watch, lambda change: change.path == "last")
        paths = {change.path for change in changes}
        assert {f"d{i}/e/f" for i in range(1, 101)} <= paths
        await session.run("mv d1 moved; sleep 0.2; echo >moved/e/new; rm moved/e/f; echo >end", check=True)
        changes = await collect(watch, lambda change: change.path == "end")
    assert {("moved_from", "d1"), ("moved_to", "moved"), ("created", "moved/e/new"), ("removed", "moved/e/f")} <= {
        (change.kind, change.path) for change in changes
    }
    assert not [change for change in changes if change.path.startswith("d1/")]


FLOOD = """
import os, signal, sys
argv = lambda number: open(f"/proc/{number}/cmdline", "rb").read()
processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
[watcher] = [number for number in processes if b"guest" + bytes(1) + b"file-watch" in argv(number)]
os.kill(watcher, signal.SIGSTOP)
for i in range(int(sys.argv[1])):
    os.rename(f"f{i % 2}", f"f{1 - i % 2}")
os.makedirs("d/e")
os.kill(watcher, signal.SIGCONT)
"""


async def test_more_than_the_kernel_keeps_is_an_overflow_and_not_silence(client: Client) -> None:
    """And what appeared meanwhile is watched, too."""
    session = await client.open("open")
    await session.files.write("f0", b"")
    most = Path("/proc/sys/fs/inotify/max_queued_events").read_text().strip()
    async with session.files.watch() as watch:
        await session.run(["python3", "-c", FLOOD, most], check=True)
        await collect(watch, lambda change: change == FileChange("overflow", ""))
        await session.files.write("d/e/after", b"x")
        await collect(watch, lambda change: change.path == "d/e/after")


async def test_a_checkout_of_a_real_repository_is_seen(client: Client, tmp_path: Path) -> None:
    session = await client.open("open")
    repository = tmp_path / "repository"
    repository.mkdir()
    sources = Path(__file__).parents[3] / "sessiond"
    for name in ("policy", "runtime", "audit"):
        subprocess.run(["cp", "-r", sources / name, repository / name], check=True)
    git = ["git", "-c", "user.email=a@b", "-c", "user.name=a", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True).stdout
    for words in (["checkout", "-q", "--orphan", "none"], ["rm", "-rfq", "."]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    await session.files.upload(repository, "repo")
    async with session.files.watch("repo") as watch:
        await session.run("cd repo; git checkout -q main; echo >last", check=True)
        changes = await collect(watch, lambda change: change.path == "last")
    seen = {change.path for change in changes}
    wanted = set(tracked.decode().split("\0")[:-1])
    assert len(wanted) > 50
    assert wanted <= seen
    assert ".git/HEAD" in seen


async def test_a_large_upload_and_download_survive_the_daemons_death(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    profiles = {"p": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}, "limits": {"memory_bytes": "512MiB"}}}
    daemon = make_daemon(profiles=profiles, settings={"on_stop": "keep"}, environment=UNDEBUGGED).start()
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(60 * MIB))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    async with connect(daemon.url) as client:
        session = await client.open("p")
        for work in (
            lambda progress: session.files.upload(source, "large", progress=progress),
            lambda progress: session.files.download("large", back, progress=progress),
        ):
            half = asyncio.Event()
            task = asyncio.ensure_future(work(lambda size, half=half: size < 20 * MIB or half.set()))  # type: ignore[misc]
            await half.wait()
            assert not task.done()
            daemon.kill()
            daemon.start()
            await task
        assert await session.files.checksum("large") == digest
        assert hashlib.sha256(back.read_bytes()).hexdigest() == digest
        await session.close()


async def test_the_example_of_the_documentation(client: Client) -> None:
    page = (Path(__file__).parents[3] / "docs/files.md").read_text()
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    await names["work"](await client.open("open"))


def test_the_same_without_await(daemon: DaemonProcess) -> None:
    with sync.connect(daemon.url) as client, client.open("open") as session:
        session.files.write("d", b"data")
        assert session.files.read("d") == b"data"
        with session.files.watch() as watch:
            session.files.mkdir("new")
            assert next(watch) == FileChange("created", "new")
        assert [entry.path for entry in session.files.list()] == ["d", "new"]


async def cli(daemon: DaemonProcess, *words: str) -> tuple[int, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        COMMAND[0],
        words[0],
        "--url",
        daemon.url,
        *words[1:],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err.decode()


async def test_the_command_line(daemon: DaemonProcess, client: Client, tmp_path: Path) -> None:
    session = await client.open("open")
    one, there = tmp_path / "one", session.id
    one.write_bytes(BINARY)
    one.chmod(0o640)
    assert (await cli(daemon, "cp", str(one), f"{there}:"))[0] == 0
    assert (await cli(daemon, "cp", str(one), f"{there}:two"))[0] == 0
    assert (await cli(daemon, "cat", f"{there}:two")) == (0, BINARY, "")
    await session.files.mkdir("d")
    await session.run("ln -s one d/link", check=True)
    status, out, _ = await cli(daemon, "ls", "-r", there)
    assert status == 0
    lines = [line.split() for line in out.decode().splitlines()]
    assert [(line[0], line[1], " ".join(line[4:])) for line in lines if line[0][0] != "d"] == [
        ("lrwxrwxrwx", "3", "d/link -> one"),
        ("-rw-r-----", "10240", "one"),
        ("-rw-r-----", "10240", "two"),
    ]
    listed = json.loads((await cli(daemon, "ls", "--json", f"{there}:d"))[1])
    assert [(entry["path"], entry["target"]) for entry in listed] == [("link", "one")]
    assert (await cli(daemon, "cp", f"{there}:two", str(tmp_path / "back")))[0] == 0
    assert (tmp_path / "back").read_bytes() == BINARY
    assert (await cli(daemon, "cp", f"{there}:d", str(tmp_path / "tree")))[0] == USAGE
    assert (await cli(daemon, "cp", "-r", f"{there}:d", str(tmp_path / "tree")))[0] == 0
    assert (tmp_path / "tree" / "link").readlink() == Path("one")
    assert (await cli(daemon, "cp", str(tmp_path / "tree"), f"{there}:e"))[0] == USAGE
    assert (await cli(daemon, "cp", "-r", str(tmp_path / "tree"), f"{there}:e"))[0] == 0
    assert (await session.files.stat("e/link")).kind == "link"
    assert (await cli(daemon, "cp", str(one), str(one)))[0] == USAGE
    status, _, said = await cli(daemon, "cat", f"{there}:../x")
    assert status == 1 and said.startswith("sessiond: '../x': its name has .. in it")
    status, _, said = await cli(daemon, "cat", "--json", f"{there}:x")
    assert status == USAGE
    status, _, said = await cli(daemon, "ls", "--json", f"{there}:none")
    assert status == 1 and json.loads(said)["error"]["code"] == "file"
    assert (await cli(daemon, "forward", there, "x:1"))[0] == USAGE
    assert (await cli(daemon, "forward", there, "1:70000"))[0] == USAGE
