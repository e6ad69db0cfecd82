"""A workspace out of a sandbox and into it: what the guest writes, GNU tar and Python read, and the other way round."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import UID

FAILED, USAGE, REFUSED, MALFORMED, INCOMPLETE = 1, 2, 3, 4, 5
MIB = 1024**2
SECONDS = 60


def export(binary: Path, tree: Path, path: str = ".", **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([binary, "tar-export", path], cwd=tree, capture_output=True, timeout=SECONDS, **options)  # type: ignore[call-overload, no-any-return]


def take(binary: Path, tree: Path, archive: bytes, path: str = ".") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [binary, "tar-import", path], cwd=tree, input=archive, capture_output=True, timeout=SECONDS, check=False
    )


def members(content: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        return tar.getmembers()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def archive(*members: tuple[str, dict[str, object]], data: bytes = b"new") -> bytes:
    """An archive of Python's with these members, whatever they lead to."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


DIRECTORY: dict[str, object] = {"type": tarfile.DIRTYPE, "mode": 0o755}


def seen(tree: Path, *, nanoseconds: bool = True) -> dict[str, tuple[int, int, str]]:
    """Everything about a tree that must survive."""
    found: dict[str, tuple[int, int, str]] = {}
    for path in tree.rglob("*"):
        status = path.lstat()
        content = ""
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        time = status.st_mtime_ns if nanoseconds else status.st_mtime_ns // 10**9
        found[str(path.relative_to(tree))] = (status.st_mode, time, content)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tree: a repository, and names, links and files of all kinds."""
    tree = tmp_path_factory.mktemp("tree")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    who = ["-c", "user.email=a@example.org", "-c", "user.name=a"]
    for words in (["init", "-q", "."], ["add", "."], [*who, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *words], cwd=tree, check=True, env=environment)
    (tree / "empty").mkdir()
    (tree / "ünïcødé 文件").write_text("x")
    (tree / ("n" * 200)).write_text("long")
    (tree / "d" / ("e" * 90) / ("f" * 90)).mkdir(parents=True)
    (tree / "d" / ("e" * 90) / ("f" * 90) / ("g" * 90)).write_text("longer than a header's two fields")
    (tree / "d" / ("e" * 90) / "in two fields").write_text("x")
    Path(os.fsdecode(os.fsencode(tree) + b"/not utf-8 \xff\xfe")).write_text("x")
    (tree / "line\nfeed").write_text("x")
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    (tree / "private").write_text("x")
    (tree / "private").chmod(0o600)
    (tree / "read-only").mkdir()
    (tree / "read-only" / "file").write_text("x")
    (tree / "read-only").chmod(0o555)
    (tree / "to file").symlink_to("run")
    (tree / "to nothing").symlink_to("/no/such/file/" + "x" * 150)
    (tree / "to ünïcødé").symlink_to("ünïcødé 文件")
    (tree / "block").write_bytes(b"b" * 512)
    (tree / "nothing in it").write_bytes(b"")
    with (tree / "large").open("wb") as file:
        for number in range(100):
            file.write(hashlib.sha256(b"%d" % number).digest() * (MIB // 32))
    os.utime(tree / "run", ns=(0, 1_234_567_890_123_456_789))
    os.utime(tree / "private", ns=(0, -1_500_000_000))
    os.utime(tree / "block", (0, 20_000_000_000))
    os.utime(tree / "empty", (0, 1_000_000_000))
    return tree


def test_what_the_guest_writes_the_guest_reads(binary: Path, tree: Path, tmp_path: Path) -> None:
    written = export(binary, tree)
    assert (written.returncode, written.stderr) == (0, b"")
    done = take(binary, tmp_path, written.stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    assert seen(tmp_path) == seen(tree)
    assert subprocess.run(["git", "-C", tmp_path, "fsck"], capture_output=True).returncode == 0


def test_what_the_guest_writes_gnu_tar_reads(binary: Path, tree: Path, tmp_path: Path) -> None:
    written = export(binary, tree)
    subprocess.run(["tar", "-xpf", "-", "-C", tmp_path], input=written.stdout, check=True, capture_output=True)
    assert seen(tmp_path) == seen(tree)


def test_what_the_guest_writes_python_reads(binary: Path, tree: Path, tmp_path: Path) -> None:
    written = export(binary, tree)
    with tarfile.open(fileobj=io.BytesIO(written.stdout), mode="r:", encoding="utf-8") as tar:
        tar.extractall(tmp_path, filter="fully_trusted")
    mine, theirs = seen(tree), seen(tmp_path)
    # Python has times as floats, and gives links none.
    assert {name: (mode, content) for name, (mode, _, content) in theirs.items()} == {
        name: (mode, content) for name, (mode, _, content) in mine.items()
    }
    files = [name for name, (mode, *_) in mine.items() if not stat.S_ISLNK(mode)]
    assert all(abs(theirs[name][1] - mine[name][1]) < 10_000 for name in files)


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "posix"])
def test_what_gnu_tar_writes_the_guest_reads(binary: Path, tree: Path, tmp_path: Path, form: str) -> None:
    command = ["tar", f"--format={form}", "-cf", "-", "-C", tree, "."]
    written = subprocess.run(command, check=True, capture_output=True).stdout
    done = take(binary, tmp_path, written)
    assert (done.returncode, done.stderr) == (0, b"")
    exact = form == "posix"
    assert seen(tmp_path, nanoseconds=exact) == seen(tree, nanoseconds=exact)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_what_python_writes_the_guest_reads(binary: Path, tree: Path, tmp_path: Path, form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        tar.add(tree, ".")
    done = take(binary, tmp_path, out.getvalue())
    assert (done.returncode, done.stderr) == (0, b"")
    mine, theirs = seen(tree, nanoseconds=False), seen(tmp_path, nanoseconds=False)
    assert {name: (mode, content) for name, (mode, _, content) in theirs.items()} == {
        name: (mode, content) for name, (mode, _, content) in mine.items()
    }


def test_hard_links_come_as_links(binary: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d").mkdir(parents=True)
    target.mkdir()
    (source / "one").write_text("x")
    (source / "d" / "two").hardlink_to(source / "one")
    written = subprocess.run(["tar", "-cf", "-", "-C", source, "one", "d"], check=True, capture_output=True).stdout
    assert take(binary, target, written).returncode == 0
    assert (target / "d" / "two").samefile(target / "one")
    # Again, over what is there: a rename between two links to one file does nothing.
    assert take(binary, target, written).returncode == 0
    assert sorted(path.name for path in target.rglob("*")) == ["d", "one", "two"]


def test_a_part_of_the_tree(binary: Path, tree: Path, tmp_path: Path) -> None:
    part = f"./d//{'e' * 90}/"
    done = take(binary, tmp_path, export(binary, tree, part).stdout, "made/on the way")
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "made" / "on the way") == seen(tree / part)


def test_memory_does_not_grow_with_the_archive(binary: Path, tree: Path, tmp_path: Path) -> None:
    limit = ["prlimit", f"--as={16 * MIB}"] if binary.name != "guest-sanitized" else ["env"]
    with (tmp_path / "tar").open("wb") as file:
        subprocess.run([*limit, binary, "tar-export", "."], cwd=tree, stdout=file, check=True, timeout=SECONDS)
    with (tmp_path / "tar").open("rb") as file:
        subprocess.run([*limit, binary, "tar-import", "x"], cwd=tmp_path, stdin=file, check=True, timeout=SECONDS)
    assert seen(tmp_path / "x") == seen(tree)


def test_what_is_no_file_is_skipped_with_a_note(binary: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        (tmp_path / "file").write_text("x")
        done = export(binary, tmp_path)
    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()) == [
        b"guest: tar-export: skipped: 'fifo': it is a fifo",
        b"guest: tar-export: skipped: 'socket': it is a socket",
    ]
    assert [member.name for member in members(done.stdout)] == ["file"]
    wanted = [("fifo", {"type": tarfile.FIFOTYPE}), ("null", {"type": tarfile.CHRTYPE}), ("after", {})]
    target = tmp_path / "target"
    target.mkdir()
    done = take(binary, target, archive(*wanted))
    assert done.returncode == 0 and done.stderr.count(b"skipped") == 2
    assert names_in(target) == ["after"]


def test_notes_are_bounded_and_names_cannot_steer_a_terminal(binary: Path, tmp_path: Path) -> None:
    for number in range(150):
        os.mkfifo(tmp_path / f"\x1b[31m{number}")
    done = export(binary, tmp_path)
    lines = done.stderr.splitlines()
    assert len(lines) == 101 and b"and 50 more" in lines[-1]
    assert b"\x1b" not in done.stderr


@pytest.fixture
def users_own() -> Iterator[Path]:
    """A directory of an ordinary user's, whom permissions concern."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", path], check=True)
    shutil.rmtree(path)


