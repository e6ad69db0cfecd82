"""From a request to the frame that the guest is sent: environment, working directory, resource limits."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from sessiond_protocol import guest as wire
from sessiond_protocol.messages import CommandLimits, CommandStart, SessionLimits

from sessiond.core.errors import RequestError
from sessiond.core.paths import WORKSPACE

CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": WORKSPACE,
    "USER": "sandbox",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
}

MOST_BYTES = wire.MOST_DATA - 16 * 1024
"""Arguments and environment of one command; the rest of a frame is kept for the working directory and limits."""

RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_AS = 0, 1, 7, 9
"""Linux's numbers on x86_64 and aarch64 (asm-generic/resource.h)."""


class Environment:
    """The environment of a session's commands: clean, then each layer over the one before."""

    def __init__(self, *layers: Mapping[str, str]) -> None:
        self._variables = dict(CLEAN_ENVIRONMENT)
        for layer in layers:
            self._variables.update(layer)
        self._entries = as_entries(self._variables)

    @property
    def path(self) -> str:
        """PATH."""
        return self._variables["PATH"]

    def entries(self, extra: Mapping[str, str]) -> tuple[bytes, ...]:
        """`NAME=value` for each variable, those of one command on top. Usually there are none."""
        return as_entries({**self._variables, **extra}) if extra else self._entries


def as_entries(variables: Mapping[str, str]) -> tuple[bytes, ...]:
    """Variables in the form that execve takes."""
    return tuple(f"{name}={value}".encode() for name, value in variables.items())


def working_directory(cwd: str) -> str:
    """Where a command starts: `cwd` seen from the workspace. It is only ever resolved inside the sandbox."""
    return posixpath.join(WORKSPACE, cwd)


def resource_limits(session: SessionLimits, command: CommandLimits) -> tuple[tuple[int, int], ...]:
    """The rlimits of a command's processes: the lower of what the session and the command ask for."""
    if not (session.model_fields_set or command.model_fields_set):
        return ()
    asked = (
        (RLIMIT_CPU, None, command.cpu_seconds),
        (RLIMIT_FSIZE, session.file_bytes, command.file_bytes),
        (RLIMIT_NOFILE, session.open_files, command.open_files),
        (RLIMIT_AS, None, command.memory_bytes),
    )
    limits = []
    for resource, *values in asked:
        given = [value for value in values if value is not None]
        if given:
            limits.append((resource, min(given)))
    return tuple(limits)


def launch_frame(
    handle: int, request: CommandStart, argv: tuple[str, ...], environment: Environment, session: SessionLimits
) -> wire.Start:
    """The START frame of a request whose `argv` has been decided.

    Raises RequestError `limit` when arguments and environment together are more than a frame holds.
    """
    words = tuple(word.encode() for word in argv)
    pty = request.pty
    variables = environment.entries(request.env if pty is None else {"TERM": pty.term, **request.env})
    size = sum(map(len, words)) + sum(map(len, variables)) + len(words) + len(variables)
    if size > MOST_BYTES:
        raise RequestError("limit", f"arguments and environment of {size} bytes; {MOST_BYTES} fit", "use a file")
    return wire.Start(
        command=handle,
        timeout_ms=max(1, round(request.timeout * 1000)) if request.timeout is not None else 0,
        grace_ms=round(request.grace * 1000),
        stdin=request.stdin or bool(request.input),
        merge_stderr=request.merge_stderr,
        pty=None if pty is None else (pty.rows, pty.columns),
        rlimits=resource_limits(session, request.limits),
        cwd=working_directory(request.cwd).encode(),
        argv=words,
        env=variables,
    )
