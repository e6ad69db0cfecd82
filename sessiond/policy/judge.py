"""Judges all that a text or an argv runs, by the rules of one policy: deny over ask over allow, deny by default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sessiond.policy.checkers import CHECKERS, MODULE, NOTHING, Inner, arguments_of, producer_of
from sessiond.policy.compiled import Rule, Ruleset
from sessiond.policy.errors import MisfitError, shown
from sessiond.policy.hints import ALTERNATIVES
from sessiond.policy.programs.python import runs_own_module
from sessiond.policy.reader import read
from sessiond.policy.reading import Reading, SimpleCommand, UnreadableError, Word
from sessiond.policy.rule import Outcome
from sessiond.policy.scene import Scene
from sessiond.policy.values import check_assignment, check_value

Dialect = Literal["bash", "sh"]

_MOST_DEPTH = 6
"""Shells within shells, wrappers within wrappers."""
_MOST_STEPS = 512
"""Commands of one request, those of inner texts included."""
_MOVING = frozenset(["cd", "builtin", "command", "eval", "trap", "exec"])
_SEVERITY: dict[Outcome, int] = {"allow": 0, "ask": 1, "deny": 2}
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One simple command and what was decided about it."""

    command: str
    outcome: Outcome
    rule: str
    reason: str
    alternative: str = ""
    network: bool = False
    timeout: float | None = None
    steps: tuple[Step, ...] = ()
    """What it runs in turn."""

    def worst(self) -> Step:
        """The step that decides: this one, or one below it."""
        return worst((self, *(step.worst() for step in self.steps)))

    def all(self) -> list[Step]:
        """This step and all below it."""
        return [self, *(inner for step in self.steps for inner in step.all())]


def worst(steps: Sequence[Step]) -> Step:
    """The first of the steps with the gravest outcome."""
    return max(steps, key=lambda step: _SEVERITY[step.outcome])


