"""Both engines, real, for the contract suite."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessiond.engine.bubblewrap import BubblewrapEngine
from sessiond.engine.docker_engine import DockerEngine
from sessiond.engine.port import Engine
from tests import engines
from tests.integration.engine.ground import Ground


@pytest.fixture(scope="session")
def image(dockerd: engines.PrivateDockerd) -> str:
    """An image with Python, git and pytest."""
    return engines.image(dockerd.url)


@pytest.fixture(params=["docker", "bubblewrap"])
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    """Each engine in turn, with an instance of its own; nothing of it is left in the end."""
    if request.param == "docker":
        ground = docker_ground(tmp_path, request.getfixturevalue("dockerd").url, request.getfixturevalue("image"))
    else:
        ground = bubblewrap_ground(tmp_path)
    yield ground
    await ground.clear()


def docker_ground(directory: Path, url: str, image: str) -> Ground:
    instance = f"test-{uuid.uuid4().hex[:12]}"

    def make() -> Engine:
        return DockerEngine(instance=instance, directory=directory, guest=engines.guest(), base_url=url)

    return Ground("docker", make, image)


def bubblewrap_ground(directory: Path) -> Ground:
    engines.require("bwrap")
    instance = f"test-{uuid.uuid4().hex[:12]}"

    def make() -> Engine:
        return BubblewrapEngine(instance=instance, directory=directory, guest=engines.guest())

    return Ground("bubblewrap", make)
