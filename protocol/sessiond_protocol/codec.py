"""Messages to frames and back. One frame is one msgpack map; a message travels whole or not at all.

A field that has its default value need not travel, except `type`, which always does.
"""

from __future__ import annotations

from typing import Any, TypeVar

from msgpack import packb, unpackb  # type: ignore[import-untyped]
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sessiond_protocol import limits
from sessiond_protocol.errors import (
    InvalidMessageError,
    LocalProtocolError,
    MalformedFrameError,
    RemoteProtocolError,
)
from sessiond_protocol.messages import ClientMessage, CommandStdin, Output, ServerMessage

M = TypeVar("M")

_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
_SERVER: TypeAdapter[ServerMessage] = TypeAdapter(ServerMessage)

_SMALL_BYTES = 4096
"""A frame of this size can claim little memory, whatever is in it."""
_DETAIL_CHARACTERS = 300
_EXPLAINED_ERRORS = 32
"""Of a message that is wrong in more places no place is named: the list of them all would cost megabytes."""
_SPLICED_BYTES = 0x10000
"""From this size on `data` is put into the frame by one copy; the packer would make two."""
_EMPTY_BINARY = b"\xc4\x00"


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The frame of a message. Raises LocalProtocolError where the peer would have to refuse it.

    The `data` of a message made by `model_construct` may be a memoryview.
    """
    if isinstance(message, Output | CommandStdin):
        frame = _encode_bulk(message)
    else:
        fields = message.__pydantic_serializer__.to_python(message, exclude_defaults=True, by_alias=True)
        frame = packb({"type": message.type, **fields})
    if len(frame) > limits.ELEMENTS:  # an element takes at least a byte: a shorter frame is within the limits
        try:
            limits.check_frame(frame)
            _check_control(frame, message.type)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"{message.type}: {error}") from error
    return frame


def _encode_bulk(message: Output | CommandStdin) -> bytes:
    """Flat messages whose fields are all required, `data` last: the map is the model's own."""
    fields = message.__dict__
    data = fields["data"]
    size = len(data)
    if size < _SPLICED_BYTES:
        frame: bytes = packb(fields)
        return frame
    head = packb({**fields, "data": b""}).removesuffix(_EMPTY_BINARY)
    return b"".join((head, b"\xc6", size.to_bytes(4, "big"), data))


def decode_client(data: bytes) -> ClientMessage:
    """The message in a frame that a client sent. Raises only subclasses of RemoteProtocolError."""
    return _decode(_CLIENT, data)


def decode_server(data: bytes) -> ServerMessage:
    """The message in a frame that a server sent. Raises only subclasses of RemoteProtocolError."""
    return _decode(_SERVER, data)


def _decode(adapter: TypeAdapter[M], data: bytes) -> M:
    """Models allow nothing that the limits forbid: a small frame that makes a valid message needs no look of its own.

    Any other is looked at first, or, when it proves wrong, afterwards, so that what is refused and why never depends on
    its size.
    """
    small = len(data) <= _SMALL_BYTES
    if not small:
        limits.check_frame(data)
    try:
        fields: Any = unpackb(data, object_pairs_hook=_unique)
        if isinstance(fields, dict):
            _check_control(data, fields.get("type"))
            return adapter.validate_python(fields, by_name=False)
    except ValidationError as error:
        limits.check_frame(data)
        raise _invalid(fields, error) from None
    except UnicodeDecodeError:
        limits.check_frame(data)
        raise MalformedFrameError("a string is not UTF-8") from None
    except ValueError as error:
        limits.check_frame(data)
        raise MalformedFrameError(f"not msgpack: {error}") from None
    limits.check_frame(data)
    raise MalformedFrameError("not a map")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedFrameError("a map has the same key twice")
    return fields


def _check_control(frame: bytes, type_: Any) -> None:
    if type_ not in limits.BULK_TYPES:
        limits.check_size(len(frame), limits.CONTROL_BYTES)


def _invalid(fields: dict[str, Any], error: ValidationError) -> InvalidMessageError:
    """Say which field is wrong and why, without repeating values: those may be secrets."""
    if error.error_count() > _EXPLAINED_ERRORS:
        detail = f"{fields['type']}: wrong in {error.error_count()} places"
    elif (first := _first(error))["type"].startswith("union_tag"):
        kind = fields.get("type")
        detail = f"unknown type {kind!r:.80}" if isinstance(kind, str) else "no type"
    else:
        where = ".".join(str(part) for part in first["loc"][1:])  # the first part is the type
        detail = f"{fields['type']}: {where + ': ' if where else ''}{first['msg']}"
    request = fields.get("id")
    known = type(request) is int and 0 <= request <= limits.MAX_INTEGER
    return InvalidMessageError(detail[:_DETAIL_CHARACTERS], request if known else None)


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_context=False, include_input=False)[0]
