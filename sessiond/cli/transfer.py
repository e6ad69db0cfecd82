"""`sessiond export` and `sessiond import`: a session's workspace as a tar archive."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options, with_client

if TYPE_CHECKING:
    from sessiond_client import Client, Transfer

_path = click.option("--path", default="", metavar="DIR", help="Only this directory of the workspace.")


@click.command()
@click.argument("session")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to this file [default: standard output].")
@_path
@connection_options
def export(
    *, url: str | None, token_file: str | None, as_json: bool, session: str, output: str | None, path: str
) -> int:
    """Write the workspace of SESSION as a tar archive. Exit status 1 when something could not be read."""
    if output is None and sys.stdout.isatty():
        raise click.UsageError("an archive is nothing for a terminal: redirect it, or say -o FILE")

    async def work(client: Client) -> Transfer:
        where: Any = output if output is not None else sys.stdout.buffer
        transfer = await (await client.session(session)).export_workspace(where, path=path)
        sys.stdout.buffer.flush()
        return transfer

    return _tell(with_client(url, token_file, work), as_json=as_json and output is not None)


@click.command("import")
@click.argument("session")
@click.argument("file", type=click.Path(exists=True, dir_okay=False), required=False)
@_path
@connection_options
def import_(
    *, url: str | None, token_file: str | None, as_json: bool, session: str, file: str | None, path: str
) -> int:
    """Read the tar archive FILE, or standard input, into the workspace of SESSION, over what is there."""
    if file is None and sys.stdin.isatty():
        raise click.UsageError("an archive does not come from a terminal: name FILE, or redirect standard input")

    async def work(client: Client) -> Transfer:
        source: Any = file if file is not None else sys.stdin.buffer
        return await (await client.session(session)).import_workspace(source, path=path)

    return _tell(with_client(url, token_file, work), as_json=as_json)


def _tell(transfer: Transfer, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps(asdict(transfer)))
    else:
        for note in transfer.notes:
            click.echo(f"sessiond: {printable(note)}", err=True)
    return 0 if transfer.complete else 1
