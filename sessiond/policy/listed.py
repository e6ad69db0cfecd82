"""`allow = [...]` of a profile: the listed programs with any arguments, except where those could hide another."""

from __future__ import annotations

from collections.abc import Sequence

from sessiond.policy.load import Source, load_source
from sessiond.policy.names import names
from sessiond.policy.rule import PolicyTable, RuleTable, TreesTable

_BY_RULE = names("diff file find git mypy printf pylint pytest rg sort test cd")
"""Programs whose rules of the set `developer` count even here: an option of theirs runs other programs."""
_NEVER = names(
    ". alias bind builtin command compgen complete compopt declare enable eval exec export fc getopts hash history let "
    "local mapfile popd pushd read readarray readonly set shopt source suspend trap typeset unalias unset"
)
"""Shell builtins that run what they are given or change what later words mean. No list can allow them."""
_EVERYWHERE = ["/"]


def listed_source(allow: Sequence[str]) -> Source:
    """The rules for a list of programs. Paths are not looked at, as a list says nothing about them."""
    names = [name for name in dict.fromkeys(allow) if name not in _NEVER]
    rules = []
    for _, table in load_source("developer").tables:
        for rule in table.rule:
            programs = [name for name in names if name.rpartition("/")[2] in _BY_RULE & set(rule.programs)]
            if programs:
                update = {"programs": programs, "otherwise": "deny", "allows": [], "denies": []}
                rules.append(rule.model_copy(update=update))
    free = [name for name in names if name.rpartition("/")[2] not in _BY_RULE]
    if free:
        rules.append(RuleTable(id="listed", programs=free, any=True))
    paths = TreesTable(read=_EVERYWHERE, write=_EVERYWHERE, code=_EVERYWHERE)
    return Source("listed", [("listed", PolicyTable(rule=rules, paths=paths))])
