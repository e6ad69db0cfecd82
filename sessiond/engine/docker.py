"""The few calls of the Docker SDK that the docker engine makes, all blocking. The only module that imports the SDK."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool
from docker.types.daemon import CancellableStream

from sessiond.engine.deaths import describe
from sessiond.engine.docker_options import INSTANCE_LABEL, SANDBOX_LABEL, ContainerOptions
from sessiond.engine.port import (
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    ImageMissingError,
    SandboxGoneError,
)

SOCKET_SECONDS = 35
"""When a thread gives a hung engine up; above the deadlines of all calls but a pull, so that those decide."""

GONE_SECONDS = 20
"""How long to wait for a removal that another call has begun."""

POLL_SECONDS = 0.05

IDLE_CONNECTIONS = 8
"""Kept for the next calls: as many as there are threads."""


CONFLICT = 409

ERRORS: tuple[type[Exception], ...] = (DockerException, requests.RequestException, OSError)
"""Everything that a call here raises."""


def translate(what: str, error: Exception) -> EngineError | None:
    """The port's error for one of the SDK's: what was being done, what went wrong, what to do."""
    doing = f"docker: cannot {what}"
    if isinstance(error, NotFound):
        return SandboxGoneError(f"{doing}: {error.explanation or error}")
    if isinstance(error, APIError):
        return EngineError(f"{doing}: {error.explanation or error}")
    if isinstance(error, requests.Timeout):
        return EngineTimeoutError(f"{doing}: no answer within {SOCKET_SECONDS} s")
    if isinstance(error, ERRORS):
        return EngineUnavailableError(
            f"{doing}: {error}. Is dockerd running, and may this user open its socket (DOCKER_HOST, group docker)?"
        )
    return None


def cause(state: dict[str, Any]) -> str:
    """Why a container is dead, from the State of its inspection."""
    return describe(state["ExitCode"], oom=state["OOMKilled"]) + (f": {state['Error']}" if state["Error"] else "")


@dataclass(frozen=True, slots=True)
class Image:
    """What matters of an image's configuration."""

    volumes: tuple[str, ...]
    environment: dict[str, str]


class Deaths:
    """The deaths of an instance's containers, from Docker's events."""

    def __init__(self, stream: CancellableStream[dict[str, Any]]) -> None:
        """`stream` delivers die and oom events."""
        self._stream = stream

    def deaths(self) -> Iterator[tuple[str, str]]:
        """Sandbox and cause, until the stream ends."""
        out_of_memory = set()
        for event in self._stream:
            attributes = event["Actor"]["Attributes"]
            sandbox = attributes.get(SANDBOX_LABEL, "")
            if event["Action"] == "oom":
                out_of_memory.add(sandbox)
            else:
                yield sandbox, describe(int(attributes.get("exitCode", 0)), oom=sandbox in out_of_memory)
                out_of_memory.discard(sandbox)

    def close(self) -> None:
        """End `deaths`."""
        try:
            self._stream.close()
        except (OSError, AttributeError):
            # The other end was faster: the socket is not connected any more, or the SDK's response has none any more.
            return


class _Connection(UnixHTTPConnection):
    """The SDK's own leaves its socket open when connecting fails: one descriptor an attempt while dockerd is dead."""

    def connect(self) -> None:
        self.sock = _connected(self.unix_socket, self.timeout)


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> _Connection:  # type: ignore[override]  # urllib3 gives its own protocol as the type
        return _Connection(self.base_url, self.socket_path, SOCKET_SECONDS)


class _Adapter(UnixHTTPAdapter):
    """One pool of connections for all URLs. The SDK's own has one for each of the last 25 URLs, and every sandbox has
    URLs of its own: descriptors for nothing."""

    def __init__(self, url: str, seconds: int) -> None:
        super().__init__(url.replace("unix://", "http+unix://"), seconds)
        self._pool = _Pool("http+docker://localhost", self.socket_path, seconds, maxsize=IDLE_CONNECTIONS)

    def get_connection(self, url: str | bytes, proxies: object = None) -> _Pool:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