class Judge:
    """Judges one request. Not kept."""

    def __init__(self, ruleset: Ruleset, dialect: Dialect) -> None:
        """Judge by `ruleset`; texts that no shell is named for are read as `dialect`."""
        self._rules = ruleset
        self._dialect = dialect
        self._count = 0

    def reading(self, reading: Reading, scene: Scene, dialect: Dialect | None = None) -> tuple[Step, ...]:
        """Judge each command of a reading, in the order of the text."""
        dialect = dialect or self._dialect
        problem = self._bad_function(reading, scene)
        if problem is not None:
            return (problem,)
        if _wanders(reading):
            trial = replace(scene, visited=frozenset())
            self._in_order(reading, trial, dialect)
            scene.wandering = True
            both = None if trial.visited is None or scene.directories is None else scene.directories | trial.visited
            scene.directories = both
        return self._in_order(reading, scene, dialect)

    def _in_order(self, reading: Reading, scene: Scene, dialect: Dialect) -> tuple[Step, ...]:
        steps = []
        for index, command in enumerate(reading.commands):
            scene.index = index
            steps.append(self.command(command, scene, dialect))
        return tuple(steps)

    def _bad_function(self, reading: Reading, scene: Scene) -> Step | None:
        for name in sorted(reading.functions):
            if name in self._rules.programs or name in ALTERNATIVES:
                reason = f"the function {shown(name)} would hide a program"
                return Step(name, "deny", "function", reason)
        scene.functions = frozenset(name for name in reading.functions if _surely_defined(name, scene.text))
        return None

    def command(self, command: SimpleCommand, scene: Scene, dialect: Dialect) -> Step:
        """Judge one simple command and all that it runs."""
        self._count += 1
        name = " ".join(word.source for word in command.words) or "; ".join(
            [
                *(f"{a.name}={a.value.source}" for a in command.assignments),
                *(f"> {r.target.source}" for r in command.redirections),
            ]
        )
        label = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        try:
            if scene.depth > _MOST_DEPTH or self._count > _MOST_STEPS:
                raise MisfitError("syntax", "the command is nested too deeply, or is too long")
            return self._judge(label, command, scene, dialect)
        except MisfitError as misfit:
            outcome: Outcome = "ask" if misfit.outcome == "ask" else "deny"
            return Step(label, outcome, misfit.rule, misfit.reason)
        except UnreadableError as error:
            return Step(label, "deny", error.rule, error.reason)

    def _judge(self, label: str, command: SimpleCommand, scene: Scene, dialect: Dialect) -> Step:
        for redirection in command.redirections:
            if redirection.kind != "text":
                check_value("read" if redirection.kind == "read" else "write", redirection.target, scene)
        if not command.words:
            for assignment in command.assignments:
                check_assignment(assignment.name, assignment.value, scene)
            return Step(label, "allow", "assignment", "sets variables, opens files, or nothing")
        program = command.words[0].text
        if program is None:
            raise MisfitError(
                "computed", f"which program {shown(command.words[0].source)} is, is not known before it runs"
            )
        if program.startswith(MODULE) and command.words[0].prefix != MODULE:
            raise MisfitError("program", f"{shown(program)} is not an allowed program")
        if program in scene.functions:
            self._check_assignments(command, (), scene)
            return Step(label, "allow", "function", f"{shown(program)} is defined in the text")
        candidates, words = self._candidates(program, command.words[1:], scene)
        self._check_assignments(command, candidates, scene)
        return self._weigh(label, command, candidates, words, scene, dialect)

    def _check_assignments(self, command: SimpleCommand, candidates: Sequence[Rule], scene: Scene) -> None:
        for assignment in command.assignments:
            kinds = [rule.env[assignment.name] for rule in candidates if assignment.name in rule.env]
            if kinds:
                check_value(kinds[0] or "any", assignment.value, scene)
            else:
                check_assignment(assignment.name, assignment.value, scene)

    def _candidates(self, program: str, words: Sequence[Word], scene: Scene) -> tuple[list[Rule], Sequence[Word]]:
        """The rules for a program and its subcommand, with the words after that. Raises MisfitError."""
        known = self._rules.name_of(program)
        if known is None:
            raise MisfitError("program", f"{shown(program)} is a path; {_path_advice(program)}")
        rules = self._rules.programs.get(known)
        if rules is None and runs_own_module(known.removeprefix(MODULE)) and known.startswith(MODULE):
            rules = self._rules.programs.get("python -m *")
        if rules is None:
            if known.startswith(MODULE):
                raise MisfitError("module", f"the module {shown(known[len(MODULE) :])} is not listed", "ask")
            raise MisfitError("program", f"{shown(program)} is not an allowed program", "deny")
        under = [rule for rule in rules if rule.subcommands]
        if not under:
            return list(rules), words
        plain = [rule for rule in rules if not rule.subcommands]
        if any(rule.table.any for rule in plain):
            return list(rules), words
        operands: Sequence[Word] = words
        if plain:
            found = arguments_of(plain[0], words)
            plain[0].check_options(found, scene)
            operands = found.operands
            if not operands:
                return plain, words
        return _by_subcommand(program, under, operands)

    def _weigh(
        self,
        label: str,
        command: SimpleCommand,
        candidates: Sequence[Rule],
        words: Sequence[Word],
        scene: Scene,
        dialect: Dialect,
    ) -> Step:
        fitting: list[tuple[Rule, Inner]] = []
        misfits: list[tuple[Rule, MisfitError]] = []
        for rule in candidates:
            if rule.table.verdict == "allow":
                try:
                    fitting.append((rule, self._fit(rule, command, words, scene)))
                except MisfitError as misfit:
                    misfits.append((rule, misfit))
            elif _concerns(rule, words, scene):
                fitting.append((rule, NOTHING))
        if not fitting:
            return self._misfit(label, misfits)
        rule, inner = max(fitting, key=lambda pair: _SEVERITY[pair[0].table.verdict])
        table = rule.table
        if table.verdict != "allow":
            reason = table.reason or f"the rule {table.id} says {table.verdict}"
            return Step(label, table.verdict, table.id, reason, table.alternative)
        steps = self._inner(inner, command, scene, dialect)
        reason = table.reason or "allowed"
        return Step(label, "allow", table.id, reason, "", table.network, table.timeout, steps)

    def _misfit(self, label: str, misfits: Sequence[tuple[Rule, MisfitError]]) -> Step:
        if not misfits:
            return Step(label, "deny", "program", "no rule allows it")
        outcomes = []
        for rule, misfit in misfits:
            otherwise = rule.table.otherwise or self._rules.otherwise
            outcomes.append(otherwise if misfit.outcome == "otherwise" else misfit.outcome)
        rule, misfit = misfits[-1]
        outcome: Outcome = "ask" if all(outcome == "ask" for outcome in outcomes) else "deny"
        program = rule.table.programs[0]
        return Step(label, outcome, misfit.rule, f"{program}: {misfit.reason}", rule.table.alternative)

    @staticmethod
    def _fit(rule: Rule, command: SimpleCommand, words: Sequence[Word], scene: Scene) -> Inner:
        if rule.table.check:
            if rule.table.check == "xargs":
                scene.producer = producer_of(scene.reading.commands, scene.index) if scene.depth == 0 else ()
            return CHECKERS[rule.table.check](rule, words, command, scene)
        rest = rule.fit(words, scene)
        return Inner(commands=(tuple(rest),)) if rest else NOTHING

    def _inner(self, inner: Inner, command: SimpleCommand, scene: Scene, dialect: Dialect) -> tuple[Step, ...]:
        if inner is NOTHING:
            return ()
        steps: list[Step] = []
        for words in inner.commands:
            below = replace(scene, depth=scene.depth + 1, functions=frozenset())
            run = SimpleCommand(
                words, (), command.redirections if command.redirections else (), command.piped, command.place
            )
            steps.append(self.command(run, below, dialect))
            scene.directories, scene.visited = below.directories, below.visited
        for text, shell in inner.texts:
            reading = read(text, shell or dialect)
            below = replace(
                scene,
                depth=scene.depth + 1,
                reading=reading,
                text=text,
                functions=frozenset(),
                outer=(*scene.outer, scene.reading),
            )
            steps += self.reading(reading, below, shell or dialect)
            if inner.here:
                scene.directories, scene.visited = below.directories, below.visited
        return tuple(steps)


