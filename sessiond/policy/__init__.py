"""Whether a command may run, and the record of it."""

from sessiond.policy.audit import AuditError, AuditLog, Ending, Subject
from sessiond.policy.decide import CommandRequest, Policy, Verdict, load_policy
from sessiond.policy.errors import PolicyError

__all__ = [
    "AuditError",
    "AuditLog",
    "CommandRequest",
    "Ending",
    "Policy",
    "PolicyError",
    "Subject",
    "Verdict",
    "load_policy",
]
