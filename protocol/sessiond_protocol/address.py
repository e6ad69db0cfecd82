"""Where a daemon listens when nobody said otherwise; the daemon and the client must agree on it."""

from __future__ import annotations

from collections.abc import Mapping

ENDPOINT_PATH = "/v1"
"""Path of the WebSocket endpoint, on unix sockets too."""


def default_socket_path(environ: Mapping[str, str], uid: int) -> str:
    """Path of the default unix socket of the user `uid` with the environment `environ`.

    The system's daemon runs as root and listens in /run; a user's own in the directory that is private to the login,
    or, on machines without one, below the home directory.
    """
    if uid == 0:
        return "/run/sessiond/sessiond.sock"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return f"{runtime.rstrip('/')}/sessiond/sessiond.sock"
    home = environ.get("HOME", "").rstrip("/")
    return f"{home}/.local/state/sessiond/sessiond.sock"
