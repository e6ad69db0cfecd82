"""Recipes of images, and building without mmdebstrap."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sessiond.image.build import ImageBuildError, _root_file_system, build, cache_directory
from sessiond.image.recipe import VARIANTS, mmdebstrap_command


def test_other_packages_are_another_image():
    mini = VARIANTS["mini"]
    assert mini.reference == f"sessiond/mini:{mini.digest}"
    assert dataclasses.replace(mini, packages=(*mini.packages, "jq")).digest != mini.digest
    assert VARIANTS["full"].digest != mini.digest


def test_what_is_promised_is_checked():
    for recipe in VARIANTS.values():
        checks = " ".join(word for command in recipe.checks for word in command)
        for package in recipe.packages:
            assert package.removeprefix("python3-").replace("ripgrep", "rg").replace("python3", "python") in checks


def test_command_names_every_package(tmp_path: Path):
    command = mmdebstrap_command(VARIANTS["mini"], tmp_path / "x.tar")
    assert "--include=python3,python3-pytest,git,ripgrep" in command
    assert command[-2:] == ["bookworm", str(tmp_path / "x.tar")]


def test_unknown_variant_is_refused_before_anything_is_done():
    with pytest.raises(ImageBuildError, match="mini, full"):
        build("huge", docker_host="unix:///nothing", progress=print)


def test_absent_engine_is_named():
    with pytest.raises(ImageBuildError, match="unix:///nothing"):
        build("mini", docker_host="unix:///nothing", progress=print)


def test_missing_mmdebstrap_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageBuildError, match="apt-get install mmdebstrap"):
        _root_file_system(VARIANTS["mini"], tmp_path / "cache", print)


def test_failing_mmdebstrap_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\necho 'E: no such mirror' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    lines: list[str] = []
    with pytest.raises(ImageBuildError, match=r"ended with 3(.|\n)*no such mirror"):
        _root_file_system(VARIANTS["mini"], tmp_path / "cache", lines.append)
    assert "E: no such mirror" in lines
    assert list((tmp_path / "cache").glob("*.tar")) == []


def test_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = cache_directory()
    assert cache == tmp_path / "sessiond" / "images"
    cache.mkdir(parents=True)
    mini = VARIANTS["mini"]
    tar = cache / f"mini-{mini.digest}.tar"
    tar.touch()
    monkeypatch.setenv("PATH", "/nothing")
    assert _root_file_system(mini, cache, print) == tar
