"""Shell builtins that run code which stands in a name: `read 'a[$(id)]'`, `test -v 'a[$(id)]'`, `declare a[..]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sessiond.policy.reader.words import names
from sessiond.policy.reading import UnreadableError, Word

DECLARING = frozenset(["declare", "export", "local", "readonly", "typeset"])
_NAMES = frozenset(["read", "unset", "mapfile", "readarray", "getopts", "wait"])
"""Builtins whose words are names of variables, among others."""
_TESTS = frozenset(["test", "["])
_RUNNERS = frozenset(["command", "builtin"])
_CHECKED = DECLARING | _NAMES | _TESTS | _RUNNERS | {"printf", "let"}
_PROCESS = frozenset(["$!", '"$!"'])
"""A process number."""
_COMPARISONS = names("= == != < > -eq -ne -lt -le -gt -ge -nt -ot -ef")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HARMLESS_OPTION = re.compile(r"-[xrgp]+")


def check(words: Sequence[Word]) -> None:
    """Raise UnreadableError if a builtin might evaluate a word of this command."""
    name = words[0].text
    if name not in _CHECKED:
        return
    if name in _NAMES:
        if any((word.text is None and word.source not in _PROCESS) or "[" in (word.text or "") for word in words[1:]):
            raise UnreadableError("syntax", f"{name} may run what stands in a name that is computed or has a subscript")
    elif name == "printf":
        _check_printf(words)
    elif name in _TESTS:
        _check_test(words[1:-1] if name == "[" else words[1:])
    elif name in _RUNNERS:
        _check_behind(words)
    elif words[0].quoted or name == "let":
        raise UnreadableError("syntax", f"{words[0].source[:20]} may run what stands in its words; use an assignment")


def _check_behind(words: Sequence[Word]) -> None:
    """Look at the builtin that `command` or `builtin` runs."""
    behind = [word for word in words[1:] if word.text is None or not word.text.startswith("-")]
    if behind and behind[0].text in DECLARING:
        raise UnreadableError("syntax", f"{behind[0].source[:20]} behind {words[0].source[:20]}; use it alone")
    if behind:
        check(words[words.index(behind[0]) :])


def check_declaration(arguments: Sequence[Word]) -> None:
    """Raise UnreadableError unless these words of `declare` and its like, no assignments, are options or names."""
    for word in arguments:
        text = word.text or ""
        if not _NAME.fullmatch(text) and (word.quoted or not _HARMLESS_OPTION.fullmatch(text)):
            raise UnreadableError("syntax", f"{word.source[:40]} in a declaration; give a name, or NAME=value unquoted")


def _check_printf(words: Sequence[Word]) -> None:
    """Refuse `-v NAME`, and a format that might be that option."""
    first = words[1] if len(words) > 1 else None
    if first is None:
        return
    if first.text is None and not first.prefix:
        raise UnreadableError("syntax", "printf with a computed format, which may be an option; use printf '%s'")
    if (first.text or first.prefix).startswith("-v"):
        raise UnreadableError("syntax", "printf -v; use an assignment")


def _check_test(words: Sequence[Word]) -> None:
    """Refuse `-v` and `-R`, and unknown words where an operator may stand."""
    if any(word.text in ("-v", "-R") for word in words):
        raise UnreadableError("syntax", "test -v and -R evaluate subscripts")
    unknown = [index for index, word in enumerate(words) if word.text is None and not word.prefix]
    if not unknown:
        return
    known = [word.text for word in words]
    first = 1 if known[0] == "!" else 0
    compares = len(words) > first + 1 and known[first + 1] in _COMPARISONS
    operands = {first, first + 2} if compares or len(words) == first + 1 else {first + 1}
    if len(words) > 4 or not operands.issuperset(unknown) or any(words[index].splits for index in unknown):
        raise UnreadableError(
            "syntax", "test with a computed word that may be an operator; quote it and compare with ="
        )
