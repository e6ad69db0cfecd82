"""Decides whether a command may run. `Policy.decide` is all that the daemon calls.

Default deny. A decision depends on nothing but the policy and the request, so it can be repeated offline and
kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sessiond.core.paths import WORKSPACE
from sessiond.policy.builtin import BUILTINS
from sessiond.policy.compiled import Ruleset
from sessiond.policy.environment import refused_environment
from sessiond.policy.errors import PolicyError, shown
from sessiond.policy.hints import ALTERNATIVES
from sessiond.policy.judge import Judge, Step, worst
from sessiond.policy.listed import listed_source
from sessiond.policy.load import Source, compile_source, load_source, set_names
from sessiond.policy.paths import Trees, resolve
from sessiond.policy.reader import read_full, read_plain
from sessiond.policy.reading import Reading, SimpleCommand, UnreadableError, Word
from sessiond.policy.scene import Scene

if TYPE_CHECKING:
    from sessiond.settings import PolicySettings

Shell = Literal["bash", "sh"]
SHELLS: dict[str, tuple[str, str]] = {"bash": ("bash", "-c"), "sh": ("sh", "-c")}

_CACHED_DECISIONS = 1024
_CACHED_CHARACTERS = 4096
"""Requests longer than this are decided anew each time, which bounds the cache's memory."""
_MOST_PROBLEMS = 32


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What a client asks to run: `argv` or `text`, never both."""

    argv: tuple[str, ...] | None
    text: str | None
    env: Mapping[str, str]
    """Variables that the client asked for, the session's included; not those of the profile."""
    cwd: str
    """Empty, or relative to the workspace, or absolute."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and why."""

    outcome: Literal["allow", "deny", "ask"]
    rule: str
    """Which rule decided: docs/policy.md lists those that are not in a rule file."""
    reason: str
    argv: tuple[str, ...]
    """What to spawn; empty when denied. For `ask` what would be spawned."""
    alternative: str = ""
    """What to do instead."""
    steps: tuple[Step, ...] = ()
    """Each simple command that was found, with its own verdict."""
    network: bool = False
    """Whether a rule says that the command is meant to reach a network."""
    timeout: float | None = None
    """The shortest time in seconds that a rule gives the command."""


class _DeniedError(Exception):
    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


