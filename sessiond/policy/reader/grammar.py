"""What tree-sitter-bash sees in a text: where its words and its programs stand. It knows bash only."""

from __future__ import annotations

import threading

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from sessiond.policy.reader.words import names
from sessiond.policy.reading import UnreadableError

Span = tuple[int, int]
"""Where a word begins and ends, in bytes."""

_LANGUAGE = Language(tree_sitter_bash.language())

_WORDS = names("word number raw_string string concatenation simple_expansion expansion variable_assignment")
_TRANSPARENT = names("program list pipeline redirected_statement command file_redirect")
_SILENT = names("&& || | ; & comment < > >> >| >& <& >&- <&- file_descriptor") | {"\n"}

_BASH_ONLY = names(
    "ansi_c_string translated_string array process_substitution herestring_redirect [[ (( $[ ]] |& &> &>> &>| "
    "function select += ;& ;;& extglob_pattern"
)
"""Nodes that another shell than bash reads in another way, or not at all."""


class _Parsers(threading.local):
    """A parser a thread: it keeps state while it parses."""

    def __init__(self) -> None:
        self.parser = Parser(_LANGUAGE)


_parsers = _Parsers()


def plain_spans(data: bytes) -> tuple[list[Span], list[Span]] | None:
    """All words, and the programs among them, in a text of simple commands; None if there is anything else."""
    root = _parsers.parser.parse(data).root_node
    if root.has_error:
        return None
    words: list[Span] = []
    programs: list[Span] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        kind = node.type
        if kind in _TRANSPARENT:
            waiting.extend(reversed(node.children))
        elif kind in _WORDS:
            words.append((node.start_byte, node.end_byte))
        elif kind == "command_name":
            span = (node.start_byte, node.end_byte)
            words.append(span)
            programs.append(span)
        elif kind not in _SILENT:
            return None
    return words, programs


def programs(data: bytes, *, bash: bool) -> list[Span]:
    """Where the programs and builtins stand that the text may run, anywhere in it, in order. Raises UnreadableError."""
    root = _parsers.parser.parse(data).root_node
    if root.has_error:
        raise UnreadableError("syntax", "the text is not shell syntax that can be read without doubt")
    found: list[Span] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        kind = node.type
        if not bash and kind in _BASH_ONLY:
            raise UnreadableError("syntax", f"{kind} means something in bash only; this profile's shell is sh")
        program = _program(node, kind, bash=bash)
        if program is not None:
            found.append((program.start_byte, program.end_byte))
        waiting.extend(node.children)
    return sorted(found)


def _program(node: Node, kind: str, *, bash: bool) -> Node | None:
    """The node's child that is a program's name."""
    if kind == "command":
        name = node.child_by_field_name("name")
        if bash and name is not None and name.text == b"time":
            return _timed(node)
        return name
    if kind in ("declaration_command", "unset_command") or (kind == "test_command" and node.children[0].type == "["):
        return node.children[0]
    return None


def _timed(command: Node) -> Node | None:
    """What bash times: the grammar takes `time` for a program."""
    arguments = command.children_by_field_name("argument")
    if arguments and arguments[0].text == b"-p":
        arguments = arguments[1:]
    return arguments[0] if arguments else None
