"""`sessiond image`: build images for sandboxes where no registry answers, and look at them."""

from __future__ import annotations

import json
import os

import click

from sessiond.cli.ground import docker_host_option, plainly


@click.group()
def image() -> None:
    """Build and look at sandbox images.

    Any image works for a sandbox; these are for machines on which no registry answers. Only the docker engine needs
    them.
    """


@image.command()
@click.option(
    "--variant", type=click.Choice(["mini", "full"]), default="mini", show_default=True, help="What is in it."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too.")
@docker_host_option
def build(*, variant: str, as_json: bool, docker_host: str | None) -> None:
    """Build an image, import it into Docker, try it, and print its name.

    mini has Python, pytest, git and ripgrep; full adds black, pylint, numpy, matplotlib and ipykernel. What is there
    already is not made again. The first build takes a minute or more.
    """
    from rich.console import Console  # noqa: PLC0415 - `--help` must not pay for any of these

    from sessiond.image import build as make  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)

    def progress(line: str) -> None:
        console.print(line, markup=False, style="dim")

    with plainly():
        reference = make(variant, docker_host=_url(docker_host), progress=progress)
    click.echo(json.dumps({"variant": variant, "image": reference}) if as_json else reference)


@image.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too.")
@docker_host_option
def list_(*, as_json: bool, docker_host: str | None) -> None:
    """List the variants, and whether Docker has each."""
    from sessiond.engine.docker import ERRORS, DockerClient  # noqa: PLC0415
    from sessiond.image import VARIANTS  # noqa: PLC0415

    url = _url(docker_host)
    try:
        client = DockerClient(url)
        try:
            here = {variant: client.has_image(recipe.reference) for variant, recipe in VARIANTS.items()}
        finally:
            client.close()
    except ERRORS as error:
        raise click.ClickException(f"no Docker engine answers at {url}: {error}") from error
    if as_json:
        rows = [
            {"variant": name, "image": recipe.reference, "here": here[name], "packages": list(recipe.packages)}
            for name, recipe in VARIANTS.items()
        ]
        click.echo(json.dumps(rows))
        return
    for name, recipe in VARIANTS.items():
        state = "here" if here[name] else "not built"
        click.echo(f"{name:6} {recipe.reference:28} {state:10} {', '.join(recipe.packages)}")


def _url(docker_host: str | None) -> str:
    from sessiond.engine.docker_engine import DEFAULT_HOST  # noqa: PLC0415

    return docker_host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
