"""Which way of serving a WebSocket costs least: the same `ping` answered by three servers, interleaved in one run.

Run as `python -m tests.bench.transport`. Figures go to ARCHITECTURE.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from sessiond_client import connect
from sessiond_protocol import messages
from sessiond_protocol.codec import decode_client, encode
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.server import ServerConnection, serve

from sessiond.server.daemon import Daemon
from sessiond.settings import load

ROUNDS, PINGS = 20, 500


def answer(data: bytes) -> bytes:
    """What our server would say: a welcome, then pongs."""
    message = decode_client(data)
    if isinstance(message, messages.Ping):
        return encode(messages.Pong(re=message.id))
    limits = messages.ServerLimits(frame_bytes=1, control_bytes=1, depth=1, elements=1, window_bytes=1, commands=1)
    return encode(
        messages.Welcome(re=message.id, version=1, server="bench", capabilities=[], profiles=[], limits=limits)
    )


async def with_websockets(path: Path) -> Callable[[], Awaitable[None]]:
    """websockets' own asyncio server."""

    async def handler(socket: ServerConnection) -> None:
        async for data in socket:
            await socket.send(answer(data))

    server = await serve(handler, unix=True, path=str(path), subprotocols=[messages.SUBPROTOCOL], compression=None)

    async def stop() -> None:
        server.close()
        await server.wait_closed()

    return stop


async def with_asgi(path: Path) -> Callable[[], Awaitable[None]]:
    """Starlette on uvicorn's websockets-sansio."""

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept(subprotocol=messages.SUBPROTOCOL)
        try:
            while True:
                await socket.send_bytes(answer(await socket.receive_bytes()))
        except WebSocketDisconnect:
            return

    app = Starlette(routes=[WebSocketRoute("/v1", endpoint)])
    server = uvicorn.Server(
        uvicorn.Config(app, uds=str(path), ws="websockets-sansio", log_level="error", ws_per_message_deflate=False)
    )
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)

    async def stop() -> None:
        server.should_exit = True
        await task

    return stop


async def with_ours(path: Path) -> Callable[[], Awaitable[None]]:
    """A whole daemon without sandboxes: uvicorn's HTTP, our protocol class after the upgrade."""
    config = path.with_suffix(".toml")
    config.write_text(
        f"""
        [daemon]
        state = "{path.with_suffix(".state")}"
        listen = ["unix:{path}"]
        engine = "bubblewrap"
        on_stop = "close"
        [profiles.default.pool]
        min = 0
        """
    )
    task = asyncio.create_task(Daemon(load(config), lambda: load(config)).run(lambda _: None))

    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await task

    return stop


SERVERS = {"websockets.serve": with_websockets, "uvicorn sansio + ASGI": with_asgi, "ours": with_ours}


def serve_in_child(name: str, path: Path) -> None:
    """Run one server for ever; the parent ends it."""

    async def main() -> None:
        await SERVERS[name](path)
        await asyncio.Event().wait()

    asyncio.run(main())


async def measure(paths: dict[str, Path]) -> dict[str, list[float]]:
    """Microseconds of each round trip, the servers in turn."""
    connections = {}
    for name, path in paths.items():
        while not path.exists():
            await asyncio.sleep(0.01)
        connections[name] = (await connect(f"unix:{path}", reconnect_timeout=0)).link
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, connection in connections.items():
            for _ in range(PINGS):
                began = time.perf_counter()
                await connection.request(messages.Pong, messages.Ping)
                times[name].append((time.perf_counter() - began) * 1e6)
    for connection in connections.values():
        await connection.close()
    return times


def main() -> None:
    """Print a line a server."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        children = []
        for number, name in enumerate(SERVERS):
            paths[name] = Path(folder) / f"s{number}"
            child = context.Process(target=serve_in_child, args=(name, paths[name]), daemon=True)
            child.start()
            children.append(child)
        try:
            for name, times in asyncio.run(measure(paths)).items():
                times.sort()
                print(f"{name:24} p50 {statistics.median(times):6.1f} us   p99 {times[int(len(times) * 0.99)]:6.1f} us")
        finally:
            for child in children:
                child.terminate()
                child.join()


if __name__ == "__main__":
    main()
