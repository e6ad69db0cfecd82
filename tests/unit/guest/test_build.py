"""The build: what it makes, when it does not, and how the binary is found."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest
from sessiond_protocol.guest import VERSION

import sessiond.guest
from sessiond.guest import GuestMissingError, guest_path
from sessiond.guest.build import GuestBuildError, build, version


def test_the_binary_says_what_it_is(binary: Path) -> None:
    done = subprocess.run([binary, "version"], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == {"version": version(), "protocol": VERSION}


@pytest.mark.parametrize("words", [[], ["nonsense"], ["init"], ["init", "--dial"], ["init", "--dial", "x" * 108]])
def test_wrong_arguments(binary: Path, words: list[str]) -> None:
    done = subprocess.run([binary, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr


def test_it_is_static_and_small() -> None:
    path = build(platform.machine())
    assert path == guest_path()
    assert path.stat().st_size < 160_000
    assert b"ld-musl" not in path.read_bytes()


def test_nothing_is_built_twice() -> None:
    before = build(platform.machine()).stat()
    assert build(platform.machine()).stat().st_mtime_ns == before.st_mtime_ns


def test_a_failing_compiler_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match="z80"):
        build("z80", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_binary_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sessiond.guest, "_BINARIES", tmp_path)
    with pytest.raises(GuestMissingError, match="make guest"):
        guest_path()


def test_architectures_have_more_than_one_name() -> None:
    if platform.machine() == "x86_64":
        assert guest_path("amd64") == guest_path("x86_64")
