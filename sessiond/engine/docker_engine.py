"""The docker engine: one locked-down container a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sessiond.engine import cgroup
from sessiond.engine import docker as sdk
from sessiond.engine.calls import Calls
from sessiond.engine.channel import Channel
from sessiond.engine.deaths import DeathWatch
from sessiond.engine.directory import SANDBOX_ID, SandboxDirectory, check_id, copy_guest, make_base
from sessiond.engine.docker_options import (
    SANDBOX_LABEL,
    container_name,
    container_options,
    own_labels,
    tighter,
)
from sessiond.engine.port import (
    SANDBOX_UID,
    Capabilities,
    Engine,
    EngineError,
    EngineUnavailableError,
    ImageMissingError,
    Limits,
    SandboxGoneError,
    SandboxSpec,
    SandboxState,
    SandboxStats,
    SandboxStatus,
)
from sessiond.engine.seccomp import docker_profile
from sessiond.engine.volume import HAND_OVER_SECONDS, check_workspace, hand_over

DEFAULT_HOST = "unix:///var/run/docker.sock"

OPEN_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""Inspect, list and stats: a few milliseconds when all is well."""
CREATE_SECONDS = 30.0
START_SECONDS = 30.0
PAUSE_SECONDS = 10.0
REMOVE_SECONDS = 30.0
"""Deadlines of the calls. Create and start take 0.2 s here, seconds on a loaded machine."""

PULL_SECONDS = 600.0
"""For an image of a gigabyte over a slow line. Where no registry answers, the name look-up fails at once, or the SDK
gives up after `docker.SOCKET_SECONDS` without a word."""

THREADS = 8
"""Calls at once. Creation saturates at 2 to 4; the others are short."""

STATES = {
    "created": SandboxState.CREATED,
    "running": SandboxState.RUNNING,
    "restarting": SandboxState.RUNNING,
    "paused": SandboxState.PAUSED,
}
"""Docker's states; all others are dead."""


