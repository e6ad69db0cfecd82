"""`sessiond approvals`: see what waits for consent, allow it, deny it. For who may read the state directory."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sessiond.cli.audit import place_options, state_directory
from sessiond.cli.failure import printable
from sessiond.cli.options import Duration, connection_options, with_client
from sessiond.cli.policy import printable_lines

if TYPE_CHECKING:
    from sessiond_client import ApprovalInfo, Approvals, Client

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

MAX_RULE_BYTES = 32 * 1024


def approver_options(command: F) -> F:
    """Where the daemon and its state are, and how to print."""
    return place_options(connection_options(command))


def with_approvals(
    url: str | None,
    token_file: str | None,
    config: Path | None,
    state: Path | None,
    do: Callable[[Approvals], Coroutine[Any, Any, T]],
) -> T:
    """Connect, become an approver, do it, and disconnect."""
    path = (state or state_directory(config)) / "approver.token"
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no token"
        raise click.ClickException(f"{path}: {why}; only the daemon's user approves, see --state") from error

    async def work(client: Client) -> T:
        return await do(await client.approvals(token))

    return with_client(url, token_file, work)


@click.group()
def approvals() -> None:
    """See the commands that wait for a person's consent, and answer."""


@approvals.command("list")
@approver_options
def list_(*, url: str | None, token_file: str | None, config: Path | None, state: Path | None, as_json: bool) -> None:
    """List what waits, oldest first."""
    found = with_approvals(url, token_file, config, state, lambda approvals: approvals.list())
    for info in found:
        click.echo(_as_json(info) if as_json else _line(info))


@approvals.command()
@click.argument("approval", metavar="ID")
@approver_options
def show(
    *, approval: str, url: str | None, token_file: str | None, config: Path | None, state: Path | None, as_json: bool
) -> None:
    """Show one in full, and a rule that would make it unnecessary."""
    info, proposal = with_approvals(url, token_file, config, state, lambda approvals: approvals.show(approval))
    if as_json:
        click.echo(json.dumps({**json.loads(_as_json(info)), "proposal": proposal}))
        return
    _print(info)
    if proposal:
        click.echo("\nas a rule, to be edited and given back with `allow --for rule --rule FILE`:\n")
        click.echo(printable_lines(proposal))


@approvals.command()
@click.argument("approval", metavar="ID")
@click.option(
    "--for",
    "how_far",
    default="once",
    show_default=True,
    metavar="once|N|TIME|session|rule",
    help="This command; N equal ones of its session; equal ones for so long (10m); while the session lasts; a rule.",
)
@click.option(
    "--rule", type=click.File("r"), help="With --for rule: TOML of the rule; - reads it. [default: what show proposes]"
)
@click.option("--reason", default="", help="What to say about it, on record.")
@approver_options
def allow(
    *,
    approval: str,
    how_far: str,
    rule: Any,
    reason: str,
    url: str | None,
    token_file: str | None,
    config: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Let a command run. It runs exactly as `show` showed it, or not at all."""
    scope = scope_of(how_far)
    if rule is not None and scope["scope"] != "rule":
        raise click.UsageError("--rule goes with --for rule")
    text = rule.read(MAX_RULE_BYTES + 1) if rule is not None else None
    if text is not None and len(text) > MAX_RULE_BYTES:
        raise click.UsageError(f"a rule has at most {MAX_RULE_BYTES} characters")

    async def work(approvals: Approvals) -> ApprovalInfo:
        proposed = text
        if scope["scope"] == "rule" and proposed is None:
            _, proposed = await approvals.show(approval)
        return await approvals.allow(approval, rule=proposed, reason=reason, **scope)

    _say(with_approvals(url, token_file, config, state, work), as_json)


@approvals.command()
@click.argument("approval", metavar="ID")
@click.option("--reason", default="", help="What to say to who wanted it, and on record.")
@approver_options
def deny(
    *,
    approval: str,
    reason: str,
    url: str | None,
    token_file: str | None,
    config: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Let a command not run."""
    _say(with_approvals(url, token_file, config, state, lambda found: found.deny(approval, reason=reason)), as_json)


@approvals.command()
@approver_options
def watch(*, url: str | None, token_file: str | None, config: Path | None, state: Path | None, as_json: bool) -> None:
    """Print what waits, and what becomes of it, as it happens."""

    async def work(approvals: Approvals) -> None:
        async for info in approvals.watch():
            click.echo(_as_json(info) if as_json else _line(info))
            sys.stdout.flush()

    with_approvals(url, token_file, config, state, work)


def scope_of(how_far: str) -> dict[str, Any]:
    """What `--for` means, as arguments of `Approvals.allow`."""
    if how_far in ("once", "session", "rule"):
        return {"scope": how_far}
    if how_far.isascii() and how_far.isdecimal() and int(how_far):
        return {"scope": "times", "times": int(how_far)}

    if not how_far[-1:].isalpha():  # a number without a unit is a count, and 0 is none
        raise click.BadParameter(
            f"{how_far!r} is neither once, session, rule, a number from 1 on nor a time such as 2h"
        )
    return {"scope": "until", "until": time.time() + Duration().convert(how_far, None, None)}


def _command(info: ApprovalInfo) -> str:
    """What would run, in printable characters."""
    return printable(info.text if info.text is not None else shlex.join(info.argv or ()))


def _line(info: ApprovalInfo) -> str:
    left = f"{max(0.0, info.expires - time.time()):.0f}s left" if info.state == "pending" else info.state
    return f"{info.approval}  {left:9}  {info.session}/{info.command}  {_command(info)}  [{printable(info.rule)}]"


def _print(info: ApprovalInfo) -> None:
    fields = {
        "approval": f"{info.approval} ({info.state})",
        "session": f"{info.session}, profile {info.profile}, asked by {info.who}",
        "command": info.command,
        "text" if info.text is not None else "argv": _command(info),
        "directory": info.cwd or "the workspace",
        "env": " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(info.env.items())),
        "input": repr(info.input) if info.input else "",
        "stdin": "more comes later, which no consent vouches for" if info.stdin else "",
        "why": f"{info.reason} (rule {info.rule})",
        "digest": info.digest,
        "answer": f"{info.state} by {info.approver}: {info.note}" if info.approver else "",
    }
    for name, value in fields.items():
        if value:
            click.echo(f"{name + ':':11}{printable(value)}")


def _say(info: ApprovalInfo, as_json: bool) -> None:
    click.echo(_as_json(info) if as_json else _line(info))


def _as_json(info: ApprovalInfo) -> str:
    fields = info.model_dump(mode="json", by_alias=True, exclude={"input"})
    return json.dumps({**fields, "input": info.input.hex()})