def as_user() -> dict[str, object]:
    return {"user": UID, "group": UID, "extra_groups": ()} if os.geteuid() == 0 else {}


def test_what_cannot_be_read_makes_an_export_incomplete_and_not_malformed(binary: Path, users_own: Path) -> None:
    script = "mkdir d shut; echo x >d/good; echo x >d/secret; chmod 0 d/secret shut"
    subprocess.run(["sh", "-c", script], cwd=users_own, check=True, **as_user())  # type: ignore[call-overload]
    done = export(binary, users_own, **as_user())
    assert done.returncode == INCOMPLETE
    assert b"left out: 'd/secret': Permission denied" in done.stderr and b"'shut/'" in done.stderr
    assert sorted([member.name for member in members(done.stdout)]) == ["d", "d/good", "shut"]


def test_a_directory_that_may_not_be_written_is_filled_first(binary: Path, users_own: Path) -> None:
    shut = {**DIRECTORY, "mode": 0o555, "mtime": 1_000_000}
    content = archive(("shut", shut), ("shut/in", shut), ("shut/in/file", {"mode": 0o400}), ("after", {}))
    done = subprocess.run(
        [binary, "tar-import", "."], cwd=users_own, input=content, capture_output=True, timeout=SECONDS, **as_user()
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    for path in ("shut", "shut/in"):
        status = (users_own / path).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o555, 1_000_000)


