"""`sessiond audit`: verify, follow, search and export the audit log. Reads files; needs no daemon."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from sessiond.cli.failure import printable

if TYPE_CHECKING:
    from sessiond.audit.chain import Record
    from sessiond.audit.query import Query
    from sessiond.audit.verifier import Report

    _MomentBase = click.ParamType[str]
else:  # click 8.1 has no parameters for it
    _MomentBase = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

TAMPERED = 3
"""Exit status of `verify` when something is missing, changed or out of place."""
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Moment(_MomentBase):
    """A date, a date with a time (UTC if no zone is given), or how long ago: 90s, 10m, 2h, 7d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """A timestamp as records have it."""
        from datetime import UTC, datetime  # noqa: PLC0415 - `--help` must not pay for any of these

        from sessiond.audit.record import timestamp  # noqa: PLC0415

        ago = _AGO.fullmatch(str(value))
        if ago is not None:
            return timestamp(max(0.0, time.time() - float(ago[1]) * _UNITS[ago[2]]))
        try:
            moment = datetime.fromisoformat(str(value))
            return timestamp((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 2026-01-31, 2026-01-31T12:00:00Z, or 2h (ago)", param, ctx)


def place_options(command: F) -> F:
    """Where the log is."""
    for option in (
        click.option("--state", type=click.Path(path_type=Path), help="State directory [default: of the settings]."),
        click.option(
            "--config", type=click.Path(path_type=Path), help="Settings file [default: sessiond.toml, if it is here]."
        ),
    ):
        command = option(command)
    return command


def query_options(command: F) -> F:
    """Which records are meant."""
    for option in (
        click.option("--session", metavar="ID", help="Only of this session."),
        click.option("--command", metavar="ID", help="Only of this command."),
        click.option("--verdict", type=click.Choice(["allow", "deny", "ask"]), help="Only decisions like this."),
        click.option("--event", metavar="NAME", help="Only this kind, such as decision, end or session_opened."),
        click.option("--who", metavar="PEER", help="Only what this peer caused, such as uid:1000, token or daemon."),
        click.option("--since", type=Moment(), help="From this time on: 2026-01-31, 2026-01-31T12:00Z, or 2h (ago)."),
        click.option("--until", type=Moment(), help="Before this time."),
    ):
        command = option(command)
    return command


@click.group()
def audit() -> None:
    """Verify, follow, search and export the audit log."""


@audit.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR|FILE...]")
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too.")
def verify(paths: tuple[Path, ...], config: Path | None, state: Path | None, as_json: bool) -> int:
    """Find what is missing, changed or out of place in the log.

    DIR is a state directory. Of single files, oldest first, only those are verified. Exit status 0 when all is as it
    was written, 3 when something is not, 1 when the log cannot be read.
    """
    from sessiond.audit.files import NAME  # noqa: PLC0415 - `--help` must not pay for any of these
    from sessiond.audit.verify import verify_files, verify_log  # noqa: PLC0415

    if len(paths) > 1 and any(path.is_dir() for path in paths):
        raise click.UsageError("give one directory, or files")
    if len(paths) == 0 or paths[0].is_dir():
        report = verify_log(_log(config, paths[0] if paths else state))
    else:
        report = verify_files(paths, Path(NAME))
    if as_json:
        _say_json(report)
    else:
        _say(report)
    return TAMPERED if report.findings else 0


@audit.command()
@place_options
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "count", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="Records.")
@click.option("--json", "as_json", is_flag=True, help="Print records as they are.")
def tail(config: Path | None, state: Path | None, follow: bool, count: int, as_json: bool) -> None:
    """Print the last records, and with -f those to come, whatever file they are in."""
    from sessiond.audit.files import Follower, last_lines  # noqa: PLC0415 - `--help` must not pay for it

    path = _log(config, state)
    if not follow:
        _print(last_lines(path, count), as_json)
        return
    with closing(Follower(path)) as follower:
        _print(last_lines(path, count, until=follower.position), as_json)
        _print(follower.lines(), as_json)


