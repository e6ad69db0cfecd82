"""A socket between the daemon and Docker that passes everything on, until it is told to misbehave."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

BODY = b'{"message": "out of order"}'
ANSWER = b"\r\n".join(
    (
        b"HTTP/1.1 500 Internal Server Error",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(BODY),
        b"Connection: close",
        b"",
        BODY,
    )
)


class FaultyEngine:
    """Listens on `path`. Requests whose first line matches `pattern` are treated as `mode` says."""

    def __init__(self, path: Path, docker_host: str) -> None:
        self.url = f"unix://{path}"
        self.pattern = re.compile(b"$nothing")
        self.mode = "pass"
        self.matched = 0
        """Requests that matched since `misbehave`."""
        self._upstream = docker_host.removeprefix("unix://")
        self._released = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def misbehave(self, pattern: bytes, mode: str) -> None:
        """`fail`: answer 500. `hang`: do not answer until `behave`."""
        self.matched = 0
        self._released.clear()
        self.pattern, self.mode = re.compile(pattern), mode

    def behave(self) -> None:
        """Pass everything on again, and what was held."""
        self.pattern = re.compile(b"$nothing")
        self._released.set()

    def close(self) -> None:
        """Hang up on everybody."""
        self._released.set()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(self._upstream)
                self._open += [client, upstream]
                threading.Thread(target=self._requests, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self._answers, args=(upstream, client), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.pattern.match(data):
                    self.matched += 1
                    if self.mode == "fail":
                        client.sendall(ANSWER)
                        break
                    self._released.wait()
                upstream.sendall(data)
        with contextlib.suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
