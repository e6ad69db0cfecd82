"""The shell's builtins, by what they mean for a policy."""

from __future__ import annotations

from sessiond.policy.names import names

CHANGING = names(
    ". alias bind builtin command compgen complete compopt declare enable eval exec export fc getopts hash history let "
    "local mapfile popd pushd read readarray readonly set shopt source suspend trap typeset unalias unset"
)
"""They run what they are given or change what later words mean. No list of programs can allow them."""

BUILTINS = CHANGING | names(
    ": bg break caller cd continue dirs disown exit fg help jobs kill logout return shift times type ulimit umask wait"
)
"""Builtins with no program behind them, or often none: a text that is only one of these still needs the shell."""
