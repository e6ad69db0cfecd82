"""Everything that can go wrong, as types. Nothing else escapes from the client, whatever the daemon sends.

SessiondError
├── UsageError (ValueError)             the caller asked for what cannot be; nothing was sent
├── DeadlineError (TimeoutError)        the daemon did not answer in time; what was asked may still happen
├── TransportError (ConnectionError)
│   ├── ConnectError                    no daemon there, or not one that speaks sessiond.v1
│   ├── ConnectionLostError             the connection ended, or was closed, while something needed it
│   └── ProtocolViolationError          the daemon sent what the protocol forbids
├── RemoteError                         the daemon said no: code, message, hint
│   ├── InvalidRequestError  VersionError  UnauthorizedError  NotFoundError  ConflictError  DeniedError
│   └── LimitError  BusyError  UnavailableError  FencedError  GoneError  UnsupportedError  InternalError
└── CommandError                        one command
    ├── CommandDeniedError (DeniedError)    policy forbids it: rule, reason
    ├── CommandNotStartedError (RemoteError) allowed, but it could not be spawned
    ├── CommandLostError (RemoteError)      it ran, and its end will never be known
    ├── CommandFailedError                  it ended otherwise than with 0, and check=True was asked: result
    ├── OutputLimitError                    it wrote more than max_output and was killed: result
    ├── StdinClosedError (BrokenPipeError)  it reads no more standard input
    ├── TransferError                       a workspace could not be exported or imported: exit_code
    ├── FileError                           a file could not be read, written, ...: name, path
    └── TunnelError                         nothing was reached inside, or the tunnel broke: name
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessiond_protocol import messages

    from sessiond_client.results import Result


class SessiondError(Exception):
    """Root of all errors of the client."""

    hint: str = ""
    """What to do about it, if there is something."""


class UsageError(SessiondError, ValueError):
    """The caller asked for what cannot be. Nothing was sent."""


class DeadlineError(SessiondError, TimeoutError):
    """The daemon did not answer in time. What was asked may still happen."""


class TransportError(SessiondError, ConnectionError):
    """The connection to the daemon failed."""


class ConnectError(TransportError):
    """No connection could be made: nobody answers, or nobody who speaks this protocol."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


class ConnectionLostError(TransportError):
    """The connection ended while something needed it. Sessions and their commands go on without it."""


class ProtocolViolationError(TransportError):
    """The daemon sent what the protocol forbids; the connection was closed."""


class RemoteError(SessiondError):
    """The daemon refused or failed."""

    def __init__(self, code: str, message: str, hint: str = "", rule: str | None = None) -> None:
        """What the daemon said."""
        super().__init__(message)
        self.code = code
        """One of the protocol's error codes."""
        self.message = message
        self.hint = hint
        self.rule = rule
        """The policy rule that decided, if one did."""


class InvalidRequestError(RemoteError):
    """`invalid`: the request is malformed or asks for what cannot be."""


class VersionError(RemoteError):
    """`version`: no protocol version in common."""


class UnauthorizedError(RemoteError):
    """`unauthorized`: no valid token."""


class NotFoundError(RemoteError):
    """`not_found`: no such session, command or profile, or not yours."""


class ConflictError(RemoteError):
    """`conflict`: it exists already, with another content or in another state."""


class DeniedError(RemoteError):
    """`denied`: policy forbids it."""


class LimitError(RemoteError):
    """`limit`: a quota or limit would be exceeded."""


class BusyError(RemoteError):
    """`busy`: not now; try again later."""


class UnavailableError(RemoteError):
    """`unavailable`: an engine or another part that is needed does not answer."""


class FencedError(RemoteError):
    """`fenced`: another connection has taken the session over as its writer."""


class GoneError(RemoteError):
    """`gone`: it existed, and is no more."""


class UnsupportedError(RemoteError):
    """`unsupported`: this daemon or engine cannot do that."""


class InternalError(RemoteError):
    """`internal`: a bug of the daemon; its log says more."""


class CommandError(SessiondError):
    """Something about one command."""


class CommandDeniedError(CommandError, DeniedError):
    """Policy forbids the command; it never ran. `rule` decided, `reason` says why."""

    @property
    def reason(self) -> str:
        """Why, in the policy's words."""
        return self.message


class CommandNotStartedError(CommandError, RemoteError):
    """The command was allowed, but could not be spawned: no such program or directory, for example."""


class CommandLostError(CommandError, RemoteError):
    """The command ran, and how it ended will never be known: its sandbox is lost. No exit code is made up."""


class CommandFailedError(CommandError):
    """The command ended otherwise than with 0, and `check=True` was asked for."""

    def __init__(self, result: Result) -> None:
        super().__init__(f"command {result.describe()}")
        self.result = result
        """How it ended, and all its output."""


class OutputLimitError(CommandError):
    """The command wrote more than `max_output` bytes and was killed for it."""

    def __init__(self, limit: int, result: Result) -> None:
        super().__init__(f"the command wrote more than max_output={limit} bytes and was killed")
        self.result = result
        """How it ended, and the first `max_output` bytes of its output."""


class StdinClosedError(CommandError, BrokenPipeError):
    """The command reads no more standard input."""


class TransferError(CommandError):
    """A workspace could not be exported, or not all of an archive imported. The message says which file, and why."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """1: the system refused something; 3: a path or member leads out of the directory; 4: no good archive; None: a
        signal ended it."""


class FileError(CommandError):
    """What was asked of a file could not be done. `name` says why, for programs: see docs/files.md."""

    def __init__(self, name: str, message: str, path: str) -> None:
        super().__init__(f"{path!r}: {message}")
        self.name = name
        """not_found, exists, permission, is_directory, not_directory, not_empty, no_space, too_large, escapes, ..."""
        self.path = path


class TunnelError(CommandError):
    """Nothing could be reached at that port or socket inside the sandbox, or the tunnel broke. `name` says why."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        """refused, not_found, permission, escapes, broken, ..."""


_BY_CODE: dict[str, type[RemoteError]] = {
    "invalid": InvalidRequestError,
    "version": VersionError,
    "unauthorized": UnauthorizedError,
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "denied": DeniedError,
    "limit": LimitError,
    "busy": BusyError,
    "unavailable": UnavailableError,
    "fenced": FencedError,
    "gone": GoneError,
    "unsupported": UnsupportedError,
    "internal": InternalError,
}


def remote_error(said: messages.Error) -> RemoteError:
    """The error for what the daemon answered."""
    return _BY_CODE[said.code](said.code, said.message, said.hint, said.rule)


def again(error: SessiondError) -> SessiondError:
    """The same error once more: each who waits gets its own, with its own traceback."""
    if isinstance(error, RemoteError):
        return type(error)(error.code, error.message, error.hint, error.rule)
    return type(error)(str(error))
