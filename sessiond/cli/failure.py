"""What a failed command says on standard error: one line, a hint, and with --json an object. Never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

FAILED = 1
INTERRUPTED = 130
TIMED_OUT = 124
OWN_FAILURE = 125
DENIED = 126
_TAKES_COMMAND = ("exec", "run", "shell")


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what `error` is about; the exit status for it."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    own_failure = OWN_FAILURE if arguments and arguments[0] in _TAKES_COMMAND else None
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        wrong_usage = isinstance(error, click.UsageError)
        fields = {"code": "usage" if wrong_usage else "failed", "message": error.format_message()}
        status = own_failure or error.exit_code
        if isinstance(error, click.UsageError) and error.ctx is not None:
            fields["hint"] = f"see `{error.ctx.command_path} --help`"
    elif "sessiond_client" in sys.modules:
        fields, status = _of_client(error, own_failure or FAILED)
    else:
        fields, status = _unexpected(error), own_failure or FAILED
    if "--json" in options:
        _say(json.dumps({"error": fields}))
    else:
        hint = fields.get("hint")
        rule = f" (rule {fields['rule']})" if fields.get("rule") else ""
        _say(f"sessiond: {printable(fields['message'] or '')}{rule}")
        if hint:
            _say(f"sessiond: hint: {printable(hint)}")
    return status


def printable(text: str) -> str:
    """The text without characters that would steer a terminal: it may come from inside a sandbox."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _of_client(error: BaseException, status: int) -> tuple[dict[str, str], int]:
    from sessiond_client import CommandDeniedError, RemoteError, SessiondError  # noqa: PLC0415 - imported already

    if not isinstance(error, SessiondError):
        return _unexpected(error), status
    message = str(error)
    fields = {"code": _code_of(error), "message": message}
    if isinstance(error, RemoteError):
        fields["code"] = error.code
        if error.rule is not None:
            fields["rule"] = error.rule
    if error.hint and error.hint not in message:
        fields["hint"] = error.hint
    if isinstance(error, CommandDeniedError):
        fields["message"], status = f"denied: {message}", DENIED if status == OWN_FAILURE else status
    return fields, status


def _code_of(error: BaseException) -> str:
    """`connection_lost` for a ConnectionLostError."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _unexpected(error: BaseException) -> dict[str, str]:
    if isinstance(error, OSError):
        return {"code": "system", "message": f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")}
    if isinstance(error, ModuleNotFoundError):
        return {"code": "incomplete", "message": f"this installation lacks {error.name}"}
    return {
        "code": "internal",
        "message": f"unexpected {type(error).__name__}: {error}",
        "hint": "this is a bug of sessiond; please report it",
    }


def _say(line: str) -> None:
    click.echo(line, err=True)
