"""Hypothesis strategies for every valid message, derived from the models: a new message is covered by being defined."""

from __future__ import annotations

import struct
import typing
from typing import Any

from hypothesis import strategies as st
from sessiond_protocol.messages import MAX_INTEGER, ClientMessage, Message, ServerMessage

CLIENT_MODELS: tuple[type[Message], ...] = typing.get_args(typing.get_args(ClientMessage)[0])
SERVER_MODELS: tuple[type[Message], ...] = typing.get_args(typing.get_args(ServerMessage)[0])


def messages_of(model: type[Message]) -> st.SearchStrategy[Any]:
    """Valid messages of one model."""
    schema = model.model_json_schema(by_alias=True)
    return _map(schema, schema.get("$defs", {})).map(_one_body).map(model.model_validate)


def client_messages() -> st.SearchStrategy[Any]:
    """Any message that a client may send."""
    return st.one_of([messages_of(model) for model in CLIENT_MODELS])


def server_messages() -> st.SearchStrategy[Any]:
    """Any message that a server may send."""
    return st.one_of([messages_of(model) for model in SERVER_MODELS])


def _one_body(fields: dict[str, Any]) -> dict[str, Any]:
    """`command.start` has exactly one of `argv` and `text`, a program to run, and what goes with a terminal."""
    if fields.get("type") == "command.start":
        if fields.get("pty") is not None:
            fields |= {"stdin": True, "input": b"", "merge_stderr": False}
        argv = fields.pop("argv", None)
        text = fields.pop("text", None)
        if text is None:
            first, *others = argv or ["true"]
            return {**fields, "argv": [first or "true", *others]}
        return {**fields, "text": text}
    if fields.get("type") == "approval.answer":
        return _answer(fields)
    return fields


def _answer(fields: dict[str, Any]) -> dict[str, Any]:
    """`approval.answer` has what its `for` needs, and nothing else."""
    scope = "once" if fields["verdict"] == "deny" else fields.get("for", "once")
    needs = {"times": 3, "until": 1767225600.0, "rule": "[[rule]]"}
    rest = {name: value for name, value in fields.items() if name not in needs}
    return {**rest, "for": scope, **({scope: fields.get(scope) or needs[scope]} if scope in needs else {})}


def _map(schema: dict[str, Any], shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    required = set(schema.get("required", ())) | ({"type"} & schema["properties"].keys())
    fields = {name: _value(field, shared) for name, field in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in required},
        optional={name: value for name, value in fields.items() if name not in required},
    )


def _value(schema: dict[str, Any], shared: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        named = shared[schema["$ref"].rpartition("/")[2]]
        return _map(named, shared)
    if "anyOf" in schema:
        return st.one_of([_value(one, shared) for one in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "object":
        keys = schema.get("patternProperties")
        if keys is None:
            return _map(schema, shared)
        [(pattern, values)] = keys.items()
        return st.dictionaries(_matching(pattern), _value(values, shared), max_size=4)
    if schema["type"] == "array":
        items = _value(schema["items"], shared)
        return st.lists(items, min_size=schema.get("minItems", 0), max_size=4)
    return _scalar(schema)


def _scalar(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    kind = schema["type"]
    if kind == "string" and schema.get("format") == "binary":
        return st.binary(min_size=schema.get("minLength", 0), max_size=600)
    if kind == "string":
        return _matching(schema["pattern"]) if "pattern" in schema else st.text(max_size=300)
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if kind == "number":
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        return st.floats(
            low,
            schema.get("maximum"),
            exclude_min="exclusiveMinimum" in schema,
            allow_nan=False,
            allow_infinity=False,
        )
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def _matching(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern.removeprefix("^").removesuffix("$"), fullmatch=True)


@st.composite
def wide_frames(draw: st.DrawFn, value: Any) -> bytes:
    """`value` as msgpack, each part in any of the widths that could hold it: what an unusual encoder might send."""

    def size(number: int, layouts: dict[int, str]) -> bytes:
        fitting = [(first, layout) for first, layout in layouts.items() if number < 1 << 8 * struct.calcsize(layout)]
        first, layout = draw(st.sampled_from(fitting))
        return bytes([first]) + struct.pack(layout, number)

    def pack(part: Any) -> bytes:
        if part is None or isinstance(part, bool):
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[part]
        if isinstance(part, int):
            if part < 0:
                return b"\xd3" + struct.pack(">q", part)
            return size(part, {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"})
        if isinstance(part, float):
            return b"\xcb" + struct.pack(">d", part)
        if isinstance(part, bytes):
            return size(len(part), {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}) + part
        if isinstance(part, str):
            data = part.encode()
            return size(len(data), {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}) + data
        if isinstance(part, list):
            return size(len(part), {0xDC: ">H", 0xDD: ">I"}) + b"".join(map(pack, part))
        entries = draw(st.permutations(list(part.items())))
        return size(len(part), {0xDE: ">H", 0xDF: ">I"}) + b"".join(pack(key) + pack(item) for key, item in entries)

    return pack(value)


def plain_values() -> st.SearchStrategy[Any]:
    """Anything that a frame may hold."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-MAX_INTEGER, MAX_INTEGER)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=40)
        | st.binary(max_size=300)
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
        max_leaves=30,
    )
