"""Who may come in over a real socket, and who wears the door out. No sandbox is touched: one engine is enough."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sessiond_client import UnauthorizedError, connect
from sessiond_protocol.messages import Hello, Ping, Pong, SessionAttach, SessionReply, Welcome

from tests.conftest import stop_clean
from tests.daemon import DEADLINE, UNDEBUGGED, DaemonProcess, EngineUnderTest, eventually
from tests.wire import Refused, Wire

TOKEN = "correct-horse-battery-staple"
NOTHING_WARM = {"open": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}}}


@pytest.fixture(scope="module")
def engine() -> EngineUnderTest:
    """The quick one."""
    return EngineUnderTest("bubblewrap")


def write_token(directory: Path, text: str = TOKEN, mode: int = 0o600) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "token"
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def daemon(engine: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon on a unix socket and a TCP port, impatient so that deadlines come soon."""
    directory = tmp_path_factory.mktemp("door")
    daemon = DaemonProcess(
        engine,
        directory,
        profiles=NOTHING_WARM,
        settings={
            "listen": [f"unix:{directory}/run/sessiond.sock", "tcp:127.0.0.1:0"],
            "token_file": str(write_token(directory / "secret")),
            "open_timeout": 1,
            "ping_interval": 0.3,
            "ping_timeout": 0.3,
            "max_connections": 24,
            "max_pending_connections": 16,
        },
    )
    daemon.start()
    yield daemon
    stop_clean(daemon)


@pytest.fixture
def address(daemon: DaemonProcess) -> tuple[str, int]:
    """Host and port of the TCP listener."""
    host, _, port = daemon.addresses[1].removeprefix("tcp:").rpartition(":")
    return host, int(port)


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def refused(address: tuple[str, int] | DaemonProcess, headers: dict[str, str], host: str = "localhost") -> int:
    with pytest.raises(Refused) as refusal:
        await Wire.open(address, headers, host)
    return refusal.value.status


async def test_right_token(address: tuple[str, int]) -> None:
    """Row 27: who has it comes in."""
    async with await Wire.open(address, bearer()) as wire:
        await wire.ask(Welcome, Hello, version=1, client="test")
    async with connect(f"ws://127.0.0.1:{address[1]}", token=TOKEN) as client:
        await client.ping()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(TOKEN + "x"),
        bearer(TOKEN[:-1]),
        bearer(""),
        bearer("a, Bearer " + TOKEN),
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"token={TOKEN}"},
    ],
    ids=str,
)
async def test_no_or_wrong_token(daemon: DaemonProcess, address: tuple[str, int], headers: dict[str, str]) -> None:
    """Row 27: 401 before the upgrade; no state is created."""
    assert await refused(address, headers) == 401
    assert daemon.status()["sessions"] == 0


async def test_client_says_unauthorized(address: tuple[str, int]) -> None:
    """Row 27: the client has a type for it."""
    for token in (None, "wrong-token-of-some-length"):
        with pytest.raises(UnauthorizedError):
            await connect(f"ws://127.0.0.1:{address[1]}", token=token)


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://localhost:1234", "http://127.0.0.1"])
async def test_origin(daemon: DaemonProcess, address: tuple[str, int], origin: str) -> None:
    """Row 28: 403 with the right token, and on the unix socket, too."""
    assert await refused(address, {**bearer(), "Origin": origin}) == 403
    assert await refused(daemon, {"Origin": origin}) == 403


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:80", "localhost.evil.test", "127.0.0.1.evil.test", "10.0.0.1"]
)
async def test_host(address: tuple[str, int], host: str) -> None:
    """Row 29: 403 with the right token: a name that was rebound to us is not ours."""
    assert await refused(address, bearer(), host) == 403


async def test_status_needs_the_token_too(address: tuple[str, int]) -> None:
    """Row 27: beside the protocol only /healthz is open."""

    async def get(path: str, *headers: str) -> int:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(
            "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close", "", ""]).encode()
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split()[1])

    assert await get("/healthz") == 200
    assert await get("/status") == 401
    assert await get("/status", "Authorization: Bearer nonsense") == 401
    assert await get("/status", f"Authorization: Bearer {TOKEN}") == 200
    assert await get("/status", f"Authorization: Bearer {TOKEN}", "Origin: https://evil.test") == 403
    assert await get("/other", f"Authorization: Bearer {TOKEN}") == 404


