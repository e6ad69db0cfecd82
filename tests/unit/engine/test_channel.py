"""Who is heard on a channel."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from sessiond.engine import channel as module
from sessiond.engine.channel import MOST_HELD, Channel, start_time
from sessiond.engine.port import EngineError


class Heard(asyncio.Protocol):
    made: ClassVar[list[Heard]] = []

    def __init__(self) -> None:
        self.data = b""
        self.lost = asyncio.Event()
        self.made.append(self)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error) -> None:
        self.lost.set()


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[Channel]:
    Heard.made = []
    channel = Channel("s-1", tmp_path, Heard)
    channel.open()
    yield channel
    channel.close()
    await asyncio.sleep(0)


async def dial(directory: Path):
    # Not by the full path: it may be longer than a socket's address.
    descriptor = os.open(directory, os.O_PATH)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/channel.sock")
    finally:
        os.close(descriptor)


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionResetError:
        return True


async def heard(count: int) -> list[Heard]:
    while len(Heard.made) < count:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert len(Heard.made) == count
    return Heard.made


async def test_guest_is_heard(channel: Channel, tmp_path: Path):
    channel.expect(os.getpid())
    _reader, writer = await dial(tmp_path)
    writer.write(b"hello")
    (one,) = await heard(1)
    assert one.data == b"hello"
    writer.close()
    await asyncio.wait_for(one.lost.wait(), 5)


async def test_another_process_is_refused_and_counted(channel: Channel, tmp_path: Path):
    channel.expect(os.getppid())
    for expected in (1, 2, 3):
        reader, writer = await dial(tmp_path)
        assert await closed(reader)
        assert channel.refused == expected
        writer.close()
    assert Heard.made == []


async def test_connection_before_the_guest_is_known_is_held(channel: Channel, tmp_path: Path):
    _reader, writer = await dial(tmp_path)
    writer.write(b"early")
    await asyncio.sleep(0.05)
    assert Heard.made == []
    channel.expect(os.getpid())
    (one,) = await heard(1)
    assert one.data == b"early"
    writer.close()


async def test_held_stranger_is_refused_when_the_guest_is_known(channel: Channel, tmp_path: Path):
    reader, writer = await dial(tmp_path)
    await asyncio.sleep(0.05)
    channel.expect(os.getppid())
    assert await closed(reader)
    assert channel.refused == 1
    writer.close()


async def test_only_so_many_are_held(channel: Channel, tmp_path: Path):
    dialled = [await dial(tmp_path) for _ in range(MOST_HELD + 3)]
    await asyncio.sleep(0.05)
    assert channel.refused == 3
    for _reader, writer in dialled:
        writer.close()


async def test_held_connection_is_given_up_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: Channel
):
    monkeypatch.setattr(module, "HELD_SECONDS", 0.05)
    reader, writer = await dial(tmp_path)
    assert await closed(reader)
    assert channel.refused == 1
    writer.close()


async def test_newer_connection_ends_the_older(channel: Channel, tmp_path: Path):
    channel.expect(os.getpid())
    _reader, first = await dial(tmp_path)
    (one,) = await heard(1)
    _reader, second = await dial(tmp_path)
    await asyncio.wait_for(one.lost.wait(), 5)
    _one, two = await heard(2)
    second.write(b"x")
    await asyncio.sleep(0.02)
    assert two.data == b"x"
    first.close()
    second.close()


async def test_dead_guests_pid_is_worth_nothing(channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same pid with another start time is another process."""
    channel.expect(os.getpid())
    monkeypatch.setattr(module, "start_time", lambda _pid: 1)
    reader, writer = await dial(tmp_path)
    assert await closed(reader)
    assert channel.refused == 1
    writer.close()


async def test_guest_that_is_not_there_is_an_error(channel: Channel):
    for pid in (0, -1, 2**22 + 1):
        with pytest.raises(EngineError, match="died at its start"):
            channel.expect(pid)


async def test_new_daemon_listens_in_place_of_the_old(channel: Channel, tmp_path: Path):
    channel.close()
    again = Channel("s-1", tmp_path, Heard)
    again.open()
    again.expect(os.getpid())
    _reader, writer = await dial(tmp_path)
    await heard(1)
    again.close()
    writer.close()


async def test_path_may_be_longer_than_a_sockets_address(tmp_path: Path):
    Heard.made = []
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    channel = Channel("s-1", deep, Heard)
    channel.open()
    channel.expect(os.getpid())
    _reader, writer = await dial(deep)
    await heard(1)
    channel.close()
    writer.close()


async def test_directory_that_is_gone_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(EngineError, match="gone"):
        Channel("s-1", tmp_path / "gone", Heard).open()


async def test_flood_of_strangers_fills_neither_log_nor_descriptors(
    channel: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    channel.expect(os.getppid())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(tmp_path / "channel.sock"))
            await asyncio.sleep(0)
    while channel.refused < 200:
        await asyncio.sleep(0.001)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert len(caplog.records) == 8  # the 1st, 2nd, 4th, ... 128th


def test_start_time_tells_processes_apart():
    first = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert start_time(os.getpid()) == start_time(os.getpid())
        assert (start_time(first.pid) or 0) > (start_time(os.getpid()) or 0)
    finally:
        first.communicate(b"\n")
    assert start_time(first.pid) is None
