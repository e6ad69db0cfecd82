"""Writes the parts of `docs/protocol.md` that follow from the code: `python -m sessiond_protocol.reference [PATH]`.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Everything else in the page is written by hand.
"""

from __future__ import annotations

import ast
import re
import sys
import typing
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from sessiond_protocol import fields, limits, parts, states
from sessiond_protocol.example import annotated, exchange
from sessiond_protocol.messages import ClientMessage, Message, ServerMessage

_COMMON = {
    "type": "The message's name.",
    "id": "Chosen by the client; the reply carries it back as `re`.",
    "re": "The `id` of the request that this answers.",
    "session": "Which session.",
    "command": "Which command of the session.",
    "offset": "In bytes, from the beginning of the stream.",
    "data": "The bytes.",
    "path": "Relative to the workspace, or absolute within it or `/tmp`.",
    "window": "Output bytes that may be sent to this connection before it acknowledges; 0 does not follow.",
    "answer": "When the reply comes, as in `command.start`.",
}
"""What a field means wherever its model does not say."""
_NAMED = {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}": "[identifier](#names)",
    "[A-Za-z0-9][A-Za-z0-9._/-]{0,62}": "[label](#names)",
    "[A-Za-z_][A-Za-z0-9_]{0,127}": "[variable](#names)",
    "[A-Za-z0-9][A-Za-z0-9._+-]{0,63}": "str of letters, digits and `._+-`, at most 64",
    r"[^\x00]*": "str without NUL",
    r"[^\x00]+": "str without NUL, not empty,",
    r"(tcp:[1-9][0-9]{0,4}|unix:[^\x00]+)": "`tcp:PORT` or `unix:PATH`",
}
"""What the page calls the strings of these patterns."""
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def models_of(union: Any) -> tuple[type[Message], ...]:
    """The models of a union of messages."""
    models: tuple[type[Message], ...] = typing.get_args(typing.get_args(union)[0])
    return models


def render(page: str) -> str:
    """The page with its generated parts as they should be."""
    texts = {
        "client": "\n\n".join(_message(model) for model in models_of(ClientMessage)),
        "server": "\n\n".join(_message(model) for model in models_of(ServerMessage)),
        "parts": "\n\n".join(_message(model) for model in _parts()),
        "limits": _limits(),
        "states": states.diagrams(),
        "exchange": "\n\n".join(f"{step.remark}\n\n```text\n{annotated(step)}\n```" for step in exchange()),
    }
    return _PART.sub(lambda part: f"{part[1]}\n{texts[part[2]]}\n\n{part[3]}", page)


def _parts() -> list[type[Message]]:
    return [
        model
        for model in vars(parts).values()
        if isinstance(model, type) and issubclass(model, Message) and model.__module__ == parts.__name__
    ]


def _message(model: type[Message]) -> str:
    schema = model.model_json_schema(by_alias=True)
    said = _said(model)
    type_field = model.model_fields.get("type")
    title = f"`{type_field.default}`" if type_field else model.__name__
    rows = [
        _row(
            [
                f"`{field.alias or name}`",
                _type(schema["properties"][field.alias or name]),
                "yes" if name == "type" or field.is_required() else _default(field.default),
                said.get(name) or _COMMON.get(name, ""),
            ]
        )
        for name, field in model.model_fields.items()
    ]
    head = [_row(["field", "value", "required, or default", "meaning"]), "|---|---|---|---|"]
    doc = " ".join((model.__doc__ or "").split())
    return "\n".join([f"#### {title}", "", doc, "", *head, *rows])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _said(model: type[Message]) -> dict[str, str]:
    """What the model's source says about each field, in the string after it."""
    source = Path(sys.modules[model.__module__].__file__ or "").read_text()
    [body] = [
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == model.__name__
    ]
    said = {}
    for field, following in pairwise(body):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                said[name] = " ".join(text.split())
    return said


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return ""
    if value is None:
        return "absent"
    if isinstance(value, Message | dict):
        return "`{}`"
    if value in (b"", ""):
        return "empty"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        if set(schema["enum"]) == set(typing.get_args(fields.ErrorCode)):
            return "[error code](#error-codes)"
        return _names(schema["enum"])
    if schema["type"] == "object":
        [(pattern, values)] = schema["patternProperties"].items()
        most = f" of at most {schema['maxProperties']}" if "maxProperties" in schema else ""
        return f"map{most}: {_named(pattern)} to {_type(values)}"
    if schema["type"] == "array":
        return f"array{_range(schema, 'Items', '')} of {_type(schema['items'])}"
    return _scalar(schema)


def _scalar(schema: dict[str, Any]) -> str:
    kind = schema["type"]
    if kind == "string":
        if schema.get("format") == "binary":
            return f"bin{_range(schema, 'Length', ' bytes')}"
        name = _named(schema["pattern"]) if "pattern" in schema else "str"
        return name + _range(schema, "Length", " characters")
    if kind in ("integer", "number"):
        name = "int" if kind == "integer" else "float"
        above = f" > {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
        low = f" ≥ {schema['minimum']}" if "minimum" in schema else ""
        high = schema.get("maximum", limits.MAX_INTEGER)
        return name + above + low + (f" ≤ {high}" if high != limits.MAX_INTEGER else "")
    return {"boolean": "bool", "null": "nil"}[kind]


def _named(pattern: str) -> str:
    return _NAMED[pattern.removeprefix("^").removesuffix("$")]


def _range(schema: dict[str, Any], what: str, unit: str) -> str:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if high is None:
        return ""
    return f" of {low} to {high}{unit}" if low else f" of at most {high}{unit}"


def _limits() -> str:
    rows = [
        ("one frame", f"{limits.FRAME_BYTES} bytes"),
        (f"one frame of a message other than {_names(limits.BULK_TYPES)}", f"{limits.CONTROL_BYTES} bytes"),
        ("`data` of `output` and `command.stdin`", f"{fields.MAX_DATA} bytes"),
        ("`input` of `command.start`", f"{fields.MAX_INPUT} bytes"),
        ("maps and arrays within each other, the message itself counted", f"{limits.DEPTH} levels"),
        ("map entries and array items of a frame, over all levels", f"{limits.ELEMENTS}"),
        ("integers", f"-{limits.MAX_INTEGER} to {limits.MAX_INTEGER}"),
        ("arguments of a command", f"{fields.MAX_ARGUMENTS}"),
        ("variables of an environment", f"{fields.MAX_ENVIRONMENT}"),
        ("labels of a session", f"{fields.MAX_LABELS}"),
        ("sessions or commands in one answer to a listing", f"{fields.MAX_PAGE}"),
    ]
    return "\n".join(["| what | at most |", "|---|---|", *(_row(row) for row in rows)])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Rewrite the page in place."""
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/protocol.md")
    page.write_text(render(page.read_text()))


if __name__ == "__main__":
    main()
