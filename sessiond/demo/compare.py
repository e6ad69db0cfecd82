"""A command without a session, to compare with: a new container or jail for each, under the same locks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sessiond.engine.bubblewrap import ROOTS_DIRECTORY
from sessiond.engine.bubblewrap_options import Descriptors, Surroundings, etc_files, host_root, jail_arguments
from sessiond.engine.directory import GUEST, make_base
from sessiond.engine.docker_exec import DockerExec, container_per_command
from sessiond.engine.hostuid import FIRST_UID
from sessiond.engine.port import EngineUnavailableError, SandboxSpec
from sessiond.engine.select import guest_binary
from sessiond.private_daemon import Ground

RUN_SECONDS = 30
TRUE = "/usr/bin/true"

Run = Callable[[], None]


@contextlib.contextmanager
def alternatives(ground: Ground) -> Iterator[list[tuple[str, Run]]]:
    """Ways of running `true` without sessiond on this engine, with their names. They block."""
    spec = SandboxSpec(id="compare", profile="compare", image=ground.image)
    if ground.docker_host is None:
        with jail_per_command(spec) as run:
            yield [("a new jail for the command", run)]
        return
    with (
        contextlib.closing(DockerExec(ground.docker_host, ground.image)) as inside,
        container_per_command(ground.docker_host, spec) as container,
    ):
        yield [
            ("docker exec in a container that stays", lambda: inside.run(["true"])),
            ("a new container for the command", lambda: container.run(["true"])),
        ]


@contextlib.contextmanager
def jail_per_command(spec: SandboxSpec) -> Iterator[Run]:
    """Runs `true` in a jail with a sandbox's arguments, made for it and gone after it."""
    bwrap, prlimit = shutil.which("bwrap"), shutil.which("prlimit")
    if bwrap is None or prlimit is None:
        raise EngineUnavailableError("bwrap and prlimit are needed to compare with")
    root = os.geteuid() == 0
    if root:
        make_base(ROOTS_DIRECTORY)
    with tempfile.TemporaryDirectory(prefix="compare-", dir=ROOTS_DIRECTORY if root else None) as directory:
        base = Path(directory)
        base.chmod(0o755)
        mount = base / "mount"
        mount.mkdir()
        (mount / GUEST).touch()
        for name, text in etc_files().items():
            (base / f"etc-{name}").write_text(text)

        around = Surroundings(bwrap, prlimit, host_root(), base)
        uid = FIRST_UID if root else None

        def run() -> None:
            # Nobody reads what bwrap says of the jail, and the end of /dev/null lets it go on at once.
            nothing = (os.open(os.devnull, os.O_RDWR) for _ in range(3))
            fds = Descriptors(os.open(guest_binary(), os.O_RDONLY), *nothing)
            opened = (fds.guest, fds.info, fds.status, fds.block)
            try:
                arguments = jail_arguments(spec, around, mount=mount, memory=None, fds=fds)
                program = len(arguments) - arguments[::-1].index("--")
                subprocess.run(  # noqa: S603 - our own command line, no shell
                    [*arguments[:program], TRUE],
                    check=True,
                    pass_fds=opened,
                    timeout=RUN_SECONDS,
                    stdin=subprocess.DEVNULL,
                    user=uid,
                    group=uid,
                    extra_groups=None if uid is None else (),
                )
            finally:
                for descriptor in opened:
                    os.close(descriptor)

        yield run