def test_more_directories_within_each_other_than_are_followed(binary: Path, tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    done = export(binary, tmp_path)
    assert done.returncode == INCOMPLETE and b"more than 256" in done.stderr
    assert len(members(done.stdout)) == 256
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_a_file_that_changes_while_it_is_read_keeps_the_archive_whole(binary: Path, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"x" * 4 * MIB)
    process = subprocess.Popen(
        [binary, "tar-export", "."], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    first = process.stdout.read(MIB)
    for number in range(20):
        os.truncate(tmp_path / f"{number}", 100)
    rest, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == INCOMPLETE and b"became shorter" in errors
    assert len([member.name for member in members(first + rest)]) == 20


# --- what must not be let in


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", {})],
        [("/tmp/escaped-absolute", {})],
        [("a/../../escaped", {})],
        [("a/..", DIRECTORY)],
        [("..", DIRECTORY)],
        [("link", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("link/escaped", {})],
        [("link", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("link", DIRECTORY), ("link/escaped", {})],
        [("there/escaped", {})],
        [("there/deep/escaped", {})],
        [("there", DIRECTORY)],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "../secret"})],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "/etc/hostname"})],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "there/secret"})],
        [(".", {})],
    ],
)
def test_what_leads_out_is_refused(binary: Path, tmp_path: Path, members: list[tuple[str, dict[str, object]]]) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("old")
    (inside / "there").symlink_to("..")
    done = take(binary, inside, archive(*members))
    assert (done.returncode, done.stderr[:28]) == (REFUSED, b"guest: tar-import: refused: "), done.stderr
    assert names_in(tmp_path) == ["inside", "secret"]
    assert (tmp_path / "secret").read_text() == "old"
    assert set(names_in(inside)) <= {"there", "link", "a"}
    assert not Path("/tmp/escaped-absolute").exists()


