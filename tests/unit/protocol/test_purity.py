"""The wire does no I/O and knows neither side."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import sessiond_protocol

MODULES = sorted(Path(sessiond_protocol.__path__[0]).glob("*.py"))
STANDARD = "__future__ ast collections dataclasses enum errno itertools math pathlib re struct sys types typing"
ALLOWED = {*STANDARD.split(), "msgpack", "pydantic", "pydantic_core", "sessiond_protocol"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_of_the_wire_imports_only_what_is_pure(module: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= ALLOWED
