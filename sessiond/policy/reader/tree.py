"""Turns the second parser's syntax tree into facts: every simple command, wherever it stands.

Each kind of node has a method here, and each method names the fields that it reads. A node, field or operator that is
not known here refuses the text, so that a newer parser cannot slip anything past.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from sessiond.policy.reader import evaluating, variables
from sessiond.policy.reader.grammar import Span
from sessiond.policy.reader.lexical import MAX_COMMANDS, MAX_DEPTH, MAX_WORDS
from sessiond.policy.reader.redirections import descriptor_of, is_expanded, kind_of
from sessiond.policy.reader.second import Tree
from sessiond.policy.reader.variables import Variables
from sessiond.policy.reader.words import WordBuilder
from sessiond.policy.reading import Assignment, Reading, Redirection, SimpleCommand, UnreadableError, Word

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[?#$!@*-]")
_EXPANSIONS = frozenset("- :- + :+ ? :? = := # ## % %% ^ ^^ , ,,".split())
_INTEGER_TESTS = frozenset("-eq -ne -lt -le -gt -ge".split())
_UNARY_TESTS = frozenset("! -a -b -c -d -e -f -g -h -k -p -r -s -t -u -w -x -L -N -O -G -S -n -z".split())
_BINARY_TESTS = frozenset("== = != =~ < > -nt -ot -ef && ||".split())
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_UNKNOWN = Word("", None)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the text a statement stands."""

    constructs: tuple[str, ...] = ()
    fed: bool = False
    """Whether the text decides what it reads on its standard input."""

    def within(self, construct: str, *, fed: bool = False) -> _Place:
        if len(self.constructs) >= MAX_DEPTH:
            raise UnreadableError("lexical", f"the text is nested more than {MAX_DEPTH} deep")
        return _Place((*self.constructs, construct), self.fed or fed)


