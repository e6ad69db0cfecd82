"""What goes wrong with a policy: its file cannot be used, or a command does not fit it."""

from __future__ import annotations

from typing import Literal


class PolicyError(Exception):
    """A policy cannot be loaded. The message lists every problem, a line each: file, rule, key, what is wrong."""

    def __init__(self, problems: list[str]) -> None:
        """Keep `problems`, at least one."""
        super().__init__("\n".join(problems))
        self.problems = problems


class MisfitError(Exception):
    """A command does not fit a rule that would have allowed it."""

    def __init__(self, rule: str, reason: str, outcome: Literal["deny", "ask", "otherwise"] = "deny") -> None:
        """Refuse by `rule`; the outcome `otherwise` leaves it to the rule whether that is an `ask`."""
        super().__init__(reason)
        self.rule = rule
        self.reason = reason
        self.outcome = outcome


def shown(word: str) -> str:
    """A word as a reason shows it: bounded, with nothing that a terminal would obey."""
    escaped = word.encode("unicode_escape").decode() if not word.isprintable() else word
    return repr(escaped if len(escaped) <= 80 else f"{escaped[:80]}...")
