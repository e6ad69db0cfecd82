"""Words, expansions and expressions of the second parser's syntax tree: what is known of them, what they may run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from sessiond.policy.reader import variables
from sessiond.policy.reader.lexical import MAX_WORDS
from sessiond.policy.reader.nodes import Place, Tree, only, span, strange
from sessiond.policy.reader.variables import Variables
from sessiond.policy.reader.words import WordBuilder, names
from sessiond.policy.reading import UnreadableError, Word

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[?#$!@*-]")
_EXPANSIONS = names("- :- + :+ ? :? = := # ## % %% ^ ^^ , ,,")
_INTEGER_TESTS = names("-eq -ne -lt -le -gt -ge")
_UNARY_TESTS = names("! -a -b -c -d -e -f -g -h -k -p -r -s -t -u -w -x -L -N -O -G -S -n -z")
_BINARY_TESTS = names("== = != =~ < > -nt -ot -ef && ||")
UNKNOWN = Word("", None)


class ExpansionReader(ABC):
    """Reads words; what they run in turn is read by `_statements`, which a subclass has."""

    def __init__(self, data: bytes, tree: Tree) -> None:
        self._data = data
        self._variables = Variables(tree)
        self._words = 0

    @abstractmethod
    def _statements(self, statements: list[Tree], place: Place) -> None:
        """Read what an expansion runs."""

    @abstractmethod
    def _assigned(self, offset: int, name: str, values: list[Word], place: Place) -> None:
        """Note a variable that is set by other means than an assignment."""

    # Words

    def _word(self, node: Tree, place: Place) -> Word:
        only(node, "Type", "Parts")
        self._words += 1
        if self._words > MAX_WORDS:
            raise UnreadableError("lexical", f"the text has more than {MAX_WORDS} words")
        builder = WordBuilder(self._source(node))
        before = ""
        for part in node["Parts"]:
            if before.endswith("$") and part["Type"] in ("SglQuoted", "DblQuoted"):
                raise UnreadableError("syntax", "a $ before quotes, which shells read in different ways")
            self._part(part, builder, place, quoted=False)
            before = part.get("Value", "") if part["Type"] == "Lit" else ""
        return builder.done()

    def _part(self, part: Tree, builder: WordBuilder, place: Place, *, quoted: bool) -> None:
        kind = part["Type"]
        if kind == "Lit":
            only(part, "Value")
            if quoted:
                builder.in_quotes(part["Value"])
            else:
                builder.bare(part["Value"])
        elif kind == "SglQuoted":
            only(part, "Dollar", "Value")
            if part.get("Dollar"):
                builder.ansi(part.get("Value", ""))
            else:
                builder.quoted(part.get("Value", ""))
        elif kind == "DblQuoted":
            self._double_quoted(part, builder, place)
        elif kind == "ParamExp":
            self._parameter(part, builder, place, quoted=quoted)
        elif kind == "CmdSubst":
            self._substitution(part, place)
            builder.unknown(splits=not quoted)
        elif kind == "ProcSubst":
            only(part, "Op", "Stmts")
            self._statements(part["Stmts"], place.within("process substitution", fed=part["Op"] == ">("))
            builder.unknown(splits=False)
        elif kind == "ArithmExp":
            only(part, "Bracket", "X")
            if "X" in part:
                self._arithmetic(part["X"], place)
            builder.unknown(splits=False)
        else:
            raise strange(kind)

    def _double_quoted(self, part: Tree, builder: WordBuilder, place: Place) -> None:
        only(part, "Dollar", "Parts")
        builder.quoted("")
        if part.get("Dollar"):
            builder.unknown(splits=False)  # The locale's catalogue may translate it
        for inside in part.get("Parts", []):
            self._part(inside, builder, place, quoted=True)

    def _substitution(self, part: Tree, place: Place) -> None:
        only(part, "Stmts", "Backquotes")
        if part.get("Backquotes") and re.search(r"""["'\\]""", self._source(part)):
            raise UnreadableError("syntax", "quotes or backslashes inside backticks; write $(...)")
        self._statements(part.get("Stmts", []), place.within("substitution"))

    def _parameter(self, part: Tree, builder: WordBuilder, place: Place, *, quoted: bool) -> None:
        only(part, "Short", "Param", "Length", "Index", "Slice", "Repl", "Exp")
        name = part["Param"]["Value"]
        if not _PARAMETER.fullmatch(name):
            raise strange(name)
        several = name in ("@", "*")
        if "Index" in part:
            several |= self._subscript(part["Index"], place)
        for bound in part.get("Slice", {}).values():
            self._arithmetic(bound, place)
        operands = [*part.get("Repl", {}).items(), *part.get("Exp", {}).items()]
        for key, operand in operands:
            if key in ("Orig", "With", "Word"):
                self._operand(operand, place)
        if "Exp" in part and part["Exp"]["Op"] not in _EXPANSIONS:
            raise UnreadableError("syntax", f"the expansion {self._source(part)[:40]}, which may run code")
        if part.get("Exp", {}).get("Op") in ("=", ":="):
            self._assigned(part["Pos"]["Offset"], name, [UNKNOWN], place)
        self._value(part, builder, quoted=quoted, several=several)

    def _value(self, part: Tree, builder: WordBuilder, *, quoted: bool, several: bool) -> None:
        """Add what is known of a parameter's value."""
        name, offset = part["Param"]["Value"], part["Pos"]["Offset"]
        if not any(key in part for key in ("Length", "Index", "Slice", "Repl", "Exp")):
            if prefixes := self._variables.prefixes(name, offset, splits=not quoted):
                builder.one_of(prefixes)
                return
            number = name in variables.NUMBERS or self._variables.is_number(name, offset)
            builder.unknown(splits=several or not (quoted or number))
        else:
            builder.unknown(splits=several or not (quoted or "Length" in part))

    def _operand(self, word: Tree, place: Place) -> None:
        """A word inside `${...}`. Shells differ on quotes there."""
        if re.search(r"""["'\\]""", self._source(word)):
            raise UnreadableError("syntax", "quotes or backslashes inside ${...}")
        self._word(word, place.within("expansion"))

    def _subscript(self, node: Tree, place: Place) -> bool:
        """Read a subscript; whether it stands for all elements."""
        if node.get("Type") == "Word" and self._source(node) in ("@", "*"):
            return True
        self._arithmetic(node, place)
        return False

    # Expressions

    def _arithmetic(self, node: Tree, place: Place) -> None:
        """Raise UnreadableError unless it is made of numbers only: whatever else is evaluated may run code."""
        kind = node["Type"]
        if kind == "Word":
            if not self._variables_are_numbers(node):
                raise UnreadableError(
                    "syntax", f"{self._source(node)[:40]} in arithmetic, where only what is surely a number is safe"
                )
            for part in node["Parts"]:
                self._part(part, WordBuilder(""), place, quoted=True)
        elif kind == "BinaryArithm":
            only(node, "Op", "X", "Y")
            if node["Op"] in variables.ASSIGNING:
                name = self._source(node["X"])
                if not variables.NAME.fullmatch(name):
                    raise UnreadableError("syntax", f"{name[:40]} is set in arithmetic")
                self._assigned(node["Pos"]["Offset"], name, [UNKNOWN], place)
            if node["Op"] != "=":
                self._arithmetic(node["X"], place)
            self._arithmetic(node["Y"], place)
        elif kind == "UnaryArithm":
            only(node, "Op", "Post", "X")
            self._arithmetic(node["X"], place)
        elif kind == "ParenArithm":
            only(node, "X")
            self._arithmetic(node["X"], place)
        else:
            raise strange(kind)

    def _variables_are_numbers(self, word: Tree) -> bool:
        offset = word["Pos"]["Offset"]
        parts = word["Parts"]
        if len(parts) != 1:
            return False
        part = parts[0]
        if part["Type"] == "Lit":
            value = part["Value"]
            return bool(variables.NUMBER.fullmatch(value)) or self._variables.is_number(value, offset)
        if part["Type"] == "ParamExp" and not any(key in part for key in ("Index", "Slice", "Repl", "Exp")):
            name = part["Param"]["Value"]
            return "Length" in part or name in variables.NUMBERS or self._variables.is_number(name, offset)
        return bool(part["Type"] == "ArithmExp")

    def _test_expression(self, node: Tree, place: Place) -> None:
        kind = node["Type"]
        if kind == "Word":
            self._word(node, place)
        elif kind == "ParenTest":
            only(node, "X")
            self._test_expression(node["X"], place)
        elif kind == "UnaryTest" and node["Op"] in _UNARY_TESTS:
            only(node, "Op", "X")
            self._test_expression(node["X"], place)
        elif kind == "BinaryTest" and node["Op"] in _INTEGER_TESTS:
            only(node, "Op", "X", "Y")
            self._arithmetic(node["X"], place)
            self._arithmetic(node["Y"], place)
        elif kind == "BinaryTest" and node["Op"] in _BINARY_TESTS:
            only(node, "Op", "X", "Y")
            self._test_expression(node["X"], place)
            self._test_expression(node["Y"], place)
        else:
            raise strange(str(node.get("Op", kind)))

    def _source(self, node: Tree) -> str:
        start, end = span(node)
        return self._data[start:end].decode()