class TreeReader:
    """Reads one tree."""

    def __init__(self, data: bytes, tree: Tree, dialect: Literal["bash", "sh"]) -> None:
        """Read the tree of `data`. Raises UnreadableError."""
        self.programs: list[Span] = []
        """Where the programs and builtins stand, in order."""
        self._data = data
        self._dialect = dialect
        self._variables = Variables(tree)
        self._commands: list[tuple[int, SimpleCommand]] = []
        self._functions: set[str] = set()
        self._words = 0
        _only(tree, "Stmts")
        self._statements(tree.get("Stmts", []), _Place())
        self.programs.sort()
        if not self._commands:
            raise UnreadableError("syntax", "there is no command in the text")

    def reading(self) -> Reading:
        """What was found."""
        commands = [command for _, command in sorted(self._commands, key=lambda found: found[0])]
        if any(_moves_input(command) for command in commands):
            commands = [replace(command, piped=True) for command in commands]
        return Reading(tuple(commands), frozenset(self._functions), plain=False)

    # Statements

    def _statements(self, statements: list[Tree], place: _Place) -> None:
        for statement in statements:
            self._statement(statement, place)

    def _statement(self, node: Tree, place: _Place) -> None:
        _only(node, "Cmd", "Negated", "Background", "Redirs")
        redirections, fed = self._redirections(node.get("Redirs", []), place)
        command = node.get("Cmd")
        offset = node["Pos"]["Offset"]
        if command is None:
            self._add(offset, SimpleCommand((), (), redirections, place.fed, place.constructs))
        elif command["Type"] == "CallExpr":
            self._call(command, redirections, replace(place, fed=place.fed or fed))
        elif command["Type"] == "DeclClause":
            self._declaration(command, redirections, place)
        else:
            if redirections:
                self._add(offset, SimpleCommand((), (), redirections, place.fed, place.constructs))
                fed = fed or any(redirection.descriptor == 0 for redirection in redirections)
            self._compound(command, replace(place, fed=place.fed or fed))

    def _compound(self, node: Tree, place: _Place) -> None:
        read = _COMPOUNDS.get(node["Type"])
        if read is None:
            raise _strange(node["Type"])
        read(self, node, place)

    def _binary(self, node: Tree, place: _Place) -> None:
        _only(node, "Op", "X", "Y")
        if node["Op"] in ("&&", "||"):
            left = right = place
        elif node["Op"] in ("|", "|&"):
            left = place if place.constructs[-1:] == ("pipeline",) else place.within("pipeline")
            right = replace(left, fed=True)
        else:
            raise _strange(node["Op"])
        self._statement(node["X"], left)
        self._statement(node["Y"], right)

    def _block(self, node: Tree, place: _Place) -> None:
        _only(node, "Stmts")
        self._statements(node["Stmts"], place.within("group"))

    def _subshell(self, node: Tree, place: _Place) -> None:
        _only(node, "Stmts")
        self._statements(node["Stmts"], place.within("subshell"))

    def _if(self, node: Tree, place: _Place) -> None:
        inside = place.within("if")
        clause: Tree | None = node
        while clause:
            _only(clause, "Cond", "Then", "Else")
            self._statements(clause.get("Cond", []), inside)
            self._statements(clause["Then"], inside)
            clause = clause.get("Else")

    def _while(self, node: Tree, place: _Place) -> None:
        _only(node, "Until", "Cond", "Do")
        inside = place.within("loop")
        self._statements(node["Cond"], inside)
        self._statements(node["Do"], inside)

    def _for(self, node: Tree, place: _Place) -> None:
        _only(node, "Select", "Loop", "Do")
        loop, inside = node["Loop"], place.within("loop")
        if loop["Type"] == "WordIter":
            self._iteration(node, loop, inside)
        else:
            _only(loop, "Init", "Cond", "Post")
            for part in ("Init", "Cond", "Post"):
                if part in loop:
                    self._arithmetic(loop[part], inside)
        self._statements(node["Do"], inside)

    def _iteration(self, node: Tree, loop: Tree, place: _Place) -> None:
        """The words of a loop are assignments to its variable."""
        _only(loop, "Name", "Items")
        name = loop["Name"]["Value"]
        words = [self._word(item, place) for item in loop.get("Items", [])]
        self._assigned(node["Pos"]["Offset"], name, words if "Items" in loop else [_UNKNOWN], place)
        if words and "Select" not in node and all(word.text is not None or word.pattern for word in words):
            prefixes = tuple(dict.fromkeys(word.prefix if word.text is None else word.text for word in words))
            literal = all(word.text is not None for word in words)
            self._variables.define(name, loop["End"]["Offset"], node["End"]["Offset"], prefixes, literal=literal)

    def _case(self, node: Tree, place: _Place) -> None:
        _only(node, "Word", "Items")
        inside = place.within("case")
        self._word(node["Word"], place)
        for item in node.get("Items", []):
            _only(item, "Op", "Patterns", "Stmts")
            for pattern in item["Patterns"]:
                self._word(pattern, inside)
            self._statements(item.get("Stmts", []), inside)

    def _function(self, node: Tree, place: _Place) -> None:
        """A function's body; what it reads is decided where it is called."""
        _only(node, "RsrvWord", "Parens", "Name", "Body")
        name = node["Name"]["Value"]
        self._functions.add(name)
        self._statement(node["Body"], place.within(f"function {name}", fed=True))

    def _time(self, node: Tree, place: _Place) -> None:
        _only(node, "PosixFormat", "Stmt")
        if "Stmt" in node:
            self._statement(node["Stmt"], place)

    def _arithmetic_command(self, node: Tree, place: _Place) -> None:
        _only(node, "X")
        self._arithmetic(node["X"], place)

    def _test(self, node: Tree, place: _Place) -> None:
        _only(node, "X")
        self._test_expression(node["X"], place)

    # Simple commands

    def _call(self, node: Tree, redirections: tuple[Redirection, ...], place: _Place) -> None:
        _only(node, "Assigns", "Args")
        assignments = tuple(self._assignment(assign, place) for assign in node.get("Assigns", []))
        arguments = node.get("Args", [])
        words = tuple(self._word(argument, place) for argument in arguments)
        if words:
            self.programs.append(_span(arguments[0]))
            evaluating.check(words)
            if words[0].text in evaluating.DECLARING:
                assignments += _assigned_by(words[1:])
        self._add(node["Pos"]["Offset"], SimpleCommand(words, assignments, redirections, place.fed, place.constructs))

    def _declaration(self, node: Tree, redirections: tuple[Redirection, ...], place: _Place) -> None:
        """`export` and its like: their assignments are both words and assignments."""
        _only(node, "Variant", "Args")
        variant = node["Variant"]
        if variant["Value"] not in evaluating.DECLARING:
            raise _strange(variant["Value"])
        self.programs.append(_span(variant))
        words: list[Word] = [Word(variant["Value"], variant["Value"])]
        bare: list[Word] = []
        assignments: list[Assignment] = []
        for argument in node.get("Args", []):
            if argument.get("Naked"):
                _only(argument, "Naked", "Name", "Value")
                source = self._source(argument)
                bare.append(Word(source, source) if "Name" in argument else self._word(argument["Value"], place))
                words.append(bare[-1])
            else:
                assignments.append(assignment := self._assignment(argument, place))
                known = None if assignment.value.text is None else f"{assignment.name}={assignment.value.text}"
                words.append(Word(self._source(argument), known, f"{assignment.name}="))
        evaluating.check_declaration(tuple(bare))
        self._add(
            node["Pos"]["Offset"],
            SimpleCommand(tuple(words), tuple(assignments), redirections, place.fed, place.constructs),
        )

    def _assignment(self, node: Tree, place: _Place) -> Assignment:
        _only(node, "Append", "Name", "Index", "Value", "Array")
        name = node["Name"]["Value"]
        if "Index" in node:
            self._arithmetic(node["Index"], place)
        if "Array" in node:
            _only(node["Array"], "Elems")
            for element in node["Array"].get("Elems", []):
                _only(element, "Index", "Value")
                if "Index" in element:
                    self._arithmetic(element["Index"], place)
                if "Value" in element:
                    self._word(element["Value"], place)
            return Assignment(name, Word(self._source(node["Array"]), None))
        value = self._word(node["Value"], place) if "Value" in node else Word("", "")
        if "Append" in node or "Index" in node:
            value = Word(value.source, None)
        return Assignment(name, value)

    def _assigned(self, offset: int, name: str, values: list[Word], place: _Place) -> None:
        """Note a variable that is set by other means than an assignment."""
        assignments = tuple(Assignment(name, value) for value in values)
        self._add(offset, SimpleCommand((), assignments, (), place.fed, place.constructs))

    def _redirections(self, nodes: list[Tree], place: _Place) -> tuple[tuple[Redirection, ...], bool]:
        """The files that are opened, and whether standard input becomes a copy of another descriptor."""
        found: list[Redirection] = []
        fed = False
        for node in nodes:
            _only(node, "Op", "N", "Word", "Hdoc")
            word = self._word(node["Word"], place)
            descriptor = descriptor_of(node)
            if node["Op"] in ("<<", "<<-"):
                found.append(Redirection("text", descriptor, self._document(node, word, place)))
            elif (kind := kind_of(node, word, bash=self._dialect == "bash")) is not None:
                found.append(Redirection(kind, descriptor, word))
            else:
                fed |= descriptor == 0
        return tuple(found), fed

    def _document(self, node: Tree, delimiter: Word, place: _Place) -> Word:
        """What stands in a here-document."""
        document = node.get("Hdoc")
        source = self._source(document) if document else ""
        expanded = is_expanded(delimiter, source)
        builder = WordBuilder(source)
        for part in document.get("Parts", []) if document else []:
            if part["Type"] != "Lit":
                self._part(part, builder, place, quoted=True)
                continue
            text = re.sub(r"(?m)^\t+", "", part["Value"]) if node["Op"] == "<<-" else part["Value"]
            if expanded:
                builder.in_document(text)
            else:
                builder.quoted(text)
        return builder.done()

    def _add(self, offset: int, command: SimpleCommand) -> None:
        self._commands.append((offset, command))
        if len(self._commands) > MAX_COMMANDS:
            raise UnreadableError("lexical", f"the text has more than {MAX_COMMANDS} commands")

    # Words

    def _word(self, node: Tree, place: _Place) -> Word:
        _only(node, "Type", "Parts")
        self._words += 1
        if self._words > MAX_WORDS:
            raise UnreadableError("lexical", f"the text has more than {MAX_WORDS} words")
        builder = WordBuilder(self._source(node))
        for part in node["Parts"]:
            self._part(part, builder, place, quoted=False)
        return builder.done()

    def _part(self, part: Tree, builder: WordBuilder, place: _Place, *, quoted: bool) -> None:
        kind = part["Type"]
        if kind == "Lit":
            _only(part, "Value")
            if quoted:
                builder.in_quotes(part["Value"])
            else:
                builder.bare(part["Value"])
        elif kind == "SglQuoted":
            _only(part, "Dollar", "Value")
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
            _only(part, "Op", "Stmts")
            self._statements(part["Stmts"], place.within("process substitution", fed=part["Op"] == ">("))
            builder.unknown(splits=False)
        elif kind == "ArithmExp":
            _only(part, "Bracket", "X")
            if "X" in part:
                self._arithmetic(part["X"], place)
            builder.unknown(splits=False)
        else:
            raise _strange(kind)

    def _double_quoted(self, part: Tree, builder: WordBuilder, place: _Place) -> None:
        _only(part, "Dollar", "Parts")
        builder.quoted("")
        if part.get("Dollar"):
            builder.unknown(splits=False)  # The locale's catalogue may translate it
        for inside in part.get("Parts", []):
            self._part(inside, builder, place, quoted=True)

    def _substitution(self, part: Tree, place: _Place) -> None:
        _only(part, "Stmts", "Backquotes")
        if part.get("Backquotes") and re.search(r"""["'\\]""", self._source(part)):
            raise UnreadableError("syntax", "quotes or backslashes inside backticks; write $(...)")
        self._statements(part.get("Stmts", []), place.within("substitution"))

    def _parameter(self, part: Tree, builder: WordBuilder, place: _Place, *, quoted: bool) -> None:
        _only(part, "Short", "Param", "Length", "Index", "Slice", "Repl", "Exp")
        name = part["Param"]["Value"]
        if not _PARAMETER.fullmatch(name):
            raise _strange(name)
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
            self._assigned(part["Pos"]["Offset"], name, [_UNKNOWN], place)
        self._value(part, builder, quoted=quoted, several=several)

    def _value(self, part: Tree, builder: WordBuilder, *, quoted: bool, several: bool) -> None:
        """Add what is known of a parameter's value."""
        name, offset = part["Param"]["Value"], part["Pos"]["Offset"]
        if not any(key in part for key in ("Length", "Index", "Slice", "Repl", "Exp")):
            if prefixes := self._variables.prefixes(name, offset, splits=not quoted):
                builder.one_of(prefixes)
                return
            number = name in ("?", "#", "$") or self._variables.is_number(name, offset)
            builder.unknown(splits=several or not (quoted or number))
        else:
            builder.unknown(splits=several or not (quoted or "Length" in part))

    def _operand(self, word: Tree, place: _Place) -> None:
        """A word inside `${...}`. Shells differ on quotes there."""
        if re.search(r"""["'\\]""", self._source(word)):
            raise UnreadableError("syntax", "quotes or backslashes inside ${...}")
        self._word(word, place)

    def _subscript(self, node: Tree, place: _Place) -> bool:
        """Read a subscript; whether it stands for all elements."""
        if node.get("Type") == "Word" and self._source(node) in ("@", "*"):
            return True
        self._arithmetic(node, place)
        return False

    # Expressions

    def _arithmetic(self, node: Tree, place: _Place) -> None:
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
            _only(node, "Op", "X", "Y")
            if node["Op"] in variables.ASSIGNING:
                name = self._source(node["X"])
                if not variables.NAME.fullmatch(name):
                    raise UnreadableError("syntax", f"{name[:40]} is set in arithmetic")
                self._assigned(node["Pos"]["Offset"], name, [_UNKNOWN], place)
            if node["Op"] != "=":
                self._arithmetic(node["X"], place)
            self._arithmetic(node["Y"], place)
        elif kind == "UnaryArithm":
            _only(node, "Op", "Post", "X")
            self._arithmetic(node["X"], place)
        elif kind == "ParenArithm":
            _only(node, "X")
            self._arithmetic(node["X"], place)
        else:
            raise _strange(kind)

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
            return "Length" in part or name in ("?", "#", "$") or self._variables.is_number(name, offset)
        return bool(part["Type"] == "ArithmExp")

    def _test_expression(self, node: Tree, place: _Place) -> None:
        kind = node["Type"]
        if kind == "Word":
            self._word(node, place)
        elif kind == "ParenTest":
            _only(node, "X")
            self._test_expression(node["X"], place)
        elif kind == "UnaryTest" and node["Op"] in _UNARY_TESTS:
            _only(node, "Op", "X")
            self._test_expression(node["X"], place)
        elif kind == "BinaryTest" and node["Op"] in _INTEGER_TESTS:
            _only(node, "Op", "X", "Y")
            self._arithmetic(node["X"], place)
            self._arithmetic(node["Y"], place)
        elif kind == "BinaryTest" and node["Op"] in _BINARY_TESTS:
            _only(node, "Op", "X", "Y")
            self._test_expression(node["X"], place)
            self._test_expression(node["Y"], place)
        else:
            raise _strange(str(node.get("Op", kind)))

    def _source(self, node: Tree) -> str:
        start, end = _span(node)
        return self._data[start:end].decode()


