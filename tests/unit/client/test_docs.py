"""docs/client.md is true: its examples run, and it names what there is."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sessiond_client

from sessiond.cli.main import COMMANDS

from .peer import Peer

PAGE = (Path(__file__).parents[3] / "docs/client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_the_examples_run(peer: Peer, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_URL", peer.url)
    names: dict[str, Any] = {"connect": sessiond_client.connect}
    code = compile(EXAMPLES[number], f"docs/client.md, example {number + 1}", "exec", dont_inherit=True)
    await asyncio.to_thread(exec, code, names)
    functions = [f for f in names.values() if inspect.iscoroutinefunction(f) and f.__globals__ is names]
    assert functions or "sync" in EXAMPLES[number]
    for function in functions:
        await call(function)


async def call(function: Callable[..., Any]) -> None:
    if inspect.signature(function).parameters:
        async with sessiond_client.connect() as client, await client.open() as session:
            await function(session)
    else:
        await function()


def test_every_error_and_every_method_is_named() -> None:
    words = set(re.findall(r"\w+", PAGE))
    assert {name for name in sessiond_client.__all__ if name.endswith("Error")} <= words
    for kind in (sessiond_client.Session, sessiond_client.Command):
        for name, value in vars(kind).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                assert name in words, f"{kind.__name__}.{name}"
                if name in ("run", "start", "open", "command"):
                    assert set(inspect.signature(value).parameters) - {"self"} <= words, name


def test_the_commands_of_this_page_exist() -> None:
    assert set(re.findall(r"`sessiond (\w+)", PAGE)) <= set(COMMANDS)