class DockerEngine(Engine):
    """Sandboxes as containers of a Docker engine on this machine."""

    name = "docker"

    def __init__(
        self,
        *,
        instance: str,
        directory: Path,
        guest: Path,
        base_url: str | None = None,
        runtime: str | None = None,
    ) -> None:
        """`base_url` is the engine's address (else DOCKER_HOST, else Docker's default), `runtime` one of its OCI
        runtimes."""
        self._instance = check_id(instance, "instance")
        self._directory = directory / "docker"
        self._guest = guest
        self._url = base_url or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self._runtime = runtime
        self._calls = Calls(self.name, THREADS, sdk.translate)
        self._seccomp = docker_profile()
        self._images: dict[str, sdk.Image] = {}
        self._channels: dict[str, Channel] = {}
        self._groups: dict[str, cgroup.Group | None] = {}
        self._frozen: set[str] = set()
        """Those whose cgroup this object froze itself: Docker knows nothing of it."""
        self._maps_users = False
        self._volumes: dict[str, Path] = {}
        """Of sandboxes that have not started yet."""
        self._client_: sdk.DockerClient | None = None
        self._watch: DeathWatch | None = None

    @property
    def url(self) -> str:
        """The engine's address."""
        return self._url

    async def open(self) -> Capabilities:
        """Connect and ask what this engine can do. Raises EngineUnavailableError."""
        if not self._url.startswith("unix://"):
            raise EngineUnavailableError(
                f"docker: {self._url} is not on this machine; the channel to a sandbox is a bind-mounted unix socket"
            )
        self._client_ = await self._calls.run(f"connect to {self._url}", OPEN_SECONDS, sdk.DockerClient, self._url)
        info = await self._calls.run("ask for its properties", OPEN_SECONDS, self._client.info)
        if self._runtime is not None and self._runtime not in info["Runtimes"]:
            known = ", ".join(sorted(info["Runtimes"]))
            raise EngineUnavailableError(f"docker: no runtime {self._runtime!r} at {self._url}; it has {known}")
        make_base(self._directory)
        self._guest = copy_guest(self._guest, self._directory)
        self._maps_users = any(name in ",".join(info["SecurityOptions"]) for name in ("name=rootless", "name=userns"))
        client, instance = self._client, self._instance
        self._watch = DeathWatch(
            lambda since: client.events(instance, since), lambda: client.dead(instance), sdk.ERRORS
        )
        self._watch.start()
        return capabilities(info, self._runtime or info["DefaultRuntime"])

    async def close(self) -> None:
        """Close channels, threads and connections."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        if self._watch is not None:
            self._watch.stop()
        self._calls.close()
        if self._client_ is not None:
            self._client_.close()

    async def prepare(self, image: str) -> Mapping[str, str]:
        """Find the image or pull it."""
        try:
            found = await self._image(image)
        except ImageMissingError:
            await self._calls.run(f"pull {image}", PULL_SECONDS, self._client.pull, image)
            found = await self._image(image)
        return found.environment

    async def create(self, spec: SandboxSpec, link: Callable[[], asyncio.Protocol]) -> None:
        """Create the container. After EngineTimeoutError it may still come into being: `list` shows it, `remove`
        removes it."""
        check_id(spec.id, "sandbox")
        image = await self._image(spec.image)
        place = self._place(spec.id)
        place.create(self._guest)
        channel = Channel(spec.id, place.mount, link)
        try:
            channel.open()
            if spec.volume is not None:
                await self._give(spec.volume, spec.id)
            options = container_options(
                spec,
                instance=self._instance,
                mount=place.mount,
                seccomp=self._seccomp,
                volumes=image.volumes,
                runtime=self._runtime,
            )
            await self._calls.run(f"create sandbox {spec.id}", CREATE_SECONDS, self._client.create, options)
        except BaseException:
            channel.close()
            place.erase()
            raise
        self._channels[spec.id] = channel
        if spec.volume is not None:
            self._volumes[spec.id] = spec.volume

    async def start(self, sandbox: str) -> None:
        """Start the container and learn its PID 1, whose connections its channel then takes."""
        await self._calls.run(
            f"start sandbox {sandbox}", START_SECONDS, self._client.start, container_name(self._instance, sandbox)
        )
        pid = await self._meet(sandbox)
        volume = self._volumes.pop(sandbox, None)
        if volume is not None:
            await self._calls.run(f"look into sandbox {sandbox}", LOOK_SECONDS, check_workspace, pid, volume)

    async def channel(self, sandbox: str, link: Callable[[], asyncio.Protocol]) -> None:
        """Listen again for a sandbox that an earlier daemon made."""
        place = self._place(sandbox)
        if not place.mount.is_dir():
            raise EngineError(f"docker: the directory of sandbox {sandbox}'s channel is gone: {place.mount}")
        known = self._channels.pop(sandbox, None)
        if known is not None:
            known.close()
        channel = self._channels[sandbox] = Channel(sandbox, place.mount, link)
        channel.open()
        await self._meet(sandbox)

    async def tighten(self, sandbox: str, limits: Limits) -> None:
        """By its cgroup directly where that is permitted, else by Docker."""
        group = await self._group(sandbox)
        if group is not None and group.can_limit:
            group.limit(limits)
        else:
            name = container_name(self._instance, sandbox)
            await self._calls.run(
                f"tighten sandbox {sandbox}", LOOK_SECONDS, self._client.update, name, tighter(limits)
            )

    async def pause(self, sandbox: str) -> None:
        """Freeze its cgroup directly where that is permitted (0.25 ms), else ask Docker (12 ms)."""
        group = await self._group(sandbox)
        if group is not None and group.frozen():
            return
        if group is not None and group.can_freeze:
            await group.freeze()
            self._frozen.add(sandbox)
        else:
            name = container_name(self._instance, sandbox)
            await self._calls.run(f"pause sandbox {sandbox}", PAUSE_SECONDS, self._client.pause, name)

    async def resume(self, sandbox: str) -> None:
        """Thaw it the way it was frozen. What this object did not freeze itself may have been paused by Docker, which
        must hear of its end: it would believe in the pause for ever."""
        group = await self._group(sandbox)
        if sandbox not in self._frozen and (await self._state(sandbox))["Paused"]:
            name = container_name(self._instance, sandbox)
            await self._calls.run(f"resume sandbox {sandbox}", PAUSE_SECONDS, self._client.unpause, name)
        elif group is not None and group.can_freeze:
            group.thaw()
        self._frozen.discard(sandbox)

    async def remove(self, sandbox: str) -> None:
        """Kill and remove the container, thawed first: a frozen process does not die of SIGKILL."""
        channel = self._channels.pop(sandbox, None)
        if channel is not None:
            channel.close()
        with contextlib.suppress(SandboxGoneError):
            group = await self._group(sandbox)
            if group is not None and group.can_freeze:
                group.thaw()
            name = container_name(self._instance, sandbox)
            await self._calls.run(f"remove sandbox {sandbox}", REMOVE_SECONDS, self._client.remove, name)
        self._groups.pop(sandbox, None)
        self._frozen.discard(sandbox)
        self._volumes.pop(sandbox, None)
        if self._watch is not None:
            self._watch.forget(sandbox)
        self._place(sandbox).erase()

    async def list(self) -> list[SandboxStatus]:
        """All containers with this instance's label, and directories that a killed daemon made no container for."""
        containers = await self._calls.run("list sandboxes", LOOK_SECONDS, self._client.containers, self._instance)
        found = []
        for container in containers:
            labels = container["Labels"]
            sandbox = labels[SANDBOX_LABEL]
            state = STATES.get(container["State"], SandboxState.DEAD)
            if self._watch is not None and self._watch.is_dead(sandbox):
                state = SandboxState.DEAD
            if state is SandboxState.RUNNING:
                with contextlib.suppress(SandboxGoneError):
                    group = await self._group(sandbox)
                    if group is not None and group.frozen():
                        state = SandboxState.PAUSED
            found.append(SandboxStatus(sandbox, state, own_labels(labels)))
        known = {status.id for status in found}
        directories = [path.name for path in self._directory.iterdir() if path.is_dir() and SANDBOX_ID.match(path.name)]
        return found + [SandboxStatus(name, SandboxState.CREATED, {}) for name in directories if name not in known]

    async def stats(self, sandbox: str) -> SandboxStats:
        """From its cgroup where that is visible, else from Docker."""
        group = await self._group(sandbox)
        if group is not None:
            return group.usage()
        name = container_name(self._instance, sandbox)
        sample = await self._calls.run(f"ask what sandbox {sandbox} uses", LOOK_SECONDS, self._client.stats, name)
        memory = sample["memory_stats"]
        cache = memory.get("stats", {})
        inactive = cache.get("total_inactive_file", cache.get("inactive_file", 0))
        return SandboxStats(
            memory["usage"] - inactive if "usage" in memory else None,
            sample["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
            sample["pids_stats"].get("current"),
        )

    async def wait(self, sandbox: str) -> str:
        """Return at its death, known from Docker's events."""
        if self._watch is None:
            raise EngineError("docker: not open")
        future = self._watch.future(sandbox)
        try:
            state = await self._state(sandbox)
        except SandboxGoneError:
            self._watch.forget(sandbox)
            raise
        if state["Status"] in {"exited", "dead"}:
            self._watch.tell(sandbox, sdk.cause(state))
        return await asyncio.shield(future)

    @property
    def _client(self) -> sdk.DockerClient:
        if self._client_ is None:
            raise EngineError("docker: not open")
        return self._client_

    def _place(self, sandbox: str) -> SandboxDirectory:
        return SandboxDirectory(self._directory / check_id(sandbox, "sandbox"))

    async def _give(self, volume: Path, sandbox: str) -> None:
        if self._maps_users:
            raise EngineError(
                f"docker: {self._url} maps users (rootless, or userns-remap), so that no volume can be given to"
                f" sandbox {sandbox}; let the workspace be a tmpfs"
            )
        what = f"give a volume to sandbox {sandbox}"
        await self._calls.run(what, HAND_OVER_SECONDS + 1, hand_over, volume, SANDBOX_UID)

    async def _state(self, sandbox: str) -> dict[str, Any]:
        name = container_name(self._instance, sandbox)
        return await self._calls.run(f"inspect sandbox {sandbox}", LOOK_SECONDS, self._client.state, name)

    async def _meet(self, sandbox: str) -> int:
        """Tell the channel which process is the sandbox's PID 1, and return that."""
        state = await self._state(sandbox)
        if not state["Running"]:
            raise EngineError(f"docker: sandbox {sandbox} is not running: {sdk.cause(state)}")
        self._groups[sandbox] = cgroup.of_process(state["Pid"])
        if sandbox in self._channels:
            self._channels[sandbox].expect(state["Pid"])
        return int(state["Pid"])

    async def _group(self, sandbox: str) -> cgroup.Group | None:
        """Its cgroup. Raises SandboxGoneError when the container does not exist."""
        if sandbox not in self._groups:
            state = await self._state(sandbox)
            if not state["Running"]:
                return None
            self._groups[sandbox] = cgroup.of_process(state["Pid"])
        return self._groups[sandbox]

    async def _image(self, image: str) -> sdk.Image:
        """What the image says of itself, remembered. Raises ImageMissingError."""
        if image not in self._images:
            try:
                self._images[image] = await self._calls.run(
                    f"look for image {image}", LOOK_SECONDS, self._client.image, image
                )
            except SandboxGoneError:
                raise ImageMissingError(
                    f"docker: image {image} is not here; pull it, or build one with `sessiond image build`"
                ) from None
        return self._images[image]


def capabilities(info: Mapping[str, Any], runtime: str) -> Capabilities:
    """What an engine with these properties (GET /info) promises with a runtime of its."""
    limits = {"workspace_bytes", "tmp_bytes"}
    weaknesses = []
    for field, supported in (
        ("memory_bytes", info["MemoryLimit"]),
        ("cpus", info["CpuCfsQuota"]),
        ("pids", info["PidsLimit"]),
    ):
        if supported:
            limits.add(field)
        else:
            weaknesses.append(f"The kernel does not let Docker limit {field}.")
    if info["MemoryLimit"] and not info["SwapLimit"]:
        weaknesses.append("Swap is not counted: a sandbox may use swap beyond its memory limit.")
    options = ",".join(info["SecurityOptions"])
    seccomp = "name=seccomp" in options
    if not seccomp:
        weaknesses.append("This Docker engine has no seccomp: every system call is open to sandboxes.")
    if not info["LiveRestoreEnabled"]:
        weaknesses.append("Sandboxes die when dockerd restarts; its live-restore option would keep them.")
    return Capabilities(
        engine="docker",
        version=f"{info['ServerVersion']}, cgroup v{info['CgroupVersion']}, {runtime}",
        root="image",
        limits=frozenset(limits),
        process_limits=frozenset({"open_files", "file_bytes"}),
        seccomp=seccomp,
        pause=True,
        survives_daemon=True,
        weaknesses=tuple(weaknesses),
    )