@pytest.mark.parametrize("mode", ["tar-export", "tar-import"])
@pytest.mark.parametrize("path", ["..", "/tmp", "a/../..", "link", "link/below"])
def test_a_directory_that_leads_out_is_refused(binary: Path, tmp_path: Path, mode: str, path: str) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    done = subprocess.run([binary, mode, path], cwd=tmp_path, input=b"", capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (REFUSED, b""), done.stderr


def test_links_are_replaced_and_never_followed(binary: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("old")
    (inside / "link").symlink_to("../secret")
    assert take(binary, inside, archive(("link", {}))).returncode == 0
    assert (tmp_path / "secret").read_text() == "old"
    assert (inside / "link").read_text() == "new" and not (inside / "link").is_symlink()


def test_links_are_exported_and_never_followed(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").symlink_to("/etc")
    exported = members(export(binary, tmp_path).stdout)
    assert sorted((member.name, member.linkname, member.issym()) for member in exported) == [
        ("directory", "/etc", True),
        ("link", "/etc/passwd", True),
    ]


def swap(path: Path, other: Path, stop: threading.Event) -> None:
    """Exchange a directory with a link to the outside, again and again."""
    aside = path.with_name("aside")
    while not stop.is_set():
        try:
            path.rename(aside)
            path.symlink_to(other)
            path.unlink()
            aside.rename(path)
        except OSError:
            continue


def test_a_link_that_is_put_in_its_way_leads_nowhere(binary: Path, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "d").mkdir(parents=True)
    outside.mkdir()
    content = archive(*((f"d/e{number % 7}/{number}", {}) for number in range(3000)))
    stop = threading.Event()
    swapping = threading.Thread(target=swap, args=(inside / "d", outside, stop))
    swapping.start()
    try:
        codes = [take(binary, inside, content).returncode for _ in range(8)]
    finally:
        stop.set()
        swapping.join()
    assert set(codes) <= {0, FAILED, REFUSED}
    assert names_in(outside) == []


def test_set_user_id_bits_are_not_taken(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / "mine").chmod(0o6755)
    assert [member.mode for member in members(export(binary, tmp_path).stdout)] == [0o755]
    wanted = [("d", {**DIRECTORY, "mode": 0o7777}), ("d/file", {"mode": 0o7777})]
    assert take(binary, tmp_path, archive(*wanted)).returncode == 0
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("d", "d/file")] == [0o777, 0o777]


def test_a_directory_is_not_replaced_by_a_file(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "kept").write_text("x")
    done = take(binary, tmp_path, archive(("d", {})))
    assert done.returncode == FAILED and b"Is a directory" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "kept"]


# --- archives that are none


def test_an_archive_that_ends_too_early_leaves_no_half_file(binary: Path, tmp_path: Path) -> None:
    whole = archive(("old", {}), ("d", DIRECTORY), ("d/new", {}), data=b"n" * 5000)
    end = members(whole)[-1].offset_data + 5120
    step = 97 if binary.name == "guest-sanitized" else 31
    for size in (*range(0, end, step), end - 1, end, end + 511):
        target = tmp_path / f"{size}"
        target.mkdir()
        (target / "old").write_text("old")
        done = take(binary, target, whole[:size])
        assert done.returncode == MALFORMED and b"ends too early" in done.stderr, size
        assert (target / "old").read_bytes() in (b"old", b"n" * 5000)
        assert {path.name for path in target.rglob("*")} <= {"old", "d", "new"}
    assert take(binary, tmp_path, whole[: end + 512]).returncode == 0


def damaged(change: Callable[[bytearray], None]) -> bytes:
    """An archive with a change, and the checksum of its first header made good again."""
    content = bytearray(archive(("file", {})))
    change(content)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def put(at: int, value: bytes) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[at : at + len(value)] = value

    return change


def pax(*records: bytes) -> bytes:
    """An archive whose one member has an extended header with this text."""
    text = b"".join(records)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(text)
    block = header.tobuf(tarfile.USTAR_FORMAT)
    return block + text + bytes(-len(text) % 512) + archive(("file", {}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x" * 512, b"checksum"),
        (gzip.compress(b"x" * 100_000, 0)[:1024], b"compressed"),
        (damaged(put(124, b"9" * 11)), b"a number that is none"),
        (damaged(put(124, b"\xff" * 12)), b"a size that cannot be"),
        (damaged(put(124, b"\x80" + b"\x7f" * 11)), b"a number that is none"),
        (damaged(put(124, b"77777777777\0")), b"ends too early"),
        (damaged(put(156, b"Z")), b"kind that is not known"),
        (damaged(put(156, b"S")), b"kind that is not known"),
        (pax(b"12 path=file"), b"extended header is malformed"),
        (pax(b"99999999999999999999 path=x\n"), b"extended header is malformed"),
        (pax(b"0 path=x\n"), b"extended header is malformed"),
        (pax(b"9 path x\n"), b"extended header is malformed"),
        (pax(b"14 size=-1234\n"), b"a size that cannot be"),
        (pax(b"25 size=99999999999999999\n", b"x"), b"extended header is malformed"),
        (pax(b"14 mtime=x.y.\n"), b"a time that is none"),
        (pax(b"22 GNU.sparse.major=1\n"), b"sparse"),
        (pax(b"12 path=a\0b\n"), b"holds a NUL"),
        (pax(b"40010 path=" + b"x" * 39998 + b"\n"), b"longer than 32 KiB"),
        (pax(b"x" * 300_000), b"larger than 256 KiB"),
    ],
)
def test_malformed_archives_are_told_apart(binary: Path, tmp_path: Path, content: bytes, why: bytes) -> None:
    done = take(binary, tmp_path, content)
    assert done.returncode == MALFORMED and why in done.stderr, done.stderr
    assert set(names_in(tmp_path)) <= {"file"}
    assert done.stderr.startswith(b"guest: tar-import: malformed: ")


@pytest.mark.parametrize("words", [["tar-export"], ["tar-import"], ["tar-export", ".", "."], ["tar-import", "a", "b"]])
def test_wrong_arguments(binary: Path, tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run([binary, *words], cwd=tmp_path, capture_output=True, input=b"", timeout=SECONDS)
    assert done.returncode == USAGE and b"usage" in done.stderr


OLD_KERNEL = """
import ctypes, os, struct, sys
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *line) for line in (
    (LOAD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 1, 437),
    (RETURN, 0, 0, 0x00050000 | 38),
    (RETURN, 0, 0, 0x7FFF0000),
))
buffer = ctypes.create_string_buffer(program)
filter = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
assert libc.syscall(437, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 38
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program without openat2 (ENOSYS), as before Linux 5.6."""


def test_a_kernel_without_openat2_keeps_members_beneath_too(binary: Path, tree: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "there").symlink_to("..")

    def old(content: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", OLD_KERNEL, str(binary), *words]
        return subprocess.run(command, cwd=inside, input=content, capture_output=True, timeout=SECONDS)

    for name in ("there/escaped", "there/a/escaped", "../escaped"):
        assert old(archive((name, {})), "tar-import", ".").returncode == REFUSED
    for path in ("there", "there/inside", ".."):
        assert old(b"", "tar-import", path).returncode == REFUSED
        assert old(b"", "tar-export", path).returncode == REFUSED
    assert names_in(tmp_path) == ["inside"]
    assert old(export(binary, tree).stdout, "tar-import", "d/e").returncode == 0
    assert seen(inside / "d" / "e") == seen(tree)
