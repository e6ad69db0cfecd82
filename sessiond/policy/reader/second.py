"""The second opinion: mvdan/sh, asked through the `shfmt` program that the package shfmt-py brings."""

from __future__ import annotations

import json
import subprocess
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

from sessiond.policy.reader.nodes import Tree
from sessiond.policy.reading import UnreadableError

DEADLINE_SECONDS = 2.0
MAX_TREE_BYTES = 8 * 1024 * 1024
"""A tree takes some 200 bytes for each of its text, more where it is deep."""


@cache
def program() -> str | None:
    """Where `shfmt` is, or None. Only the one that was installed with sessiond is asked, never one on PATH."""
    try:
        files = distribution("shfmt-py").files or []
    except PackageNotFoundError:
        return None
    found = [str(file.locate()) for file in files if file.name == "shfmt"]
    return found[0] if found else None


def parse(data: bytes, dialect: Literal["bash", "sh"]) -> Tree:
    """The text's syntax tree. Blocks, for DEADLINE_SECONDS at most. Raises UnreadableError."""
    shfmt = program()
    if shfmt is None:
        raise UnreadableError("syntax", "only plain commands can be read here: the package shfmt-py is not installed")
    command = [shfmt, "--to-json", "-ln", "bash" if dialect == "bash" else "posix", "-"]
    try:
        output = _run(command, data)
        tree = json.loads(output)
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError("syntax", "the second parser cannot read the text") from error
    if not isinstance(tree, dict) or tree.get("Type") != "File":
        raise UnreadableError("syntax", "the second parser gave no syntax tree")
    return tree


def _run(command: list[str], data: bytes) -> bytes:
    """What the program prints. Raises OSError and UnreadableError."""
    with subprocess.Popen(  # noqa: S603 - our own program, and no text on its command line
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={}
    ) as process:
        watch = threading.Timer(DEADLINE_SECONDS, process.kill)
        watch.start()
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for mypy: both are pipes
            process.stdin.write(data)
            process.stdin.close()
            output = process.stdout.read(MAX_TREE_BYTES + 1)
            if len(output) > MAX_TREE_BYTES:
                process.kill()
            process.wait()
        finally:
            watch.cancel()
            process.kill()
    if len(output) > MAX_TREE_BYTES:
        raise UnreadableError("lexical", "the text is nested too deeply")
    if process.returncode != 0:
        raise UnreadableError("syntax", "the text is not shell syntax that can be read without doubt")
    return output
