"""Every test runs against the real binary and against the same sources with sanitizers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessiond.guest.build import build

from .harness import Guest


@pytest.fixture(scope="session", params=["release", "sanitized"])
def binary(request: pytest.FixtureRequest) -> Path:
    return build(platform.machine(), sanitize=request.param == "sanitized")


@pytest.fixture
def make_guest(binary: Path) -> Iterator[Callable[..., Guest]]:
    """Starts guests, and checks at the end that none of them tripped a sanitizer."""
    guests: list[Guest] = []

    def make(**options: object) -> Guest:
        guest = Guest(binary, **options)  # type: ignore[arg-type]
        guests.append(guest)
        return guest

    yield make
    for guest in guests:
        guest.close()


@pytest.fixture
def guest(make_guest: Callable[..., Guest]) -> Guest:
    """A connected guest that is an ordinary process."""
    guest = make_guest()
    assert [type(frame).__name__ for frame in guest.connect()] == ["Synced"]
    return guest


@pytest.fixture
def init(make_guest: Callable[..., Guest]) -> Guest:
    """A connected guest that is PID 1 of a pid namespace."""
    guest = make_guest(first=True)
    guest.connect()
    return guest
