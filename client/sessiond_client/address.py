"""Where the daemon is and with which token, from arguments and the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sessiond_protocol.address import ENDPOINT_PATH, default_socket_path

from sessiond_client.errors import UsageError

_MAX_TOKEN = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon answers: a unix socket, or a host and port."""

    socket_path: str | None = None
    host: str = "localhost"
    port: int = 80
    tls: bool = False

    @property
    def uri(self) -> str:
        """The WebSocket URI for the handshake."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws{'s' if self.tls else ''}://{host}:{self.port}{ENDPOINT_PATH}"

    @property
    def hint(self) -> str:
        """What to do when nobody answers there."""
        if self.socket_path is not None:
            return "start one with `sessiond serve`, or set SESSIOND_URL to where one answers"
        return "check SESSIOND_URL, and that the daemon listens there"

    def __str__(self) -> str:
        return f"unix:{self.socket_path}" if self.socket_path is not None else self.uri.removesuffix(ENDPOINT_PATH)


def find_address(url: str | None, environ: Mapping[str, str] | None = None) -> Address:
    """The address in `url`, else in SESSIOND_URL, else of the default socket."""
    environ = os.environ if environ is None else environ
    url = url or environ.get("SESSIOND_URL")
    if not url:
        return Address(socket_path=default_socket_path(environ, os.geteuid()))
    return parse_address(url)


def parse_address(url: str) -> Address:
    """Parse `unix:/path`, `ws://host:port` or `wss://host:port`. Nothing secret may be in it."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
        if not path.startswith("/") or "\0" in path:
            raise UsageError(f"{url!r} names no socket: write unix:/absolute/path/to/sessiond.sock")
        return Address(socket_path=path)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"not a URL: {error}") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            "a sessiond URL carries no user, password, query or fragment; "
            "set SESSIOND_TOKEN or SESSIOND_TOKEN_FILE instead"
        )
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.path not in ("", "/", ENDPOINT_PATH):
        raise UsageError(f"{url!r} is no sessiond URL: write unix:/path, ws://host:port or wss://host:port")
    tls = parts.scheme == "wss"
    return Address(host=parts.hostname, port=port or (443 if tls else 80), tls=tls)


def find_token(token: str | None, token_file: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The token from the arguments, else from SESSIOND_TOKEN or the file that SESSIOND_TOKEN_FILE names, if any."""
    environ = os.environ if environ is None else environ
    if token is not None and token_file is not None:
        raise UsageError("give a token or a token file, not both")
    if token is None and token_file is None:
        token = environ.get("SESSIOND_TOKEN") or None
        token_file = environ.get("SESSIOND_TOKEN_FILE") or None
    if token is None and token_file is not None:
        token = _read_token(Path(token_file))
    if token is not None and (not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable()):
        raise UsageError("the token must be 1 to 4096 printable ASCII characters")
    return token


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_TOKEN + 2)
    except OSError as error:
        raise UsageError(f"cannot read the token file {path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"others may read the token file {path}: run `chmod 600 {path}`")
    return data.decode("ascii", "replace").strip()
