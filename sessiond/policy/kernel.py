"""What the kernel enforces of a profile's policy: its rules, and the RESTRICT frame that they become.

Pure. Paths are those of the sandbox, which the daemon cannot see: names and patterns are resolved by the guest.
docs/policy-kernel.md tells what holds and what stays open.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from sessiond_protocol import guest as wire

from sessiond.core.paths import WORKSPACE
from sessiond.engine.directory import GUEST
from sessiond.engine.port import GUEST_DIRECTORY, ExecMode

if TYPE_CHECKING:
    from sessiond.policy.decide import Policy
    from sessiond.settings import KernelSettings

Use: TypeAlias = Literal["require", "use", "off"]
Paths: TypeAlias = tuple[str, ...] | Literal["any"]

SYSTEM = "system"
"""Among paths to read: SYSTEM_READ. Among those to write: SYSTEM_WRITE."""

SYSTEM_READ = (
    *("/usr/lib/*-linux-gnu", "/lib/*-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib/*.so*", "/lib/*.so*"),
    *("/usr/lib/python3*", "/usr/local/lib", "/usr/lib/ssl", "/usr/lib/locale", "/usr/lib/os-release"),
    *("/usr/share", "/usr/local/share", "/usr/include", "/etc", "/proc", "/sys", "/dev"),
)
"""What programs read to run: libraries, Python's own, data, configuration. No directory of programs is here, since the
dynamic loader runs whatever it may read; so not /usr/lib as a whole either (/usr/lib/git-core)."""

PROGRAM_TREES = ("/usr", "/bin", "/sbin", "/lib", "/opt")
"""Of what is here the kernel lets be read what is in SYSTEM_READ only, even where the policy lets more be named: the
loader would run any program that it may read."""

TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - inside the sandbox
DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"),
    "/dev/mqueue",
)
SYSTEM_WRITE = (WORKSPACE, *TEMPORARY, *DEVICES)
TERMINALS = ("/dev/ptmx", "/dev/pts", "/dev/tty")
"""Devices that still take ioctl."""

LOADERS = ("/lib64/ld-*.so*", "/lib/ld-*.so*")
"""The kernel opens a program's loader as it opens the program. Those of listed programs are found by the guest; these
serve programs in listed directories and in the workspace."""

HELPERS: Mapping[str, tuple[str, ...]] = {"git": ("/usr/lib/git-core/", "/usr/libexec/git-core/")}
"""Directories of programs that a program runs as parts of itself."""

FILES = wire.RESTRICT_EXECUTE | wire.RESTRICT_READ | wire.RESTRICT_WRITE
NAMES = {
    wire.RESTRICT_EXECUTE: "execute",
    wire.RESTRICT_READ: "read",
    wire.RESTRICT_WRITE: "write",
    wire.RESTRICT_TCP: "tcp",
    wire.RESTRICT_SCOPE: "scope",
    wire.RESTRICT_IOCTL: "ioctl",
}


@dataclass(frozen=True, slots=True)
class KernelRules:
    """What a session's programs may do, whatever they are told."""

    executables: Paths = "any"
    """Programs that may be executed: bare names as PATH finds them, absolute paths, or directories with a slash at
    their end."""
    read: Paths = "any"
    """Trees that may be read, as absolute paths or patterns. Programs of `executables` may be read anyway."""
    write: Paths = "any"
    """Trees that may be written."""
    exec_in: ExecMode = "any"
    """Where files that the session wrote may be executed."""
    network: bool = True
    """Whether TCP sockets may be bound and connected: within the sandbox, which has no other network."""
    use: Use = "use"
    """Whether a session is refused where the kernel cannot do all of it, or does with what it can, or nothing is
    asked of the kernel."""

    @classmethod
    def from_settings(cls, settings: KernelSettings, policy: Policy | None = None) -> KernelRules | None:
        """The rules that a profile's section means, with its policy; None where they would restrict nothing.

        A list of executables is worth nothing while the loader may read others: it makes reading default to the
        system's trees and writing to the workspace and temporary directories.
        """
        executables: Paths = "any" if settings.executables == "policy" else _paths(settings.executables)
        read: Paths = "any" if executables == "any" else (SYSTEM,)
        write: Paths = read
        if settings.executables == "policy" and policy is not None and not policy.open:
            trees = policy.trees
            executables = policy.programs
            readable = (*trees.read, *trees.write, *trees.code)
            read = (SYSTEM, *(tree for tree in readable if not tree.startswith(PROGRAM_TREES)))
            write = (*DEVICES, *TEMPORARY, *trees.write)
        rules = cls(
            executables=executables,
            read=read if settings.read is None else _paths(settings.read),
            write=write if settings.write is None else _paths(settings.write),
            exec_in=settings.exec,
            network=settings.network,
            use=settings.landlock,
        )
        return rules if rules.use != "off" and rules.flags else None

    @property
    def flags(self) -> int:
        """What RESTRICT is to restrict; 0: nothing.

        Signals, abstract sockets and device ioctls are closed with whatever else is: nothing that works needs them.
        """
        flags = wire.RESTRICT_EXECUTE * (self.executables != "any") | wire.RESTRICT_READ * (self.read != "any")
        flags |= wire.RESTRICT_WRITE * (self.write != "any") | wire.RESTRICT_TCP * (not self.network)
        return flags | wire.RESTRICT_SCOPE | wire.RESTRICT_IOCTL if flags else 0


