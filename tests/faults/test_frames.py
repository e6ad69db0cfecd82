"""What is no message, on the real socket: refused as the protocol's page says, and nobody else notices."""

from __future__ import annotations

import struct
import zlib

import pytest
from msgpack import packb
from sessiond_client import Client
from sessiond_protocol.codec import encode
from sessiond_protocol.limits import CONTROL_BYTES, FRAME_BYTES
from sessiond_protocol.messages import CommandStart, Error, Hello, Ping, Pong, SessionInfoRequest, Welcome

from tests.daemon import DaemonProcess, eventually
from tests.wire import Wire

pytestmark = pytest.mark.usefixtures("unharmed")

PING = encode(Ping(id=7))


def array32(size: int) -> bytes:
    return b"\xdd" + struct.pack(">I", size)


def field(name: str, value: bytes) -> bytes:
    return packb(name) + value


def a_map(*fields: bytes) -> bytes:
    return bytes([0x80 | len(fields)]) + b"".join(fields)


@pytest.mark.parametrize("size", [FRAME_BYTES + 1, 64 * FRAME_BYTES])
async def test_frame_over_the_limit(daemon: DaemonProcess, size: int) -> None:
    """Row 34: closed with 1009; the daemon goes on. The header alone decides: nothing is kept of 64 MiB."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_bytes(b"\x82\xff" + struct.pack(">Q", size) + b"\0\0\0\0" + b"\0" * 1024)
        assert await wire.closed() == 1009


async def test_fragments_over_the_limit(daemon: DaemonProcess) -> None:
    """Row 34: the limit is the message's, however many frames carry it."""
    async with await Wire.greeted(daemon) as wire:
        wire.protocol.send_binary(b"\0" * (FRAME_BYTES // 2), fin=False)
        wire.protocol.send_continuation(b"\0" * (FRAME_BYTES // 2), fin=False)
        wire.protocol.send_continuation(b"\0" * 16, fin=True)
        await wire.flush()
        assert await wire.closed() == 1009


async def test_control_message_over_the_limit(daemon: DaemonProcess) -> None:
    """Row 34: what is not bulk has a limit of its own."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_frame(packb({"type": "ping", "id": 1, "more": b"\0" * CONTROL_BYTES}))
        assert await wire.closed() == 1009


async def test_compression_is_off(daemon: DaemonProcess) -> None:
    """Row 35: the offer is not taken up, and a compressed frame sent all the same ends the connection."""
    async with await Wire.open(daemon, {"Sec-WebSocket-Extensions": "permessage-deflate"}) as wire:
        assert wire.protocol.extensions == []
        bomb = zlib.compressobj(wbits=-15).compress(b"\0" * (1 << 24))
        await wire.send_bytes(b"\xc2\xfe" + struct.pack(">H", len(bomb)) + b"\0\0\0\0" + bomb)
        assert await wire.closed() == 1002


async def test_drip_of_fragments(daemon: DaemonProcess) -> None:
    """Row 36: closed with 1008."""
    async with await Wire.greeted(daemon) as wire:
        wire.protocol.send_binary(b"\x80", fin=False)
        for _ in range(1000):
            wire.protocol.send_continuation(b"", fin=False)
        await wire.flush()
        assert await wire.closed() == 1008


async def test_flood_of_pings(daemon: DaemonProcess) -> None:
    """Row 36: closed with 1008."""
    async with await Wire.greeted(daemon) as wire:
        for _ in range(1000):
            wire.protocol.send_ping(b"x")
        await wire.flush()
        assert await wire.closed() == 1008


async def test_text_frame(daemon: DaemonProcess) -> None:
    """Row 37: messages are binary."""
    async with await Wire.greeted(daemon) as wire:
        wire.protocol.send_text(b"hello")
        await wire.flush()
        assert await wire.closed() == 1007


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="empty"),
        pytest.param(PING[:-1], id="truncated"),
        pytest.param(PING + b"\xc0", id="trailing"),
        pytest.param(PING + PING, id="two messages"),
        pytest.param(b"\xc1", id="0xC1"),
        pytest.param(a_map(field("type", b"\xc1")), id="0xC1 inside"),
        pytest.param(packb([1, 2]), id="no map"),
        pytest.param(a_map(field("type", b"\xa2\xff\xfe")), id="not UTF-8"),
        pytest.param(b"\x8f", id="a map of which nothing follows"),
    ],
)
async def test_no_msgpack_map(daemon: DaemonProcess, frame: bytes) -> None:
    """Row 37: closed with 1007."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_frame(frame)
        assert await wire.closed() == 1007


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(a_map(field("type", b"\x91" * 100_000 + b"\x90")), id="nested arrays"),
        pytest.param(a_map(field("type", b"\x81\xa1a" * 100_000 + b"\x80")), id="nested maps"),
        pytest.param(a_map(field("type", array32(2**32 - 1))), id="array of 2**32-1"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map of 2**32-1"),
        pytest.param(a_map(field("type", b"\xdb\xff\xff\xff\xff")), id="string of 4 GiB"),
        pytest.param(a_map(field("type", b"\xc6\xff\xff\xff\xff")), id="binary of 4 GiB"),
        pytest.param(
            a_map(field("type", b"\x9f" * 7 + array32(1_000_000) * 100)), id="arrays that claim a million each"
        ),
    ],
)
async def test_containers_that_claim_too_much(daemon: DaemonProcess, frame: bytes) -> None:
    """Row 38: closed with 1007."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_frame(frame)
        assert await wire.closed() == 1007


async def test_megabyte_of_empty_maps(daemon: DaemonProcess) -> None:
    """Row 39: refused before memory grows: msgpack would build 72 MiB of it."""
    count = FRAME_BYTES - 32
    bomb = a_map(field("type", packb("output")), field("x", array32(count) + b"\x80" * count))
    before = daemon.memory()
    for _ in range(4):
        async with await Wire.greeted(daemon) as wire:
            await wire.send_frame(bomb)
            assert await wire.closed() == 1007
    assert daemon.memory() - before < 32 * FRAME_BYTES


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(a_map(field("type", packb("ping")), field("id", b"\x01"), field("id", b"\x02")), id="key twice"),
        pytest.param(a_map(field("type", packb("ping")), field("id", packb(float("nan")))), id="NaN"),
        pytest.param(a_map(field("type", packb("ping")), field("id", packb(float("inf")))), id="infinity"),
        pytest.param(a_map(field("type", packb("ping")), field("id", b"\xd4\x01\x00")), id="ext type"),
        pytest.param(a_map(field("type", packb("ping")), field("id", b"\xd6\xff\0\0\0\0")), id="timestamp"),
        pytest.param(a_map(field("type", packb("ping")), b"\x01\x01"), id="integer key"),
        pytest.param(a_map(field("type", packb("ping")), b"\xc4\x02id\x01"), id="binary key"),
        pytest.param(a_map(field("type", packb("ping")), field("id", b"\xcf" + b"\xff" * 8)), id="2**64-1"),
    ],
)
async def test_values_that_are_not_allowed(daemon: DaemonProcess, frame: bytes) -> None:
    """Row 40: closed with 1007."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_frame(frame)
        assert await wire.closed() == 1007


async def test_unknown_message_type(daemon: DaemonProcess) -> None:
    """Row 41: a typed error that names the request, and the connection is kept."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_frame(packb({"type": "session.destroy", "id": 9}))
        error = await wire.expect(Error)
        assert (error.re, error.code) == (9, "invalid")
        assert "session.destroy" in error.message
        await wire.ask(Pong, Ping)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "ping", "id": 5, "extra": 1},
        {"type": "ping", "id": -1},
        {"type": "ping"},
        {"id": 5},
        {"type": 3, "id": 5},
        {"type": "session.info", "id": 5, "session": "../../etc"},
        {"type": "command.start", "id": 5, "session": "s", "command": "c"},
        {"type": "command.start", "id": 5, "session": "s", "command": "c", "argv": ["a"], "text": "a"},
        {"type": "command.start", "id": 5, "session": "s", "command": "c", "argv": []},
        {"type": "command.start", "id": 5, "session": "s", "command": "c", "argv": [""]},
        {"type": "command.start", "id": 5, "session": "s", "command": "c", "argv": "true"},
        {"type": "command.start", "id": 5, "session": "s", "command": "c", "argv": ["true"], "timeout": 0},
        {"type": "command.start", "id": 5, "session": "s", "command": "c", "argv": ["true"], "timeout": -1.5},
        {"type": "command.signal", "id": 5, "session": "s", "command": "c", "signal": 65},
        {"type": "session.open", "id": 5, "limits": {"pids": 0}},
        {"type": "session.open", "id": 5, "env": {"A=B": "1"}},
        {"type": "session.open", "id": 5, "ttl": 0},
        {"type": "welcome", "re": 5},
    ],
    ids=str,
)
async def test_map_that_is_no_message(daemon: DaemonProcess, wrong: dict[str, object]) -> None:
    """Row 41: `invalid`, and the connection is kept."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send_frame(packb(wrong))
        error = await wire.expect(Error)
        assert error.code == "invalid"
        await wire.ask(Pong, Ping)


async def test_newer_client_is_told_our_version(daemon: DaemonProcess) -> None:
    """Row 41: a client that speaks more than we do gets version 1."""
    async with await Wire.open(daemon) as wire:
        assert (await wire.ask(Welcome, Hello, version=99, client="from the future")).version == 1


async def test_unknown_protocol_version(daemon: DaemonProcess) -> None:
    """Row 41: refused at hello."""
    async with await Wire.open(daemon) as wire:
        await wire.send(Hello(id=3, version=0, client="from the past"))
        error = await wire.expect(Error)
        assert (error.re, error.code) == (3, "version")
        assert await wire.closed() == 1002


@pytest.mark.parametrize("first", [Ping(id=1), SessionInfoRequest(id=1, session="s")], ids=lambda message: message.type)
async def test_hello_comes_first(daemon: DaemonProcess, first: Ping) -> None:
    """Row 41: nothing is done for who has not said hello."""
    async with await Wire.open(daemon) as wire:
        await wire.send(first)
        assert await wire.closed() == 1007


async def test_hello_comes_once(daemon: DaemonProcess) -> None:
    """Row 41: a second one is malformed."""
    async with await Wire.greeted(daemon) as wire:
        await wire.send(Hello(id=2, version=1, client="again"))
        assert await wire.closed() == 1007


async def test_first_message_that_is_not_valid(daemon: DaemonProcess) -> None:
    """Row 41: there is nobody to tell an error to yet."""
    async with await Wire.open(daemon) as wire:
        await wire.send_frame(packb({"type": "hello", "id": 1}))
        assert await wire.closed() == 1002


async def test_reserved_bits_and_unmasked_frames(daemon: DaemonProcess) -> None:
    """Row 37, one layer down: what breaks the WebSocket protocol itself."""
    for frame in (b"\x82\x01a", b"\xf2\x81\0\0\0\0a", b"\x83\x81\0\0\0\0a", b"\x89\xfe\x00\xff\0\0\0\0" + b"a" * 255):
        async with await Wire.greeted(daemon) as wire:
            await wire.send_bytes(frame)
            assert await wire.closed() == 1002


async def test_connection_dropped_in_mid_frame(daemon: DaemonProcess, client: Client) -> None:
    """Row 37: half a message is no message: nothing of it is done."""
    session = await client.open("open")
    start = encode(CommandStart(id=1, session=session.id, command="half", argv=["true"]))
    async with await Wire.greeted(daemon) as wire:
        wire.protocol.send_binary(start)
        (frame,) = wire.protocol.data_to_send()
        await wire.send_bytes(frame[:-1])
    assert [info.command for info in await session.commands()] == []


async def test_messages_in_one_write_are_all_answered(daemon: DaemonProcess) -> None:
    """Framing does not depend on how bytes arrive: many in one, and one byte at a time."""
    async with await Wire.greeted(daemon) as wire:
        for number in range(100, 200):
            wire.protocol.send_binary(encode(Ping(id=number)))
        await wire.flush()
        assert [(await wire.expect(Pong)).re for _ in range(100)] == list(range(100, 200))
        wire.protocol.send_binary(encode(Ping(id=300)))
        for byte in b"".join(wire.protocol.data_to_send()):
            await wire.send_bytes(bytes([byte]))
        assert (await wire.expect(Pong)).re == 300


async def test_descriptors_do_not_leak(daemon: DaemonProcess) -> None:
    """A hundred connections that end badly leave no descriptor."""
    before = daemon.descriptors()
    for number in range(100):
        async with await Wire.greeted(daemon) as wire:
            if number % 2:
                await wire.send_frame(b"\xc1")
    await eventually("descriptors given back", lambda: daemon.descriptors() <= before)