@audit.command()
@place_options
@query_options
@click.option("--json", "as_json", is_flag=True, help="Print records as they are.")
def query(config: Path | None, state: Path | None, as_json: bool, **wanted: str | None) -> None:
    """Print the records that are meant, oldest first."""
    for line, record in _records(_log(config, state), _query(wanted)):
        _print_record(line, record, as_json)


@audit.command()
@place_options
@query_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="File; - is standard output.")
def export(config: Path | None, state: Path | None, form: str, output: Path, **wanted: str | None) -> None:
    """Write the records that are meant to a new file, mode 0600."""
    from sessiond.audit.query import COLUMNS, row  # noqa: PLC0415 - `--help` must not pay for it

    records = _records(_log(config, state), _query(wanted))
    with _writing(output) as file:
        if form == "jsonl":
            file.writelines(line.decode("ascii") for line, _ in records)
        else:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(map(printable, row(record)) for _, record in records)


def _log(config: Path | None, state: Path | None) -> Path:
    """The current file of the log. Raises click.ClickException when there is no log."""
    from sessiond.audit.files import NAME, sealed_segments  # noqa: PLC0415 - `--help` must not pay for it

    directory = state if state is not None else state_directory(config)
    path = directory / NAME
    if not directory.is_dir() or not (path.exists() or sealed_segments(path)):
        raise click.ClickException(f"there is no audit log in {directory}; name the state directory with --state")
    return path


def state_directory(config: Path | None) -> Path:
    """The state directory that the settings name."""
    from sessiond.settings import SettingsError, load  # noqa: PLC0415 - `--state` needs no settings

    default = Path("sessiond.toml")
    try:
        return load(config or (default if default.is_file() else None)).daemon.state
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _query(wanted: dict[str, str | None]) -> Query:
    from sessiond.audit.query import Query  # noqa: PLC0415 - `--help` must not pay for it

    return Query(**wanted)


def _records(path: Path, query: Query) -> Iterator[tuple[bytes, Record]]:
    """The records that are meant. Says on standard error, at the end, how many lines are none."""
    from sessiond.audit.chain import read_line  # noqa: PLC0415 - `--help` must not pay for any of these
    from sessiond.audit.files import lines, open_log  # noqa: PLC0415

    strange = 0
    for segment in open_log(path):
        for line in lines(segment.file):
            record = read_line(line)
            if record is None:
                strange += 1
            elif query.meant(record):
                yield line, record
    if strange:
        click.echo(f"sessiond: {strange} lines are no records; `sessiond audit verify` says more", err=True)


def _print(lines: Iterable[bytes], as_json: bool) -> None:
    from sessiond.audit.chain import read_line  # noqa: PLC0415 - `--help` must not pay for it

    for line in lines:
        record = read_line(line)
        if record is None:
            click.echo(f"sessiond: no record: {printable(line[:200].decode('ascii', 'replace').rstrip())}", err=True)
        else:
            _print_record(line, record, as_json)


def _print_record(line: bytes, record: Record, as_json: bool) -> None:
    from sessiond.audit.query import summary  # noqa: PLC0415 - `--help` must not pay for it

    click.echo(line.decode("ascii").rstrip("\n") if as_json else printable(summary(record)))


@contextmanager
def _writing(output: Path) -> Iterator[TextIO]:
    if str(output) == "-":
        yield sys.stdout
        return
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file


def _say(report: Report) -> None:
    for finding in report.findings:
        click.echo(printable(str(finding)))
    if report.more_findings:
        click.echo(f"... and {report.more_findings} more")
    verdict = "whole" if not report.findings else f"NOT WHOLE: {len(report.findings) + report.more_findings} findings"
    torn = f", {report.recovered} torn records on record" if report.recovered else ""
    first = f" from record {report.first} on" if report.first is not None else ""
    click.echo(f"{verdict}: {report.records} records{first}{torn}")
    if report.head is not None:
        click.echo(f"head: record {report.head[0]} sha256 {report.head[1]}")


def _say_json(report: Report) -> None:
    from dataclasses import asdict  # noqa: PLC0415 - `--help` must not pay for it

    head = {"seq": report.head[0], "sha256": report.head[1]} if report.head is not None else None
    click.echo(json.dumps({**asdict(report), "whole": not report.findings, "head": head}))