@dataclass(frozen=True, slots=True)
class KernelLayer:
    """What the kernel of a session's sandbox enforces."""

    abi: int
    """Landlock's version; 0 where there is none."""
    applied: tuple[str, ...]
    absent: tuple[str, ...]
    """Names from NAMES of what was asked for, and holds or does not."""
    missing: int = 0
    """Allowed paths and programs that the sandbox does not have."""

    def __str__(self) -> str:
        """For people: `landlock abi 7`, or what is missing."""
        if not self.abi:
            return "no landlock"
        return f"landlock abi {self.abi}" + (f", without {', '.join(self.absent)}" if self.absent else "")


@lru_cache(maxsize=256)
def restriction(rules: KernelRules, search: str) -> wire.Restrict:
    """The frame for `rules`; `search` is the PATH of the session's commands."""
    grants: dict[str, int] = {}

    def grant(access: int, paths: Iterable[str]) -> None:
        for path in paths:
            grants[path] = grants.get(path, 0) | access

    programs: list[str] = []
    if rules.executables != "any":
        named = [path for name in rules.executables for path in (name, *HELPERS.get(posixpath.basename(name), ()))]
        programs = [name for name in named if not name.endswith("/")]
        programs.append(f"{GUEST_DIRECTORY}/{GUEST}")  # carries the workspace in and out, as the sandbox's user
        trees = (path.rstrip("/") for path in named if path.endswith("/"))
        grant(wire.ACCESS_READ | wire.ACCESS_EXECUTE, (*LOADERS, *trees))
    if rules.read != "any":
        grant(wire.ACCESS_READ, _expand(rules.read, SYSTEM_READ))
    if rules.write != "any":
        grant(wire.ACCESS_READ | wire.ACCESS_WRITE, _expand(rules.write, SYSTEM_WRITE))
    if rules.exec_in != "strict":
        grant(wire.ACCESS_EXECUTE, (WORKSPACE, *(TEMPORARY if rules.exec_in == "any" else ())))
    grant(wire.ACCESS_IOCTL, TERMINALS)
    return wire.Restrict(
        rules.flags,
        search.encode(),
        (
            *((wire.ACCESS_PROGRAM, name.encode()) for name in programs),
            *((access, path.encode()) for path, access in grants.items()),
        ),
    )


def layer(asked: wire.Restrict, answer: wire.Restricted) -> KernelLayer:
    """What the guest's answer means."""
    return KernelLayer(
        abi=answer.abi,
        applied=tuple(name for bit, name in NAMES.items() if asked.flags & answer.applied & bit),
        absent=tuple(name for bit, name in NAMES.items() if asked.flags & ~answer.applied & bit),
        missing=answer.missing,
    )


def _paths(value: list[str] | Literal["any"]) -> Paths:
    return "any" if value == "any" else tuple(value)


def _expand(paths: Iterable[str], system: tuple[str, ...]) -> Iterable[str]:
    for path in paths:
        if path == SYSTEM:
            yield from system
        else:
            yield path
