"""Who is at the other end of a connection."""

from __future__ import annotations

import asyncio
import socket
import struct


def peer_uid(transport: asyncio.BaseTransport) -> int:
    """The user at the other end of a unix socket, as the kernel saw it connect."""
    peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[1])


def peer_name(uid: int | None) -> str:
    """The peer as the audit log says it: by its user where the kernel tells it, else by what it proved."""
    return "token" if uid is None else f"uid:{uid}"
