"""A session's kernel rules put in force on the sandbox that it has just claimed."""

from __future__ import annotations

import os

import structlog
from sessiond_protocol import guest as wire

from sessiond.core.errors import RequestError
from sessiond.policy.kernel import FILES, KernelLayer, KernelRules, layer, restriction
from sessiond.runtime.link import LinkError
from sessiond.runtime.sandbox import Sandbox

log = structlog.get_logger()

RESTRICT_SECONDS = 5.0
"""Measured: 0.5 ms for a list of four programs. The guest looks at each path once."""


async def confine(sandbox: Sandbox, rules: KernelRules, search: str) -> None:
    """Restrict the sandbox, before its first command, and note in `sandbox.layer` what holds.

    `search` is the PATH of its commands. Raises RequestError `unavailable` where less holds than the rules need: then
    no session may have the sandbox.
    """
    frame = restriction(rules, search)
    try:
        answer = await sandbox.link.restrict(frame, RESTRICT_SECONDS)
    except LinkError as error:
        raise RequestError("unavailable", str(error), "try again") from error
    sandbox.layer = held = layer(frame, answer)
    check(rules, frame, answer, held)
    if held.absent:
        log.warning("kernel layer incomplete", sandbox=sandbox.id, layer=str(held), absent=held.absent)


def check(rules: KernelRules, frame: wire.Restrict, answer: wire.Restricted, held: KernelLayer) -> None:
    """Raise RequestError unless what holds is enough: all of it, or with `use` all that a kernel of this age can do."""
    if answer.error or (answer.abi and frame.flags & FILES & ~answer.applied):
        why = os.strerror(answer.error) if answer.error else "the guest did not say why"
        raise RequestError("unavailable", f"the session's kernel rules could not be put in force: {why}")
    if rules.use == "require" and held.absent:
        raise RequestError(
            "unavailable",
            f"the profile requires kernel rules that this machine does not have: {held}",
            "use a newer kernel or another profile",
        )
