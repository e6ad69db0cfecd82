"""`sessiond open` and `sessiond close`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options, env_option, session_options, with_client

if TYPE_CHECKING:
    from sessiond_client import Client, SessionInfo


@click.command("open")
@session_options
@click.option("--id", "session_id", help="Choose the id; the same again gives the same session.")
@env_option
@connection_options
def open_(
    *,
    url: str | None,
    token_file: str | None,
    as_json: bool,
    labels: tuple[tuple[str, str], ...],
    env: tuple[tuple[str, str], ...],
    **options: Any,
) -> None:
    """Open a session and print its id. It stays until it is closed or its time is up."""

    async def work(client: Client) -> SessionInfo:
        session = await client.open(labels=dict(labels), env=dict(env), **options)
        return session.snapshot

    info = with_client(url, token_file, work)
    click.echo(info.model_dump_json() if as_json else info.session)


@click.command()
@click.argument("sessions", nargs=-1, metavar="SESSION...")
@click.option("--all", "everything", is_flag=True, help="Close all your sessions.")
@connection_options
def close(
    *, url: str | None, token_file: str | None, as_json: bool, sessions: tuple[str, ...], everything: bool
) -> int:
    """Close sessions: everything in them is killed and their sandboxes are erased. Prints the ids of those closed."""
    if bool(sessions) == everything:
        raise click.UsageError("name the sessions to close, or say --all")

    async def work(client: Client) -> dict[str, str | None]:
        from sessiond_client import RemoteError  # noqa: PLC0415 - `--help` must not pay for the client

        ids = [info.session for info in await client.sessions()] if everything else list(sessions)
        outcome: dict[str, str | None] = {}
        for session in ids:
            try:
                await client.close_session(session)
                outcome[session] = None
            except RemoteError as error:
                if not (everything and error.code in ("not_found", "gone")):
                    outcome[session] = str(error)
        return outcome

    outcome = with_client(url, token_file, work)
    closed = [session for session, error in outcome.items() if error is None]
    failed = {session: error for session, error in outcome.items() if error is not None}
    if as_json:
        click.echo(json.dumps({"closed": closed, "failed": failed}))
    else:
        for session in closed:
            click.echo(session)
        for session, error in failed.items():
            click.echo(f"sessiond: {session}: {printable(error)}", err=True)
    return 1 if failed else 0
