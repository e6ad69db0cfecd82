"""The `sessiond` command: a table of names, each module imported only when its command runs.

Exit status: 0 done; 1 it failed; 2 wrong usage; 130 interrupted. `exec` and `run` pass the command's own through, and
use 124, 125 and 126 like `timeout` and `docker run` (see there).
"""

from __future__ import annotations

import importlib
import sys

import click

from sessiond.cli.failure import report

COMMANDS = {
    "serve": ("sessiond.cli.serve:serve", "Run the daemon in the foreground."),
    "open": ("sessiond.cli.sessions:open_", "Open a session and print its id."),
    "exec": ("sessiond.cli.exec:exec_", "Run a command in a session."),
    "run": ("sessiond.cli.exec:run", "Run a command in a session of its own."),
    "shell": ("sessiond.cli.shell:shell", "Work in a terminal of a session."),
    "export": ("sessiond.cli.transfer:export", "Write a session's workspace as a tar archive."),
    "import": ("sessiond.cli.transfer:import_", "Read a tar archive into a session's workspace."),
    "cp": ("sessiond.cli.files:cp", "Copy files and directories into a session, or out of it."),
    "ls": ("sessiond.cli.files:ls", "List a directory of a session."),
    "cat": ("sessiond.cli.files:cat", "Write a file of a session to standard output."),
    "forward": ("sessiond.cli.forward:forward", "Lead local ports to what listens inside a session."),
    "ps": ("sessiond.cli.ps:ps", "List sessions, or the commands of one."),
    "logs": ("sessiond.cli.logs:logs", "Print what the commands of a session have said."),
    "close": ("sessiond.cli.sessions:close", "Close sessions."),
    "approvals": ("sessiond.cli.approvals:approvals", "See what waits for a person's consent, and answer."),
    "reproduce": ("sessiond.cli.reproduce:reproduce", "Run a session's recorded commands again, and compare."),
    "audit": ("sessiond.cli.audit:audit", "Verify, follow, search and export the audit log."),
    "doctor": ("sessiond.cli.doctor:doctor", "Check that this machine can keep what sessiond promises."),
    "policy": ("sessiond.cli.policy:policy", "See what a policy decides, and why."),
    "image": ("sessiond.cli.image:image", "Build and look at sandbox images."),
    "bench": ("sessiond.cli.bench:bench", "Measure what commands, openings and output cost here."),
    "demo": ("sessiond.cli.demo:demo", "Show what sessiond does, on this machine."),
}
"""Name: where it is, and what it does."""


class LazyGroup(click.Group):
    """Finds its commands in the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from sessiond.version import VERSION  # noqa: PLC0415 - reads metadata, which takes its time

        click.echo(f"sessiond {VERSION}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Say it.")
def cli() -> None:
    """Locked-down sandboxes that are ready before they are asked for, one for each agent session."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and say in one line what went wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = cli.main(arguments, prog_name="sessiond", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(report(error, arguments))
    sys.exit(status if isinstance(status, int) else 0)
