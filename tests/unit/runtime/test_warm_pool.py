"""The warm pool, with sandboxes whose guests the test plays over real sockets."""

import asyncio
import socket

import pytest
from sessiond_protocol import guest as wire

from sessiond.core.pool import PoolPolicy
from sessiond.runtime import pool as pool_module
from sessiond.runtime import sandbox as sandbox_module
from sessiond.runtime.outbox import Outbox
from sessiond.runtime.pool import Pool
from sessiond.runtime.sandbox import Sandbox

DEADLINE = 10.0
NEVER = 3600.0


class Guest(asyncio.Protocol):
    """Says who it is and answers pings, until it is told to be silent."""

    def __init__(self):
        self.silent = False
        self.gone = asyncio.Event()
        self._decoder = wire.DaemonDecoder()

    def connection_made(self, transport):
        self._transport = transport
        self._say(wire.Hello(version=wire.VERSION, features=0, boot=bytes(16), ring=1 << 20, commands=256))

    def data_received(self, data):
        for frame in self._decoder.feed(data):
            if isinstance(frame, wire.Welcome):
                self._say(wire.Synced())
            elif isinstance(frame, wire.Ping) and not self.silent:
                self._say(wire.Pong(frame.token))

    def connection_lost(self, exc):
        self.gone.set()

    def _say(self, frame):
        self._transport.write(wire.encode(frame))


class PlayedSandbox(Sandbox):
    """One that no engine made."""

    def __init__(self, name):
        self.id = name
        super().__init__(None, self, Outbox())
        self.guest = Guest()

    async def launch(self):
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.create_connection(self.link.connection, sock=ours)
        await loop.create_connection(lambda: self.guest, sock=theirs)
        await self.link.ready(DEADLINE)

    async def remove(self):
        self.link.close()
        async with asyncio.timeout(DEADLINE):
            await self.guest.gone.wait()


@pytest.fixture
async def pool():
    made = []

    def make(name, volume):
        assert volume == ""
        made.append(PlayedSandbox(name))
        return made[-1]

    async def prepare():
        return {}

    policy = PoolPolicy(min=2, max=8, creations=4, max_age=NEVER, waiters=4)
    pool = Pool("open", policy, make, prepare, prepare, wait_seconds=DEADLINE, health_interval=NEVER)
    pool.start()
    await full(pool)
    yield pool
    await pool.close()
    for sandbox in made:
        await sandbox.remove()


async def full(pool):
    async with asyncio.timeout(DEADLINE):
        while len(pool.view.warm) < 2 or pool.view.creating or pool.view.removing:
            await asyncio.sleep(0.001)


async def test_what_was_taken_is_made_up_for(pool):
    sandbox, pooled = await pool.claim(pool.reserve())
    assert pooled
    await full(pool)
    assert sandbox.id not in {warm.sandbox for warm in pool.view.warm}
    assert (pool.counts.hits, pool.counts.created) == (1, 3)


async def test_creation_does_not_run_into_the_answer_to_an_opening(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "REFILL_SECONDS", NEVER)
    await pool.claim(pool.reserve())
    for _ in range(10):
        await asyncio.sleep(0)
    assert (len(pool.view.warm), pool.view.creating) == (1, 0)


async def test_an_opening_that_finds_nothing_warm_does_not_wait_for_the_refills_time(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "REFILL_SECONDS", NEVER)
    claims = [await pool.claim(pool.reserve()) for _ in range(3)]
    assert [pooled for _, pooled in claims] == [True, True, False]
    await full(pool)


async def test_a_sandbox_whose_guest_does_not_answer_is_not_handed_out(pool, monkeypatch):
    monkeypatch.setattr(sandbox_module, "PING_SECONDS", 0.05)
    silent, _ = reserved = pool.reserve()
    silent.guest.silent = True
    other, pooled = await pool.claim(reserved)
    assert pooled
    assert other is not silent
    assert silent.cause is not None
    assert (pool.counts.hits, pool.counts.died) == (1, 1)
    await full(pool)
