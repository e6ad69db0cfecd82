"""The safe subset of awk: no system(), no getline, no pipe, no output to a file, no included or loaded code."""

from __future__ import annotations

import re

from sessiond.policy.names import names

_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t\r]+ | \\\n | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<string> "(?:[^"\\\n]|\\.)*" )
    | (?P<number> (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? | 0[xX][0-9a-fA-F]+ )
    | (?P<name> [A-Za-z_]\w* )
    | (?P<operator>
        \|\| | && | >= | <= | == | != | !~ | \+\+ | -- | >> | \|& | [-+*/%^]= | \*\* | [][(){};,?:~!<>=+*%^|$@/-] )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_EXPRESSION = re.compile(r"/(?:[^/\\\n\[]|\\.|\[\^?\]?[^]\n]*\])+/")
_REFUSED = frozenset(["system", "getline", "ARGV", "ARGC", "PROCINFO", "ENVIRON_FILE"])
_OPERANDS = frozenset(["number", "string", "name"])
_WORDS_BEFORE_OPERAND = names("print printf return in case exit delete else do")


def check_awk(program: str) -> str | None:
    """What of the program is not in the safe subset; None if all is."""
    at, depth, printing = 0, 0, False
    before_kind, before = "", ""
    while at < len(program):
        ended = (before_kind in _OPERANDS and before not in _WORDS_BEFORE_OPERAND) or before in (")", "]", "++", "--")
        if program[at] == "/" and before == ")" and '"' in program[at:]:
            return "the awk program holds a slash after a parenthesis, which may be a division or not"
        if program[at] == "/" and not ended:
            match = _EXPRESSION.match(program, at)
            if match is None:
                return "the awk program holds a regular expression that cannot be told from a division"
            before_kind, before, at = "number", "0", match.end()
            continue
        match = _TOKEN.match(program, at)
        if match is None or match.lastgroup is None:
            return f"the awk program holds {program[at]!r}, which is not known here"
        kind, text, at = match.lastgroup, match[0], match.end()
        if kind == "blank":
            continue
        if kind == "name":
            if text in _REFUSED:
                return f"{text} in an awk program can run programs or read files"
            printing = printing or text in ("print", "printf")
        elif kind == "operator":
            if text in ("|", "|&", "@"):
                return f"{text} in an awk program runs a program or loads code"
            if text in (">", ">>") and printing and depth <= 0:
                return "an awk program may not print into a file"
            depth += (text in "([") - (text in ")]")
        goes_on = kind == "newline" and before in (",", "&&", "||")
        if not goes_on and (kind == "newline" or text in (";", "{", "}")):
            printing, depth = False, 0
        before_kind, before = kind, text
    return None
