"""Who takes part in a conversation with the daemon, and what they hear of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from pydantic import ValidationError
from sessiond_protocol import messages
from sessiond_protocol.codec import encode
from sessiond_protocol.errors import LocalProtocolError

from sessiond_client.errors import ProtocolViolationError, RemoteError, SessiondError, UsageError

CommandEvent = (
    messages.Output | messages.Gap | messages.Exited | messages.Failed | messages.StdinAck | messages.Awaiting
)
Reply = (
    messages.Welcome
    | messages.SessionReply
    | messages.SessionsReply
    | messages.CommandReply
    | messages.CommandsReply
    | messages.Started
    | messages.Ok
    | messages.Recorded
    | messages.ApprovalReply
    | messages.ApprovalsReply
    | messages.Pong
)
OnAnswer = Callable[["Reply | SessiondError"], None]
M = TypeVar("M", bound=messages.Message)
R = TypeVar("R", bound=Reply)


class Follower(Protocol):
    """Who gets what the daemon sends about one command."""

    @property
    def begun(self) -> bool:
        """Whether the daemon is known to have begun to send of it: then its output goes on where it was."""

    def on_detached(self) -> None:
        """Take note that nothing more will come, because the session is not followed any more."""

    def on_event(self, event: CommandEvent) -> None:
        """Take an event. Raises ProtocolViolationError for one that cannot be."""

    def on_error(self, error: RemoteError) -> None:
        """Take an error that answers no request."""

    def on_reconnected(self) -> None:
        """Go on over a new connection; the daemon sends nothing over it until it is asked to."""

    def on_lost(self, reason: SessiondError) -> None:
        """Take note that nothing more will come, because there is no connection any more."""


class Listener(Protocol):
    """Who gets the events of one session."""

    def on_session(self, event: messages.SessionEvent) -> None:
        """Take the session's new state."""

    def on_error(self, error: RemoteError) -> None:
        """Take an error that answers no request."""

    def on_lost(self, reason: SessiondError) -> None:
        """Take note that nothing more will come, because there is no connection any more."""


class Watcher(Protocol):
    """Who gets the events of questions to approvers."""

    def on_approval(self, approval: messages.ApprovalInfo) -> None:
        """Take a question as it is now."""

    def on_lost(self, reason: SessiondError) -> None:
        """Take note that nothing more will come, because there is no connection any more."""


def build(model: Callable[..., M], **fields: Any) -> M:
    """A message from what the caller gave. Raises UsageError, which names the field and not its value."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def encoded(message: messages.Message) -> bytes:
    """The message as a frame. Raises UsageError when it is too long."""
    try:
        return encode(cast("messages.ClientMessage", message))
    except LocalProtocolError as error:
        raise UsageError(str(error)) from error


def expect(reply: type[R], message: Reply) -> R:
    """The message, if it is of the type that answers the request."""
    if not isinstance(message, reply):
        raise ProtocolViolationError(f"the daemon sent {message.type!r} to answer another request")
    return message
