"""`sessiond logs`: what the commands of a session have said, live or long after."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options, with_client

if TYPE_CHECKING:
    from sessiond_client import Client, CommandInfo, Gap, Output, Session

LOOK_AGAIN_SECONDS = 0.5
"""How often new commands of a session are looked for: no event tells of them."""
RUNNING = ("starting", "running")


@click.command()
@click.argument("session")
@click.argument("command", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is yet to come, to the end.")
@click.option("--from", "offset", type=click.IntRange(min=0), default=0, help="Begin at this byte of the output.")
@connection_options
def logs(
    *,
    url: str | None,
    token_file: str | None,
    as_json: bool,
    session: str,
    command: str | None,
    follow: bool,
    offset: int,
) -> None:
    """Print the output of COMMAND, or of all commands of SESSION, oldest first.

    Standard output and standard error of the commands go to those of this one. A session that was closed can be read
    until its retention is over. With --json each piece is a line: command, offset, stream, and data.
    """
    if offset and command is None:
        raise click.UsageError("--from is a byte of one command's output: name the command")
    show = _as_json if as_json else _as_bytes

    async def work(client: Client) -> None:
        found = await client.session(session)
        if command is not None:
            await _print(found, await _info(found, command), offset, follow, show)
        else:
            await _print_all(found, follow, show)

    with_client(url, token_file, work)


async def _info(session: Session, command: str) -> CommandInfo:
    for info in await session.commands():
        if info.command == command:
            return info
    await session.command(command)  # raises what says why
    raise click.ClickException(f"command {command} was just forgotten")


async def _print_all(session: Session, follow: bool, show: Any) -> None:
    import asyncio  # noqa: PLC0415 - `--help` must not pay for it

    printed: set[str] = set()
    while True:
        for info in await session.commands():
            if info.command not in printed:
                printed.add(info.command)
                if show is _as_bytes:
                    click.echo(f"==> {info.command}  {printable(_what(info))} <==", err=True)
                await _print(session, info, 0, follow, show)
        if not follow or (await session.info()).state == "closed":
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _print(session: Session, info: CommandInfo, offset: int, follow: bool, show: Any) -> None:
    """The output from `offset` on: up to now, or to its end."""
    from sessiond_client import CommandError  # noqa: PLC0415

    until = None if follow or info.state not in RUNNING else info.output_to
    if until is not None and offset >= until:
        return
    command = await session.command(info.command, offset=offset)
    try:
        async for piece in command:
            show(info.command, piece)
            if until is not None and _end(piece) >= until:
                return
    except CommandError as error:
        click.echo(f"==> {info.command} {error}", err=True)
    finally:
        await command.detach()


def _end(piece: Output | Gap) -> int:
    from sessiond_client import Gap  # noqa: PLC0415

    return piece.end if isinstance(piece, Gap) else piece.offset + len(piece.data)


def _as_bytes(_: str, piece: Output | Gap) -> None:
    from sessiond_client import Gap  # noqa: PLC0415

    if isinstance(piece, Gap):
        click.echo(f"==> bytes {piece.start} to {piece.end} are not kept any more <==", err=True)
        return
    stream = sys.stdout if piece.stream == "stdout" else sys.stderr
    stream.buffer.write(piece.data)
    stream.flush()


def _as_json(command: str, piece: Output | Gap) -> None:
    from sessiond_client import Gap  # noqa: PLC0415

    if isinstance(piece, Gap):
        line: dict[str, Any] = {"command": command, "gap": [piece.start, piece.end]}
    else:
        data = piece.data.decode("utf-8", "replace")
        line = {"command": command, "offset": piece.offset, "stream": piece.stream, "data": data}
    click.echo(json.dumps(line))


def _what(info: CommandInfo) -> str:
    import shlex  # noqa: PLC0415

    return info.text if info.text is not None else shlex.join(info.argv or ())
