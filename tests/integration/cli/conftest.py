"""The real command line, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import EngineUnderTest

SESSIOND = str(Path(sys.executable).with_name("sessiond"))
SECONDS = 300
"""Ends a command that hangs."""


@dataclass
class CommandLine:
    """`sessiond` on one engine, in a directory and with a temporary directory of its own."""

    engine: EngineUnderTest
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def temporary(self) -> Path:
        """Where it makes its temporary files."""
        return self.directory / "t"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a subcommand with its arguments."""
        self.temporary.mkdir(exist_ok=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SESSIOND_", "DOCKER_", "PYTHONASYNCIODEBUG"))
        }
        environment |= {"TMPDIR": str(self.temporary), "COLUMNS": "160", **self.environment}
        return subprocess.Popen(
            [SESSIOND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=environment,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a subcommand to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def on_engine(self, command: str, *arguments: str, host: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a subcommand that starts its own daemon, on the engine under test."""
        return self.run(command, *self.engine_options(host), *arguments)

    def engine_options(self, host: str | None = None) -> list[str]:
        """The options that choose the engine under test."""
        if self.engine.docker_host is None:
            return ["--engine", self.engine.name]
        return ["--engine", "docker", "--docker-host", host or self.engine.docker_host]

    def image_options(self) -> list[str]:
        """The option that chooses its image."""
        return [] if self.engine.docker_host is None else ["--image", self.engine.image]


@pytest.fixture
def command_line(engine: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line on each engine in turn. Nothing that it started may be left, and no temporary file."""
    line = CommandLine(engine, tmp_path_factory.mktemp("c"))
    yield line
    assert list(line.temporary.iterdir()) == []
    assert processes_with(str(line.temporary)) == []


def processes_with(mark: str) -> list[str]:
    """Command lines of processes that contain `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark in line:
            found.append(line)
    return found


def parsed(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON on standard output, which must be all of it."""
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)
