"""What the fields of messages are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sessiond_protocol.limits import MAX_INTEGER

PROTOCOL_VERSION = 1
SUBPROTOCOL = "sessiond.v1"

MAX_ARGUMENTS = 4096
MAX_ARGUMENT_BYTES = 128 * 1024
"""Linux's own limit on one argument or environment string (MAX_ARG_STRLEN)."""
MAX_ENVIRONMENT = 512
MAX_LABELS = 64
MAX_NAMES = 1024
"""Capabilities, and profiles, that a server may announce."""
MAX_PAGE = 256
"""Sessions or commands in one answer to a listing; also bounded by the size of a control message."""
MAX_DATA = 256 * 1024
"""Bytes of one `output` or `command.stdin` message."""
MAX_INPUT = 48 * 1024
"""Bytes of standard input that may ride in `command.start` itself."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Names a session or a command; the client may choose it, so that a retry names the same one."""
RequestId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Offset = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1024)]
Argument = Annotated[str, Field(max_length=MAX_ARGUMENT_BYTES, pattern=r"^[^\x00]*$")]
WorkspacePath = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
FileMode = Annotated[int, Field(ge=0, le=0o777)]
TunnelTarget = Annotated[str, Field(max_length=4096, pattern=r"^(tcp:[1-9][0-9]{0,4}|unix:[^\x00]+)$")]
Environment = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Argument],
    Field(max_length=MAX_ENVIRONMENT),
]
Labels = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")],
        Annotated[str, Field(max_length=256)],
    ],
    Field(max_length=MAX_LABELS),
]

ErrorCode = Literal[
    "invalid",
    "version",
    "unauthorized",
    "not_found",
    "conflict",
    "denied",
    "limit",
    "busy",
    "unavailable",
    "fenced",
    "gone",
    "unsupported",
    "internal",
]
StreamName = Literal["stdout", "stderr"]


class Message(BaseModel):
    """Base of all messages: immutable, no unknown fields, no coercion between types, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
