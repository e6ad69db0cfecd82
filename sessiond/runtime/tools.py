"""Files, workspaces and tunnels: commands like any other, whose program is the guest's.

It runs as the sandbox's user, so that the kernel checks every path. The policy's list of programs has no say in it: the
profile says whether files may be reached this way, and tunnels opened. The audit log has it like all commands.
"""

from __future__ import annotations

from typing import Literal

from sessiond_protocol import messages
from sessiond_protocol.codec import decode_client
from sessiond_protocol.messages import CommandStart, ToolStart

from sessiond.core.errors import RequestError
from sessiond.engine.directory import GUEST
from sessiond.engine.port import GUEST_DIRECTORY
from sessiond.policy.decide import Verdict

Tool = Literal["files", "tunnels"]
ALL_TOOLS: frozenset[Tool] = frozenset({"files", "tunnels"})


def as_command(request: ToolStart, tools: frozenset[Tool] = ALL_TOOLS) -> tuple[CommandStart, Verdict]:
    """The command that does it, which starts in the workspace, and the verdict for a profile with these tools."""
    argv = [f"{GUEST_DIRECTORY}/{GUEST}", *_mode(request)]
    if isinstance(request, messages.FileWrite):
        given, stdin = request.input, request.stdin
    else:
        given, stdin = b"", isinstance(request, messages.SessionImport | messages.TunnelOpen)
    command = CommandStart(
        id=request.id,
        session=request.session,
        command=request.command,
        argv=argv,
        input=given,
        stdin=stdin,
        window=request.window,
        answer=request.answer,
    )
    tool: Tool = "tunnels" if isinstance(request, messages.TunnelOpen) else "files"
    if tool not in tools:
        return command, Verdict("deny", tool, f"the profile has {tool} = false", ())
    rule = "workspace" if isinstance(request, messages.SessionExport | messages.SessionImport) else tool
    return command, Verdict("allow", rule, f"the profile allows {tool}", tuple(argv))


def recorded_command(body: bytes, tools: frozenset[Tool] = ALL_TOOLS) -> tuple[CommandStart, Verdict | None]:
    """The command that a request on record began, and the verdict if it is the daemon's own. Raises RequestError."""
    request = decode_client(body)
    if isinstance(request, CommandStart):
        return request, None
    if isinstance(request, ToolStart):
        return as_command(request, tools)
    raise RequestError("internal", f"the record of a command is one of {request.type}")


def _mode(request: ToolStart) -> list[str]:
    """The guest's mode and its arguments; docs/guest.md has them."""
    match request:
        case messages.SessionExport():
            return ["tar-export", request.path or "."]
        case messages.SessionImport():
            return ["tar-import", request.path or "."]
        case messages.FileRead():
            length = "-" if request.length is None else str(request.length)
            return ["file-read", request.path, str(request.offset), length]
        case messages.FileWrite():
            mode = "-" if request.mode is None else f"{request.mode:o}"
            return ["file-write", request.path, request.how, str(request.offset), mode]
        case messages.FileStat():
            return ["file-stat", request.path]
        case messages.FileList():
            return ["file-list", request.path, "recursive" if request.recursive else "flat", request.pattern]
        case messages.FileSearch():
            case = "any-case" if request.any_case else "exact"
            return ["file-search", request.path, case, request.text, request.pattern, str(request.limit)]
        case messages.FileChecksum():
            return ["file-checksum", request.path]
        case messages.FileMkdir():
            return ["file-mkdir", request.path, "parents" if request.parents else "one"]
        case messages.FileRename():
            return ["file-rename", request.path, request.to]
        case messages.FileRemove():
            return ["file-remove", request.path, "recursive" if request.recursive else "one"]
        case messages.FileChmod():
            return ["file-chmod", request.path, f"{request.mode:o}"]
        case messages.FileWatch():
            return ["file-watch", request.path]
        case messages.TunnelOpen():
            return ["dial", *request.target.split(":", 1)]
        case _:
            raise RequestError("internal", f"no tool does {type(request).__name__}")
