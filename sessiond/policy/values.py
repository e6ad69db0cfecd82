"""Kinds of values: what an option's value or an operand must be. docs/policy.md lists them for rule files."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from posixpath import dirname

from sessiond.policy.environment import refused_environment
from sessiond.policy.errors import MisfitError, shown
from sessiond.policy.paths import Trees, climbs, tame_pattern
from sessiond.policy.programs.awk import check_awk
from sessiond.policy.programs.javascript import check_javascript
from sessiond.policy.programs.jq import check_jq
from sessiond.policy.programs.python import check_python
from sessiond.policy.programs.sed import check_sed
from sessiond.policy.reading import Word
from sessiond.policy.scene import Scene

_NUMBER = re.compile(r"[-+]?\d[\w.,:%+-]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_@][\w.@+:/=,~^-]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

Check = Callable[[Word, Scene], None]


def check_value(kind: str, word: Word, scene: Scene) -> None:
    """Raise MisfitError unless `word` is of the `kind`."""
    if kind != "any":
        find_kind(kind)(word, scene)


@lru_cache(maxsize=1024)
def find_kind(kind: str) -> Check:
    """The check of a kind. Raises ValueError when there is none of the name."""
    if kind.startswith("~"):
        try:
            return _expression(re.compile(kind[1:], re.ASCII))
        except re.error as error:
            raise ValueError(f"{kind!r} is not a regular expression: {error}") from error
    if kind not in _KINDS:
        raise ValueError(f"there is no kind {kind!r}; there are {', '.join(sorted(_KINDS))} and ~EXPRESSION")
    return _KINDS[kind]


def _expression(pattern: re.Pattern[str]) -> Check:
    def check(word: Word, _: Scene) -> None:
        if word.text is None or pattern.fullmatch(word.text) is None:
            raise MisfitError("value", f"{shown(word.source)} is not of the allowed form", "otherwise")

    return check


def _any(_: Word, __: Scene) -> None:
    """Whatever it is, it does no harm."""


def _path(verb: str, permits: Callable[[Trees, str], bool], *, feedable: bool = False, removes: bool = False) -> Check:
    """A check of a path. `feedable`: it may come from a variable or another command that names no path outside."""

    def check_one(path: str, scene: Scene, permits: Callable[[Trees, str], bool]) -> None:
        resolved = scene.resolved(path)
        if resolved is None:
            if not feedable or climbs(path) or not scene.feeds_only_inside():
                raise MisfitError("path", f"the directory is not known, so {shown(path)} may not be {verb}", "ask")
            return
        for real in resolved:
            if not permits(scene.trees, real):
                raise MisfitError("path", f"{shown(real)} may not be {verb}")

    def check(word: Word, scene: Scene) -> None:
        if word.text is not None:
            check_one(word.text, scene, permits)
            return
        if word.source.startswith("<(") and feedable:
            return
        for prefix in word.alternatives or (word.prefix,):
            known = prefix if prefix.endswith("/") else dirname(prefix)
            whole = removes and re.search(r"\w", word.source.rpartition("/")[2]) is None
            check_one(known or ".", scene, Trees.writable if removes and not whole else permits)
        if word.pattern and (word.alternatives or tame_pattern(word.source, word.prefix)):
            return
        if not feedable:
            raise MisfitError(
                "computed", f"what {shown(word.source)} becomes is not known; it may not be {verb}", "ask"
            )
        if _HOME.search(word.source) or not scene.feeds_only_inside():
            raise MisfitError("computed", f"{shown(word.source)} may become a path that may not be {verb}")

    return check


_HOME = re.compile(r"~|\$\{?(?:HOME|OLDPWD|HOSTNAME|SHELL|PATH|BASH\w*|XDG\w*)\b")


def _inner(word: Word, scene: Scene) -> None:
    """What a link leads to: the way is followed from where the link is, so it may not climb."""
    if word.text is None or climbs(word.text):
        raise MisfitError("path", f"a link to {shown(word.source)} may lead outside", "ask")
    _READ(word, scene)


def _archive(word: Word, scene: Scene) -> None:
    """A file of tar: one with a colon would be on another host."""
    if ":" in _known(word):
        raise MisfitError("network", f"{shown(word.source)} is on another host")
    _WRITE(word, scene)


def _code(word: Word, scene: Scene) -> None:
    if word.text == "-":
        raise MisfitError("code", "what comes from standard input is not seen", "ask")
    _CODE_FILE(word, scene)


def _source(word: Word, scene: Scene) -> None:
    """A file to compile: `@FILE` would be a file of options."""
    if word.text is not None and word.text.startswith("@"):
        raise MisfitError("option", f"the options in {shown(word.text)} are not seen")
    _READ(word, scene)


def _code_paths(word: Word, scene: Scene) -> None:
    for part in _known(word).split(":"):
        _code(Word(part, part), scene)


def _known(word: Word) -> str:
    if word.text is None:
        raise MisfitError("computed", f"{shown(word.source)} is not known before it runs", "otherwise")
    return word.text


def _number(word: Word, _: Scene) -> None:
    if word.text is not None and _NUMBER.fullmatch(word.text) is None:
        raise MisfitError("value", f"{shown(word.source)} is not a number", "otherwise")


def _name(word: Word, _: Scene) -> None:
    if word.text is None or _NAME.fullmatch(word.text) is None:
        raise MisfitError("value", f"{shown(word.source)} is not a plain name", "otherwise")


def _variable(word: Word, _: Scene) -> None:
    name = _known(word)
    if _VARIABLE.fullmatch(name) is None or refused_environment(name, None):
        raise MisfitError("environment", f"{shown(name)} may not be set")


def _setting(word: Word, scene: Scene) -> None:
    """`NAME` or `NAME=VALUE`."""
    text = word.text if word.text is not None else word.prefix
    name, equals, value = text.partition("=")
    if word.text is None and not equals:
        raise MisfitError("environment", f"the variable in {shown(word.source)} is not known")
    check_assignment(name, Word(word.source, value if word.text is not None else None, value), scene)


def check_assignment(name: str, value: Word, scene: Scene) -> None:
    """Raise MisfitError unless the variable may be set for whatever comes after."""
    if name == "PYTHONPATH":
        _code_paths(value, scene)
    elif refused_environment(name, value.text):
        raise MisfitError("environment", f"may change what runs: {shown(name)}")
    if value.text is not None and ("$(" in value.text or "`" in value.text):
        raise MisfitError("environment", f"the value of {shown(name)} may be run when it is used in arithmetic")


def _text(check: Callable[[str], str | None], language: str) -> Check:
    def checked(word: Word, _: Scene) -> None:
        if word.text is None:
            raise MisfitError("code", f"the {language} program {shown(word.source)} is not known before it runs", "ask")
        problem = check(word.text)
        if problem is not None:
            raise MisfitError("code", problem, "ask")

    return checked


def _python(word: Word, scene: Scene) -> None:
    if word.text is None:
        raise MisfitError("code", f"the python program {shown(word.source)} is not known before it runs", "ask")
    found = check_python(word.text)
    if found.problem is not None:
        raise MisfitError("code", found.problem, "ask")
    for path in found.read:
        _READ(Word(path, path), scene)
    for path in found.written:
        _WRITE(Word(path, path), scene)


_READ = _path("read", Trees.readable, feedable=True)
_WRITE = _path("written", Trees.writable)
_REMOVE = _path("removed", Trees.removable, removes=True)
_CODE_FILE = _path("run or obeyed", Trees.runnable)

_KINDS: dict[str, Check] = {
    "any": _any,
    "archive": _archive,
    "awk": _text(check_awk, "awk"),
    "code": _code,
    "code-paths": _code_paths,
    "inner": _inner,
    "javascript": _text(check_javascript, "JavaScript"),
    "jq": _text(check_jq, "jq"),
    "name": _name,
    "number": _number,
    "python": _python,
    "read": _READ,
    "remove": _REMOVE,
    "sed": _text(check_sed, "sed"),
    "setting": _setting,
    "source": _source,
    "variable": _variable,
    "write": _WRITE,
}
