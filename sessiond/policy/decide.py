"""Decides whether a command may run. `Policy.decide` is all that the daemon calls.

Default deny. A decision depends on nothing but the policy and the request, so it can be repeated offline and
kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sessiond.policy import rules
from sessiond.policy.shell import NotPlainError, parse

if TYPE_CHECKING:
    from sessiond.settings import PolicySettings

Words = tuple[str, ...]

SHELLS: dict[str, tuple[str, str]] = {"bash": ("bash", "-c"), "sh": ("sh", "-c")}

_CACHED_DECISIONS = 1024
_CACHED_CHARACTERS = 4096
"""Requests longer than this are decided anew each time, which bounds the cache's memory."""
_SEMANTICS = 1
"""Part of the digest: grows when the same lists would decide differently."""


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What a client asks to run: `argv` or `text`, never both."""

    argv: tuple[str, ...] | None
    text: str | None
    env: Mapping[str, str]
    """Variables that the client asked for, the session's included; not those of the profile."""
    cwd: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and why."""

    outcome: Literal["allow", "deny"]
    rule: str
    """Which rule decided: docs/policy.md lists them."""
    reason: str
    argv: tuple[str, ...]
    """What to spawn; empty when denied."""


class _DeniedError(Exception):
    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


class Policy:
    """One profile's policy. Not for use from several threads."""

    def __init__(self, name: str, allow: frozenset[str], *, everything: bool, shell: str) -> None:
        """Make a policy that allows the programs in `allow`, or everything, and reads texts with `shell`."""
        self.name = name
        self._allow = allow
        self._everything = everything
        self._shell = SHELLS[shell]
        self._decisions: OrderedDict[object, Verdict] = OrderedDict()
        canonical = {
            "semantics": _SEMANTICS,
            "allow": sorted(allow),
            "everything": everything,
            "shell": shell,
        }
        self.digest = hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()
        """SHA-256 of all that decides, so that an audit record tells which policy it was."""

    @classmethod
    def from_settings(cls, name: str, settings: PolicySettings, shell: Literal["bash", "sh"]) -> Policy:
        """The policy that a profile called `name` asks for. `shell` is what its sandboxes have."""
        return cls(name, frozenset(settings.allow), everything=settings.open, shell=shell)

    def decide(self, request: CommandRequest) -> Verdict:
        """Allow or deny `request`. Never raises: what fails inside is a denial by the rule `internal`."""
        try:
            key = (request.argv, request.text, tuple(sorted(request.env.items())), request.cwd)
            verdict = self._decisions.get(key)
            if verdict is not None:
                self._decisions.move_to_end(key)
                return verdict
            verdict = self._decide(request)
            if _size(request) <= _CACHED_CHARACTERS:
                self._decisions[key] = verdict
                if len(self._decisions) > _CACHED_DECISIONS:
                    self._decisions.popitem(last=False)
        except Exception as error:
            return Verdict("deny", "internal", f"the policy failed ({type(error).__name__})", ())
        return verdict

    def _decide(self, request: CommandRequest) -> Verdict:
        try:
            _check_strings(request)
            if self._everything:
                return Verdict("allow", "open", "the policy allows everything", self._anything(request))
            self._check_environment(request.env)
            commands, spawned = self._read(request)
            for words in commands:
                self._check_command(words)
        except NotPlainError as error:
            return Verdict("deny", error.rule, error.reason, ())
        except _DeniedError as error:
            return Verdict("deny", error.rule, error.reason, ())
        names = dict.fromkeys(words[0] for words in commands)
        return Verdict("allow", "program", f"allowed: {', '.join(names)}", spawned)

    def _read(self, request: CommandRequest) -> tuple[tuple[Words, ...], Words]:
        """The simple commands in the request, and what to spawn for it: no shell where none is needed."""
        if request.argv is not None:
            return (request.argv,), request.argv
        text = request.text or ""
        plain = parse(text)
        if plain.single and plain.commands[0][0] not in rules.BUILTINS:
            return plain.commands, plain.commands[0]
        return plain.commands, (*self._shell, text)

    def _anything(self, request: CommandRequest) -> Words:
        """What to spawn for a request that may be anything."""
        try:
            return self._read(request)[1]
        except NotPlainError:
            text = request.text or ""
        # A shell takes a text that begins with - or + for options, unless a blank comes first.
        return (*self._shell, f" {text}" if text.startswith(("-", "+")) else text)

    def _check_environment(self, env: Mapping[str, str]) -> None:
        refused = sorted(name for name, value in env.items() if rules.refused_environment(name, value))
        if refused:
            raise _DeniedError("environment", f"may change what runs: {', '.join(refused[:8])}")

    def _check_command(self, words: Words) -> None:
        """Raise _DeniedError unless this simple command may run."""
        name = words[0]
        if name in rules.BUILTINS_REFUSED:
            raise _DeniedError("builtin", f"{name} can change what other words mean or run them")
        if name not in self._allow:
            raise _DeniedError("program", self._why_not(name))
        restriction = rules.RESTRICTIONS.get(name.rpartition("/")[2])
        if restriction is not None:
            _check_arguments(name, restriction, words[1:])

    def _why_not(self, name: str) -> str:
        shown = _shown(name)
        base = name.rpartition("/")[2]
        if "/" in name and not name.startswith("/"):
            return f"{shown} is a path; run a script by its interpreter's name"
        if "/" in name:
            known = f"; {base}, the one that PATH finds, is" if base in self._allow else ""
            return f"{shown} is not an allowed program{known}"
        if name in rules.ALTERNATIVES:
            return f"{shown} is not an allowed program; {rules.ALTERNATIVES[name]}"
        shorter = max((allowed for allowed in self._allow if name.startswith(allowed)), key=len, default="")
        return f"{shown} is not an allowed program" + (f"; {shorter} is" if len(shorter) > len(name) // 2 else "")


def _check_arguments(name: str, restriction: rules.Refused, arguments: Words) -> None:
    found = restriction.find(arguments)
    if found is not None:
        raise _DeniedError("option", f"{name} may not have the argument {_shown(found)}")
    if restriction.subcommands is None:
        return
    for number, argument in enumerate(arguments):
        if argument in restriction.globals:
            continue
        if argument.startswith("-"):
            raise _DeniedError("option", f"{name} may not have {_shown(argument)} before its subcommand")
        if argument not in restriction.subcommands:
            raise _DeniedError("option", f"{name} may not have the subcommand {_shown(argument)}")
        found = restriction.subcommands[argument].find(arguments[number + 1 :])
        if found is not None:
            raise _DeniedError("option", f"{name} {argument} may not have the argument {_shown(found)}")
        return


def _check_strings(request: CommandRequest) -> None:
    """Refuse what no program can be started with."""
    strings = (*(request.argv or ()), request.text or "", request.cwd, *request.env, *request.env.values())
    for string in strings:
        if "\0" in string:
            raise _DeniedError("invalid", "a string holds a NUL character")
        string.encode()
    if (request.argv is None) == (request.text is None) or request.argv == ():
        raise _DeniedError("invalid", "a command has either argv or text")
    if request.argv is not None and not request.argv[0]:
        raise _DeniedError("invalid", "the program's name is empty")


def _size(request: CommandRequest) -> int:
    strings = (*(request.argv or ()), request.text or "", request.cwd, *request.env, *request.env.values())
    return sum(map(len, strings))


def _shown(word: str) -> str:
    """A word as a reason shows it: bounded, with nothing that a terminal would obey."""
    escaped = word.encode("unicode_escape").decode() if not word.isprintable() else word
    return repr(escaped if len(escaped) <= 80 else f"{escaped[:80]}...")
