"""Tells where in a settings file, or in which environment variable, a refused setting stands."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

Key = tuple[str, ...]


def syntax_problem(path: Path, message: str) -> str:
    """One line for what `tomllib` says of the file at `path`."""
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if match is None:
        return f"{path}: {message}"
    return f"{path}:{match[1] or 'end'}: {message[: match.start()]}"


def command_line_problem(error: ErrorDetails) -> str:
    """One line for what pydantic found wrong with a value of the command line."""
    key = ".".join(str(part) for part in error["loc"])
    return f"command line: {key + ': ' if key else ''}{_message(error)}"


class Report:
    """Turns what pydantic found wrong with a settings model into lines that name place and key."""

    def __init__(self, model: type[BaseSettings], path: Path | None, text: str) -> None:
        """Prepare for values of `model` that came from `text`, valid TOML, read from `path`."""
        self._model = model
        self._path = path
        self._lines = key_lines(text)

    def problem(self, error: ErrorDetails) -> str:
        """One line for one problem."""
        key = tuple(str(part) for part in error["loc"] if part != "[key]")
        message = _message(error)
        if error["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key[-1], _known(self._model, key[:-1]), n=1)
            message = f"unknown key; did you mean {close[0]}?" if close else "unknown key"
        return f"{self._place(key)}: {'.'.join(key)}: {message}"

    def _place(self, key: Key) -> str:
        prefix = str(self._model.model_config.get("env_prefix", ""))
        delimiter = str(self._model.model_config.get("env_nested_delimiter", ""))
        names = {name.upper() for name in os.environ}
        for length in range(len(key), 0, -1):
            variable = (prefix + delimiter.join(key[:length])).upper()
            if variable in names:
                return f"environment {variable}"
            if key[:length] in self._lines:
                return f"{self._path}:{self._lines[key[:length]]}"
        return str(self._path or "settings")


def key_lines(text: str) -> dict[Key, int]:
    """The line where each key of a valid TOML document is first set, its tables included.

    The document is cut into statements, each the fewest lines that are valid TOML alone; `tomllib` reads
    their keys, so quoted and dotted keys and inline tables need no rules here.
    """
    found: dict[Key, int] = {}
    table: Key = ()
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        first = number
        statement, number = lines[number], number + 1
        while number < len(lines) and not _complete(statement):
            statement, number = f"{statement}\n{lines[number]}", number + 1
        keys = _paths(tomllib.loads(statement))
        if statement.lstrip().startswith("["):
            table = keys[0]
            keys = [()]
        for key in keys:
            for length in range(len(key) + 1):
                found.setdefault(table + key[:length], first + 1)
    return found


def _message(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ")


def _complete(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _paths(value: dict[str, Any]) -> list[Key]:
    """All keys in `value`, those of tables inside it too, each as its whole path."""
    paths: list[Key] = []
    for key, inner in value.items():
        below = _paths(inner) if isinstance(inner, dict) else []
        paths += [(key, *rest) for rest in below] or [(key,)]
    return paths


def _known(model: type[BaseModel], path: Key) -> list[str]:
    """The keys that the section at `path` below `model` has."""
    section: Any = model
    for name in path:
        is_model = isinstance(section, type) and issubclass(section, BaseModel)
        if is_model and name not in section.model_fields:
            return []
        section = section.model_fields[name].annotation if is_model else get_args(section)[-1:]
        if isinstance(section, tuple):
            section = section[0] if section else None
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
