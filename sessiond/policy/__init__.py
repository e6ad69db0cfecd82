"""Whether a command may run."""

from sessiond.policy.decide import CommandRequest, Policy, Verdict, load_policy
from sessiond.policy.errors import PolicyError

__all__ = ["CommandRequest", "Policy", "PolicyError", "Verdict", "load_policy"]
