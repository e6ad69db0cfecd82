"""Sockets that clients dial: unix (the peer's user is the proof) and loopback TCP (a bearer token is), both behind
uvicorn's HTTP.

uvicorn is used for its protocol classes only; listening, signals and shutdown are ours, so nothing ticks while
nothing happens.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import ssl
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sessiond.core.errors import SessiondError
from sessiond.server.door import Door, check_peer
from sessiond.server.peer import peer_uid
from sessiond.server.websocket import WebSocketConnection, websocket_factory
from sessiond.settings import DaemonSettings

log = structlog.get_logger()

MOST_REQUEST_HEAD_BYTES = 16 * 1024
"""Request line and headers; ours take a few hundred bytes."""
MIN_TOKEN_BYTES = 16


class ListenError(SessiondError):
    """An address cannot be listened on, or may not be: which, why, and what to do."""


class Pending:
    """Connections that have not come through the door yet: bounded in number and time.

    When too many wait, the longest waiting one goes: an honest client is through in milliseconds, a slow one is not.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._waiting: OrderedDict[asyncio.BaseTransport, asyncio.TimerHandle] = OrderedDict()

    def add(self, transport: asyncio.Transport) -> None:
        """A connection was accepted."""
        self._waiting[transport] = asyncio.get_running_loop().call_later(self._seconds, self._expire, transport)
        if len(self._waiting) > self._most:
            oldest, timer = self._waiting.popitem(last=False)
            timer.cancel()
            log.warning("too many connections wait at the door", most=self._most)
            _abort(oldest)

    def discard(self, transport: asyncio.BaseTransport) -> None:
        """A connection came through, or ended."""
        timer = self._waiting.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, transport: asyncio.BaseTransport) -> None:
        self._waiting.pop(transport, None)
        _abort(transport)


class Doorkeeper(H11Protocol):
    """HTTP with a check before the first byte is read, and a deadline for the request."""

    def __init__(self, door: Door, pending: Pending, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._door = door
        self._pending = pending

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        uid = peer_uid(transport) if self._door.uids is not None else None
        super().connection_made(transport)
        if not check_peer(self._door, uid):
            log.warning("connection refused", door=self._door.name, reason="another user", uid=uid)
            transport.abort()
            return
        self._pending.add(transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._pending.discard(self.transport)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """The request is complete: the WebSocket's own check decides from here on."""
        self._pending.discard(self.transport)
        super().handle_websocket_upgrade(event)


class Listener:
    """One bound address."""

    def __init__(self, door: Door, server: asyncio.Server, path: Path | None) -> None:
        self.door = door
        self._server = server
        self._path = path

    @property
    def address(self) -> str:
        """What clients dial; with the real port when 0 was asked for."""
        if self._path is not None:
            return self.door.name
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"

    def close(self) -> None:
        """Accept nothing more."""
        self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


async def listen(
    address: str,
    settings: DaemonSettings,
    pending: Pending,
    app: Callable[[Door], ASGIApp],
    websocket: Callable[[Door], WebSocketConnection],
) -> Listener:
    """Bind one address of `settings.listen`. Raises ListenError."""
    tls = tls_context(settings)
    path = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
    if path is not None:
        door = Door(name=address, token=None, hosts=None, uids=frozenset({0, os.getuid()}))
        bound = bind_unix(path)
    else:
        host, port = tcp_address(address, secure=tls is not None)
        door = Door(
            name=address,
            token=read_token(settings.token_file, address),
            hosts=frozenset(name.strip("[]").lower() for name in settings.allowed_hosts),
            uids=None,
        )
        bound = bind_tcp(host, port)
    config = Config(
        app(door),
        http=Doorkeeper,
        ws=websocket_factory(lambda: websocket(door)),  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MOST_REQUEST_HEAD_BYTES,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Doorkeeper(door, pending, config=config, server_state=state, app_state={}),
        sock=bound,
        ssl=tls if path is None else None,
        ssl_handshake_timeout=settings.open_timeout if tls is not None and path is None else None,
    )
    return Listener(door, server, path)


def bind_unix(path: Path) -> socket.socket:
    """A unix socket in a directory that only its owner can enter. A socket that nobody answers on is replaced."""
    parent = path.parent
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = parent.stat()
        if status.st_uid not in (0, os.getuid()) or stat.S_IMODE(status.st_mode) & 0o077:
            raise ListenError(
                f"{parent} must belong to you with mode 0700, so that nobody else reaches {path.name}; `chmod 700` it"
            )
        if path.is_socket():
            if _answers(path):
                raise ListenError(f"another daemon listens on unix:{path}; stop it, or listen elsewhere")
            path.unlink()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(str(path))
            path.chmod(0o600)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on unix:{path}: {error.strerror or error}; choose another path") from error
    return bound


def bind_tcp(host: str, port: int) -> socket.socket:
    """A TCP socket on a loopback address, or on any when TLS protects it."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ListenError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def tcp_address(address: str, *, secure: bool) -> tuple[str, int]:
    """Host and port of `tcp:HOST:PORT`. Raises ListenError for anything but loopback without TLS."""
    found = re.fullmatch(r"tcp:(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([0-9]{1,5})", address)
    if found is None:
        raise ListenError(f"{address!r} is no address; write unix:/path, tcp:127.0.0.1:PORT or tcp:[::1]:PORT")
    host, port = found[1].strip("[]"), int(found[2])
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ListenError(f"{address}: {error}") from error
    if not loopback and not secure:
        raise ListenError(
            f"{address} is not loopback and there is no TLS: tokens would travel in the open; "
            "set tls_certificate and tls_key, or listen on 127.0.0.1"
        )
    return host, port


def read_token(path: Path | None, address: str) -> bytes:
    """The bearer token of a TCP listener. Raises ListenError when the file is missing, open to others, or too short."""
    if path is None:
        raise ListenError(f"{address} needs a token: set token_file to a file of mode 0600 that holds one")
    try:
        status = path.stat()
        token = path.read_bytes().strip()
    except OSError as error:
        raise ListenError(f"token_file {path}: {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ListenError(f"token_file {path} can be read by others; `chmod 600` it and change the token")
    if len(token) < MIN_TOKEN_BYTES:
        raise ListenError(
            f"token_file {path} holds fewer than {MIN_TOKEN_BYTES} bytes; `openssl rand -hex 32` makes a good token"
        )
    return token


def tls_context(settings: DaemonSettings) -> ssl.SSLContext | None:
    """TLS for TCP listeners, when both files are given. Raises ListenError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ListenError(f"TLS from {settings.tls_certificate} and {settings.tls_key}: {error}") from error
    return context


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
