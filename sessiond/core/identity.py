"""Whether two requests ask for the same: what makes sending one again safe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sessiond_protocol.codec import encode
from sessiond_protocol.messages import CommandStart, SessionOpen


def same_body(one: CommandStart | SessionOpen, other: CommandStart | SessionOpen) -> bool:
    """Whether two requests ask for the same. Correlation id and window do not count: they concern the asker only."""
    if isinstance(one, CommandStart):
        return one == other.model_copy(update={"id": one.id, "window": one.window, "answer": one.answer})
    return one == other.model_copy(update={"id": one.id})


def request_digest(request: CommandStart | SessionOpen) -> bytes:
    """Digest of all that a request asks for but its correlation id (and the window, which only concerns the asker)."""
    plain: dict[str, object] = {"id": 0}
    if isinstance(request, CommandStart):
        plain |= {"window": 0, "answer": "started"}
    return hashlib.sha256(encode(request.model_copy(update=plain))).digest()


def consent_digest(request: CommandStart, env: Mapping[str, str], policy: str) -> str:
    """SHA-256 (hex) of exactly what would run, so that a consent to one command is none to another.

    `env` is all that the client sets, `policy` the policy's digest. Standard input that comes later cannot be part of
    it; whether any may come is.
    """
    what = {
        "argv": request.argv,
        "text": request.text,
        "cwd": request.cwd,
        "env": dict(env),
        "input": hashlib.sha256(request.input).hexdigest(),
        "stdin": request.stdin,
        "policy": policy,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
