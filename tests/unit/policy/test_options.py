"""Arguments are taken apart as a program's own parser would, and what is not listed is not known."""

from __future__ import annotations

import pytest

from sessiond.policy.errors import MisfitError
from sessiond.policy.options import OptionTable
from sessiond.policy.reading import Word

TABLE = OptionTable.read("-a -b -o=any -c?=any --all --out=any --color?=any --pair=any,any -m!=any -NUM")
SINGLE = OptionTable.read("-run=any -v", style="single")


def split(line: str, table: OptionTable = TABLE) -> tuple[list[tuple[str, tuple[str | None, ...]]], list[str]]:
    found = table.split([Word(word, word) for word in line.split()])
    options = [(given.name, tuple(value.text for value in given.values)) for given in found.options]
    return options, [word.source for word in found.operands]


@pytest.mark.parametrize(
    ("line", "options", "operands"),
    [
        ("-ab x", [("-a", ()), ("-b", ())], ["x"]),
        ("x -a y", [("-a", ())], ["x", "y"]),
        ("-abofile x", [("-a", ()), ("-b", ()), ("-o", ("file",))], ["x"]),
        ("-o -a x", [("-o", ("-a",))], ["x"]),
        ("-c x", [("-c", ())], ["x"]),
        ("-cx", [("-c", ("x",))], []),
        ("--out=x --out y", [("--out", ("x",)), ("--out", ("y",))], []),
        ("--color x", [("--color", ())], ["x"]),
        ("--pair 1 2 3", [("--pair", ("1", "2"))], ["3"]),
        ("-20 x", [("-NUM", ())], ["x"]),
        ("-a -- -b -z", [("-a", ())], ["-b", "-z"]),
        ("-m mod -z --any", [("-m", ("mod",))], ["-z", "--any"]),
        ("- x", [], ["-", "x"]),
    ],
)
def test_options_and_operands(line: str, options: list[tuple[str, tuple[str, ...]]], operands: list[str]) -> None:
    assert split(line) == (options, operands)


@pytest.mark.parametrize(
    "line", ["-z", "-az", "--al", "--ou=x", "--all=x", "--outt", "-o", "--pair 1", "--pair=1", "--", "-20x"]
)
def test_what_is_not_listed_is_refused(line: str) -> None:
    if line == "--":
        assert split(line) == ([], [])
        return
    with pytest.raises(MisfitError):
        split(line)


def test_long_names_with_one_dash() -> None:
    assert split("-run x -v --run=y", SINGLE)[0] == [("-run", ("x",)), ("-v", ()), ("--run", ("y",))]
    with pytest.raises(MisfitError):
        split("-vrun", SINGLE)


@pytest.mark.parametrize(
    "word",
    [
        Word("$x", None, splits=True),
        Word('"$x"', None, quoted=True),
        Word("*", None, pattern=True),
        Word('-"$x"', None, "-", quoted=True),
        Word('--"$x"', None, "--", quoted=True),
        Word("$f", None, "", True, True, False, ("-x", "a/")),
    ],
)
def test_a_word_that_may_become_an_option_is_refused(word: Word) -> None:
    with pytest.raises(MisfitError):
        TABLE.split([word])
    assert TABLE.split([Word("--", "--"), word]).operands == [word]


def test_a_word_that_surely_begins_otherwise_is_an_operand() -> None:
    for word in (Word("src/*", None, "src/", True), Word('a"$x"', None, "a", quoted=True), Word("<(ls)", None)):
        assert TABLE.split([word]).operands == [word]


def test_a_known_option_may_have_an_unknown_value() -> None:
    found = TABLE.split([Word('--out="$x"', None, "--out=", quoted=True), Word('-o"$y"', None, "-o", quoted=True)])
    assert [(given.name, given.values[0].text) for given in found.options] == [("--out", None), ("-o", None)]
