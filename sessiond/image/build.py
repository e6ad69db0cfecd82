"""Building an image: root file system into the cache, import, and a try of what is promised to be in it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sessiond.engine.docker import ERRORS, DockerClient
from sessiond.engine.docker_engine import DockerEngine
from sessiond.engine.port import Engine, ImageMissingError
from sessiond.engine.seccomp import docker_profile
from sessiond.image.recipe import CHANGES, VARIANTS, Recipe, mmdebstrap_command

BUILD_SECONDS = 1800.0
"""For mmdebstrap: half a minute here for `mini`; the rest is for slow mirrors."""

IMPORT_SECONDS = 600
"""Between two words of Docker while it takes in the root file system."""

CHECK_SECONDS = 120
"""For one check in a container."""

WANTED = "python:3.13-slim"
"""What `ensure` takes where a registry answers."""

TAIL_LINES = 15
"""Of mmdebstrap's output, in the error."""

Progress = Callable[[str], None]


class ImageBuildError(Exception):
    """The image could not be built: which step, what it said, what to do."""


def cache_directory() -> Path:
    """Where root file systems are kept: $XDG_CACHE_HOME/sessiond/images or ~/.cache/sessiond/images."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sessiond" / "images"


def build(variant: str, *, docker_host: str, progress: Progress, cache: Path | None = None) -> str:
    """Build a variant, import it into the engine at `docker_host`, try it, and return its reference. Blocks, for
    minutes at first.

    What is there already is not made again. Raises ImageBuildError.
    """
    recipe = VARIANTS.get(variant)
    if recipe is None:
        raise ImageBuildError(f"there is no image variant {variant!r}; there are {', '.join(VARIANTS)}")
    try:
        client = DockerClient(docker_host, IMPORT_SECONDS)
        with contextlib.closing(client):
            if client.has_image(recipe.reference):
                progress(f"{recipe.reference} is here already")
                return recipe.reference
            tar = _root_file_system(recipe, cache or cache_directory(), progress)
            # Tagged only when the checks have passed: a reference that exists is one that works.
            progress("importing")
            image = client.import_image(str(tar), list(CHANGES))
            _check(client, recipe, image, progress)
            client.tag(image, recipe.repository, recipe.digest)
    except ERRORS as error:
        raise ImageBuildError(f"the Docker engine at {docker_host} failed: {error}") from error
    progress(f"{recipe.reference} is ready")
    return recipe.reference


async def ensure(engine: Engine, wanted: str = WANTED, progress: Progress = lambda _line: None) -> str:
    """An image that sandboxes of this engine can be made of: `wanted` where it is here or can be pulled, else `mini`,
    built here.

    Empty for engines without images.
    """
    if not isinstance(engine, DockerEngine):
        return ""
    try:
        await engine.prepare(wanted)
    except ImageMissingError as error:
        progress(str(error))
        return await asyncio.to_thread(build, "mini", docker_host=engine.url, progress=progress)
    return wanted


def _root_file_system(recipe: Recipe, cache: Path, progress: Progress) -> Path:
    """The tar of the recipe's root file system, from the cache or made now; by one process at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    tar = cache / f"{recipe.variant}-{recipe.digest}.tar"
    with _locked(cache / "lock"):
        if tar.exists():
            progress(f"root file system from the cache: {tar}")
            return tar
        program = shutil.which("mmdebstrap")
        if program is None:
            raise ImageBuildError(
                "mmdebstrap is not installed, which makes Debian root file systems; on Debian or Ubuntu:"
                " apt-get install mmdebstrap"
            )
        draft = tar.with_suffix(".tar.part")
        progress(f"making {recipe.variant} of {', '.join(recipe.packages)}; this takes a minute or more")
        _run(mmdebstrap_command(recipe, draft, program), progress)
        draft.rename(tar)
    return tar


def _run(command: list[str], progress: Progress) -> None:
    """Run mmdebstrap, each line of output as progress, within BUILD_SECONDS."""
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603 - our own command line, no shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        timer = threading.Timer(BUILD_SECONDS, process.terminate)
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                progress(lines[-1])
        finally:
            timer.cancel()
    if process.returncode != 0:
        tail = "\n".join(lines[-TAIL_LINES:])
        raise ImageBuildError(f"mmdebstrap ended with {process.returncode} (limit {BUILD_SECONDS:g} s):\n{tail}")


def _check(client: DockerClient, recipe: Recipe, image: str, progress: Progress) -> None:
    """Run the recipe's checks under the locks that sandboxes have."""
    host: dict[str, Any] = {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", f"seccomp={docker_profile()}"],
        "tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=64m"},  # noqa: S108 - inside the container
    }
    for command in recipe.checks:
        progress(f"checking: {' '.join(command)}")
        code, output = client.run_once(image, ["env", "HOME=/tmp", *command], host, CHECK_SECONDS)
        if code != 0:
            raise ImageBuildError(f"the image does not work: {' '.join(command)} ended with {code}:\n{output}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
