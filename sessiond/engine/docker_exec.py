"""What Docker itself offers for running a command, to compare with: `exec`, and a container a command."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker

from sessiond.engine.docker import DockerClient
from sessiond.engine.docker_options import NANO, container_options
from sessiond.engine.port import SANDBOX_UID, EngineError, Limits, SandboxSpec
from sessiond.engine.seccomp import docker_profile

RUN_SECONDS = 60
"""For one container from its creation to its removal."""


class DockerExec:
    """The Docker SDK's `exec_run` in a container of its own: what one has without sessiond.

    Locked by Docker's own means as a sandbox is, but with Docker's seccomp profile. Ours is shorter, which makes even
    `docker exec` faster in our containers, by a fifth here.
    """

    def __init__(self, url: str, image: str) -> None:
        """Start the container."""
        self._client = docker.DockerClient(base_url=url)
        limits = Limits()
        self._container = self._client.containers.run(
            image,
            ["sleep", "infinity"],
            detach=True,
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user=f"{SANDBOX_UID}:{SANDBOX_UID}",
            pids_limit=limits.pids,
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            nano_cpus=round(limits.cpus * NANO),
        )

    def run(self, argv: list[str]) -> None:
        """Run a command. Blocks. Raises EngineError when it fails."""
        done = self._container.exec_run(argv)
        if done.exit_code != 0:
            raise EngineError(f"docker exec of {argv} ended with {done.exit_code}: {done.output!r}")

    def close(self) -> None:
        """Remove the container."""
        self._container.remove(force=True)
        self._client.close()


class DockerCopy:
    """What `docker cp` does, by the same requests: one file out of a running container, as an archive."""

    _PATH = "/file"

    def __init__(self, url: str, image: str, content: bytes) -> None:
        """Start a container with the file."""
        self._client = docker.DockerClient(base_url=url)
        self._container = self._client.containers.run(image, ["sleep", "infinity"], detach=True, network_mode="none")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            info = tarfile.TarInfo(self._PATH.lstrip("/"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        self._container.put_archive("/", archive.getvalue())

    def read(self) -> bytes:
        """The file. Blocks."""
        pieces, _ = self._container.get_archive(self._PATH)
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            content = tar.extractfile(self._PATH.lstrip("/"))
            return b"" if content is None else content.read()

    def close(self) -> None:
        """Remove the container."""
        self._container.remove(force=True)
        self._client.close()


class ContainerPerCommand:
    """A new container for every command, locked like a sandbox, and removed afterwards."""

    def __init__(self, url: str, spec: SandboxSpec, mount: Path) -> None:
        """As the docker engine would make `spec`, but for the guest; `mount` is an empty directory in its place."""
        options = container_options(spec, instance="compare", mount=mount, seccomp=docker_profile())
        self._host = {name: value for name, value in options.host.items() if name != "log_config"}
        self._image = spec.image
        self._client = DockerClient(url)

    def run(self, argv: list[str]) -> None:
        """Run a command. Blocks. Raises EngineError when it fails."""
        code, output = self._client.run_once(self._image, argv, self._host, RUN_SECONDS)
        if code != 0:
            raise EngineError(f"docker run of {argv} ended with {code}: {output}")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextlib.contextmanager
def container_per_command(url: str, spec: SandboxSpec) -> Iterator[ContainerPerCommand]:
    """A ContainerPerCommand with the directory it needs."""
    with tempfile.TemporaryDirectory(prefix="sessiond-compare-") as directory:
        runner = ContainerPerCommand(url, spec, Path(directory))
        with contextlib.closing(runner):
            yield runner
