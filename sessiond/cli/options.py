"""Options that several commands take, and how their values are written."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sessiond_client import Client

    _DurationBase = click.ParamType[float]
    _PairBase = click.ParamType[tuple[str, str]]
else:  # click 8.1 has no parameters for it
    _DurationBase = _PairBase = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_UNITS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(_DurationBase):
    """Seconds, or a number with ms, s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds from what was typed."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd]?)", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is no duration; write 90, 1.5s, 10m, 2h or 1d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Pair(_PairBase):
    """KEY=VALUE; with `from_environment` also KEY alone, for the value that it has here."""

    name = "key=value"

    def __init__(self, *, from_environment: bool = False) -> None:
        self._from_environment = from_environment

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The two parts."""
        key, equals, rest = str(value).partition("=")
        if equals and key:
            return key, rest
        if not (self._from_environment and key in os.environ):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, os.environ[key]


def connection_options(command: F) -> F:
    """Where the daemon is, and how to print."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too."),
        click.option("--token-file", type=click.Path(), help="File with the token [default: SESSIOND_TOKEN_FILE]."),
        click.option("--url", metavar="URL", help="unix:/PATH, ws://HOST:PORT or wss://HOST:PORT [SESSIOND_URL]."),
    ):
        command = option(command)
    return command


def session_options(command: F) -> F:
    """What a session is opened with."""
    for option in (
        click.option("--profile", default="default", show_default=True, help="The recipe to open it from."),
        click.option("--name", help="A name for people."),
        click.option("--label", "labels", multiple=True, type=Pair(), help="May be repeated."),
        click.option("--ttl", type=Duration(), help="Close it after this time at the latest."),
        click.option("--idle-timeout", type=Duration(), help="Close it after so long without a command."),
    ):
        command = option(command)
    return command


def env_option(command: F) -> F:
    """Environment variables."""
    return click.option(
        "--env", "-e", multiple=True, type=Pair(from_environment=True), help="KEY=VALUE, or KEY as it is here."
    )(command)


def with_client(url: str | None, token_file: str | None, do: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Connect, do it, and disconnect."""
    from sessiond_client import connect  # noqa: PLC0415 - `--help` must not pay for the client

    async def work() -> T:
        async with connect(url, token_file=token_file) as client:
            return await do(client)

    return asyncio.run(work())
