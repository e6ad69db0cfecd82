"""Loads rule files: composes what they include, compiles the rules, checks their examples. All or nothing."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sessiond.policy.checkers import CHECKERS
from sessiond.policy.compiled import Rule, Ruleset
from sessiond.policy.errors import PolicyError
from sessiond.policy.paths import Trees
from sessiond.policy.rule import PolicyTable, RuleTable

SETS = Path(__file__).parent / "sets"
"""The shipped rule sets."""
MAX_FILE_BYTES = 1024 * 1024
_MOST_INCLUDES = 64
_MOST_PROBLEMS = 32


@dataclass(slots=True)
class Source:
    """A policy as its files say it, before it is compiled."""

    name: str
    tables: list[tuple[str, PolicyTable]] = field(default_factory=list)
    """Each file or set by what it is called in errors, the included ones first."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides."""
        content = [table.model_dump(mode="json", exclude={"description", "include"}) for _, table in self.tables]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def set_names() -> list[str]:
    """The names of the shipped sets."""
    return sorted(path.stem for path in SETS.glob("*.toml"))


def load_source(name_or_path: str | Path, named: Mapping[str, Mapping[str, Any]] | None = None) -> Source:
    """Read a shipped set, one of the `named` policies, or the file at a path, with all that it includes.

    Raises PolicyError.
    """
    source = Source(str(name_or_path))
    _add(source, str(name_or_path), named or {}, Path.cwd(), [])
    return source


def _add(
    source: Source, wanted: str, named: Mapping[str, Mapping[str, Any]], directory: Path, chain: list[str]
) -> None:
    place, table, directory = _read(wanted, named, directory)
    if place in chain:
        raise PolicyError([f"{place}: include: goes round in a circle: {' > '.join([*chain, place])}"])
    if any(place == known for known, _ in source.tables):
        return
    if len(source.tables) >= _MOST_INCLUDES:
        raise PolicyError([f"{source.name}: include: more than {_MOST_INCLUDES} files"])
    for included in table.include:
        _add(source, included, named, directory, [*chain, place])
    source.tables.append((place, table))


def _read(wanted: str, named: Mapping[str, Mapping[str, Any]], directory: Path) -> tuple[str, PolicyTable, Path]:
    if wanted in named:
        return f"policies.{wanted}", parse_table(f"policies.{wanted}", dict(named[wanted])), directory
    if "/" not in wanted and not wanted.endswith(".toml"):
        path = SETS / f"{wanted}.toml"
        if not path.is_file():
            known = ", ".join([*set_names(), *named])
            raise PolicyError([f"{wanted}: there is no policy of this name; there are {known}, or give a file's path"])
        return wanted, _shipped(wanted), directory
    path = directory / Path(wanted).expanduser()
    return str(path), parse_table(str(path), _toml(path)), path.parent


@lru_cache(maxsize=32)
def _shipped(name: str) -> PolicyTable:
    return parse_table(name, _toml(SETS / f"{name}.toml"))


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise PolicyError([f"{path}: is larger than {MAX_FILE_BYTES} bytes"])
        return tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise PolicyError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise PolicyError([f"{path}: is not UTF-8 text"]) from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError([f"{path}: {error}"]) from error


def parse_table(place: str, values: dict[str, Any]) -> PolicyTable:
    """A rule file's values, checked. `place` is what errors call it. Raises PolicyError."""
    try:
        return PolicyTable.model_validate(values)
    except ValidationError as error:
        problems = [_problem(place, values, item["loc"], item["msg"], item["type"]) for item in error.errors()]
        raise PolicyError(problems[:_MOST_PROBLEMS]) from error


def _problem(place: str, values: dict[str, Any], location: tuple[int | str, ...], message: str, kind: str) -> str:
    message = "unknown key" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
    if len(location) > 1 and location[0] == "rule" and isinstance(location[1], int):
        rule = values["rule"][location[1]]
        name = rule.get("id") if isinstance(rule, dict) else None
        key = ".".join(str(part) for part in location[2:])
        return f"{place}: rule {name or f'number {location[1] + 1}'}: {key + ': ' if key else ''}{message}"
    return f"{place}: {'.'.join(str(part) for part in location)}: {message}"


def compile_source(source: Source) -> Ruleset:
    """The rules of a policy, ready to be matched. Raises PolicyError that lists every problem."""
    problems: list[str] = []
    programs: dict[str, list[Rule]] = {}
    seen: dict[str, str] = {}
    for place, table in source.tables:
        for rule_table in table.rule:
            label = f"{place}: rule {rule_table.id}"
            if rule_table.id in seen:
                problems.append(f"{label}: id: is taken already, in {seen[rule_table.id]}")
            seen[rule_table.id] = place
            try:
                rule = _compile(rule_table, table.otherwise)
            except ValueError as error:
                problems.append(f"{label}: {error}")
                continue
            for program in rule_table.programs:
                programs.setdefault(program, []).append(rule)
    if problems:
        raise PolicyError(problems[:_MOST_PROBLEMS])
    tables = [table for _, table in source.tables]
    return Ruleset(
        programs={name: tuple(rules) for name, rules in programs.items()},
        trees=Trees(
            read=_union(table.paths.read for table in tables),
            write=_union(table.paths.write for table in tables),
            code=_union(table.paths.code for table in tables),
        ),
        trusted=frozenset(_union(table.trusted for table in tables)),
        otherwise=tables[-1].otherwise if tables else "deny",
        open=any(table.open for table in tables),
    )


@lru_cache(maxsize=4096)
def _kept(dumped: str) -> Rule:
    return Rule.of(RuleTable.model_validate_json(dumped))


def _compile(table: RuleTable, otherwise: str) -> Rule:
    if table.check and table.check not in CHECKERS:
        raise ValueError(f"check: there is no checker {table.check!r}; there are {', '.join(sorted(CHECKERS))}")
    if table.otherwise is None:
        table = table.model_copy(update={"otherwise": otherwise})
    return _kept(table.model_dump_json(exclude={"allows", "denies"}))


def _union(lists: Iterable[list[str]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for paths in lists:
        for path in paths:
            if not path.startswith("/"):
                raise PolicyError([f"paths: {path!r} is not an absolute path"])
            found[path.rstrip("/") or "/"] = None
    return tuple(found)