def _path_advice(program: str) -> str:
    if program.startswith("/"):
        return "name the program alone, as PATH finds it"
    return "run a script by its interpreter's name"


def _by_subcommand(program: str, rules: Sequence[Rule], operands: Sequence[Word]) -> tuple[list[Rule], Sequence[Word]]:
    texts = tuple(word.text for word in operands[:4])
    best: list[Rule] = []
    length = 0
    for rule in rules:
        for names in rule.subcommands:
            if texts[: len(names)] == names and len(names) >= length:
                best = [*best, rule] if len(names) == length else [rule]
                length = len(names)
    if not best:
        name = operands[0].source if operands else ""
        raise MisfitError("subcommand", f"{program} has no listed subcommand {shown(name)}", "deny")
    return best, operands[length:]


def _concerns(rule: Rule, words: Sequence[Word], scene: Scene) -> bool:
    """Whether a rule that denies or asks is about these arguments. Broad: an abbreviation counts as the option."""
    if rule.table.any:
        return True
    if any(_may_be(word, name) for word in words for name in rule.options.options):
        return True
    kinds = [*rule.operands.first, *rule.operands.optional, *filter(None, [rule.operands.many])]
    operands = [word for word in words if not (word.text or word.prefix).startswith("-")]
    if not kinds and not rule.options.options:
        return not words
    return any(_is_of(kind, word, scene) for kind in kinds for word in operands)


def _is_of(kind: str, word: Word, scene: Scene) -> bool:
    try:
        check_value(kind, word, scene)
    except MisfitError:
        return False
    return True


def _wanders(reading: Reading) -> bool:
    """Whether commands may run again after a `cd` that stands behind them."""
    names = {command.words[0].text for command in reading.commands if command.words}
    if not names & _MOVING:
        return False
    again = any(part == "loop" or part.startswith("function") for command in reading.commands for part in command.place)
    return again or "trap" in names


def _may_be(word: Word, option: str) -> bool:
    text = word.text if word.text is not None else word.prefix
    name = text.partition("=")[0]
    if option.startswith("--"):
        return len(name) > len("--") and (option.startswith(name) or name == option)
    return name == option or (len(option) == len("-x") and text[:1] == "-" and text[:2] != "--" and option[1] in text)


def _surely_defined(name: str, text: str | None) -> bool:
    """Whether the text defines the function in a line of its own, where nothing decides whether it is."""
    if text is None or "#" in text:
        return False
    match = re.search(rf"(?:^|[\n;}}])[ \t]*(?:function[ \t]+)?{re.escape(name)}[ \t]*\([ \t]*\)\s*\{{", text)
    if match is None:
        return False
    before = text[: match.start() + 1].rstrip(" \t\n")
    return re.search(r"(?:&&|\|\|?|\b(?:if|then|else|do|while|until|in))$|<<", before) is None and before.count(
        "("
    ) == before.count(")")
