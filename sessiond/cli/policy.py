"""`sessiond policy`: explain, test, show, compare and learn. No daemon is asked, but to reload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli.failure import printable
from sessiond.cli.options import connection_options

if TYPE_CHECKING:
    from sessiond.policy.decide import Policy, Verdict
    from sessiond.policy.judge import Step

MAX_LINE_BYTES = 1024 * 1024

_policy_option = click.option(
    "--policy", "-p", "wanted", default="developer", show_default=True, help="A shipped set, or a rule file's path."
)
_shell_option = click.option("--shell", type=click.Choice(["bash", "sh"]), default="bash", help="What reads a text.")
_cwd_option = click.option("--cwd", default="", help="Directory of the command; the workspace if not given.")


def _load(wanted: str, shell: str = "bash") -> Policy:
    from sessiond.policy.decide import load_policy  # noqa: PLC0415 - pydantic and the parsers take their time
    from sessiond.policy.errors import PolicyError  # noqa: PLC0415

    try:
        return load_policy(wanted, shell="sh" if shell == "sh" else "bash")
    except PolicyError as error:
        raise click.ClickException(str(error)) from error


def _decide(policy: Policy, text: str, cwd: str) -> Verdict:
    from sessiond.policy.decide import CommandRequest  # noqa: PLC0415

    return policy.decide(CommandRequest(None, text, {}, cwd))


@click.group()
def policy() -> None:
    """See what a policy decides, and why."""


@policy.command()
@_policy_option
@_shell_option
@_cwd_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("text", nargs=-1, required=True)
def explain(*, wanted: str, shell: str, cwd: str, as_json: bool, text: tuple[str, ...]) -> None:
    """Show each simple command in TEXT with the rule that decides it."""
    loaded = _load(wanted, shell)
    verdict = _decide(loaded, " ".join(text), cwd)
    if as_json:
        click.echo(json.dumps(_as_json(loaded, verdict)))
    else:
        for step in verdict.steps:
            _print_step(step, 0)
        click.echo(f"{verdict.outcome}: {printable(verdict.reason)} (rule {verdict.rule})")
        if verdict.alternative and verdict.alternative not in verdict.reason:
            click.echo(f"instead: {printable(verdict.alternative)}")


def _as_json(loaded: Policy, verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.outcome,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "alternative": verdict.alternative,
        "argv": list(verdict.argv),
        "policy": loaded.name,
        "digest": loaded.digest,
        "commands": [_step_as_json(step) for step in verdict.steps],
    }


def _step_as_json(step: Step) -> dict[str, Any]:
    return {
        "command": step.command,
        "verdict": step.outcome,
        "rule": step.rule,
        "reason": step.reason,
        "alternative": step.alternative,
        "commands": [_step_as_json(inner) for inner in step.steps],
    }


def _print_step(step: Step, depth: int) -> None:
    click.echo(f"{'  ' * depth}{step.outcome:5}  {printable(step.command)}  [{step.rule}] {printable(step.reason)}")
    for inner in step.steps:
        _print_step(inner, depth + 1)


@policy.command()
@_policy_option
@_shell_option
@_cwd_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def test(*, wanted: str, shell: str, cwd: str, file: Path) -> int:
    """Check the lines {"command", "expected"} in FILE; `expected` is allow, deny, ask or not-allowed."""
    loaded = _load(wanted, shell)
    total = wrong = 0
    for number, line in _lines(file):
        try:
            case = json.loads(line)
            command, expected = case["command"], case["expected"]
        except (ValueError, TypeError, KeyError) as error:
            raise click.ClickException(f'{file}:{number}: expected {{"command": ..., "expected": ...}}') from error
        if not isinstance(command, str) or expected not in ("allow", "deny", "ask", "not-allowed"):
            raise click.ClickException(f"{file}:{number}: expected must be allow, deny, ask or not-allowed")
        total += 1
        verdict = _decide(loaded, command, cwd)
        if verdict.outcome != expected and not (expected == "not-allowed" and verdict.outcome != "allow"):
            wrong += 1
            found = f"{verdict.outcome} by {verdict.rule} ({printable(verdict.reason)})"
            click.echo(f"{file}:{number}: {printable(command)}: expected {expected}, got {found}")
    click.echo(f"{total - wrong} of {total} as expected")
    return 1 if wrong else 0


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open(encoding="utf-8") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES):
                number += 1
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file}: is not UTF-8 text") from error


@policy.command()
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """List the shipped rule sets, or the rules of NAME: a set, or a rule file's path."""
    from sessiond.policy.load import load_source, set_names  # noqa: PLC0415

    if name is None:
        for known in set_names():
            click.echo(f"{known:12}{load_source(known).tables[-1][1].description}")
        return
    loaded = _load(name)
    click.echo(f"# {loaded.name}, version {loaded.digest}")
    for place, table in loaded.source.tables:
        click.echo(f"\n# {place}: {table.description}")
        for rule in table.rule:
            programs = ", ".join(rule.programs)
            under = f" {' | '.join(rule.subcommands)}" if rule.subcommands else ""
            click.echo(f"{rule.verdict:5}  {rule.id:24}  {programs}{under}")


_against = click.argument("audit", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@policy.command()
@_shell_option
@click.argument("old")
@click.argument("new")
@click.option(
    "--against", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An audit log."
)
def diff(*, shell: str, old: str, new: str, against: Path) -> int:
    """Show which recorded commands NEW decides otherwise than OLD. Exit status 1 if there are any."""
    from sessiond.policy.learn import differences, recorded  # noqa: PLC0415

    count = 0
    before, after = _load(old, shell), _load(new, shell)
    for record, was, now in differences(before, after, recorded(line for _, line in _lines(against))):
        count += 1
        click.echo(f"{was.outcome} -> {now.outcome}: {printable(record.text)}  [{now.rule}] {printable(now.reason)}")
    click.echo(f"{count} commands are decided otherwise")
    return 1 if count else 0


@policy.command()
@_policy_option
@_shell_option
@_against
def learn(*, wanted: str, shell: str, audit: Path) -> None:
    """Propose rules, as text, for what the policy does not allow of the commands in AUDIT. Nothing is applied."""
    from sessiond.policy.learn import proposals, recorded  # noqa: PLC0415

    found = proposals(_load(wanted, shell), recorded(line for _, line in _lines(audit)))
    for proposal in found:
        click.echo(printable_lines(proposal.toml()))
    if not found:
        click.echo("# everything that was recorded is allowed")


@policy.command("reload")
@click.option("--state", type=click.Path(path_type=Path), help="State directory [default: of the settings].")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file [default: sessiond.toml, if it is here]."
)
@connection_options
def reload_(*, url: str | None, token_file: str | None, config: Path | None, state: Path | None, as_json: bool) -> None:
    """Have the daemon read its policy files again. Sessions that are open keep the policy they have.

    Exit status 1 when a file cannot be used: then the policy in use stays.
    """
    from sessiond.cli.approvals import with_approvals  # noqa: PLC0415 - it imports from here

    with_approvals(url, token_file, config, state, lambda approvals: approvals.reload_policy())
    click.echo(json.dumps({"reloaded": True}) if as_json else "reloaded")


def printable_lines(text: str) -> str:
    """The text without characters that would steer a terminal, its line ends kept."""
    return "\n".join(printable(line) for line in text.split("\n"))
