"""What `bench`, `doctor` and `demo` share: which engine they start their own daemon on, and how they fail."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from sessiond.engine.port import Engine

F = TypeVar("F", bound=Callable[..., Any])


def docker_host_option(command: F) -> F:
    """Where Docker is."""
    help_ = "Docker engine to use instead of DOCKER_HOST or the default socket."
    return click.option("--docker-host", metavar="URL", help=help_)(command)


def engine_options(command: F) -> F:
    """The engine, its image, and how to print."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too."),
        click.option("--image", metavar="IMAGE", help="Image of the sandboxes, for engines that have images."),
        docker_host_option,
        click.option(
            "--engine",
            type=click.Choice(["auto", "docker", "bubblewrap"]),
            default="auto",
            show_default=True,
            help="What makes the sandboxes; auto is Docker where it answers, else bubblewrap.",
        ),
    ):
        command = option(command)
    return command


def picked(image: str | None, console: Console) -> Callable[[Engine], Awaitable[str]]:
    """Has the named image ready, or without a name one that can be pulled or built."""

    async def prepare(engine: Engine) -> str:
        from sessiond.image import ensure  # noqa: PLC0415 - `--help` must not pay for it
        from sessiond.image.build import WANTED  # noqa: PLC0415

        if image is not None and engine.name == "docker":
            await engine.prepare(image)
            return image
        with console.status("looking for an image") as status:
            return await ensure(engine, WANTED, status.update)

    return prepare


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Expected failures as one message."""
    from sessiond.engine.port import EngineError  # noqa: PLC0415
    from sessiond.image import ImageBuildError  # noqa: PLC0415
    from sessiond.private_daemon import PrivateDaemonError  # noqa: PLC0415

    try:
        yield
    except (EngineError, ImageBuildError, PrivateDaemonError) as error:
        raise click.ClickException(str(error)) from error
