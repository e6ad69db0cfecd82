"""A scripted daemon, and a client that is connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sessiond_client import Client, Session, connect

from .peer import Peer


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with Peer(tmp_path / "s.sock") as peer:
        yield peer


@pytest.fixture
async def client(peer: Peer) -> AsyncIterator[Client]:
    async with connect(peer.url, request_timeout=5, reconnect_timeout=0) as client:
        yield client


@pytest.fixture
async def session(client: Client) -> Session:
    return await client.open("default")
