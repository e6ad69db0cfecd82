"""Cutting a listing to what one reply may hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from sessiond_protocol.messages import Message

M = TypeVar("M", bound=Message)

PAGE_BYTES = 512 * 1024
"""Half of the largest frame: sizes are measured as JSON, which is never much smaller than msgpack."""


def page(items: Iterable[M], limit: int) -> tuple[list[M], bool]:
    """The first `limit` items, fewer when they are large but at least one, and whether there are more."""
    found: list[M] = []
    size = 0
    for item in items:
        size += len(item.model_dump_json())
        if len(found) == limit or (found and size > PAGE_BYTES):
            return found, True
        found.append(item)
    return found, False
