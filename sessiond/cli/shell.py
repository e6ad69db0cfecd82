"""`sessiond shell`: a terminal in a session, on this process's own terminal."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli.options import connection_options, env_option, with_client

if TYPE_CHECKING:
    from sessiond_client import Client, Command, Session

    from sessiond.cli.terminal import Outcome

TAIL_BYTES = 64 * 1024
"""Output that is shown again to who comes back: more than any screen holds."""
_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class _ShellCommand(click.Command):
    """What comes after `--` is the command, word for word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take ARGV away before click looks at it."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["argv"] = args[end + 1 :]
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Name it all the same."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGV...]"]


@click.command(cls=_ShellCommand)
@click.argument("session", required=False)
@click.option("--attach", metavar="COMMAND", help="Come back to a terminal of SESSION that runs already.")
@click.option("--watch", is_flag=True, help="With --attach: look on and type nothing.")
@click.option("--profile", default="default", show_default=True, help="Without SESSION: the recipe to open one from.")
@click.option("--term", help="Kind of terminal [default: TERM].")
@click.option("--cwd", default="", help="Working directory, relative to the workspace.")
@env_option
@connection_options
@click.pass_context
def shell(ctx: click.Context, /, *, url: str | None, token_file: str | None, as_json: bool, **options: Any) -> int:
    """Work in a terminal of SESSION: a shell, or ARGV.

    Ctrl-] d detaches: the terminal goes on, and --attach comes back to it. Ctrl-] ctrl-] types a ctrl-]. Without
    SESSION one is opened, and closed when its shell ends. Exit status as of `exec`; 0 after detaching.
    """
    argv: list[str] = ctx.meta["argv"]
    session, attach, watch = options["session"], options["attach"], options["watch"]
    if attach is not None and (session is None or argv):
        raise click.UsageError("--attach needs a SESSION, and takes no command")
    if watch and attach is None:
        raise click.UsageError("--watch needs --attach")
    if not (os.isatty(0) and os.isatty(1)):
        raise click.UsageError("standard input and output are no terminal; see `sessiond exec`")

    async def work(client: Client) -> int:
        if attach is not None:
            return (await _come_back(client, session, attach, watch=watch)).status
        if session is not None:
            return (await _start(await client.session(session), argv, options)).status
        async with contextlib.AsyncExitStack() as stack:
            opened = await stack.enter_async_context(await client.open(options["profile"]))
            outcome = await _start(opened, argv, options)
            if outcome.detached:
                stack.pop_all()
            return outcome.status

    return with_client(url, token_file, work)


async def _start(session: Session, argv: list[str], options: dict[str, Any]) -> Outcome:
    from sessiond.cli.terminal import LocalTerminal  # noqa: PLC0415 - `--help` must not pay for asyncio

    here = LocalTerminal()
    rows, columns = here.size
    term = options["term"] or os.environ.get("TERM", "")
    command = await session.terminal(
        argv or ["bash"],
        rows=rows,
        columns=columns,
        term=term if _TERM.fullmatch(term) else "xterm-256color",
        env=dict(options["env"]),
        cwd=options["cwd"],
    )
    return _told(await here.show(command, types=True), command)


async def _come_back(client: Client, session_id: str, command_id: str, *, watch: bool) -> Outcome:
    from sessiond.cli.terminal import LocalTerminal  # noqa: PLC0415

    session = await (client.attach(session_id, mode="reader") if watch else client.session(session_id))
    info = next((info for info in await session.commands() if info.command == command_id), None)
    if info is None:
        raise click.ClickException(f"session {session_id} has no command {command_id}; see `sessiond ps {session_id}`")
    if not info.terminal:
        raise click.ClickException(f"command {command_id} runs on no terminal")
    types = not watch and info.state in ("starting", "running")
    begin = max(info.output_from, info.output_to - TAIL_BYTES)
    command = await session.command(command_id, offset=begin, stdin=types)
    outcome = await LocalTerminal().show(command, types=types, tail=(begin > 0, info.output_to))
    return _told(outcome, command)


def _told(outcome: Outcome, command: Command) -> Outcome:
    if outcome.detached:
        again = f"sessiond shell {command.session.id} --attach {command.id}"
        click.echo(f"sessiond: the terminal goes on; come back with: {again}", err=True)
    return outcome
