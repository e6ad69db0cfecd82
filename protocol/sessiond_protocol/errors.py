"""What can go wrong on the wire, as types: local errors (the caller's or our own bug) apart from the peer's.

ProtocolError
├── LocalProtocolError          this side tried to send what it must not
└── RemoteProtocolError         the peer sent what it must not: `close_code`
    ├── MalformedFrameError     1007
    ├── FrameTooLargeError      1009
    └── InvalidMessageError     the connection is kept: `request`
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Root of the wire's errors."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol forbids: a bug of the caller or ours. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""

    close_code = 1002
    """WebSocket close code (RFC 6455, 7.4.1) for a peer that sent this."""


class MalformedFrameError(RemoteProtocolError):
    """Not one msgpack map within the limits of depth, elements and types. The connection is closed."""

    close_code = 1007


class FrameTooLargeError(RemoteProtocolError):
    """Longer than a frame, or a control message, may be. The connection is closed."""

    close_code = 1009


class InvalidMessageError(RemoteProtocolError):
    """A well-formed map that is no valid message.

    A server answers it with an `invalid` error and keeps the connection; a client closes.
    """

    def __init__(self, detail: str, request: int | None) -> None:
        """`detail` says which field is wrong and why."""
        super().__init__(detail)
        self.request = request
        """The `id` that the message carried, if it could be told."""