_COMPOUNDS = {
    "BinaryCmd": TreeReader._binary,
    "Block": TreeReader._block,
    "Subshell": TreeReader._subshell,
    "IfClause": TreeReader._if,
    "WhileClause": TreeReader._while,
    "ForClause": TreeReader._for,
    "CaseClause": TreeReader._case,
    "FuncDecl": TreeReader._function,
    "TimeClause": TreeReader._time,
    "ArithmCmd": TreeReader._arithmetic_command,
    "TestClause": TreeReader._test,
}


def _span(node: Tree) -> Span:
    return node["Pos"]["Offset"], node["End"]["Offset"]


def _only(node: Tree, *fields: str) -> None:
    """Raise UnreadableError if the node has a field that is not named and says more than a place or a comment."""
    for field, value in node.items():
        comment = field == "Comments" or field.endswith("Last")
        if field not in fields and field != "Type" and not comment and not _is_position(value):
            raise _strange(field)


def _is_position(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"Offset", "Line", "Col"}


def _strange(what: str) -> UnreadableError:
    return UnreadableError("syntax", f"shell syntax that is not read here ({what[:40]})")


def _moves_input(command: SimpleCommand) -> bool:
    """Whether it changes the standard input of all commands after it."""
    return bool(command.words) and command.words[0].text == "exec" and bool(command.redirections or command.piped)


def _assigned_by(words: tuple[Word, ...]) -> tuple[Assignment, ...]:
    """The assignments among the words of `export` and its like in a shell that reads them as words."""
    found = [(word, match) for word in words if (match := _ASSIGNED.match(word.source))]
    return tuple(
        Assignment(match[1], Word(match[2], None if word.text is None else word.text.partition("=")[2]))
        for word, match in found
    )