def _connected(path: str, seconds: float) -> socket.socket:
    """A socket that is connected to a unix socket's path, or OSError and nothing left open."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


class DockerClient:
    """A connection to one Docker engine. Methods may run in several threads at once and raise `ERRORS`."""

    def __init__(self, url: str, seconds: int = SOCKET_SECONDS) -> None:
        """Connect, and agree on a version of the API. `seconds` is how long a call waits for the engine's next word."""
        _connected(url.removeprefix("unix://"), seconds).close()
        with docker.APIClient(base_url=url, version="auto", timeout=seconds) as first:
            version = first.api_version
        self._api = docker.APIClient(base_url=url, version=version, timeout=seconds)
        self._api.mount("http+docker://", _Adapter(url, seconds))

    def close(self) -> None:
        """Close idle connections."""
        self._api.close()

    def info(self) -> dict[str, Any]:
        """The engine's properties (GET /info)."""
        return self._api.info()

    def create(self, options: ContainerOptions) -> None:
        """Create a container."""
        host = self._api.create_host_config(**options.host)
        self._api.create_container(**options.container, host_config=host)

    def start(self, name: str) -> None:
        """Start it."""
        self._api.start(name)

    def state(self, name: str) -> dict[str, Any]:
        """The State of its inspection: Status, Running, Paused, Pid, ExitCode, OOMKilled, Error."""
        state: dict[str, Any] = self._api.inspect_container(name)["State"]
        return state

    def pause(self, name: str) -> None:
        """Freeze it."""
        self._api.pause(name)

    def unpause(self, name: str) -> None:
        """Let it run again."""
        self._api.unpause(name)

    def remove(self, name: str) -> None:
        """Kill and remove it with its anonymous volumes, and return when it is gone."""
        deadline = time.monotonic() + GONE_SECONDS
        while True:
            try:
                self._api.remove_container(name, v=True, force=True)
            except NotFound:
                return
            except APIError as error:
                # "removal of container ... is already in progress"
                if error.status_code != CONFLICT or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def containers(self, instance: str) -> list[dict[str, Any]]:
        """All containers of an instance (GET /containers/json)."""
        found: list[dict[str, Any]] = self._api.containers(
            all=True, filters={"label": [f"{INSTANCE_LABEL}={instance}"]}
        )
        return found

    def all_containers(self) -> list[str]:
        """The ids of all containers, whosever they are."""
        return [container["Id"] for container in self._api.containers(all=True)]

    def stats(self, name: str) -> dict[str, Any]:
        """One sample (GET /containers/NAME/stats?one-shot=1)."""
        sample: dict[str, Any] = self._api.stats(name, stream=False, one_shot=True)
        return sample

    def update(self, name: str, limits: dict[str, int]) -> None:
        """Change a running container's limits. The SDK's own method knows neither NanoCpus nor PidsLimit."""
        url = f"{self._api.base_url}/v{self._api.api_version}/containers/{name}/update"
        reply = self._api.post(url, json=limits, timeout=SOCKET_SECONDS)
        if not reply.ok:
            raise APIError(reply.text, response=reply, explanation=reply.json().get("message"))

    def image(self, image: str) -> Image:
        """What the image says of itself. Raises NotFound."""
        config = self._api.inspect_image(image)["Config"]  # type: ignore[no-untyped-call]
        return Image(
            tuple(config.get("Volumes") or ()),
            dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        )

    def pull(self, image: str) -> None:
        """Pull it, or raise ImageMissingError with the registry's reason."""
        try:
            for line in self._api.pull(image, stream=True, decode=True):
                if "error" in line:
                    raise ImageMissingError(_missing(image, line["error"]))
        except (APIError, requests.RequestException) as error:
            raise ImageMissingError(_missing(image, str(error))) from error

    def has_image(self, image: str) -> bool:
        """Whether it is here."""
        try:
            self.image(image)
        except NotFound:
            return False
        return True

    def import_image(self, tar: str, changes: list[str]) -> str:
        """Make an untagged image of a root file system and return its id; `changes` are Dockerfile instructions."""
        reply = self._api.import_image_from_file(tar, changes=changes)
        return str(json.loads(reply.splitlines()[-1])["status"])

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image a name."""
        self._api.tag(image, repository, tag)

    def run_once(self, image: str, command: list[str], host: dict[str, Any], seconds: int) -> tuple[int, str]:
        """Run a command in a container of its own; exit code and output."""
        config = self._api.create_host_config(**host)
        container = self._api.create_container(image, command, host_config=config)["Id"]
        try:
            self._api.start(container)
            code = self._api.wait(container, timeout=seconds)["StatusCode"]
            return code, self._api.logs(container).decode(errors="replace")
        finally:
            self._api.remove_container(container, force=True, v=True)

    def events(self, instance: str, since: float) -> Deaths:
        """The deaths of an instance's containers from a Unix time on."""
        filters = {
            "type": ["container"],
            "event": ["die", "oom"],
            "label": [f"{INSTANCE_LABEL}={instance}"],
        }
        return Deaths(self._api.events(since=int(since), filters=filters, decode=True))

    def dead(self, instance: str) -> dict[str, str]:
        """The instance's containers that have died and still exist, with the cause."""
        found = {}
        for container in self.containers(instance):
            if container["State"] in {"exited", "dead"}:
                try:
                    found[container["Labels"][SANDBOX_LABEL]] = cause(self.state(container["Id"]))
                except NotFound:
                    continue
        return found


def _missing(image: str, why: str) -> str:
    return (
        f"docker: image {image} is neither here nor can it be pulled ({why}). Where no registry answers, build one with"
        " `sessiond image build` and name that in the profile."
    )
