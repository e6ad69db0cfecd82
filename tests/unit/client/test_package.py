"""The package as a whole: what it exports, what it imports, and that its documents are true."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import sessiond_client
from sessiond_client import errors
from sessiond_protocol import messages

ROOT = Path(__file__).parents[3]


def test_it_imports_nothing_heavy_and_nothing_of_the_daemon() -> None:
    code = "import sys, sessiond_client.sync; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"sessiond", "docker", "starlette", "uvicorn", "pydantic_settings", "rich", "click", "structlog"}
    assert not heavy & set(modules)


def test_everything_exported_is_there_and_all_errors_are_exported() -> None:
    exported = set(sessiond_client.__all__)
    assert all(hasattr(sessiond_client, name) for name in exported)
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SessiondError)
    }
    assert kinds <= exported


def test_the_errors_docstring_names_every_error_once() -> None:
    named = re.findall(r"\b(\w+Error)\b(?! \()", re.sub(r"\((\w+Error)\)", "", errors.__doc__ or ""))
    kinds = {name for name in sessiond_client.__all__ if name.endswith("Error")}
    assert sorted(set(named)) == sorted(kinds)


@pytest.mark.parametrize("code", get_args(messages.ErrorCode))
def test_every_code_has_its_error(code: messages.ErrorCode) -> None:
    said = messages.Error(code=code, message="m", hint="h", rule="r")
    error = errors.remote_error(said)
    assert type(error) is not errors.RemoteError
    assert (error.code, error.message, error.hint, error.rule, str(error)) == (code, "m", "h", "r", "m")
    assert f"`{code}`" in (type(error).__doc__ or "")


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sessiond_client.__version__ == project["project"]["version"]


def test_errors_can_be_caught_as_what_they_are() -> None:
    assert issubclass(sessiond_client.DeadlineError, TimeoutError)
    assert issubclass(sessiond_client.ConnectionLostError, ConnectionError)
    assert issubclass(sessiond_client.UsageError, ValueError)
    assert issubclass(sessiond_client.StdinClosedError, BrokenPipeError)
    assert not issubclass(sessiond_client.DeadlineError, asyncio.CancelledError)
