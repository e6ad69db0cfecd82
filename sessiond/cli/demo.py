"""`sessiond demo`: a session at work, on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sessiond.cli.failure import printable
from sessiond.cli.ground import docker_host_option, plainly

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from sessiond.engine.port import Engine

WHAT_WIDTH = 41


@click.command()
@click.option(
    "--engine",
    type=click.Choice(["auto", "docker", "bubblewrap"]),
    default="auto",
    show_default=True,
    help="What makes the sandboxes; auto is Docker where it answers, else bubblewrap.",
)
@docker_host_option
def demo(*, engine: str, docker_host: str | None) -> None:
    """Show what sessiond does: start a daemon, work in a session, compare, and leave nothing behind.

    Takes less than a minute, but for the first time on Docker, when it builds an image.
    """
    from rich.console import Console  # noqa: PLC0415 - `--help` must not pay for any of these

    from sessiond.demo.story import Demo, DemoError  # noqa: PLC0415
    from sessiond.private_daemon import find_ground, run_to_end  # noqa: PLC0415

    console = Console(highlight=False)

    def say(milliseconds: float | None, what: str, outcome: str) -> None:
        took = "" if milliseconds is None else written(milliseconds)
        console.print(f"[bold cyan]{took:>10}[/]  {what:{WHAT_WIDTH}}", end="")
        console.print(printable(outcome), markup=False, style="dim", soft_wrap=True)

    async def prepared(chosen: Engine) -> str:
        with console.status("looking for an image") as status:
            return await _image(chosen, status.update)

    async def work() -> None:
        ground = await find_ground(engine, docker_host=docker_host, image=prepared)
        console.print(printable(ground.why), markup=False, style="bold", soft_wrap=True)
        for weakness in ground.capabilities.weaknesses:
            console.print(f"            [yellow]note[/] {weakness}", soft_wrap=True)
        await Demo(ground, say).run()

    with plainly():
        try:
            run_to_end(work())
        except DemoError as error:
            raise click.ClickException(str(error)) from error
    _farewell(console)


async def _image(engine: Engine, progress: Callable[[str], None]) -> str:
    """One with git and pytest, built here if need be; where that does not work, one that can be pulled."""
    import asyncio  # noqa: PLC0415

    from sessiond.engine.docker_engine import DockerEngine  # noqa: PLC0415
    from sessiond.image import ImageBuildError, build, ensure  # noqa: PLC0415

    if not isinstance(engine, DockerEngine):
        return ""
    try:
        return await asyncio.to_thread(build, "mini", docker_host=engine.url, progress=progress)
    except ImageBuildError as error:
        progress(str(error))
        return await ensure(engine, progress=progress)


def written(milliseconds: float) -> str:
    """A duration with as many digits as matter."""
    if milliseconds < 100:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 10000 else f"{milliseconds / 1000:.1f} s"


def _farewell(console: Console) -> None:
    console.print("\nNext: `sessiond serve`, and then `sessiond run -- python3 --version`.")
    console.print("`sessiond doctor` tries every lock, `sessiond bench` measures more.")
