"""`sessiond bench`: what commands, openings and output cost here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from sessiond.cli.ground import engine_options, picked, plainly

if TYPE_CHECKING:
    from sessiond.bench.figures import Figures


@click.command()
@engine_options
@click.option("--quick", is_flag=True, help="Fewer rounds: half a minute, and figures to take with a grain of salt.")
def bench(*, engine: str, docker_host: str | None, image: str | None, as_json: bool, quick: bool) -> None:
    """Measure a daemon of its own, on this machine, in a minute or two.

    All measurements are taken in turn, round after round, so the ratios hold even when the machine is busy.
    """
    from rich.console import Console  # noqa: PLC0415 - `--help` must not pay for any of these

    from sessiond.bench.measure import FULL, QUICK, measure  # noqa: PLC0415
    from sessiond.private_daemon import find_ground, run_to_end  # noqa: PLC0415

    console = Console(stderr=True)

    async def work() -> Figures:
        ground = await find_ground(engine, docker_host=docker_host, image=picked(image, console))
        console.print(ground.why, style="dim", highlight=False)
        with console.status("") as status:
            return await measure(ground, QUICK if quick else FULL, status.update)

    with plainly():
        figures = run_to_end(work())
    if as_json:
        click.echo(json.dumps(figures.as_json()))
    else:
        _table(figures)


def _table(figures: Figures) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from sessiond.bench.figures import PROMISES, rows  # noqa: PLC0415

    machine = figures.machine
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    table.title = f"{machine.engine} {machine.engine_version}; {machine.cpus} processors, Linux {machine.kernel}"
    table.add_column("what")
    table.add_column("here", justify="right", no_wrap=True)
    table.add_column("what it means", style="dim")
    for row in rows(figures):
        table.add_row(row.what, row.value, row.meaning)
    console = Console()
    console.print(table)
    if machine.engine == "docker":
        values = figures.as_json()
        for promise in PROMISES:
            value = values[promise.key]
            mark = "[green]kept[/]" if promise.kept(value) else "[red]not kept[/]"
            console.print(f"promise {promise.key} {promise.relation} {promise.bound:g}: {value} {mark}")
