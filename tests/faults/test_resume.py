"""The network fails again and again, and no byte is lost, none comes twice, and nothing runs twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sessiond_client.backoff
from sessiond_client import Client, FencedError, Output, connect
from sessiond_client.command import Command

from tests.daemon import DaemonProcess, python
from tests.proxy import CuttingProxy

MEGABYTE = 1024 * 1024
CUTS = 20
"""At least so many, in each test."""

WRITE = """
import hashlib, os, sys
with open("ran", "a") as file:
    file.write("x")
size, digest = int(sys.argv[1]), hashlib.sha256()
block = os.urandom(1 << 16)
for n in range(size >> 16):
    piece = n.to_bytes(8, "big") + block[8:]
    digest.update(piece)
    sys.stdout.buffer.write(piece)
sys.stdout.flush()
with open("digest", "w") as file:
    file.write(digest.hexdigest())
"""

READ = """
import hashlib, sys
with open("read", "a") as file:
    file.write("x")
size, digest = 0, hashlib.sha256()
while piece := sys.stdin.buffer.read(1 << 16):
    size += len(piece)
    digest.update(piece)
print(size, digest.hexdigest())
"""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many cuts in a row would else be waited for longer than a test may take."""
    monkeypatch.setattr(sessiond_client.backoff, "LONGEST", 0.2)


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SESSIOND_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SESSIOND_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
async def proxy(daemon: DaemonProcess, unharmed: None, tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(tmp_path / "proxy", daemon.socket) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: CuttingProxy) -> AsyncIterator[Client]:
    async with connect(proxy.url) as client:
        yield client


def cuts(chance: random.Random, size: int) -> Iterator[int]:
    """Byte counts of which about 30 make up `size`, some of them within a handshake."""
    total = 0
    while total < size:
        count = chance.randrange(2000) if chance.random() < 0.2 else chance.randrange(1, size // 12)
        total += count
        yield count


async def text_of(client: Client, session: str, command: list[str]) -> str:
    return (await (await client.session(session)).run(command, check=True)).text


async def test_output_through_a_network_that_fails(client: Client, proxy: CuttingProxy, chance: random.Random) -> None:
    size = 50 * MEGABYTE
    session = await client.open("open")
    proxy.cut_after(down=cuts(chance, size))
    command = await session.start(python(WRITE, str(size)), stdin=False)
    digest, received = hashlib.sha256(), 0
    async for piece in command:
        assert isinstance(piece, Output)
        assert piece.offset == received
        digest.update(piece.data)
        received += len(piece.data)
    status = await command.wait()
    proxy.cut_after()
    assert (status.exit_code, status.output_bytes, received) == (0, size, size)
    assert digest.hexdigest() == await text_of(client, session.id, ["cat", "digest"])
    assert await text_of(client, session.id, ["cat", "ran"]) == "x"
    assert client.reconnects >= CUTS
    assert [info.state for info in await session.commands()] == ["exited"] * 3


async def test_input_through_a_network_that_fails(client: Client, proxy: CuttingProxy, chance: random.Random) -> None:
    data = chance.randbytes(5 * MEGABYTE)
    session = await client.open("open")
    proxy.cut_after(up=cuts(chance, len(data)))
    result = await session.run(python(READ), stdin=data, check=True)
    proxy.cut_after()
    assert result.text == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"
    assert await text_of(client, session.id, ["cat", "read"]) == "x"
    assert client.reconnects >= CUTS


async def test_a_workspace_through_a_network_that_fails(
    client: Client, proxy: CuttingProxy, chance: random.Random, tmp_path: Path
) -> None:
    """Out of one session and into another, each of it once and all of it."""
    size = 20 * MEGABYTE
    one, other = await client.open("open"), await client.open("open")
    made = f"head -c {size} /dev/urandom >large; echo x >small; sha256sum *"
    digests = (await one.run(made, check=True)).text
    proxy.cut_after(down=cuts(chance, size))
    exported = await one.export_workspace(tmp_path / "tar")
    proxy.cut_after(up=cuts(chance, size))
    imported = await other.import_workspace(tmp_path / "tar")
    proxy.cut_after()
    assert exported.complete and imported.size == exported.size == (tmp_path / "tar").stat().st_size
    assert await text_of(client, other.id, ["sh", "-c", "sha256sum *"]) == digests
    assert client.reconnects >= CUTS
    assert [info.state for info in await other.commands()] == ["exited"] * 2


async def test_commands_through_a_network_that_fails_run_once(
    client: Client, proxy: CuttingProxy, chance: random.Random
) -> None:
    session = await client.open("open")
    proxy.cut_after(down=(chance.randrange(1200) for _ in range(50)), up=(chance.randrange(1200) for _ in range(50)))
    count = 0
    while client.reconnects < CUTS:
        count += 1
        result = await session.run(f"echo {count} >> count; cat", stdin=b"x" * count)
        assert result.stdout == b"x" * count
    proxy.cut_after()
    assert await text_of(client, session.id, ["cat", "count"]) == "".join(f"{n + 1}\n" for n in range(count))


async def test_a_writer_that_comes_back_takes_over_from_nobody(
    client: Client, proxy: CuttingProxy, daemon: DaemonProcess
) -> None:
    session = await client.attach((await client.open("open")).id)
    reading: Command = await session.start(["cat"])
    await reading.write(b"one")
    assert await reading.next() == Output("stdout", b"one", 0)
    proxy.cut()
    await session.run("true", check=True)  # It is still the writer.
    async with connect(daemon.url) as other:
        taken = await other.attach(session.id)
        proxy.cut()
        with pytest.raises(FencedError):
            await session.run("true")
        assert client.reconnects == 2
        with pytest.raises(FencedError):
            await reading.write(b"two")
            await reading.write(b"three" * 100_000)
        await taken.run("true", check=True)
        await (await taken.command(reading.id, offset=3, stdin_offset=3)).write(b"four")
        assert await reading.next() == Output("stdout", b"four", 3)  # Reading goes on.


async def test_input_is_not_held_up_by_an_acknowledgement_that_was_lost(
    client: Client, proxy: CuttingProxy, daemon: DaemonProcess
) -> None:
    session = await client.open("open")
    command = await session.start("head -c 262144 > taken; wc -c")
    proxy.deaf = True
    await command.write(b"x" * 256 * 1024)
    async with connect(daemon.url) as other:
        while await text_of(other, session.id, ["stat", "-c", "%s", "taken"]) != "262144\n":
            await asyncio.sleep(0.01)
    proxy.cut()
    proxy.deaf = False
    async with asyncio.timeout(10):
        await command.write(b"x" * 256 * 1024)
        await command.close_stdin()
        output = await command.next()
    assert isinstance(output, Output)
    assert output.data == b"262144\n"
