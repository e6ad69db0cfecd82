"""`sessiond serve`: run the daemon in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Settings (default: sessiond.toml, if it is here).")
@click.option("--state", type=click.Path(path_type=Path), help="State directory; one daemon on each.")
@click.option("--listen", multiple=True, metavar="ADDRESS", help="unix:/PATH or tcp:127.0.0.1:PORT; may be repeated.")
@click.option("--engine", type=click.Choice(["auto", "docker", "bubblewrap"]), help="What makes sandboxes.")
@click.option("--docker-host", metavar="URL", help="Docker engine to use instead of DOCKER_HOST or the default socket.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Bearer token for TCP listeners, mode 0600.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]))
def serve(config: Path | None, listen: tuple[str, ...], **options: Any) -> None:
    """Run the daemon in the foreground until SIGTERM or ctrl-C.

    Prints one line `sessiond ready ADDRESS...` when clients may come, and tells systemd (Type=notify).
    """
    from sessiond.server.main import serve as run  # noqa: PLC0415 - `sessiond --version` must not pay for the server

    default = Path("sessiond.toml")
    overrides = {name: value for name, value in options.items() if value is not None}
    if listen:
        overrides["listen"] = list(listen)
    sys.exit(run(config or (default if default.is_file() else None), overrides))
