"""The plain subset of shell text: what is accepted means to bash and dash exactly what was read from it."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sessiond.policy.shell import MAX_COMMANDS, MAX_TEXT_BYTES, MAX_WORDS, NotPlainError, parse

BASH = shutil.which("bash") or "bash"
SHELLS = [shell for shell in ("bash", "dash", "busybox") if shutil.which(shell)]


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("ls", [["ls"]]),
        ("  ls\t-la  ", [["ls", "-la"]]),
        ("ls 'a b' \"c d\"e\\ f", [["ls", "a b", "c de f"]]),
        ("l's' \"\" ''", [["ls", "", ""]]),
        (r'echo "a\"b\\c\$d\`e\f"', [["echo", 'a"b\\c$d`e\\f']]),
        ("echo 'a\nb' \"c\nd\"", [["echo", "a\nb", "c\nd"]]),
        ("git diff HEAD~1 -- a", [["git", "diff", "HEAD~1", "--", "a"]]),
        ("echo a#b ''#c # d", [["echo", "a#b", "#c"]]),
        ("echo x=1 --y=2 !a 100% @b ^c", [["echo", "x=1", "--y=2", "!a", "100%", "@b", "^c"]]),
        ("echo é 'ü' 日本", [["echo", "é", "ü", "日本"]]),
        ("echo if then do", [["echo", "if", "then", "do"]]),
        ("'if' x", [["if", "x"]]),
    ],
)
def test_a_simple_command_is_its_literal_words(text: str, commands: list[list[str]]) -> None:
    plain = parse(text)
    assert [list(words) for words in plain.commands] == commands
    assert plain.single


@pytest.mark.parametrize(
    "text",
    [
        "a;b",
        "a ; b ;",
        "a&&b",
        "a ||\n\nb",
        "a|b",
        "a\nb\n",
        "a & b",
        "a # c\nb",
        "# c\na\n\n\n# d\nb",
        "a &&\n# c\nb",
    ],
)
def test_lists_and_pipelines_are_their_commands(text: str) -> None:
    plain = parse(text)
    assert plain.commands == (("a",), ("b",))
    assert not plain.single


@pytest.mark.parametrize("text", ["a &", "a;"])
def test_one_command_with_an_operator_still_needs_a_shell(text: str) -> None:
    assert not parse(text).single


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "\n",
            "# only a comment",
            ";",
            "a;;b",
            "; a",
            "a &&",
            "a |",
            "| a",
            "a & & b",
            "a |& b",
            "a || || b",
        ),
        *("a >b", "a <b", "a 2>&1", "a &>b", "a <<E\nE", "a <<<b", "exec 3<>/dev/tcp/x/1"),
        *("a $b", "a ${b}", 'a "$b"', "a $(b)", "a `b`", 'a "`b`"', "a $((1))", "a $'b'", 'a $"b"', "a $"),
        *(
            "a *",
            "a b?",
            "a [b]",
            "a {b,c}",
            "a {1..2}",
            "a {}",
            "a ~",
            "a ~b",
            "a b=~",
            "a b:~c",
            "~/a",
            "a ''~",
        ),
        *(
            "(a)",
            "{ a; }",
            "! a",
            "time a",
            "coproc a",
            "if a; then b; fi",
            "while a; do b; done",
            "a() { b; }",
        ),
        *(
            "for a in b; do c; done",
            "case a in b) c;; esac",
            "select a in b; do c; done",
            "function a { b; }",
        ),
        *("[ a ]", "[[ a ]]", "((1))", "a=b", "a=b c", "a+=b c", "a[0]=b", "a=(b)", "export a=b"),
        *("a 'b", 'a "b', "a b\\", "a \\", "a ; ! b", "a && time b", "a\nif b\n"),
    ],
)
def test_whatever_else_is_refused_as_syntax(text: str) -> None:
    with pytest.raises(NotPlainError) as caught:
        parse(text)
    assert caught.value.rule in ("syntax", "lexical")
    assert caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        *("a\0b", "a\rb", "a\r\nb", "a \x1b[31m", "a\x0bb", "a\x0cb", "a\x7f", "a\x85b"),
        *(
            "a\u00a0b",
            "a\u2003b",
            "a\u3000b",
            "a\u2028b",
            "a\u202eb",
            "a\u2066b",
            "a\u200bb",
            "a\ufeffb",
            "a\u00adb",
        ),
        *("a\\\nb", "a '\\\n'", "a # b \\\nc", "a \ue000", "a \udcff"),
        "a" * (MAX_TEXT_BYTES + 1),
        "a " + "é" * (MAX_TEXT_BYTES // 2),
    ],
)
def test_suspicious_characters_are_refused_before_parsing(text: str) -> None:
    with pytest.raises(NotPlainError) as caught:
        parse(text)
    assert caught.value.rule == "lexical"


@pytest.mark.parametrize("separator", [";", "&&", "|", "\n"])
def test_a_text_of_many_commands_is_read_up_to_the_bound(separator: str) -> None:
    assert len(parse(separator.join("a" * MAX_COMMANDS)).commands) == MAX_COMMANDS
    with pytest.raises(NotPlainError, match="more than"):
        parse(separator.join("a" * (MAX_COMMANDS + 1)))


def test_a_text_of_many_words_is_read_up_to_the_bound() -> None:
    assert len(parse(" ".join("a" * MAX_WORDS)).commands[0]) == MAX_WORDS
    with pytest.raises(NotPlainError, match="more than"):
        parse(" ".join("a" * (MAX_WORDS + 1)))


PIECES = st.sampled_from(
    [
        *"abcZ019_-./,:=+@%^!#~é",
        " ",
        " ",
        " ",
        "\t",
        "'",
        "'",
        '"',
        '"',
        "\\",
        "\\",
        "''",
        '""',
        "'a b'",
        '"c d"',
        "=~",
        "日",
    ]
)
"""What words are made of, weighted so that some texts are accepted."""

ANYTHING = st.sampled_from(
    [
        *("zz", "zz ", "zz ", " zz", "\nzz ", "; zz ", " | zz ", " && zz ", "zz & zz ", "a=b", "'a b'", '"c d"', "''"),
        *"abz09_-./:=!#~é\"\"''\\\\   \t\n;&|$`(){}<>*?[]",
        *("&&", "||", "if ", "then ", "time ", "do ", "fi", "! ", "# ", "$(zz)", "`zz`", "zz() ", "<<"),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(PIECES, max_size=16).map("".join))
@pytest.mark.parametrize("shell", SHELLS)
def test_words_are_what_the_shell_makes_of_them(shell: str, words: str) -> None:
    text = f"printf '%s\\0' x {words}"
    try:
        plain = parse(text)
    except NotPlainError:
        assume(False)
    assert plain.single
    command = ["busybox", "sh"] if shell == "busybox" else [shell]
    done = subprocess.run([*command, "-c", text], capture_output=True, check=True)
    assert done.stderr == b""
    assert done.stdout.decode().split("\0")[:-1] == list(plain.commands[0][2:])


RECORDER = """
command_not_found_handle() { printf '%s\\0' "$@" > "$RECORDS/$BASHPID"; }
eval "$1"
wait
"""
"""Bash calls the handler in a process of its own for each program that it wants to run: none exists."""


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
@given(st.lists(ANYTHING, min_size=1, max_size=14).map(lambda pieces: "zz " + "".join(pieces)))
def test_every_program_that_bash_runs_was_found(tmp_path: Path, text: str) -> None:
    try:
        plain = parse(text)
    except NotPlainError:
        assume(False)
    shutil.rmtree(tmp_path / "records", ignore_errors=True)
    (tmp_path / "records").mkdir()
    subprocess.run(
        [BASH, "-c", RECORDER, "bash", text],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/nonexistent", "RECORDS": str(tmp_path / "records")},
        timeout=20,
    )
    ran = Counter(tuple(path.read_text().split("\0")[:-1]) for path in (tmp_path / "records").iterdir())
    assert not ran - Counter(plain.commands)
