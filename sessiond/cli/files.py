"""`sessiond cp`, `ls` and `cat`: files of sessions. `SESSION:PATH` is one, anything else is a path here."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options, with_client

if TYPE_CHECKING:
    from sessiond_client import Client, FileEntry

_PIECE = 1024 * 1024
_LETTERS = {"file": "-", "directory": "d", "link": "l", "socket": "s", "fifo": "p", "other": "?"}


@click.command()
@click.option("-r", "recursive", is_flag=True, help="Directories, with all below them.")
@click.argument("source")
@click.argument("target")
@connection_options
def cp(*, url: str | None, token_file: str | None, as_json: bool, recursive: bool, source: str, target: str) -> None:
    """Copy a file between here and a session, one of them written SESSION:PATH. A file is replaced whole or not at all.

    A directory takes -r, and is copied into TARGET, which is made if it is missing.
    """
    there, here = _place(source), _place(target)
    if (there is None) == (here is None):
        raise click.UsageError("one of both is SESSION:PATH, the other a path here")
    if there is None and not recursive and Path(source).is_dir():
        raise click.UsageError(f"{source} is a directory: say -r")

    within = Path(target) / Path((there or ("", ""))[1]).name if Path(target).is_dir() else Path(target)

    async def work(client: Client) -> int:
        if there is None and here is not None:
            files = (await client.session(here[0])).files
            return await files.upload(source, _into(here[1], source))
        assert there is not None  # noqa: S101 - one of both is
        files = (await client.session(there[0])).files
        kind = (await files.stat(there[1])).kind
        if kind == "directory" and not recursive:
            raise click.UsageError(f"{source} is a directory: say -r")
        return await files.download(there[1], within if kind != "directory" else target)

    size = with_client(url, token_file, work)
    if as_json:
        click.echo(json.dumps({"bytes": size}))


@click.command()
@click.option("-r", "recursive", is_flag=True, help="What directories hold, too.")
@click.argument("place", metavar="SESSION[:PATH]")
@connection_options
def ls(*, url: str | None, token_file: str | None, as_json: bool, recursive: bool, place: str) -> None:
    """List a directory of a session: permissions, size, time, name."""
    session, path = _place(place) or (place, "")

    async def work(client: Client) -> list[FileEntry]:
        files = (await client.session(session)).files
        if path and (found := await files.stat(path)).kind != "directory":
            return [found]
        return await files.list(path, recursive=recursive)

    entries = with_client(url, token_file, work)
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries]))
        return
    width = max((len(str(entry.size)) for entry in entries), default=0)
    for entry in entries:
        bits = "".join(letter if entry.mode & 1 << 8 - at else "-" for at, letter in enumerate("rwxrwxrwx"))
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified))
        leads = "" if entry.target is None else f" -> {printable(entry.target)}"
        click.echo(f"{_LETTERS[entry.kind]}{bits} {entry.size:>{width}} {when} {printable(entry.path)}{leads}")


@click.command()
@click.argument("place", metavar="SESSION:PATH")
@connection_options
def cat(*, url: str | None, token_file: str | None, as_json: bool, place: str) -> None:
    """Write a file of a session to standard output, as it is."""
    found = _place(place)
    if found is None or as_json:
        raise click.UsageError("give SESSION:PATH; what a file holds is not JSON" if as_json else "give SESSION:PATH")

    async def work(client: Client) -> None:
        files = (await client.session(found[0])).files
        offset = 0
        while data := await files.read(found[1], offset, _PIECE):
            await asyncio.to_thread(sys.stdout.buffer.write, data)
            offset += len(data)
        sys.stdout.buffer.flush()

    with_client(url, token_file, work)


def _place(text: str) -> tuple[str, str] | None:
    """Session and path; None for a path here, which has a slash or a dot before any colon, or no colon."""
    session, colon, path = text.partition(":")
    return (session, path) if colon and session and "/" not in session else None


def _into(remote: str, source: str) -> str:
    """Where a file goes: under its own name where only a directory was named."""
    if Path(source).is_dir() or (remote and not remote.endswith("/")):
        return remote
    return f"{remote}{Path(source).name}"
