"""What the store refuses."""

from __future__ import annotations

from sessiond.core.errors import SessiondError


class StoreError(SessiondError):
    """The record cannot be written or read. What was to be recorded is not, and must not happen."""


class StoreVersionError(StoreError):
    """The record was written by a newer sessiond."""
