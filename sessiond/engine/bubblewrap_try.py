"""Whether jails can be made on this machine, and with what."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sessiond.engine.bubblewrap_options import Surroundings, host_root
from sessiond.engine.port import SANDBOX_UID, EngineUnavailableError

TRY_SECONDS = 10.0
"""For a program that ends at once."""


def look_around(etc: Path) -> Surroundings:
    """Find the programs and the machine's root. Raises EngineUnavailableError that says what to install."""
    return Surroundings(_program("bwrap", "bubblewrap"), _program("prlimit", "util-linux"), host_root(), etc)


def bwrap_version(around: Surroundings) -> str:
    """As bwrap says it. Blocks."""
    command = [around.bwrap, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TRY_SECONDS, check=True, text=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineUnavailableError(f"bubblewrap: {around.bwrap} does not tell its version: {error}") from error
    return done.stdout.strip().removeprefix("bubblewrap ")


def try_jail(around: Surroundings, uid: int | None) -> None:
    """Make a jail that ends at once, as this host user if given. Raises EngineUnavailableError. Blocks."""
    identity = ["--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID)]
    command = [around.bwrap, "--unshare-all", "--as-pid-1", *identity, *around.root, around.prlimit, "--version"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command line, no shell
            command,
            capture_output=True,
            timeout=TRY_SECONDS,
            check=False,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
        )
    except (OSError, subprocess.SubprocessError) as error:
        who = "" if uid is None else f" as host user {uid}"
        raise EngineUnavailableError(
            f"bubblewrap: {around.bwrap} cannot be run{who}: {error}. Every user must be able to run it"
        ) from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise EngineUnavailableError(
            f"bubblewrap: no jail can be made here: {words}. User namespaces may be switched off (sysctl"
            " user.max_user_namespaces, kernel.unprivileged_userns_clone,"
            " kernel.apparmor_restrict_unprivileged_userns)"
        )


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise EngineUnavailableError(f"bubblewrap: there is no {name} on PATH; install the package {package}")
    return found
