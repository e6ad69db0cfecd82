"""Streams to what listens or runs inside a sandbox that has no network, on the real path."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sessiond_client import ByteStream, Client, Session, TunnelError, sync

from tests.daemon import COMMAND, DaemonProcess

MIB = 1024**2
LARGE = 200 * MIB
ECHO = """
import socket, sys, threading
where = sys.argv[1]
if where.isdigit():
    server = socket.create_server(("127.0.0.1", int(where)))
else:
    server = socket.socket(socket.AF_UNIX)
    server.bind(where)
    server.listen()
print("ready", flush=True)
def serve(peer):
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.sendall(b"end")
    peer.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],)).start()
"""
BLOCK = random.Random(7).randbytes(MIB)
BIG_SERVER = f"""
import http.server, random, socket, socketserver, sys
block = random.Random(7).randbytes({MIB})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        for _ in range({LARGE // MIB}):
            self.wfile.write(block)
    def log_message(self, *_): pass
    def address_string(self): return "client"
class Unix(socketserver.ThreadingUnixStreamServer):
    pass
where = sys.argv[1]
kind, where = (http.server.ThreadingHTTPServer, ("127.0.0.1", int(where))) if where.isdigit() else (Unix, where)
server = kind(where, Handler)
print("ready", flush=True)
server.serve_forever()
"""


async def serve(session: Session, where: str) -> None:
    command = await session.start(["python3", "-c", ECHO, where])
    piece = await command.next()
    assert piece is not None


async def rest(stream: ByteStream) -> bytes:
    data = b""
    while piece := await stream.read():
        data += piece
    return data


@pytest.mark.parametrize("where", [8123, "echo.sock", "/workspace/echo.sock"])
async def test_a_stream_both_ways_and_each_ends_by_itself(client: Client, where: int | str) -> None:
    session = await client.open("open")
    await serve(session, str(where))
    data = os.urandom(3 * MIB)
    async with await session.connect(where) as stream:
        await stream.write(b"hello\nmore")
        assert await stream.read_until(b"\n") == b"hello\n"
        assert await stream.read_exactly(4) == b"more"
        writing = asyncio.ensure_future(stream.write(data))
        assert await stream.read_exactly(len(data)) == data
        await writing
        await stream.close_write()
        assert await rest(stream) == b"end"
        assert await stream.read() == b""
        with pytest.raises(EOFError):
            await stream.read_exactly(1)


async def test_many_at_once(client: Client) -> None:
    session = await client.open("open")
    await serve(session, "9000")

    async def talk(number: int) -> bytes:
        async with await session.connect(9000) as stream:
            await stream.write(b"%d" % number)
            await stream.close_write()
            return await rest(stream)

    assert await asyncio.gather(*map(talk, range(30))) == [b"%dend" % number for number in range(30)]


@pytest.mark.parametrize(
    ("where", "name"),
    [(9, "refused"), ("none.sock", "not_found"), ("file", "refused"), ("/etc/x", "escapes"), ("../x", "escapes")],
)
async def test_where_nobody_listens(client: Client, where: int | str, name: str) -> None:
    session = await client.open("open")
    await session.files.write("file", b"")
    with pytest.raises(TunnelError) as raised:
        await session.connect(where)
    assert raised.value.name == name


async def test_a_closed_stream_leaves_no_command(client: Client) -> None:
    session = await client.open("open")
    await serve(session, "9000")
    stream = await session.connect(9000)
    await stream.close()
    await stream.close()
    assert await stream.read() == b""
    async with asyncio.timeout(10):
        while [info for info in await session.commands() if info.state == "running"][1:]:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def forwarding(daemon: DaemonProcess, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        COMMAND[0], "forward", "--url", daemon.url, *words, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in words[1:]:
        assert (await process.stdout.readline()).startswith(b"127.0.0.1:")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def fetch(port: int, path: str) -> tuple[int, str]:
    """Size and SHA-256 of what a server there says to a request, after its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    digest, size = hashlib.sha256(), 0
    while data := await reader.read(1 << 20):
        digest.update(data)
        size += len(data)
    writer.close()
    return size, digest.hexdigest()


async def test_servers_inside_are_reached_from_outside(daemon: DaemonProcess, client: Client, unharmed: None) -> None:
    """200 MB each, byte for byte, over a port and a unix socket at once; inside there is only `lo`."""
    session = await client.open("open", ttl=300)
    assert (await session.run(["python3", "-c", "import socket; print(socket.if_nameindex())"])).text == "[(1, 'lo')]\n"
    tcp = await session.start(["python3", "-c", BIG_SERVER, "8000"])
    unix = await session.start(["python3", "-c", BIG_SERVER, "http.sock"])
    assert await tcp.next() is not None and await unix.next() is not None
    ports = free_port(), free_port()
    async with forwarding(daemon, session.id, f"{ports[0]}:8000", f"{ports[1]}:http.sock"):
        expected = hashlib.sha256()
        for _ in range(LARGE // MIB):
            expected.update(BLOCK)
        found = await asyncio.gather(fetch(ports[0], "/"), fetch(ports[1], "/"))
        assert found == [(LARGE, expected.hexdigest())] * 2


def test_the_same_without_await(daemon: DaemonProcess) -> None:
    with sync.connect(daemon.url) as client, client.open("open") as session:
        with session.spawn_stdio(["cat"]) as stream:
            stream.write(b"one\ntwo")
            assert stream.read_until(b"\n") == b"one\n"
            stream.close_write()
            assert stream.read_exactly(3) == b"two"
            assert stream.read() == b""
        with pytest.raises(TunnelError):
            session.connect(9)


async def test_standard_error_of_a_program_is_apart(client: Client) -> None:
    session = await client.open("open")
    async with await session.spawn_stdio(["sh", "-c", "echo err >&2; cat"]) as stream:
        await stream.write(b"in")
        assert await stream.read_exactly(2) == b"in"
        await stream.close_write()
        assert await stream.read() == b""
        assert stream.stderr == b"err\n"
