"""Hides the values of declared secrets in what a record shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

SHORTEST_SECRET = 6
"""Characters. A shorter value occurs by chance, and hiding it would spoil the log and tell where it stands."""
REDACTED = "[redacted]"


class Redactor:
    """Replaces each occurrence of each secret, overlapping ones together. Secrets that are too short stay."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(dict.fromkeys(secret for secret in secrets if len(secret) >= SHORTEST_SECRET))

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def __call__(self, text: str) -> str:
        """The text as it may be shown."""
        spans = sorted(span for secret in self._secrets for span in _occurrences(text, secret))
        if not spans:
            return text
        shown: list[str] = []
        shown_to, (start, end) = 0, spans[0]
        for next_start, next_end in spans[1:]:
            if next_start > end:
                shown += (text[shown_to:start], REDACTED)
                shown_to, start = end, next_start
            end = max(end, next_end)
        return "".join((*shown, text[shown_to:start], REDACTED, text[end:]))


def _occurrences(text: str, secret: str) -> Iterable[tuple[int, int]]:
    start = text.find(secret)
    while start >= 0:
        yield start, start + len(secret)
        start = text.find(secret, start + 1)
