"""The daemon's refusals: one type, with the wire's code, what happened, and what to do next."""

from __future__ import annotations

from sessiond_protocol.messages import ErrorCode


class SessiondError(Exception):
    """Root of the daemon's errors."""


class RequestError(SessiondError):
    """A request cannot be done. Becomes the wire's `error` message."""

    def __init__(self, code: ErrorCode, message: str, hint: str = "", rule: str | None = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.hint = hint
        self.rule = rule
