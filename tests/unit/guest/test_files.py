"""The guest's modes for files, run as they are: what they write, how they end, and that no path leads out."""

from __future__ import annotations

import ctypes
import fnmatch
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 60
FAILED, USAGE, ESCAPES, INCOMPLETE = 1, 2, 3, 5


def mode(binary: Path, tree: Path, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([binary, *words], cwd=tree, input=data, capture_output=True, timeout=SECONDS, check=False)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 200_000])
def test_checksums_are_those_of_others(binary: Path, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    assert mode(binary, tmp_path, "file-checksum", "x").stdout == digest + b"\n"
    written = mode(binary, tmp_path, "file-write", "y", "replace", "0", "-", data=data)
    assert (written.returncode, written.stdout) == (0, b"%d %s\n" % (size, digest))
    assert (tmp_path / "y").read_bytes() == data


@pytest.mark.parametrize(
    "words",
    [
        ["file-read"],
        ["file-read", "x", "-1", "-"],
        ["file-read", "x", "0", "1x"],
        ["file-read", "x", "99999999999999999999", "-"],
        ["file-write", "x", "replace", "0"],
        ["file-write", "x", "append", "0", "999"],
        ["file-list", "x", "deep", ""],
        ["file-mkdir", "x", "y"],
        ["file-remove", "x", ""],
        ["file-chmod", "x"],
        ["file-chmod", "x", "u+x"],
        ["file-search", "x", "exact", "", "", "1"],
        ["file-watch"],
        ["dial", "udp", "1"],
        ["dial", "tcp", "65536"],
    ],
)
def test_wrong_arguments_do_nothing(binary: Path, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "x").write_text("x")
    done = mode(binary, tmp_path, *words)
    assert (done.returncode, done.stdout) == (USAGE, b"")
    assert done.stderr
    assert (tmp_path / "x").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


EVERY = [
    ["file-read", "PATH", "0", "-"],
    ["file-write", "PATH", "replace", "0", "-"],
    ["file-write", "PATH", "append", "0", "-"],
    ["file-write", "PATH", "create", "0", "-"],
    ["file-write", "PATH", "at", "1", "-"],
    ["file-checksum", "PATH"],
    ["file-stat", "PATH"],
    ["file-list", "PATH", "recursive", ""],
    ["file-search", "PATH", "exact", "secret", "", "9"],
    ["file-mkdir", "PATH", "one"],
    ["file-mkdir", "PATH", "parents"],
    ["file-rename", "PATH", "mine"],
    ["file-rename", "inside", "PATH"],
    ["file-remove", "PATH", "one"],
    ["file-remove", "PATH", "recursive"],
    ["file-chmod", "PATH", "777"],
    ["file-watch", "PATH"],
    ["dial", "unix", "PATH"],
]
"""Each mode that takes a path, with the place of the path."""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A workspace, and what is outside: a directory beside it."""
    inside, outside = tmp_path / "workspace", tmp_path / "workspace-outside"
    inside.mkdir()
    (inside / "inside").write_text("x")
    outside.mkdir()
    (outside / "secret").write_text("classified")
    (outside / "d").mkdir()
    (outside / "hidden").touch()
    return inside, outside


def seen(tree: Path) -> list[tuple[str, int, int, bytes]]:
    return [
        (str(path), path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted([tree, *tree.rglob("*")])
    ]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_no_path_leads_out(binary: Path, places: tuple[Path, Path], words: list[str]) -> None:
    """By dots, from the root, over a link: nothing is read, written, made, removed or told of."""
    inside, outside = places
    (inside / "up").symlink_to("../workspace-outside")
    (inside / "root").symlink_to(outside)
    (inside / "file").symlink_to(outside / "secret")
    before = seen(outside)
    paths = [
        "../workspace-outside/secret",
        "/etc/passwd",
        "up/secret",
        "root/secret",
        "up/d",
        "up/new",
        "root/d/../secret",
    ]
    if words[0] not in ("file-rename", "file-remove", "file-stat", "file-write", "file-mkdir"):
        paths.append("file")  # the others are about the link itself
    for path in paths:
        done = mode(binary, inside, *[path if word == "PATH" else word for word in words], data=b"new")
        assert (done.returncode, done.stdout) == (ESCAPES, b""), (path, done)
        assert done.stderr.startswith(b"18 ")
    assert seen(outside) == before


def test_links_that_stay_within_are_followed(binary: Path, places: tuple[Path, Path]) -> None:
    inside, _ = places
    (inside / "d").mkdir()
    (inside / "d" / "up").symlink_to("../inside")
    (inside / "way").symlink_to("d")
    assert mode(binary, inside, "file-read", "way/up", "0", "-").stdout == b"x"
    assert mode(binary, inside, "file-write", "way/new", "replace", "0", "-", data=b"y").returncode == 0
    assert (inside / "d" / "new").read_text() == "y"


EXCHANGE = 2
TRIES = 10_000


@pytest.fixture
def swapping(places: tuple[Path, Path]) -> Iterator[None]:
    """A process that puts a link outwards in the place of the directory `d` and takes it away, as fast as it can."""
    inside, outside = places
    (inside / "d").mkdir()
    (inside / "d" / "secret").write_text("inside")
    (inside / "link").symlink_to(outside)
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None)
        one, other = os.fsencode(inside / "d"), os.fsencode(inside / "link")
        while True:
            libc.renameat2(-100, one, -100, other, EXCHANGE)
    yield
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_ten_thousand_tries_to_get_out_by_a_race(
    binary: Path, places: tuple[Path, Path], swapping: None, tmp_path: Path
) -> None:
    """Each try is a process of its own, as in a sandbox. With sanitizers, which make it slow, there are fewer."""
    inside, outside = places
    before = seen(outside)
    tries = TRIES if "sanitized" not in binary.name else TRIES // 50
    modes = [
        ["file-read", "d/secret", "0", "-"],
        ["file-write", "d/new", "replace", "0", "-"],
        ["file-write", "d/secret", "append", "0", "-"],
        ["file-mkdir", "d/made/below", "parents"],
        ["file-chmod", "d/secret", "600"],
        ["file-remove", "d/made", "recursive"],
        ["file-list", "d", "recursive", ""],
        ["file-rename", "d/new", "d/newer"],
    ]
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    codes: dict[int, int] = {}
    here = os.getcwd()  # noqa: PTH109 - posix_spawn has no directory of its own
    os.chdir(inside)
    try:
        for number in range(tries):
            words = modes[number % len(modes)]
            files = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
            child = os.posix_spawn(binary, [str(binary), *words], dict(os.environ), file_actions=files)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            codes[code] = codes.get(code, 0) + 1
    finally:
        os.chdir(here)
        os.close(out)
        os.close(null)
    assert seen(outside) == before
    said = (tmp_path / "out").read_bytes()
    assert b"inside" in said
    assert b"classified" not in said and b"hidden" not in said
    assert set(codes) <= {0, FAILED, ESCAPES}, codes
    assert codes[0] > tries // 100 and codes[ESCAPES] > tries // 100, codes  # both were met: there was a race


def test_nothing_is_left_of_a_write_that_is_killed(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    writer = subprocess.Popen(
        [binary, "file-write", "x", "replace", "0", "-"], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdin is not None and writer.stdout is not None
    writer.stdin.write(b"new" * 100_000)
    writer.stdin.flush()
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


PATTERNS = [
    ("*", "a", True), ("*", "a/b", False), ("**", "a/b/c", True), ("**/c", "c", True), ("**/c", "a/b/c", True),
    ("a/**/c", "a/c", True), ("a/**/c", "a/x/y/c", True), ("a/**", "b/c", False), ("a/**", "a", True),
    ("**/x/**/y", "x/x/q/y", True), ("?", "ü", True), ("?", "ab", False), ("[a-c]x", "bx", True),
    ("[!a-c]x", "bx", False), ("[]]", "]", True), ("[", "[", True), ("a*b*c", "axxbyyc", True),
    ("a*b*c", "axxbyy", False),
    ("*.py", ".py", True), ("**.py", "x.py", True), ("", "a", False), ("a//b", "a/b", False),
]  # fmt: skip


def test_patterns(binary: Path, tmp_path: Path) -> None:
    for number, (pattern, path, fits) in enumerate(PATTERNS):
        tree = tmp_path / str(number)
        (tree / path).parent.mkdir(parents=True)
        (tree / path).write_text("x")
        said = mode(binary, tree, "file-list", "", "recursive", pattern).stdout
        if pattern:
            assert (f" {path}\0".encode() in said) is fits, (pattern, path)
        if "/" not in pattern + path and "**" not in pattern and pattern and "ü" not in path:
            assert fits is fnmatch.fnmatchcase(path, pattern), pattern


def test_a_pattern_full_of_stars_costs_no_time(binary: Path, tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["a" * 40] * 20)
    deep.mkdir(parents=True)
    done = mode(binary, tmp_path, "file-list", "", "recursive", "**/" * 300 + "*a" * 100 + "b")
    assert (done.returncode, done.stdout) == (0, b"")


def test_what_could_not_be_looked_into_is_said(binary: Path, tmp_path: Path) -> None:
    deep = "/".join(["d"] * 300)
    (tmp_path / deep).mkdir(parents=True)
    done = mode(binary, tmp_path, "file-list", "", "recursive", "")
    assert done.returncode == INCOMPLETE and done.stderr.startswith(b"40 ")
    assert done.stdout.count(b"\0\0") == 257


def test_a_watch_tells_what_happens_below(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    watcher = subprocess.Popen([binary, "file-watch", ""], cwd=tmp_path, stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    said = watcher.stdout.read1()
    assert said == b"ready \0"
    (tmp_path / "old" / "a").write_text("x")
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "deep" / "b").write_text("x")
    (tmp_path / "old" / "a").rename(tmp_path / "c")
    (tmp_path / "c").unlink()
    until = time.monotonic() + SECONDS
    while b"removed c\0" not in said and time.monotonic() < until:
        said += watcher.stdout.read1()
    watcher.kill()
    watcher.wait()
    watcher.stdout.close()
    events = said.split(b"\0")
    for event in (
        b"created old/a",
        b"written old/a",
        b"created new/deep/b",
        b"moved_from old/a",
        b"moved_to c",
        b"removed c",
    ):
        assert event in events
