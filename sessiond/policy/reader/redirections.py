"""What a redirection of the second parser's tree opens."""

from __future__ import annotations

import re
from typing import Literal

from sessiond.policy.reader.nodes import Tree
from sessiond.policy.reading import UnreadableError, Word

_KINDS: dict[str, Literal["read", "write", "append", "readwrite", "text"]] = {
    "<": "read",
    ">": "write",
    ">|": "write",
    ">>": "append",
    "<>": "readwrite",
    "&>": "write",
    "&>>": "append",
    "<<<": "text",
}
_COPY = re.compile(r"[0-9]+|-")
_FILE = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
"""Bash expands the word after `>&` twice: `>&'$(id)'` runs id. So only what holds nothing to expand is read."""
_DELIMITER = re.compile(r"""[A-Za-z_][A-Za-z0-9_]*|'[A-Za-z0-9_ .-]+'|"[A-Za-z0-9_ .-]+"|\\[A-Za-z_][A-Za-z0-9_]*""")


def descriptor_of(node: Tree) -> int:
    """The descriptor that is redirected."""
    if "N" not in node:
        return 0 if node["Op"].startswith("<") else 1
    number = node["N"]["Value"]
    if not re.fullmatch("[0-9]{1,3}", number):
        raise UnreadableError("syntax", f"a redirection of {number[:20]}; use a number")
    return int(number)


def kind_of(node: Tree, word: Word, *, bash: bool) -> Literal["read", "write", "append", "readwrite", "text"] | None:
    """What the redirection does with the file; None if it only copies or closes a descriptor."""
    operator = node["Op"]
    if operator in (">&", "<&"):
        if word.text is not None and not word.quoted and _COPY.fullmatch(word.text):
            return None
        if operator == ">&" and "N" not in node and bash and _FILE.fullmatch(word.source):
            return "write"
        raise UnreadableError("syntax", f"{operator} {word.source[:20]}, which may be a descriptor or a file")
    if operator not in _KINDS:
        raise UnreadableError("syntax", f"the redirection {operator}")
    return _KINDS[operator]


def is_expanded(delimiter: Word, body: str) -> bool:
    """Whether what stands in the here-document is expanded. Raises UnreadableError where shells may differ."""
    if not _DELIMITER.fullmatch(delimiter.source):
        raise UnreadableError("syntax", "a here-document's end that is not a simple word; use EOF or 'EOF'")
    if delimiter.quoted:
        return False
    if "\\\n" in body:
        raise UnreadableError("syntax", "a backslash before a line's end in a here-document; quote its end: <<'EOF'")
    return True
