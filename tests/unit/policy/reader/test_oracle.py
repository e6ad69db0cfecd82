"""Real shells are the oracle: what they run was found, or the text was refused."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.policy.reader import read, read_plain
from sessiond.policy.reading import UnreadableError
from tests.fuzz.policy.fuzz_reader import fuzz

DIALECTS = [dialect for dialect, shell in (("bash", "bash"), ("sh", "dash")) if shutil.which(shell)]
TEXTS = 400


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_program_that_a_real_shell_runs_was_found_or_the_text_refused(dialect: str) -> None:
    figures: Counter[str] = Counter()
    assert fuzz(TEXTS, 4, dialect, figures) == []
    assert figures["read"] > TEXTS // 10
    assert figures["read, forbidden program found"] > 0


def _quote(letters: str, styles: list[int]) -> str:
    """The letters, each quoted in its own style."""
    forms = ("{}", "'{}'", '"{}"', "\\{}", "{}''", '""{}', "$'\\x{:x}'")
    return "".join(
        forms[style].format(ord(letter) if style == 6 else letter)
        for letter, style in zip(letters, styles, strict=True)
    )


QUOTED = st.lists(st.integers(0, 6), min_size=4, max_size=4).map(lambda styles: _quote("curl", styles))
WRAPPERS = (
    *(
        "{}",
        "({})",
        "{{ {}; }}",
        "! {}",
        "time {}",
        "ls; {}",
        "ls | {}",
        "ls && {}",
        "ls & {}",
        "echo $({})",
        "a <({})",
    ),
    *('echo "$({})"', "if {}; then ls; fi", "while {}; do break; done", "for i in a; do {}; done", "f() {{ {}; }}; f"),
    *("case a in a) {};; esac", "[[ -n $({}) ]]", "x=$({})", "export x=$({})", "x=($({}))", "cat <<E\n$({})\nE\n"),
    *("echo ${{x:-$({})}}", "cat <<< $({})", "{} > f", "A=1 {}", "{}\nls", "ls # a\n{}", "until {}; do break; done"),
)


@settings(max_examples=1000, deadline=None)
@given(QUOTED, st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_no_quoting_or_nesting_hides_a_program(program: str, wrappers: list[str]) -> None:
    text = program
    for wrapper in wrappers:
        text = wrapper.format(text)
    try:
        reading = read(text)
    except UnreadableError:
        return
    assert "curl" in [command.words[0].text for command in reading.commands if command.words]


@settings(max_examples=3000, deadline=None)
@given(QUOTED, st.sampled_from(["{}", "ls; {}", "ls | {} x", "ls && {}\n", "A=1 {}", "{} >f", "ls &\n{}"]))
def test_no_quoting_hides_a_program_in_a_plain_text(program: str, wrapper: str) -> None:
    reading = read_plain(wrapper.format(program))
    if reading is None:
        return
    assert reading.commands[-1].words[0].text == "curl"


@settings(max_examples=1000, deadline=None)
@given(st.text(alphabet="curl $(){}[]`'\"\\;&|<>\n\t#=!*?~-", max_size=24))
def test_whatever_is_read_only_the_documented_error_escapes(text: str) -> None:
    try:
        reading = read(text)
    except UnreadableError as error:
        assert error.__cause__ is None or not str(error.reason).startswith("the reader failed"), repr(error.__cause__)
        return
    assert reading.commands
