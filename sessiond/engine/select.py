"""Choosing the engine."""

from __future__ import annotations

import platform
from importlib import resources
from pathlib import Path

from sessiond.engine.port import Capabilities, Engine, EngineError, EngineUnavailableError

NAMES = ("auto", "docker", "bubblewrap")


def guest_binary() -> Path:
    """The guest for this machine's architecture, as packaged. Raises EngineError when it was not built."""
    path = Path(str(resources.files("sessiond.guest"))) / "bin" / f"guest-{platform.machine()}"
    if not path.is_file():
        raise EngineError(f"{path} is missing; in a source tree `python -m sessiond.guest.build` makes it")
    return path


async def open_engine(
    name: str,
    *,
    instance: str,
    directory: Path,
    guest: Path | None = None,
    docker_host: str | None = None,
    runtime: str | None = None,
) -> tuple[Engine, Capabilities, str]:
    """The open engine, what it promises here, and a sentence saying which it is and why, for the log.

    `name` is one of NAMES; auto is docker where it answers, else bubblewrap. `instance` tells this daemon's sandboxes
    from those of others on the machine, `directory` is where channels and state live, `guest` is the guest's binary
    (else the packaged one). Raises EngineUnavailableError when the named engine, or none, can be used.
    """
    if name not in NAMES:
        raise EngineError(f"there is no engine {name!r}; there are {', '.join(NAMES)}")
    guest = guest or guest_binary()
    if name in {"auto", "docker"}:
        # Importing the Docker SDK takes 0.15 s, so only who asks for it pays.
        from sessiond.engine.docker_engine import DockerEngine  # noqa: PLC0415

        docker = DockerEngine(
            instance=instance, directory=directory, guest=guest, base_url=docker_host, runtime=runtime
        )
        try:
            capabilities = await docker.open()
        except EngineError as error:
            await docker.close()
            if name == "docker":
                raise
            why = str(error)
        else:
            chosen = "configured" if name == "docker" else "it answers"
            return docker, capabilities, f"engine docker {capabilities.version}: {chosen}"
    else:
        why = "configured"
    from sessiond.engine.bubblewrap import BubblewrapEngine  # noqa: PLC0415

    bubblewrap = BubblewrapEngine(instance=instance, directory=directory, guest=guest)
    try:
        capabilities = await bubblewrap.open()
    except EngineUnavailableError as error:
        await bubblewrap.close()
        if name == "bubblewrap":
            raise
        raise EngineUnavailableError(f"no engine can be used here. {why} {error}") from error
    return bubblewrap, capabilities, f"engine bubblewrap {capabilities.version}: {why}"
