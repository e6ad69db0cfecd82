"""The second parser's syntax tree, as JSON: what all who walk it need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sessiond.policy.reader.grammar import Span
from sessiond.policy.reader.lexical import MAX_DEPTH
from sessiond.policy.reading import UnreadableError

Tree = dict[str, Any]
"""A node. Its `Type` tells what it is, but where only one type can be."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the text a statement stands."""

    constructs: tuple[str, ...] = ()
    fed: bool = False
    """Whether the text decides what it reads on its standard input."""

    def within(self, construct: str, *, fed: bool = False) -> Place:
        """The place inside a construct that stands here."""
        if len(self.constructs) >= MAX_DEPTH:
            raise UnreadableError("lexical", f"the text is nested more than {MAX_DEPTH} deep")
        return Place((*self.constructs, construct), self.fed or fed)


def span(node: Tree) -> Span:
    """Where the node stands in the text."""
    return node["Pos"]["Offset"], node["End"]["Offset"]


def only(node: Tree, *fields: str) -> None:
    """Raise UnreadableError if the node has a field that is not named and says more than a place or a comment."""
    for field, value in node.items():
        comment = field == "Comments" or field.endswith("Last")
        if field not in fields and field != "Type" and not comment and not _is_position(value):
            raise strange(field)


def _is_position(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"Offset", "Line", "Col"}


def strange(what: str) -> UnreadableError:
    """The refusal of what this version does not know."""
    return UnreadableError("syntax", f"shell syntax that is not read here ({what[:40]})")
