"""Who may come in, decided before anything is created for them.

Pure checks of a request's headers and of a socket's peer.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Door:
    """What one listener asks of those who knock."""

    name: str
    """The listener's address, for logs."""
    token: bytes | None
    """Bearer token; None where the socket's peer is proof enough."""
    hosts: frozenset[str] | None
    """Host names that a request may be addressed to; None on unix sockets, which no name can be rebound to."""
    uids: frozenset[int] | None
    """Users who may connect, where the kernel tells who does."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in HTTP instead of an open door."""

    status: HTTPStatus
    reason: str


def check_peer(door: Door, uid: int | None) -> bool:
    """Whether the user at the other end may connect at all."""
    return door.uids is None or uid in door.uids


def check_request(door: Door, headers: Mapping[str, str]) -> Refusal | None:
    """Refuse a request by its headers (lower-case names), or None.

    Any Origin is refused: only browsers send one, and no page has business here. Host is checked because the WebSocket
    library does not, and DNS rebinding would otherwise reach a loopback port. The token is compared in constant time.
    """
    if "origin" in headers:
        return Refusal(HTTPStatus.FORBIDDEN, "requests from web pages are refused")
    if door.hosts is not None and host_name(headers.get("host", "")) not in door.hosts:
        return Refusal(HTTPStatus.FORBIDDEN, "this host name is not served here")
    if door.token is not None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), door.token)
        if scheme.lower() != "bearer" or not right:
            return Refusal(HTTPStatus.UNAUTHORIZED, "a bearer token is needed")
    return None


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
