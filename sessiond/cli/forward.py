"""`sessiond forward`: ports of this machine that lead to what listens inside a session."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from typing import TYPE_CHECKING, NamedTuple

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options, with_client

if TYPE_CHECKING:
    from sessiond_client import ByteStream, Client, Session

_PIECE = 256 * 1024
_LARGEST_PORT = 65535


class _Way(NamedTuple):
    local: int
    remote: int | str


@click.command()
@click.argument("session")
@click.argument("ways", nargs=-1, required=True, metavar="LOCAL:REMOTE...")
@connection_options
def forward(*, url: str | None, token_file: str | None, as_json: bool, session: str, ways: tuple[str, ...]) -> None:
    """Listen on ports of 127.0.0.1, and lead each connection to REMOTE inside SESSION: a port, or a unix socket's path.

    LOCAL 0 is any free port. A line for each says what leads where. Ends with ctrl-C; the session stays.
    """
    parsed = [_way(text) for text in ways]

    async def work(client: Client) -> None:
        opened = await client.session(session)
        async with contextlib.AsyncExitStack() as stack:
            for way in parsed:
                door = _Door(opened, way.remote)
                server = await asyncio.start_server(door.serve, "127.0.0.1", way.local)
                stack.push_async_callback(door.close)
                stack.callback(server.close)
                click.echo(f"127.0.0.1:{server.sockets[0].getsockname()[1]} -> {session}:{way.remote}")
            await _interrupted()

    with_client(url, token_file, work)


class _Door:
    """Connections from here to one place inside."""

    def __init__(self, session: Session, remote: int | str) -> None:
        self._session = session
        self._remote = remote
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to the end of both ways."""
        from sessiond_client import SessiondError  # noqa: PLC0415 - `--help` must not pay for the client

        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._tasks.add(task)
        try:
            async with await self._session.connect(self._remote) as stream:
                outwards = asyncio.ensure_future(_send(reader, stream))
                try:
                    while data := await stream.read(_PIECE):
                        writer.write(data)
                        await writer.drain()
                finally:
                    outwards.cancel()
        except SessiondError as error:
            click.echo(f"sessiond: {printable(str(error))}", err=True)
        except (OSError, asyncio.CancelledError):
            pass  # who connected is gone, or this command ends
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _send(reader: asyncio.StreamReader, stream: ByteStream) -> None:
    from sessiond_client import SessiondError  # noqa: PLC0415

    with contextlib.suppress(SessiondError, OSError):  # the other way tells how it ended
        while data := await reader.read(_PIECE):
            await stream.write(data)
        await stream.close_write()


async def _interrupted() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    await done.wait()


def _way(text: str) -> _Way:
    match = re.fullmatch(r"(\d{1,5}):(.+)", text)
    if match is None or int(match[1]) > _LARGEST_PORT:
        raise click.UsageError(f"{text!r} is not LOCAL:REMOTE, such as 8080:80 or 8080:run/app.sock")
    remote: int | str = int(match[2]) if match[2].isdigit() else match[2]
    if isinstance(remote, int) and not 1 <= remote <= _LARGEST_PORT:
        raise click.UsageError(f"{remote} is no port")
    return _Way(int(match[1]), remote)
