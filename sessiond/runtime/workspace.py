"""Carrying a workspace out of a session and into it: a command like any other, whose program is the guest's.

It runs as the sandbox's user, so that the kernel checks every path, and reads and writes the workspace's own files
only. So the policy's list of programs has no say in it; the audit log has it like all commands.
"""

from __future__ import annotations

from sessiond_protocol.codec import decode_client
from sessiond_protocol.messages import CommandStart, SessionExport, SessionImport

from sessiond.core.errors import RequestError
from sessiond.engine.directory import GUEST
from sessiond.engine.port import GUEST_DIRECTORY
from sessiond.policy.decide import Verdict

RULE = "workspace"
"""Which rule allowed it, on the audit log."""


def as_command(request: SessionExport | SessionImport) -> tuple[CommandStart, Verdict]:
    """The command that does it, which starts in the workspace, and what the policy would say if it were asked."""
    exports = isinstance(request, SessionExport)
    argv = [f"{GUEST_DIRECTORY}/{GUEST}", "tar-export" if exports else "tar-import", request.path or "."]
    command = CommandStart(
        id=request.id,
        session=request.session,
        command=request.command,
        argv=argv,
        stdin=not exports,
        window=request.window,
    )
    reason = f"the workspace is {'exported' if exports else 'imported'}"
    return command, Verdict("allow", RULE, reason, tuple(argv))


def recorded_command(body: bytes) -> tuple[CommandStart, Verdict | None]:
    """The command that a request on record began, and the verdict if it is the daemon's own. Raises RequestError."""
    request = decode_client(body)
    if isinstance(request, CommandStart):
        return request, None
    if isinstance(request, SessionExport | SessionImport):
        return as_command(request)
    raise RequestError("internal", f"the record of a command is one of {request.type}")
