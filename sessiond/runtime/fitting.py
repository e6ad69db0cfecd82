"""A sandbox made to fit the session that has just claimed it: its limits lowered, its kernel rules put in force."""

from __future__ import annotations

from sessiond_protocol.messages import SessionOpen

from sessiond.core.errors import RequestError
from sessiond.core.launch import Environment
from sessiond.engine.port import EngineError
from sessiond.runtime.confine import confine
from sessiond.runtime.sandbox import Sandbox
from sessiond.runtime.terms import OpenProfile, session_limits


async def fit(sandbox: Sandbox, request: SessionOpen, profile: OpenProfile) -> None:
    """Bind to the sandbox what the session brings. Raises RequestError: then no session may have it."""
    rules = profile.rules
    limits = session_limits(request, rules.limits)
    if limits != rules.limits:
        try:
            await profile.engine.tighten(sandbox.id, limits)
        except EngineError as error:
            raise RequestError("unavailable", f"the session's limits cannot be set: {error}") from error
    if rules.kernel is not None:
        await confine(sandbox, rules.kernel, Environment(profile.pool.image_env, rules.env).path)
