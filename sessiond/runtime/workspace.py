"""Carrying a workspace out of a session and into it: a command like any other, whose program is the guest's.

It runs as the sandbox's user, so that the kernel checks every path, and reads and writes the workspace's own files
only. So the policy's list of programs has no say in it; the audit log has it like all commands.
"""

from __future__ import annotations

from sessiond_protocol.messages import CommandStart, SessionExport, SessionImport

from sessiond.engine.directory import GUEST
from sessiond.engine.port import GUEST_DIRECTORY
from sessiond.policy.decide import Verdict

RULE = "workspace"
"""Which rule allowed it, on the audit log."""


def as_command(request: SessionExport | SessionImport) -> CommandStart:
    """The command that does it. It starts in the workspace."""
    exports = isinstance(request, SessionExport)
    return CommandStart(
        id=request.id,
        session=request.session,
        command=request.command,
        argv=[f"{GUEST_DIRECTORY}/{GUEST}", "tar-export" if exports else "tar-import", request.path or "."],
        stdin=not exports,
        window=request.window,
    )


def verdict(command: CommandStart) -> Verdict:
    """What the policy would say if it were asked."""
    what = "exported" if command.argv is not None and command.argv[1] == "tar-export" else "imported"
    return Verdict("allow", RULE, f"the workspace is {what}", tuple(command.argv or ()))
