"""Who is at the other end, as the audit log says it."""

from __future__ import annotations

import asyncio
import os
import socket

from sessiond.server.peer import peer_name, peer_uid


async def test_the_peer_of_a_unix_socket_is_known_by_its_user() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        assert peer_name(peer_uid(transport)) == f"uid:{os.getuid()}"
        transport.close()


def test_a_peer_that_the_kernel_does_not_know_proved_its_token() -> None:
    assert peer_name(None) == "token"
