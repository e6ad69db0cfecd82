"""`sessiond image` on the real path."""

from __future__ import annotations

import pytest

from tests.integration.cli.conftest import CommandLine, parsed

pytestmark = pytest.mark.parametrize("engine", ["docker"], indirect=True)


def test_an_image_that_is_here_is_not_built_again(command_line: CommandLine) -> None:
    host = ["--docker-host", command_line.engine.docker_host or ""]
    done = command_line.run("image", "build", "--json", *host)
    assert done.returncode == 0, done.stderr
    assert parsed(done) == {"variant": "mini", "image": command_line.engine.image}
    assert "is here already" in done.stderr


def test_variants_are_listed_with_whether_they_are_here(command_line: CommandLine) -> None:
    rows = parsed(command_line.run("image", "list", "--json", "--docker-host", command_line.engine.docker_host or ""))
    assert {row["variant"]: row["image"] for row in rows}["mini"] == command_line.engine.image
    assert next(row for row in rows if row["variant"] == "mini")["here"] is True
