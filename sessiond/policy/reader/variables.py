"""What is known of variables: those that are surely numbers, and those of loops over known words.

Arithmetic runs code that stands in a variable (`x='a[$(id)]'; echo $((x))`), so it is read only where every variable
is a number by construction. All is forgotten as soon as anything in the text could set a variable unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sessiond.policy.reader.nodes import Tree
from sessiond.policy.reader.words import names

NUMBER = re.compile(r"[0-9]{1,18}|0[xX][0-9A-Fa-f]{1,15}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NUMBERS = names("? # $ !")
"""Parameters that hold a number, or nothing."""
_ORDINARY = re.compile(r"[a-z][a-z0-9_]*")
"""Names that no shell sets by itself."""

ASSIGNING = names("++ -- = += -= *= /= %= &= |= ^= <<= >>=")
_SETTING = names(
    "read mapfile readarray getopts eval source . trap unset wait declare typeset local export readonly let command "
    "builtin exec enable alias set shopt"
)
"""Builtins after which nothing is known of any variable."""


class Variables:
    """The variables of one text."""

    def __init__(self, tree: Tree) -> None:
        """Look through the whole tree."""
        self._known = True
        self._settings: dict[str, list[bool]] = {}
        """For each name, whether each setting of it is a number."""
        self._numbers_in: dict[str, list[tuple[int, int]]] = {}
        """Where in the text a name has surely been set to a number."""
        self._loops: dict[str, tuple[int, int, tuple[str, ...], bool]] = {}
        self._end = tree["End"]["Offset"]
        for node in _nodes(tree):
            self._look(node)
        for statement in tree.get("Stmts", ()):
            self._look_at_top(statement)

    def is_number(self, name: str, offset: int) -> bool:
        """Whether the variable surely holds a number there."""
        places = self._numbers_in.get(name, ())
        return (
            self._known
            and bool(_ORDINARY.fullmatch(name))
            and all(self._settings.get(name, [False]))
            and any(start <= offset < end for start, end in places)
        )

    def define(self, name: str, start: int, end: int, prefixes: tuple[str, ...], *, literal: bool) -> None:
        """Between `start` and `end` the variable begins with one of `prefixes`; if `literal`, it is one of them."""
        if len(self._settings.get(name, ())) == 1 and _ORDINARY.fullmatch(name):
            whole = literal and not any(re.search(r"[\s*?\[\\]", prefix) or not prefix for prefix in prefixes)
            self._loops[name] = (start, end, prefixes, whole)

    def prefixes(self, name: str, offset: int, *, splits: bool) -> tuple[str, ...]:
        """What the variable surely begins with there, one of these; none if that is not known."""
        start, end, prefixes, whole = self._loops.get(name, (0, 0, (), False))
        if not self._known or not start <= offset < end or (splits and not whole):
            return ()
        return prefixes

    def _look(self, node: Tree) -> None:
        kind = node.get("Type")
        if kind in ("CallExpr", "DeclClause", "LetClause", "CoprocClause"):
            self._look_at_command(node)
        elif kind == "ForClause":
            self._look_at_loop(node)
        elif (kind == "BinaryArithm" and node["Op"] in ASSIGNING) or (
            kind == "UnaryArithm" and node["Op"] in ("++", "--")
        ):
            self._set(_literal(node["X"]), number=True)
        elif kind == "ParamExp" and node.get("Exp", {}).get("Op") in ("=", ":="):
            self._set(node["Param"]["Value"], number=False)

    def _look_at_command(self, node: Tree) -> None:
        for assign in node.get("Assigns", ()):
            number = not any(key in assign for key in ("Append", "Index", "Array")) and is_number(assign.get("Value"))
            self._set(assign["Name"]["Value"], number=number)
        arguments = node.get("Args", ())
        if node["Type"] != "CallExpr":
            self._known = False
        elif arguments:
            name = _literal(arguments[0])
            assigns = name == "printf" and (len(arguments) == 1 or not _is_format(arguments[1]))
            self._known &= name is not None and name not in _SETTING and not assigns

    def _look_at_loop(self, node: Tree) -> None:
        loop = node["Loop"]
        place = (node["Pos"]["Offset"], node["End"]["Offset"])
        if loop["Type"] == "WordIter":
            number = "Items" in loop and not node.get("Select") and all(is_number(item) for item in loop["Items"])
            self._set(loop["Name"]["Value"], number=number)
            if number:
                self._numbers_in.setdefault(loop["Name"]["Value"], []).append(place)
        else:
            start = loop.get("Init", {})
            if start.get("Type") == "BinaryArithm" and start["Op"] == "=":
                self._numbers_in.setdefault(_literal(start["X"]) or "", []).append((start["End"]["Offset"], place[1]))

    def _look_at_top(self, statement: Tree) -> None:
        command = statement.get("Cmd", {})
        alone = not any(key in statement for key in ("Background", "Redirs"))
        if command.get("Type") == "CallExpr" and "Args" not in command and alone:
            for assign in command.get("Assigns", ()):
                place = (statement["End"]["Offset"], self._end + 1)
                self._numbers_in.setdefault(assign["Name"]["Value"], []).append(place)

    def _set(self, name: str | None, *, number: bool) -> None:
        self._known &= name is not None and name != "IFS"
        self._settings.setdefault(name or "", []).append(number)


def is_number(word: Tree | None) -> bool:
    """Whether the word is a number as it stands, an arithmetic expansion, or `$?` and the like, and nothing else."""
    parts = (word or {}).get("Parts", ())
    if len(parts) != 1:
        return False
    part = parts[0]
    if part["Type"] == "Lit":
        return NUMBER.fullmatch(part["Value"]) is not None
    return part["Type"] == "ArithmExp" or (part.get("Short", False) and part["Param"]["Value"] in NUMBERS)


def _literal(word: Tree) -> str | None:
    """The word if it is one literal without quotes."""
    parts = word.get("Parts", ())
    if len(parts) == 1 and parts[0]["Type"] == "Lit" and "\\" not in parts[0]["Value"]:
        return str(parts[0]["Value"])
    return None


def _is_format(word: Tree) -> bool:
    """Whether a first word of printf is surely no option."""
    first = word["Parts"][0]
    text = first.get("Value", "") if first["Type"] in ("Lit", "SglQuoted") else ""
    if first["Type"] == "DblQuoted" and first.get("Parts") and first["Parts"][0]["Type"] == "Lit":
        text = first["Parts"][0]["Value"]
    return bool(text) and text[0] not in "-\\"


def _nodes(tree: Tree) -> Iterator[Tree]:
    """Every object of the tree."""
    waiting: list[object] = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
