"""`sessiond exec` and `sessiond run`: a command in a session, as if it ran here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli.failure import TIMED_OUT
from sessiond.cli.options import Duration, connection_options, env_option, session_options, with_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from sessiond_client import Client, Result, Session

_PASS_ON = {"allow_interspersed_args": False}


class _ExecCommand(click.Command):
    """Takes options before and after SESSION, up to the first word of ARGV; from there on all stays as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move SESSION behind the options, where click looks for it."""
        flags = {
            name: isinstance(param, click.Option) and param.is_flag
            for param in self.get_params(ctx)
            for name in (*param.opts, *param.secondary_opts)
        }
        options: list[str] = []
        session: list[str] = []
        rest = list(args)
        while rest and rest[0] != "--" and (rest[0].startswith("-") or not session):
            word = rest.pop(0)
            if not word.startswith("-"):
                session.append(word)
                continue
            options.append(word)
            if flags.get(word) is False and rest:
                options.append(rest.pop(0))
        if session and rest[:1] == ["--"]:
            rest.pop(0)
        return super().parse_args(ctx, [*options, *session, *rest])


def _command_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGV...]"),
        click.option("-c", "text", metavar="TEXT", help="A command line for the sandbox's shell, instead of ARGV."),
        click.option("--cwd", default="", help="Working directory, relative to the workspace."),
        click.option("--timeout", type=Duration(), help="End it after this time (TERM, later KILL); status 124."),
        click.option("--stdin/--no-stdin", "-i/-n", default=None, help="[default: if it is no terminal]"),
        env_option,
        connection_options,
    ):
        command = option(command)
    return command


@click.command("exec", cls=_ExecCommand, context_settings=_PASS_ON)
@click.argument("session")
@_command_options
def exec_(*, url: str | None, token_file: str | None, session: str, **options: Any) -> int:
    """Run a command in SESSION, with standard input and output passed through.

    Exit status: the command's own, 128 + N when signal N ended it, 124 at its timeout, 126 when policy denies it, and
    125 when sessiond itself fails. Ctrl-C interrupts the command; a second one kills it.
    """
    command = _what(options)

    async def work(client: Client) -> int:
        return await _execute(await client.session(session), command, **options)

    return with_client(url, token_file, work)


@click.command(context_settings=_PASS_ON)
@session_options
@_command_options
def run(
    *,
    url: str | None,
    token_file: str | None,
    profile: str,
    name: str | None,
    labels: tuple[tuple[str, str], ...],
    ttl: float | None,
    idle_timeout: float | None,
    **options: Any,
) -> int:
    """Open a session, run a command in it like `exec`, and close it, whatever happens."""
    command = _what(options)

    async def work(client: Client) -> int:
        opened = await client.open(profile, name=name, labels=dict(labels), ttl=ttl, idle_timeout=idle_timeout)
        async with opened:
            return await _execute(opened, command, **options)

    return with_client(url, token_file, work)


def _what(options: dict[str, Any]) -> str | list[str]:
    text, argv = options.pop("text"), options.pop("argv")
    if (text is None) == (not argv):
        raise click.UsageError("give a command: either -c TEXT or -- ARGV...")
    return text if text is not None else list(argv)


async def _execute(session: Session, command: str | list[str], **options: Any) -> int:
    from sessiond.cli.passthrough import pass_through, read_stdin  # noqa: PLC0415 - `--help` must not pay for asyncio

    how = {"cwd": options["cwd"], "env": dict(options["env"]), "timeout": options["timeout"]}
    if not options["as_json"]:
        status = await pass_through(session, command, use_stdin=options["stdin"], **how)
        return TIMED_OUT if status.timed_out else status.status
    result = await session.run(command, stdin=await read_stdin(options["stdin"]), **how)
    click.echo(json.dumps(_plain(result)))
    return TIMED_OUT if result.timed_out else result.status


def _plain(result: Result) -> dict[str, Any]:
    return {
        "exit_code": result.exit_code,
        "signal": result.signal,
        "cause": result.cause,
        "timed_out": result.timed_out,
        "duration": result.duration,
        "user_seconds": result.user_seconds,
        "system_seconds": result.system_seconds,
        "max_rss_bytes": result.max_rss_bytes,
        "output_bytes": result.output_bytes,
        "stdout": result.stdout.decode("utf-8", "replace"),
        "stderr": result.stderr.decode("utf-8", "replace"),
        "gaps": [[gap.start, gap.end] for gap in result.gaps],
    }
