"""`sessiond doctor`: try every lock and limit in a live sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sessiond.cli.failure import FAILED, printable
from sessiond.cli.ground import engine_options, picked, plainly

if TYPE_CHECKING:
    from rich.console import Console

    from sessiond.doctor.examine import Check
    from sessiond.doctor.report import Report
    from sessiond.settings import Profile, Settings


@click.command()
@engine_options
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file [default: sessiond.toml, if it is here]."
)
@click.option("--profile", default="default", show_default=True, help="Whose limits are tried.")
def doctor(
    *, engine: str, docker_host: str | None, image: str | None, as_json: bool, config: Path | None, profile: str
) -> int:
    """Check that this machine can keep what sessiond promises.

    Opens a sandbox on a daemon of its own and tries each lock and limit from inside. Exit status 0 when all that the
    engine promises holds, else 1.
    """
    from rich.console import Console  # noqa: PLC0415 - `--help` must not pay for any of these

    from sessiond.doctor.report import begin, fill  # noqa: PLC0415
    from sessiond.private_daemon import find_ground, run_to_end  # noqa: PLC0415

    settings, recipe = _settings(config, profile)
    wanted = engine if engine != "auto" else recipe.engine or settings.daemon.engine
    console = Console(quiet=as_json, highlight=False)
    errors = Console(stderr=True)

    async def work() -> Report:
        ground = await find_ground(
            wanted,
            docker_host=docker_host or settings.daemon.docker_host,
            runtime=settings.daemon.runtime,
            image=picked(image or _named_image(recipe), errors),
        )
        report = begin(ground)
        _say_ground(console, report)
        await fill(report, ground, recipe, lambda check: _say_check(console, check))
        return report

    with plainly():
        report = run_to_end(work())
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        _say_end(console, report)
    return 0 if report.ok else FAILED


def _settings(config: Path | None, profile: str) -> tuple[Settings, Profile]:
    from sessiond.settings import SettingsError, load  # noqa: PLC0415

    default = Path("sessiond.toml")
    try:
        settings = load(config or (default if default.is_file() else None))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if profile not in settings.profiles:
        raise click.UsageError(f"there is no profile {profile!r}; there are {', '.join(settings.profiles)}")
    return settings, settings.profiles[profile]


def _named_image(profile: Profile) -> str | None:
    """The image that the profile names; the default one may be replaced by one that can be had here."""
    return profile.image if "image" in profile.model_fields_set else None


def _say_ground(console: Console, report: Report) -> None:
    console.print(printable(report.why), markup=False, style="bold", soft_wrap=True)
    facts = dict(report.facts)
    if report.image:
        facts["image"] = report.image
    for name, value in facts.items():
        console.print(f"  {name:16} {value}", markup=False, style="dim", soft_wrap=True)
    for weakness in report.weaknesses:
        console.print(f"  [yellow]note[/]             {weakness}", soft_wrap=True)
    console.print()


def _say_check(console: Console, check: Check) -> None:
    if check.held:
        mark = "[green]held        [/]"
    elif check.promised:
        mark = "[bold red]NOT held    [/]"
    else:
        mark = "[yellow]not promised[/]"
    console.print(f"{mark} {check.name:17} ", end="")
    console.print(printable(check.detail), markup=False, style="dim", soft_wrap=True)


def _say_end(console: Console, report: Report) -> None:
    broken = [check.name for check in report.checks if not check.good]
    console.print()
    if report.ok:
        console.print(
            f"[green]All {len(report.checks)} checks are as promised.[/] The sandbox and its daemon are gone."
        )
    else:
        console.print(f"[bold red]NOT held: {', '.join(broken)}.[/] Do not run what you do not trust here.")
