"""What a guest reports of a command, as the wire and the audit log say it."""

from __future__ import annotations

import errno
import os
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped]
from sessiond_protocol import guest as wire
from sessiond_protocol.messages import Exit, Failure

from sessiond.audit.record import Ending

SHOWN_CHARACTERS = 200
"""Of a program's name in a reason: a name may be as long as a message, and the reason has to fit into one."""


class GuestFault(Exception):
    """The guest said what it cannot have meant. Its sandbox is not to be trusted any more."""


def spawn_failure(start: wire.Start | None, frame: wire.Failed) -> Failure:
    """Why a command could not be spawned, in words."""
    what = start.argv[0].decode()[:SHOWN_CHARACTERS] if start is not None else "it"
    why = os.strerror(frame.errno)
    match frame.stage:
        case wire.STAGE_COMMANDS:
            return Failure(
                code="limit", message="too many commands at once in this sandbox", hint="wait for one to end"
            )
        case wire.STAGE_PIPES if frame.errno in (errno.EACCES, errno.ENOENT):
            return Failure(
                code="unsupported",
                message=f"the sandbox gives no terminal: {why}",
                hint="kernel rules of the profile must let /dev/ptmx and /dev/pts be written",
            )
        case wire.STAGE_PIPES | wire.STAGE_FORK:
            return Failure(
                code="limit",
                message=f"no process could be started: {why}; the sandbox is at its limit of processes or memory",
                hint="kill commands of the session, or give the profile a higher limit",
            )
        case wire.STAGE_RLIMIT:
            return Failure(code="invalid", message=f"a limit cannot be set: {why}")
        case wire.STAGE_CWD:
            return Failure(code="invalid", message=f"the working directory cannot be entered: {why}")
        case wire.STAGE_EXEC:
            return Failure(code="invalid", message=f"{what!r} cannot be executed in the sandbox: {why}")
        case _:
            return Failure(code="unsupported", message=f"the guest cannot do this: {why}")


def exit_record(frame: wire.Exited, killed_for: Literal["quota"] | None = None) -> Exit:
    """The guest's exit frame as the wire shows it; `killed_for` is why the daemon killed it, if it did.

    Raises GuestFault when it cannot be true.
    """
    if frame.signal > 64 or frame.code > 255:
        raise GuestFault(f"exit of command {frame.command} with code {frame.code}, signal {frame.signal}")
    cause: Literal["exit", "signal", "timeout", "oom", "killed", "quota"] = "signal" if frame.signal else "exit"
    if frame.timed_out:
        cause = "timeout"
    elif frame.oom:
        cause = "oom"
    elif frame.killed and frame.signal:
        cause = killed_for or "killed"
    return Exit(
        code=None if frame.signal else frame.code,
        signal=frame.signal or None,
        cause=cause,
        output_bytes=frame.output_bytes,
        wall_seconds=frame.wall_ns / 1e9,
        user_seconds=frame.user_us / 1e6,
        system_seconds=frame.system_us / 1e6,
        max_rss_bytes=frame.max_rss_kib * 1024,
    )


def ending(record: Exit | None, *, lost: bool, seconds: float, output_bytes: int, truncated: bool) -> Ending:
    """How a command ended, for the audit log; the figures are for one without a record of its end."""
    if record is None:
        return Ending(
            exit_code=None,
            signal=None,
            cause="lost" if lost else "failed",
            seconds=seconds,
            output_bytes=output_bytes,
            timed_out=False,
            oom=False,
            truncated=truncated,
        )
    return Ending(
        exit_code=record.code,
        signal=record.signal,
        cause=record.cause,
        seconds=record.wall_seconds,
        output_bytes=record.output_bytes,
        timed_out=record.cause == "timeout",
        oom=record.cause == "oom",
        truncated=truncated,
    )


_TIMES = ("wall_seconds", "user_seconds", "system_seconds")
_PACKED = ("code", "signal", "cause", "output_bytes", *_TIMES, "max_rss_bytes")


def pack_result(exit: Exit | None, failure: Failure | None) -> bytes:
    """How a command ended, for the store."""
    if exit is not None:
        times = exit.wall_seconds, exit.user_seconds, exit.system_seconds
        packed: bytes = msgpack.packb(
            (exit.code, exit.signal, exit.cause, exit.output_bytes, *times, exit.max_rss_bytes)
        )
    else:
        packed = msgpack.packb(failure.model_dump() if failure is not None else {})
    return packed


def unpack_result(packed: bytes) -> tuple[Exit | None, Failure | None]:
    """What `pack_result` packed."""
    result: Any = msgpack.unpackb(packed)
    if isinstance(result, dict):
        return None, Failure(**result)
    return Exit(**dict(zip(_PACKED, result, strict=True))), None
