"""Sessions: opening, finding, following, closing."""

from __future__ import annotations

import asyncio

import pytest
from sessiond_client import (
    Client,
    ConnectionLostError,
    FencedError,
    NotFoundError,
    Session,
    SessionLimits,
    UsageError,
)
from sessiond_protocol import messages
from sessiond_protocol.messages import ClientMessage, SessionClose, SessionOpen

from .peer import Peer, Talk
from .test_run import settle


async def test_opening_says_everything(client: Client, peer: Peer) -> None:
    session = await client.open(
        "default",
        session_id="mine",
        name="n",
        labels={"team": "a"},
        env={"A": "1"},
        limits=SessionLimits(pids=5),
        ttl=3600,
        idle_timeout=60.5,
    )
    assert (session.id, session.profile, session.snapshot.name) == ("mine", "default", "n")
    assert session.client is client
    (request,) = peer.received(SessionOpen)
    assert isinstance(request, SessionOpen)
    assert (request.labels, request.env, request.limits.pids) == ({"team": "a"}, {"A": "1"}, 5)
    assert (request.ttl, request.idle_timeout) == (3600, 60.5)


async def test_the_client_chooses_ids_so_that_a_retry_is_safe(client: Client, peer: Peer) -> None:
    await client.open()
    await client.open()
    one, two = (message.session for message in peer.received(SessionOpen) if isinstance(message, SessionOpen))
    assert one
    assert two
    assert one != two


async def test_an_unknown_profile_is_told_with_a_hint(client: Client) -> None:
    with pytest.raises(NotFoundError, match="no profile 'nope'") as caught:
        await client.open("nope")
    assert caught.value.hint


async def test_what_cannot_be_opened_is_refused_here(client: Client, peer: Peer) -> None:
    with pytest.raises(UsageError, match="ttl"):
        await client.open(ttl=-1)
    with pytest.raises(UsageError, match="labels"):
        await client.open(labels={"": "x"})
    assert not peer.received(SessionOpen)


async def test_cancelling_an_opening_closes_what_was_opened(client: Client, peer: Peer) -> None:
    peer.delay = 0.02
    task = asyncio.create_task(client.open())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(client)
    assert not peer.sessions
    assert len(peer.received(SessionClose)) == 1


async def test_a_session_that_was_named_is_not_closed_by_cancelling(client: Client, peer: Peer) -> None:
    peer.delay = 0.02
    task = asyncio.create_task(client.open(session_id="mine"))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    peer.delay = 0
    await client.ping()
    assert not peer.received(SessionClose)


async def test_a_block_closes_its_session(client: Client, peer: Peer) -> None:
    async with await client.open() as session:
        assert session.id in peer.sessions
    assert not peer.sessions
    async with await client.open() as session:
        await session.close()
    with pytest.raises(RuntimeError, match="mine"):
        async with await client.open() as session:
            raise RuntimeError("mine")
    assert not peer.sessions


async def test_a_block_whose_connection_breaks_does_not_hide_the_reason(client: Client) -> None:
    with pytest.raises(ConnectionLostError):
        async with await client.open() as session:
            await session.run("drop")


async def test_listing_goes_over_all_pages(client: Client, peer: Peer) -> None:
    peer.page = 2
    opened = [(await client.open(labels={"n": str(i % 2)})).id for i in range(5)]
    assert [info.session for info in await client.sessions()] == opened
    assert [info.session for info in await client.sessions(labels={"n": "1"})] == opened[1::2]
    session = await client.session(opened[0])
    commands = [(await session.start("true")).id for _ in range(5)]
    assert [info.command for info in await session.commands()] == commands


async def test_attaching_and_information(client: Client, session: Session) -> None:
    attached = await client.attach(session.id, mode="reader")
    assert attached.attached
    assert not session.attached
    assert (await attached.info()).session == session.id
    assert (await client.session(session.id)).id == session.id
    for find in (client.attach, client.session, client.close_session):
        with pytest.raises(NotFoundError):
            await find("other")


async def test_events_up_to_the_final_one(client: Client, session: Session, peer: Peer) -> None:
    events = session.events()
    task = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.02)
    assert session.attached
    paused = session.snapshot.model_copy(update={"state": "lost"})
    await peer.talks[0].send(messages.SessionEvent(session=paused, reason="its sandbox died"))
    event = await task
    assert (event.session.state, event.reason) == ("lost", "its sandbox died")
    await session.close()
    assert [event.session.state async for event in events] == ["closed"]
    assert [event async for event in events] == []
    assert not session.client.link._listeners


async def test_cancelling_an_event_loses_nothing(session: Session) -> None:
    events = session.events()
    task = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.02)
    with pytest.raises(UsageError, match="being read already"):
        await anext(events)
    task.cancel()
    await asyncio.wait([task])
    await session.close()
    assert (await anext(events)).session.state == "closed"


async def test_events_that_nobody_takes_are_bounded(session: Session, peer: Peer, client: Client) -> None:
    await session.attach()
    events = session.events()
    for number in range(400):
        info = session.snapshot.model_copy(update={"commands": number})
        await peer.talks[0].send(messages.SessionEvent(session=info, reason="busy"))
    await client.ping()
    assert (await anext(events)).session.commands == 400 - 256


async def test_another_writer_ends_the_events(session: Session, peer: Peer) -> None:
    await session.attach()
    events = session.events()
    await peer.talks[0].send(messages.Error(session=session.id, code="fenced", message="taken over"))
    with pytest.raises(FencedError):
        await anext(events)


async def test_a_lost_connection_ends_the_events(session: Session, peer: Peer) -> None:
    events = session.events()
    task = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.02)
    peer.talks[0].drop()
    with pytest.raises(ConnectionLostError):
        await task


async def test_a_late_opening_is_undone(peer: Peer, client: Client) -> None:
    async def late(talk: Talk, message: ClientMessage) -> bool:
        await asyncio.sleep(0.1)
        return False

    peer.handlers[SessionOpen] = late
    client.link.timeout = 0.05
    with pytest.raises(TimeoutError):
        await client.open()
    async with asyncio.timeout(2):
        while not peer.received(SessionClose):
            await asyncio.sleep(0.01)
    await settle(client)
    assert not peer.sessions
