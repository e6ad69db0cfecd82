"""`sessiond ps`: sessions, or the commands of one."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import Pair, connection_options, with_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sessiond_client import Client, CommandInfo, SessionInfo

_WIDTH = 60


@click.command()
@click.argument("session", required=False)
@click.option("--all", "-a", "everything", is_flag=True, help="Also those that have ended.")
@click.option("--quiet", "-q", is_flag=True, help="Print ids alone.")
@click.option("--label", "labels", multiple=True, type=Pair(), help="Only sessions with this label. May be repeated.")
@connection_options
def ps(
    *,
    url: str | None,
    token_file: str | None,
    as_json: bool,
    session: str | None,
    everything: bool,
    quiet: bool,
    labels: tuple[tuple[str, str], ...],
) -> None:
    """List your open sessions, or the running commands of SESSION."""
    if session is not None and labels:
        raise click.UsageError("--label selects sessions; it has no meaning for the commands of one")

    async def list_sessions(client: Client) -> list[SessionInfo]:
        found = await client.sessions(labels=dict(labels))
        return [info for info in found if everything or info.state not in ("closing", "closed")]

    async def list_commands(client: Client) -> list[CommandInfo]:
        found = await (await client.session(session or "")).commands()
        return [info for info in found if everything or info.state in ("starting", "running")]

    if session is None:
        sessions = with_client(url, token_file, list_sessions)
        if as_json:
            click.echo(json.dumps([info.model_dump(mode="json") for info in sessions]))
        elif quiet:
            _lines(info.session for info in sessions)
        else:
            _table(("SESSION", "NAME", "PROFILE", "STATE", "AGE", "LEFT", "COMMANDS"), [_session(i) for i in sessions])
    else:
        commands = with_client(url, token_file, list_commands)
        if as_json:
            click.echo(json.dumps([info.model_dump(mode="json") for info in commands]))
        elif quiet:
            _lines(info.command for info in commands)
        else:
            _table(("COMMAND", "STATE", "AGE", "OUTPUT", "WHAT"), [_command(info) for info in commands])


def _session(info: SessionInfo) -> tuple[str, ...]:
    now = time.time()
    left = _span(info.expires - now) if info.expires is not None else "-"
    name = info.name or "-"
    return info.session, name, info.profile, info.state, _span(now - info.created), left, str(info.commands)


def _command(info: CommandInfo) -> tuple[str, ...]:
    state = info.state
    if info.exit is not None:
        state_text = f"exit {info.exit.code}" if info.exit.signal is None else f"signal {info.exit.signal}"
        state_text += f" ({info.exit.cause})" if info.exit.cause in ("timeout", "oom", "killed", "quota") else ""
    else:
        state_text = state
    age = _span(time.time() - info.started) if info.started is not None else "-"
    what = info.text if info.text is not None else shlex.join(info.argv or ())
    return info.command, state_text, age, str(info.output_to), what


def _span(seconds: float) -> str:
    """A duration in its two largest digits: 42s, 7m, 3h, 12d."""
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    cells = [tuple(head), *(tuple(_cut(printable(cell)) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    _lines("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
