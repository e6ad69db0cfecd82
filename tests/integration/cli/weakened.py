"""Engines that do not do what they are told: they pass a sandbox's recipe on without some of its locks."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class WeakeningProxy:
    """Stands before a Docker engine and changes the HostConfig of every container that is created."""

    def __init__(self, engine: str, path: Path, changes: Mapping[str, Any]) -> None:
        self.url = f"unix://{path}"
        self._engine = engine.removeprefix("unix://")
        self._changes = changes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections and threads."""
        for opened in self._open:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        for opened in self._open:
            opened.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._engine)
            self._open += [client, engine]
            for work in (self._requests, self._answers):
                thread = threading.Thread(target=work, args=(client, engine))
                self._threads.append(thread)
                thread.start()

    def _requests(self, client: socket.socket, engine: socket.socket) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as reader:
            while head := self._head(reader):
                lengths = [int(line[15:]) for line in head if line.lower().startswith(b"content-length:")]
                body = reader.read(lengths[0]) if lengths else b""
                if b"/containers/create" in head[0]:
                    body = self._weaken(body)
                    head = [line for line in head if not line.lower().startswith(b"content-length:")]
                    head.insert(1, b"Content-Length: %d\r\n" % len(body))
                engine.sendall(b"".join(head) + b"\r\n" + body)
        with contextlib.suppress(OSError):
            engine.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, engine: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := engine.recv(65536):
                client.sendall(piece)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _weaken(self, body: bytes) -> bytes:
        recipe = json.loads(body)
        recipe["HostConfig"] |= self._changes
        return json.dumps(recipe).encode()

    @staticmethod
    def _head(reader: Any) -> list[bytes]:
        lines: list[bytes] = []
        while (line := reader.readline()) not in (b"", b"\r\n"):
            lines.append(line)
        return lines


@contextlib.contextmanager
def weakening_proxy(engine: str, path: Path, changes: Mapping[str, Any]) -> Iterator[str]:
    """Its address."""
    proxy = WeakeningProxy(engine, path, changes)
    try:
        yield proxy.url
    finally:
        proxy.close()


BWRAP = """#!/bin/sh
left=$#
while [ $left -gt 0 ]; do
    word=$1
    shift
    left=$((left - 1))
    if [ "$word" = --remount-ro ] && [ "$1" = / ]; then
        shift
        left=$((left - 1))
    else
        set -- "$@" "$word"
    fi
done
exec {bwrap} "$@"
"""


@contextlib.contextmanager
def weakened_bwrap(bwrap: str) -> Iterator[str]:
    """A directory for PATH with a `bwrap` that leaves the root file system writable; jails' host users can run it."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "bwrap"
        script.write_text(BWRAP.format(bwrap=bwrap))
        script.chmod(0o755)
        script.parent.chmod(0o755)
        yield directory
