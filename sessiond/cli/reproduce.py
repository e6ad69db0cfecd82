"""`sessiond reproduce`: run a session's recorded commands again, and say where they begin to differ."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options, with_client

if TYPE_CHECKING:
    from sessiond_client import Client

    from sessiond.reproduce.record import Record, Step
    from sessiond.reproduce.replay import Outcome

DIFFERS = 3
"""Exit status when a command ends or writes otherwise than it did."""


@click.command()
@click.argument("session")
@click.option("--until", metavar="COMMAND", help="Stop after this command.")
@click.option("--script", is_flag=True, help="Write a shell script and a Dockerfile instead.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="With --script: a new directory [default: reproduce-SESSION].",
)
@click.option("--image", help="With --script: what to build on [default: the profile's, of the settings here].")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file [default: sessiond.toml, if it is here]."
)
@connection_options
def reproduce(
    *,
    session: str,
    until: str | None,
    script: bool,
    output: Path | None,
    image: str | None,
    config: Path | None,
    url: str | None,
    token_file: str | None,
    as_json: bool,
) -> int:
    """Run the recorded commands of SESSION again, in a fresh session of the same profile.

    Stops at the first that ends or writes otherwise than it did. Exit status 0 when all is the same, 3 when something
    differs.
    """
    if script:
        from sessiond.reproduce.record import read_record  # noqa: PLC0415 - `--help` must not pay for it

        directory = output or Path(f"reproduce-{session}")
        record = with_client(url, token_file, lambda client: read_record(client, session, until))
        _write(record, directory, image, config)
        click.echo(json.dumps({"written": str(directory)}) if as_json else f"written to {printable(str(directory))}")
        return 0
    if output is not None or image is not None:
        raise click.UsageError("--output and --image go with --script")
    same = with_client(url, token_file, lambda client: _replay(client, session, until, as_json=as_json))
    return 0 if same else DIFFERS


async def _replay(client: Client, session_id: str, until: str | None, *, as_json: bool) -> bool:
    """Whether all was the same; each outcome is printed as it comes."""
    from sessiond.reproduce.record import read_record  # noqa: PLC0415 - `--help` must not pay for it
    from sessiond.reproduce.replay import open_fresh, replay  # noqa: PLC0415

    info, opening, steps = await read_record(client, session_id, until)
    async with await open_fresh(client, opening) as fresh:
        if fresh.snapshot.policy != info.policy:
            click.echo("sessiond: the policy of the profile has changed since", err=True)
        for step in steps:
            outcome = await replay(client, session_id, fresh, step)
            _say(outcome, as_json=as_json)
            if outcome.verdict == "differs":
                return False
    return True


def _write(record: Record, directory: Path, image: str | None, config: Path | None) -> None:
    from sessiond.reproduce.script import files  # noqa: PLC0415 - `--help` must not pay for any of these
    from sessiond.settings import SettingsError, load  # noqa: PLC0415

    info, opening, steps = record
    default = Path("sessiond.toml")
    try:
        profile = load(config or (default if default.is_file() else None)).profiles.get(info.profile)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if image is None and profile is None:
        raise click.ClickException(f"the settings here have no profile {info.profile}; say --image, or --config")
    shell = "sh" if profile is not None and profile.shell == "sh" else "bash"
    env = {**(profile.env if profile is not None else {}), **opening.env}
    found = files(info.session, image or (profile.image if profile is not None else ""), env, shell, steps)
    directory.mkdir(mode=0o700, parents=True)
    for name, content in found.items():
        (directory / name).write_bytes(content)


def _say(outcome: Outcome, *, as_json: bool) -> None:
    step = outcome.step
    if as_json:
        fields = {"number": step.number, "command": step.info.command, "verdict": outcome.verdict}
        click.echo(json.dumps({**fields, "reason": outcome.reason, "remarks": list(outcome.remarks)}))
        return
    click.echo(f"{step.number:4}  {outcome.verdict:8}{printable(_what(step))}")
    for line in (outcome.reason, *outcome.remarks):
        if line:
            click.echo(f"      {printable(line)}")


def _what(step: Step) -> str:
    return step.info.text if step.info.text is not None else shlex.join(step.info.argv or ())