@pytest.mark.parametrize(
    ("path", "subprotocol", "status"),
    [("/", "sessiond.v1", 404), ("/v2", "sessiond.v1", 404), ("/v1", "other", 400), ("/v1", None, 400)],
)
async def test_endpoint_and_subprotocol(daemon: DaemonProcess, path: str, subprotocol: str | None, status: int) -> None:
    """A refusal is an HTTP answer."""
    offer = [f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []
    reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
        *offer,
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert int((await reader.readline()).split()[1]) == status
    writer.close()
    await writer.wait_closed()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_on_the_unix_socket(daemon: DaemonProcess) -> None:
    """Row 30: refused and logged, even where an operator opened the socket to all."""
    code = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgid(54321); os.setuid(54321)
dial = socket.socket(socket.AF_UNIX)
try:
    dial.connect("sessiond.sock")
    dial.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(dial.recv(100))
except OSError as error:
    print(type(error).__name__)
"""
    command = [sys.executable, "-I", "-S", "-c", code, str(daemon.socket.parent)]

    def said() -> str:
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=DEADLINE).stdout.strip()

    assert said() == "PermissionError"
    daemon.socket.parent.chmod(0o755)
    daemon.socket.chmod(0o666)
    try:
        assert said() in ("b''", "ConnectionResetError", "BrokenPipeError")
        await eventually("it is logged", lambda: '"uid": 54321' in daemon.log)
    finally:
        daemon.socket.chmod(0o600)
        daemon.socket.parent.chmod(0o700)


async def test_unix_socket_and_its_directory_are_closed_to_others(daemon: DaemonProcess) -> None:
    """Row 30: by their modes already."""
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    assert daemon.socket.parent.stat().st_mode & 0o777 == 0o700
    assert (daemon.state / "audit.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("drip", [b"", b"GET /v1 HTTP/1.1\r\nHost: local"])
async def test_slow_handshake(address: tuple[str, int], drip: bytes) -> None:
    """Row 32: closed at the open timeout, whatever had come by then."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(drip)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_endless_headers(address: tuple[str, int]) -> None:
    """Row 32: bounded."""
    reader, writer = await asyncio.open_connection(*address)
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET /v1 HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        await writer.drain()
        assert (await reader.read(100)).split()[1:2] in ([b"400"], [b"431"], [])
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_upgraded_and_silent(daemon: DaemonProcess) -> None:
    """Row 32: an upgraded connection without `hello` is closed at the open timeout as well."""
    async with await Wire.open(daemon) as wire:
        await wire.closed()


async def test_idle_connections_are_capped(daemon: DaemonProcess, address: tuple[str, int]) -> None:
    """Row 33: many who say nothing are dropped, the oldest first; who has something to say comes in meanwhile."""
    held = []
    before = daemon.descriptors()
    try:
        for _ in range(300):
            dial = socket.socket()
            dial.connect(address)
            held.append(dial)
        await eventually("most are dropped", lambda: daemon.descriptors() <= before + 16 + 2)
        async with await Wire.open(address, bearer()) as wire:
            await wire.ask(Welcome, Hello, version=1, client="test")
    finally:
        for dial in held:
            dial.close()
    assert "too many connections wait at the door" in daemon.log
    await eventually("descriptors given back", lambda: daemon.descriptors() <= before)


async def test_connections_are_capped(daemon: DaemonProcess) -> None:
    """Row 33: who comes in counts as well; one more is told 503."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(24):
            await stack.enter_async_context(await Wire.greeted(daemon))
        assert await refused(daemon, {}) == 503
    await eventually("room again", lambda: daemon.status() is not None)
    async with await Wire.greeted(daemon) as wire:
        await wire.ask(Pong, Ping)


async def test_half_open_connection(daemon: DaemonProcess) -> None:
    """Row 43: one that does not answer pings is detached; its session is kept."""
    async with connect(daemon.url) as client, await client.open("open") as session:
        silent = await Wire.greeted(daemon)
        await silent.ask(SessionReply, SessionAttach, session=session.id)
        assert (await session.info()).attached == 1
        while (await session.info()).attached:
            pass
        assert (await session.run(["echo", "kept"])).stdout == b"kept\n"
        await silent.close()


def complaint(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path, listen: str, **settings: object
) -> tuple[int, str]:
    """What a daemon with such a listener says, and its exit code."""
    daemon = make_daemon(
        profiles=NOTHING_WARM, settings={"listen": [f"unix:{tmp_path}/own/run/s.sock", listen], **settings}
    )
    return daemon.start_and_fail()


async def test_tcp_without_a_token_is_refused(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    code, said = complaint(make_daemon, tmp_path, "tcp:127.0.0.1:0")
    assert code in (1, 2)
    assert "token" in said


@pytest.mark.parametrize(("text", "mode", "why"), [(TOKEN, 0o644, "chmod 600"), ("short", 0o600, "fewer")])
async def test_bad_token_file_is_refused(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path, text: str, mode: int, why: str
) -> None:
    path = write_token(tmp_path / "secret", text, mode)
    code, said = complaint(make_daemon, tmp_path, "tcp:127.0.0.1:0", token_file=str(path))
    assert code in (1, 2)
    assert why in said


@pytest.mark.parametrize("listen", ["tcp:0.0.0.0:0", "tcp:[::]:0"])
async def test_other_addresses_than_loopback_without_tls_are_refused(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path, listen: str
) -> None:
    path = write_token(tmp_path / "secret")
    code, said = complaint(make_daemon, tmp_path, listen, token_file=str(path))
    assert code == 2
    assert "loopback" in said


async def test_tls(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    """With a certificate the token travels encrypted, and nothing answers in the open."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    daemon = make_daemon(
        profiles=NOTHING_WARM,
        environment=UNDEBUGGED,
        settings={
            "listen": [f"unix:{tmp_path}/own/run/sessiond.sock", "tcp:0.0.0.0:0"],
            "token_file": str(write_token(tmp_path / "secret")),
            "tls_certificate": str(certificate),
            "tls_key": str(key),
        },
    ).start()
    port = int(daemon.addresses[1].rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(certificate))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
    writer.write(f"Authorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"200"
    await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    with pytest.raises((AssertionError, ConnectionError)):
        await Wire.open(("127.0.0.1", port), bearer())


async def test_socket_directory_open_to_others_is_refused(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """The directory is the first lock: a daemon does not start behind an open one."""
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o755)
    daemon = make_daemon(profiles=NOTHING_WARM, settings={"listen": [f"unix:{directory}/s.sock"]})
    code, said = daemon.start_and_fail()
    assert code == 1
    assert "0700" in said


async def test_socket_left_by_a_killed_daemon_is_replaced(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon(profiles=NOTHING_WARM).start()
    daemon.kill()
    assert daemon.socket.is_socket()
    daemon.start()
    async with connect(daemon.url) as client:
        await client.ping()
