"""Whether a command may run."""

from sessiond.policy.decide import CommandRequest, Policy, Verdict

__all__ = ["CommandRequest", "Policy", "Verdict"]