class Policy:
    """One policy, as a profile uses it. `decide` and `decide_cached` are for one thread; `judge` is for any."""

    def __init__(self, name: str, source: Source, ruleset: Ruleset, shell: Shell) -> None:
        """Decide by `ruleset`, made of `source`; texts are for `shell`."""
        self.name = name
        self.shell: Shell = shell
        self.source = source
        self._rules = ruleset
        self._decisions: OrderedDict[object, Verdict] = OrderedDict()
        self.digest = f"{source.digest[:-1]}{'0' if shell == 'bash' else '1'}"
        """The policy's version: SHA-256 of all that decides, its last digit the shell."""

    @property
    def open(self) -> bool:
        """Whether it allows everything."""
        return self._rules.open

    @property
    def trees(self) -> Trees:
        """Where its commands may read, write and take code from."""
        return self._rules.trees

    @property
    def programs(self) -> tuple[str, ...]:
        """Programs that some rule of it may let run: bare names, those of builtins among them, and absolute paths."""
        return tuple(
            name
            for name, rules in self._rules.programs.items()
            if " " not in name and any(rule.table.verdict != "deny" for rule in rules)
        )

    @classmethod
    def from_settings(
        cls, name: str, settings: PolicySettings, shell: Shell, named: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Policy:
        """The policy that a profile called `name` asks for. `named` are the settings' `[policies]`.

        Raises PolicyError.
        """
        if settings.open:
            return load_policy("open", shell=shell, name=name)
        if settings.allow is not None:
            source = listed_source(settings.allow)
            return cls(name, source, compile_source(source), shell)
        return load_policy(settings.use, shell=shell, name=name, named=named)

    def decide_cached(self, request: CommandRequest) -> Verdict | None:
        """The verdict if it costs no waiting: seen before, or in the subset that one parser decides. Never raises.

        None means that `decide` would ask the second parser, a process of some milliseconds: call `judge` in a thread
        and `remember` what it gives.
        """
        try:
            key = _key(request)
            verdict = self._decisions.get(key)
            if verdict is not None:
                self._decisions.move_to_end(key)
                return verdict
            reading = self._checked(request)
            if reading is None:
                return None
            verdict = self._of_reading(request, reading)
        except _DeniedError as error:
            verdict = Verdict("deny", error.rule, error.reason, ())
        except Exception as error:
            return _failed(error)
        self.remember(request, verdict)
        return verdict

    def judge(self, request: CommandRequest) -> Verdict:
        """The verdict, worked out anew; may block for the second parser. For any thread. Never raises."""
        try:
            reading = self._checked(request)
            if reading is None:
                reading = self._read(request, full=True) or _NOTHING
            return self._of_reading(request, reading)
        except _DeniedError as error:
            return Verdict("deny", error.rule, error.reason, ())
        except Exception as error:
            return _failed(error)

    def decide(self, request: CommandRequest) -> Verdict:
        """Allow, deny or ask. Never raises: what fails inside is a denial by the rule `internal`."""
        verdict = self.decide_cached(request)
        if verdict is None:
            verdict = self.judge(request)
            self.remember(request, verdict)
        return verdict

    def remember(self, request: CommandRequest, verdict: Verdict) -> None:
        """Keep what `judge` said, so that `decide_cached` knows it."""
        if verdict.rule == "internal" or _size(request) > _CACHED_CHARACTERS:
            return
        self._decisions[_key(request)] = verdict
        if len(self._decisions) > _CACHED_DECISIONS:
            self._decisions.popitem(last=False)

    def _checked(self, request: CommandRequest) -> Reading | None:
        """What is to be judged; None if only the second parser can tell. Raises _DeniedError."""
        _check_strings(request)
        if self._rules.open:
            return _NOTHING
        refused = sorted(name for name, value in request.env.items() if self._refused(name, value))
        if refused:
            raise _DeniedError("environment", f"may change what runs: {', '.join(refused[:8])}")
        if request.argv is not None:
            words = tuple(Word(word, word) for word in request.argv)
            return Reading((SimpleCommand(words),), single=True)
        return self._read(request, full=False)

    def _refused(self, name: str, value: str) -> bool:
        if name == "PYTHONPATH" and value:
            return not all(self._rules.trees.runnable(resolve(part, WORKSPACE)) for part in value.split(":"))
        return refused_environment(name, value)

    def _read(self, request: CommandRequest, *, full: bool) -> Reading | None:
        text = request.text or ""
        try:
            return read_full(text, self.shell) if full else read_plain(text)
        except UnreadableError as error:
            raise _DeniedError(error.rule, error.reason) from error

    def _of_reading(self, request: CommandRequest, reading: Reading) -> Verdict:
        if self._rules.open:
            return Verdict("allow", "open", "the policy allows everything", self._anything(request))
        directory = resolve(request.cwd or ".", WORKSPACE)
        scene = Scene(
            self._rules.trees,
            frozenset([directory]),
            reading,
            text=request.text,
            environment=tuple(request.env.values()),
        )
        judge = Judge(self._rules, self.shell)
        steps = judge.reading(reading, scene)
        if not steps:
            return Verdict("deny", "syntax", "there is no command in the text", ())
        decisive = worst([step.worst() for step in steps])
        every = [inner for step in steps for inner in step.all()]
        if decisive.outcome == "deny":
            alternative = decisive.alternative or _alternative(decisive)
            reason = f"{decisive.reason}; {alternative}" if alternative else decisive.reason
            return Verdict("deny", decisive.rule, reason, (), alternative, steps)
        argv = self._spawned(request, reading)
        if decisive.outcome == "ask":
            return Verdict("ask", decisive.rule, decisive.reason, argv, decisive.alternative, steps)
        rules = dict.fromkeys(step.rule for step in every)
        times = [step.timeout for step in every if step.timeout is not None]
        return Verdict(
            "allow",
            next(iter(rules)),
            f"allowed by {', '.join(list(rules)[:8])}",
            argv,
            "",
            steps,
            any(step.network for step in every),
            min(times, default=None),
        )

    def _spawned(self, request: CommandRequest, reading: Reading) -> tuple[str, ...]:
        """What to spawn: no shell where none is needed."""
        if request.argv is not None:
            return request.argv
        if reading.single:
            words = tuple(word.text or "" for word in reading.commands[0].words)
            if words and words[0] not in BUILTINS:
                return words
        text = request.text or ""
        # A shell takes a text that begins with - or + for options, unless a blank comes first.
        return (*SHELLS[self.shell], f" {text}" if text.startswith(("-", "+")) else text)

    def _anything(self, request: CommandRequest) -> tuple[str, ...]:
        """What to spawn for a request that may be anything."""
        if request.argv is not None:
            return request.argv
        try:
            reading = read_plain(request.text or "")
        except UnreadableError:
            reading = None
        return self._spawned(request, reading or _NOTHING)


def load_policy(
    path: str | Path,
    *,
    shell: Shell = "bash",
    name: str | None = None,
    named: Mapping[str, Mapping[str, Any]] | None = None,
) -> Policy:
    """The policy of that name, or in the file at that path, its own examples checked. Nothing else changes.

    The examples of the shipped sets are not checked again: a policy may well deny what a set allows. Raises
    PolicyError, which names file, rule and key of every problem.
    """
    source = load_source(path, named)
    policy = Policy(name or str(path), source, compile_source(source), shell)
    shipped = frozenset(set_names())
    check_examples(policy, frozenset(place for place, _ in source.tables if place not in shipped))
    return policy


def check_examples(policy: Policy, places: frozenset[str]) -> None:
    """Raise PolicyError unless the policy decides the examples in its files or sets `places` as they say."""
    problems = []
    for place, table in policy.source.tables:
        for rule in table.rule if place in places else ():
            for examples, allowed in ((rule.allows, True), (rule.denies, False)):
                for example in examples:
                    problem = _example(policy, example, allowed=allowed)
                    if problem is not None:
                        key = "allows" if allowed else "denies"
                        problems.append(f"{place}: rule {rule.id}: {key}: {shown(example)} {problem}")
    if problems:
        raise PolicyError(problems[:_MOST_PROBLEMS])


def _example(policy: Policy, text: str, *, allowed: bool) -> str | None:
    verdict = policy.judge(CommandRequest(None, text, {}, WORKSPACE))
    if (verdict.outcome == "allow") == allowed:
        return None
    return f"gets {verdict.outcome} by {verdict.rule}: {verdict.reason}"


def _alternative(step: Step) -> str:
    if step.rule != "program":
        return ""
    return ALTERNATIVES.get(step.command.split(" ", 1)[0].rpartition("/")[2], "")


_NOTHING = Reading(())


def _failed(error: Exception) -> Verdict:
    return Verdict("deny", "internal", f"the policy failed ({type(error).__name__})", ())


def _key(request: CommandRequest) -> object:
    return (request.argv, request.text, tuple(sorted(request.env.items())), request.cwd)


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
