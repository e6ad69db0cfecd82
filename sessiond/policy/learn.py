"""What an audit log teaches: which commands another policy would decide otherwise, and rules for what was not allowed.

Nothing is applied. The log has names of variables only, so commands are judged without their environment.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sessiond.policy.decide import CommandRequest, Policy, Verdict
from sessiond.policy.errors import shown
from sessiond.policy.hints import ALTERNATIVES

_MOST_EXAMPLES = 3
_PLAIN = re.compile(r"[A-Za-z0-9_./+:=@%,-]+", re.ASCII)
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One command of an audit log."""

    request: CommandRequest
    verdict: str

    @property
    def text(self) -> str:
        """The command as one line."""
        return self.request.text if self.request.text is not None else shlex.join(self.request.argv or ())


def recorded(lines: Iterable[str]) -> Iterator[Recorded]:
    """The decisions in an audit log's lines. Those that were cut, and what is no record, are left out."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or record.get("event") != "decision" or record.get("truncated"):
            continue
        argv, text = record.get("argv"), record.get("text")
        words = tuple(map(str, argv)) if isinstance(argv, list) else None
        if words is not None or isinstance(text, str):
            request = CommandRequest(words, None if words is not None else text, {}, str(record.get("cwd") or ""))
            yield Recorded(request, str(record.get("verdict")))


def differences(old: Policy, new: Policy, records: Iterable[Recorded]) -> Iterator[tuple[Recorded, Verdict, Verdict]]:
    """The recorded commands that `new` decides otherwise than `old`, each once."""
    seen: set[CommandRequest | str] = set()
    for record in records:
        key = f"{record.request.argv} {record.request.text!r} {record.request.cwd}"
        if key in seen:
            continue
        seen.add(key)
        before, after = old.decide(record.request), new.decide(record.request)
        if before.outcome != after.outcome:
            yield record, before, after


@dataclass(slots=True)
class Proposal:
    """A rule that would allow what was seen of one program."""

    program: str
    count: int = 0
    options: dict[str, None] = field(default_factory=dict)
    examples: dict[str, None] = field(default_factory=dict)
    reasons: dict[str, None] = field(default_factory=dict)

    def toml(self, mark: str = "") -> str:
        """The rule as text for a rule file, with what to think of before it is taken. `mark` makes its id another."""
        name = "-".join(filter(None, ("learned", re.sub("[^a-z0-9-]", "-", self.program.lower()), mark)))
        lines = [f"# {self.program}: not allowed {self.count} times: {'; '.join(list(self.reasons)[:_MOST_EXAMPLES])}"]
        if self.program in ALTERNATIVES:
            return "\n".join([*lines, f"# no rule is proposed: {ALTERNATIVES[self.program]}", ""])
        examples = ", ".join(json.dumps(example) for example in list(self.examples)[:_MOST_EXAMPLES])
        lines += [
            "# Look up what each option does before you take this: it must run no program and read no file outside.",
            "[[rule]]",
            f'id = "{name}"',
            f"programs = [{json.dumps(self.program)}]",
            f"options = {json.dumps(' '.join(self.options))}",
            'operands = "read*"',
            f"allows = [{examples}]",
            "",
        ]
        return "\n".join(lines)


def proposals(policy: Policy, records: Iterable[Recorded]) -> list[Proposal]:
    """Rules for what `policy` does not allow of the recorded commands, the most frequent first."""
    found: dict[str, Proposal] = {}
    for record in records:
        verdict = policy.decide(record.request)
        if verdict.outcome == "allow":
            continue
        for step in [inner for outer in verdict.steps for inner in outer.all()]:
            words = step.command.split(" ")
            if step.outcome == "allow" or _PROGRAM.fullmatch(words[0]) is None:
                continue
            proposal = found.setdefault(words[0], Proposal(words[0]))
            proposal.count += 1
            proposal.reasons[shown(step.reason)] = None
            if all(_PLAIN.fullmatch(word) for word in words):
                proposal.examples[step.command] = None
                for word in words[1:]:
                    name, equals, _ = word.partition("=")
                    if word.startswith("-") and len(name) > 1:
                        proposal.options[f"{name}=any" if equals and name.startswith("--") else name] = None
    return sorted(found.values(), key=lambda proposal: -proposal.count)
