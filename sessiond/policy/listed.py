"""`allow = [...]` of a profile: the listed programs with any arguments, except where those could hide another."""

from __future__ import annotations

from collections.abc import Sequence

from sessiond.policy.builtin import CHANGING
from sessiond.policy.load import Source, load_source
from sessiond.policy.names import names
from sessiond.policy.rule import PolicyTable, RuleTable

_BY_RULE = names("diff file find git mypy printf pylint pytest rg sort test cd")
"""Programs whose rules of the set `developer` count even here: an option of theirs runs other programs."""


def listed_source(allow: Sequence[str]) -> Source:
    """The rules for a list of programs, with the paths of `developer`."""
    names = [name for name in dict.fromkeys(allow) if name not in CHANGING]
    tables: list[tuple[str, PolicyTable]] = []
    for place, table in load_source("developer").tables:
        rules = []
        for rule in table.rule:
            programs = [name for name in names if name.rpartition("/")[2] in _BY_RULE & set(rule.programs)]
            if programs:
                update = {"programs": programs, "otherwise": "deny", "allows": [], "denies": []}
                rules.append(rule.model_copy(update=update))
        tables.append((place, table.model_copy(update={"rule": rules, "trusted": []})))
    free = [name for name in names if name.rpartition("/")[2] not in _BY_RULE]
    if free:
        tables.append(("listed", PolicyTable(rule=[RuleTable(id="listed", programs=free, any=True)])))
    return Source("listed", tables)
