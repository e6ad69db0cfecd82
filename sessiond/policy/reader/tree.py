"""Turns the second parser's syntax tree into facts: every simple command, wherever it stands.

Each kind of node has a method here, and each method names the fields that it reads. A node, field or operator that is
not known here refuses the text, so that a newer parser cannot slip anything past.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from sessiond.policy.reader import evaluating
from sessiond.policy.reader.expansions import UNKNOWN, ExpansionReader
from sessiond.policy.reader.grammar import Span
from sessiond.policy.reader.lexical import MAX_COMMANDS
from sessiond.policy.reader.nodes import Place, Tree, only, span, strange
from sessiond.policy.reader.redirections import descriptor_of, is_expanded, kind_of
from sessiond.policy.reader.words import WordBuilder
from sessiond.policy.reading import Assignment, Reading, Redirection, SimpleCommand, UnreadableError, Word

_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


class TreeReader(ExpansionReader):
    """Reads one tree."""

    def __init__(self, data: bytes, tree: Tree, dialect: Literal["bash", "sh"]) -> None:
        """Read the tree of `data`. Raises UnreadableError."""
        self.programs: list[Span] = []
        """Where the programs and builtins stand, in order."""
        super().__init__(data, tree)
        self._dialect = dialect
        self._commands: list[tuple[int, SimpleCommand]] = []
        self._functions: set[str] = set()
        only(tree, "Stmts")
        self._statements(tree.get("Stmts", []), Place())
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

    def _statements(self, statements: list[Tree], place: Place) -> None:
        for statement in statements:
            self._statement(statement, place)

    def _statement(self, node: Tree, place: Place) -> None:
        only(node, "Cmd", "Negated", "Background", "Redirs")
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

    def _compound(self, node: Tree, place: Place) -> None:
        read = _COMPOUNDS.get(node["Type"])
        if read is None:
            raise strange(node["Type"])
        read(self, node, place)

    def _binary(self, node: Tree, place: Place) -> None:
        only(node, "Op", "X", "Y")
        if node["Op"] in ("&&", "||"):
            left = right = place
        elif node["Op"] in ("|", "|&"):
            left = place if place.constructs[-1:] == ("pipeline",) else place.within("pipeline")
            right = replace(left, fed=True)
        else:
            raise strange(node["Op"])
        self._statement(node["X"], left)
        self._statement(node["Y"], right)

    def _block(self, node: Tree, place: Place) -> None:
        only(node, "Stmts")
        self._statements(node["Stmts"], place.within("group"))

    def _subshell(self, node: Tree, place: Place) -> None:
        only(node, "Stmts")
        self._statements(node["Stmts"], place.within("subshell"))

    def _if(self, node: Tree, place: Place) -> None:
        inside = place.within("if")
        clause: Tree | None = node
        while clause:
            only(clause, "Cond", "Then", "Else")
            self._statements(clause.get("Cond", []), inside)
            self._statements(clause["Then"], inside)
            clause = clause.get("Else")

    def _while(self, node: Tree, place: Place) -> None:
        only(node, "Until", "Cond", "Do")
        inside = place.within("loop")
        self._statements(node["Cond"], inside)
        self._statements(node["Do"], inside)

    def _for(self, node: Tree, place: Place) -> None:
        only(node, "Select", "Loop", "Do")
        loop, inside = node["Loop"], place.within("loop")
        if loop["Type"] == "WordIter":
            self._iteration(node, loop, inside)
        else:
            only(loop, "Init", "Cond", "Post")
            for part in ("Init", "Cond", "Post"):
                if part in loop:
                    self._arithmetic(loop[part], inside)
        self._statements(node["Do"], inside)

    def _iteration(self, node: Tree, loop: Tree, place: Place) -> None:
        """The words of a loop are assignments to its variable."""
        only(loop, "Name", "Items")
        name = loop["Name"]["Value"]
        words = [self._word(item, place) for item in loop.get("Items", [])]
        self._assigned(node["Pos"]["Offset"], name, words if "Items" in loop else [UNKNOWN], place)
        if words and "Select" not in node and all(word.text is not None or word.pattern for word in words):
            prefixes = tuple(dict.fromkeys(word.prefix if word.text is None else word.text for word in words))
            literal = all(word.text is not None for word in words)
            self._variables.define(name, loop["End"]["Offset"], node["End"]["Offset"], prefixes, literal=literal)

    def _case(self, node: Tree, place: Place) -> None:
        only(node, "Word", "Items")
        inside = place.within("case")
        self._word(node["Word"], place)
        for item in node.get("Items", []):
            only(item, "Op", "Patterns", "Stmts")
            for pattern in item["Patterns"]:
                self._word(pattern, inside)
            self._statements(item.get("Stmts", []), inside)

    def _function(self, node: Tree, place: Place) -> None:
        """A function's body; what it reads is decided where it is called."""
        only(node, "RsrvWord", "Parens", "Name", "Body")
        name = node["Name"]["Value"]
        self._functions.add(name)
        self._statement(node["Body"], place.within(f"function {name}", fed=True))

    def _time(self, node: Tree, place: Place) -> None:
        only(node, "PosixFormat", "Stmt")
        if "Stmt" in node:
            self._statement(node["Stmt"], place)

    def _arithmetic_command(self, node: Tree, place: Place) -> None:
        only(node, "X")
        self._arithmetic(node["X"], place)

    def _test(self, node: Tree, place: Place) -> None:
        only(node, "X")
        self._test_expression(node["X"], place)

    # Simple commands

    def _call(self, node: Tree, redirections: tuple[Redirection, ...], place: Place) -> None:
        only(node, "Assigns", "Args")
        assignments = tuple(self._assignment(assign, place) for assign in node.get("Assigns", []))
        arguments = node.get("Args", [])
        words = tuple(self._word(argument, place) for argument in arguments)
        if words:
            self.programs.append(span(arguments[0]))
            evaluating.check(words)
            if words[0].text in evaluating.DECLARING:
                assignments += _assigned_by(words[1:])
        self._add(node["Pos"]["Offset"], SimpleCommand(words, assignments, redirections, place.fed, place.constructs))

    def _declaration(self, node: Tree, redirections: tuple[Redirection, ...], place: Place) -> None:
        """`export` and its like: their assignments are both words and assignments."""
        only(node, "Variant", "Args")
        variant = node["Variant"]
        if variant["Value"] not in evaluating.DECLARING:
            raise strange(variant["Value"])
        self.programs.append(span(variant))
        words: list[Word] = [Word(variant["Value"], variant["Value"])]
        bare: list[Word] = []
        assignments: list[Assignment] = []
        for argument in node.get("Args", []):
            if argument.get("Naked"):
                only(argument, "Naked", "Name", "Value")
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

    def _assignment(self, node: Tree, place: Place) -> Assignment:
        only(node, "Append", "Name", "Index", "Value", "Array")
        name = node["Name"]["Value"]
        if "Index" in node:
            self._arithmetic(node["Index"], place)
        if "Array" in node:
            only(node["Array"], "Elems")
            for element in node["Array"].get("Elems", []):
                only(element, "Index", "Value")
                if "Index" in element:
                    self._arithmetic(element["Index"], place)
                if "Value" in element:
                    self._word(element["Value"], place)
            return Assignment(name, Word(self._source(node["Array"]), None))
        value = self._word(node["Value"], place) if "Value" in node else Word("", "")
        if "Append" in node or "Index" in node:
            value = Word(value.source, None)
        return Assignment(name, value)

    def _assigned(self, offset: int, name: str, values: list[Word], place: Place) -> None:
        """Note a variable that is set by other means than an assignment."""
        assignments = tuple(Assignment(name, value) for value in values)
        self._add(offset, SimpleCommand((), assignments, (), place.fed, place.constructs))

    def _redirections(self, nodes: list[Tree], place: Place) -> tuple[tuple[Redirection, ...], bool]:
        """The files that are opened, and whether standard input becomes a copy of another descriptor."""
        found: list[Redirection] = []
        fed = False
        for node in nodes:
            only(node, "Op", "N", "Word", "Hdoc")
            word = self._word(node["Word"], place)
            descriptor = descriptor_of(node)
            if node["Op"] in ("<<", "<<-"):
                found.append(Redirection("text", descriptor, self._document(node, word, place)))
            elif (kind := kind_of(node, word, bash=self._dialect == "bash")) is not None:
                found.append(Redirection(kind, descriptor, word))
            else:
                fed |= descriptor == 0
        return tuple(found), fed

    def _document(self, node: Tree, delimiter: Word, place: Place) -> Word:
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


def _moves_input(command: SimpleCommand) -> bool:
    """Whether it changes the standard input of all commands after it."""
    return any(word.text == "exec" for word in command.words) and bool(command.redirections or command.piped)


def _assigned_by(words: tuple[Word, ...]) -> tuple[Assignment, ...]:
    """The assignments among the words of `export` and its like in a shell that reads them as words."""
    found = [(word, match) for word in words if (match := _ASSIGNED.match(word.source))]
    return tuple(
        Assignment(match[1], Word(match[2], None if word.text is None else word.text.partition("=")[2]))
        for word, match in found
    )
