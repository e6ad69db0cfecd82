"""Messages survive the way over the wire, and nothing else gets through."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sessiond_protocol import limits
from sessiond_protocol.codec import decode_client, decode_server, encode
from sessiond_protocol.errors import (
    FrameTooLargeError,
    InvalidMessageError,
    LocalProtocolError,
    MalformedFrameError,
    RemoteProtocolError,
)
from sessiond_protocol.messages import (
    MAX_DATA,
    MAX_INPUT,
    CommandInfo,
    CommandsReply,
    CommandStart,
    CommandStdin,
    Error,
    Gap,
    Ok,
    Output,
    SessionOpen,
)

from .strategies import (
    CLIENT_MODELS,
    SERVER_MODELS,
    client_messages,
    messages_of,
    server_messages,
    wide_frames,
)

DOCUMENTED = (MalformedFrameError, FrameTooLargeError, InvalidMessageError)


def output(data: bytes) -> Output:
    return Output(session="s", command="c", offset=7, stream="stdout", data=data)


@pytest.mark.parametrize("model", CLIENT_MODELS, ids=lambda model: model.__name__)
@given(data=st.data())
def test_client_messages_round_trip(model: Any, data: st.DataObject) -> None:
    message = data.draw(messages_of(model))
    assert decode_client(encode(message)) == message


@pytest.mark.parametrize("model", SERVER_MODELS, ids=lambda model: model.__name__)
@given(data=st.data())
def test_server_messages_round_trip(model: Any, data: st.DataObject) -> None:
    message = data.draw(messages_of(model))
    assert decode_server(encode(message)) == message


@given(st.data())
def test_messages_may_come_in_any_width_and_order_with_their_defaults(data: st.DataObject) -> None:
    message = data.draw(client_messages())
    assert decode_client(data.draw(wide_frames(message.model_dump(by_alias=True)))) == message


@given(server_messages())
def test_a_client_does_not_take_its_own_kind_of_message(message: Any) -> None:
    with pytest.raises(InvalidMessageError, match="unknown type"):
        decode_client(encode(message))


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_raise_only_documented_errors(data: bytes) -> None:
    for decode in (decode_client, decode_server):
        with pytest.raises(DOCUMENTED):
            decode(data)


@given(client_messages() | server_messages(), st.data())
def test_mutated_frames_raise_only_documented_errors(message: Any, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(frame)))
        removed = data.draw(st.integers(0, 3))
        frame[position : position + removed] = data.draw(st.binary(max_size=4))
    for decode in (decode_client, decode_server):
        try:
            decode(bytes(frame))
        except RemoteProtocolError as error:
            assert isinstance(error, DOCUMENTED)


@given(client_messages(), st.data())
def test_a_message_cut_anywhere_is_malformed(message: Any, data: st.DataObject) -> None:
    frame = encode(message)
    with pytest.raises(MalformedFrameError):
        decode_client(frame[: data.draw(st.integers(0, len(frame) - 1))])


def test_only_the_type_and_what_differs_from_the_default_travels() -> None:
    assert msgpack.unpackb(encode(Ok(re=3))) == {"type": "ok", "re": 3}
    message = SessionOpen(id=1, labels={"a": "b"})
    assert msgpack.unpackb(encode(message)) == {"type": "session.open", "id": 1, "labels": {"a": "b"}}


def test_a_gap_travels_as_from_and_to_and_in_no_other_way() -> None:
    gap = Gap(session="s", command="c", start=1, end=2)
    assert msgpack.unpackb(encode(gap)) == {"type": "gap", "session": "s", "command": "c", "from": 1, "to": 2}
    with pytest.raises(InvalidMessageError):
        decode_server(msgpack.packb({"type": "gap", "session": "s", "command": "c", "start": 1, "end": 2}))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 0xFFFF, 0x10000, MAX_DATA])
def test_output_of_every_size_is_the_same_as_the_packer_makes_it(size: int) -> None:
    message = output(b"x" * size)
    assert encode(message) == msgpack.packb(message.model_dump())
    assert decode_server(encode(message)) == message


@pytest.mark.parametrize("size", [5, MAX_DATA])
def test_output_may_be_a_memoryview(size: int) -> None:
    message = output(b"x" * size)
    view = Output.model_construct(**{**dict(message), "data": memoryview(message.data)})
    assert encode(view) == encode(message)


@pytest.mark.parametrize("model", [Output, CommandStdin])
def test_bulk_messages_are_flat_have_no_defaults_and_end_with_their_data(model: Any) -> None:
    names = list(model.model_fields)
    assert names[0] == "type"
    assert names[-1] == "data"
    assert all(field.is_required() for name, field in model.model_fields.items() if name != "type")
    assert model.model_fields["type"].default in limits.BULK_TYPES


def test_output_and_input_of_the_most_bytes_fit() -> None:
    stdin = CommandStdin(session="s", command="c", offset=0, data=b"x" * MAX_DATA)
    assert decode_client(encode(stdin)) == stdin
    start = CommandStart(id=1, session="s", command="c", argv=["cat"], input=b"x" * MAX_INPUT)
    assert decode_client(encode(start)) == start


def test_a_control_message_that_would_be_too_large_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="error: "):
        encode(Error(code="internal", message="x" * limits.CONTROL_BYTES))


def test_a_message_with_too_many_elements_is_not_sent() -> None:
    command = CommandInfo(session="s", command="c", state="running", argv=[""] * 4096)
    with pytest.raises(LocalProtocolError, match="commands: more than"):
        encode(CommandsReply(re=1, commands=[command] * 4))


def test_output_that_would_be_too_large_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        encode(Output.model_construct(**{**dict(output(b"")), "data": bytes(limits.FRAME_BYTES)}))


def test_an_unknown_type_is_answerable() -> None:
    with pytest.raises(InvalidMessageError, match=r"unknown type 'files\.read'") as caught:
        decode_client(msgpack.packb({"type": "files.read", "id": 17}))
    assert caught.value.request == 17


@pytest.mark.parametrize("request_id", [None, True, -1, 1.0, "1", [1]])
def test_no_request_is_named_when_its_id_is_none(request_id: object) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        decode_client(msgpack.packb({"type": "ping", "id": request_id}))
    assert caught.value.request is None


def test_an_error_names_the_field_and_keeps_the_value_to_itself() -> None:
    fields = {
        "type": "command.start",
        "id": 1,
        "session": "s",
        "command": "c",
        "argv": ["a"],
        "env": {"KEY": "hush\0"},
    }
    with pytest.raises(InvalidMessageError, match=r"command\.start: env\.KEY: ") as caught:
        decode_client(msgpack.packb(fields))
    assert "hush" not in str(caught.value)


def test_the_detail_of_an_error_is_short_whatever_was_sent() -> None:
    with pytest.raises(InvalidMessageError) as caught:
        decode_client(msgpack.packb({"type": "ping", "id": 1, "x" * 5000: 1}))
    assert len(str(caught.value)) <= 300
    with pytest.raises(InvalidMessageError) as caught:
        decode_client(msgpack.packb({"type": "x" * 5000, "id": 1}))
    assert len(str(caught.value)) <= 300


def test_a_message_wrong_in_thousands_of_places_is_refused_in_brief() -> None:
    with pytest.raises(InvalidMessageError, match="ping: wrong in 8000 places"):
        decode_client(msgpack.packb({"type": "ping", "id": 1, **{f"{n:x}": 0 for n in range(8000)}}))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": True},
        {"id": 1.0},
        {"id": "1"},
        {"id": -1},
        {"id": None},
        {},
        {"id": 1, "extra": None},
        {"id": 1, "type": "PING"},
    ],
)
def test_nothing_is_coerced_missing_or_extra(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidMessageError):
        decode_client(msgpack.packb({"type": "ping", **fields}))


def test_a_whole_number_is_a_number() -> None:
    start = CommandStart(id=1, session="s", command="c", text="true", timeout=3.0)
    fields = {**msgpack.unpackb(encode(start)), "timeout": 3}
    assert decode_client(msgpack.packb(fields)) == start
