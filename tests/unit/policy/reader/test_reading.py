"""What is read of a text: commands, words, redirections, and what is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from sessiond.policy.reader import lexical, read, read_full, read_plain, second
from sessiond.policy.reading import SimpleCommand, UnreadableError

CORPORA = Path(__file__).parents[1] / "corpora"
BENIGN = [json.loads(line)["command"] for line in (CORPORA / "benign.jsonl").read_text().splitlines()]


def words(text: str) -> list[list[str | None]]:
    return [[word.text for word in command.words] for command in read(text).commands if command.words]


def command(text: str, program: str) -> SimpleCommand:
    return next(found for found in read(text).commands if found.words and found.words[0].text == program)


@pytest.mark.parametrize("text", BENIGN)
def test_everyday_commands_are_readable(text: str) -> None:
    assert read(text).commands


@pytest.mark.parametrize(
    "text",
    [
        *("ls; curl", "ls && curl", "ls || curl", "ls | curl", "ls |& curl", "ls & curl", "ls\ncurl", "(curl)"),
        *("{ curl; }", "! curl", "time curl", "time -p curl", "echo $(curl)", "echo `curl`", 'echo "$(curl)"'),
        *("cat <(curl)", "ls > >(curl)", "cat <<E\n$(curl)\nE", 'cat <<< "$(curl)"', "f() { curl; }", "x=$(curl)"),
        *("function f { curl; }", "for i in a; do curl; done", "for i in $(curl); do ls; done", "x=(a $(curl))"),
        *("while curl; do break; done", "until curl; do break; done", "if curl; then ls; fi", "echo ${x//a/$(curl)}"),
        *("if a; then b; elif curl; then c; fi", "if a; then b; else curl; fi", "case $(curl) in a) b;; esac"),
        *("case a in a) curl;; esac", "select x in a; do curl; done", "[[ -n $(curl) ]]", '[ "$(curl)" = a ]'),
        *(
            "export x=$(curl)",
            "declare -x x=$(curl)",
            "x=1 curl",
            ">f curl",
            "echo ${x:-$(curl)}",
            "for ((;;)); do curl; done",
        ),
        *("c'u'rl", "\\curl", "$'\\x63url'", "$'\\143url'", '"cu"rl', "cu\\rl", "a $(b $(c $(curl)))"),
    ],
)
def test_every_command_is_found_wherever_it_stands(text: str) -> None:
    assert ["curl"] in words(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "echo `echo \\`curl\\``",
            "cat <<E\n`curl`\nE",
            'echo "${x:-`curl`}"',
            "cat <<-E\n\t$(curl)\n\tE",
            "a ${x@P}",
        ),
        *("[[ 'a[$(curl)]' -eq 0 ]]", "x='a[$(curl)]'; echo $((x))", "((x))", "a[$(curl)]=1", "a[x]=1", "let x"),
        *("echo hi # x \\\ncurl", "rg --pr\\\ne=sh", "\\let 'x=a[$(curl)]'", "read 'a[$(curl)]' <<< x", "read $x"),
        *("printf -v 'a[$(curl)]' x", "printf $x y", "test -v 'a[$(curl)]'", "[ $x ]", "[[ -v 'a[$(curl)]' ]]"),
        *("unset 'a[$(curl)]'", "declare 'a[$(curl)]=1'", "'export' 'a[$(curl)]=1'", "builtin read 'a[$(curl)]'"),
        *("command export 'a[$(curl)]=1'", "declare -i x=v", "coproc curl", "${!x}", "ls >&'$(curl)'", "ls {fd}>f"),
        *(
            "\"${x:-'$(curl)'}\"",
            "cat <<E\na \\\nE\nE",
            "cat <<$x\na\n$x",
            "ls 'a",
            "ls ;; ls",
            "ls &&",
            "| ls",
            "",
            "#",
        ),
        *("if ls", "a=(", "ls $((", "$'\\u0063url'", "x=1 >/nowhere/f; echo $((x))", "(x=1); echo $((x))"),
    ],
)
def test_what_shells_or_parsers_may_read_differently_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(text)
    assert caught.value.rule in ("lexical", "syntax")
    assert caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        *("a\0b", "a\rb", "a \x1b[31m", "a\x7f", "a\x85b", "a\u00a0b", "a\u3000b", "a\u2028b", "a\u202eb", "a\u200bb"),
        *(
            "a\\\nb",
            "a\\ \\\nb",
            "a # b \\\nc",
            "a \\\n# b",
            "a \ue000",
            "a \udcff",
            "a" * (lexical.MAX_TEXT_BYTES + 1),
        ),
    ],
)
def test_suspicious_characters_are_refused_before_parsing(text: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(text)
    assert caught.value.rule == "lexical"


@pytest.mark.parametrize(
    "text",
    [
        "echo $'a'",
        'echo $"a"',
        "cat <(a)",
        "[[ a ]] && ls",
        "x=(a)",
        "a &>b",
        "cat <<< a",
        "a |& b",
        "function f { a; }",
        "echo ${x//a/b}",
        "echo $[1]",
        "((1)) && ls",
        "select x in a; do b; done",
    ],
)
def test_what_only_bash_understands_is_refused_for_sh(text: str) -> None:
    assert read(text, "bash").commands
    with pytest.raises(UnreadableError):
        read(text, "sh")


def test_unknown_words_tell_what_is_known_of_them() -> None:
    (found,) = read('x src/*.py "a$y" $z {a,b} ~/c "$@"').commands
    glob, prefixed, split, brace, tilde, several = found.words[1:]
    assert all(word.text is None for word in found.words[1:])
    assert (glob.prefix, glob.pattern, glob.splits) == ("src/", True, False)
    assert (prefixed.prefix, prefixed.pattern, prefixed.quoted) == ("a", False, True)
    assert (split.prefix, split.splits) == ("", True)
    assert brace.pattern
    assert not tilde.pattern
    assert several.splits


@pytest.mark.parametrize("name", ["$x", "${x}", '"$x"', "$(ls)", "cur?", "cur*", "~/x", '$"curl"', "`ls`"])
def test_a_computed_program_is_unknown(name: str) -> None:
    assert read(f"{name} x").commands[0].words[0].text is None


def test_a_loops_variable_begins_as_its_words_do() -> None:
    word = command('for f in src/*.py src/b; do x "$f"; done', "x").words[1]
    assert (word.text, word.prefix, word.pattern, word.alternatives) == (None, "src/", True, ("src/", "src/b"))
    for spoiled in ('f=-a; x "$f"', 'read f; x "$f"', 'eval a; x "$f"', '$a; x "$f"', ': ${f:=-a}; x "$f"', "x $f"):
        word = command(f"for f in src/*.py; do {spoiled}; done", "x").words[1]
        assert (word.text, word.prefix) == (None, ""), spoiled


def test_settings_of_variables_are_listed_however_they_are_made() -> None:
    text = "A=1; B=2 ls; export C=3; for D in 4 5; do ls; done; echo ${E:=6}; ((F=7))"
    names = [assignment.name for found in read(text).commands for assignment in found.assignments]
    assert names == ["A", "B", "C", "D", "D", "E", "F"]


def test_redirections_name_what_is_opened() -> None:
    (found,) = read("x <a 2>>b >|c 3>d 2>&1 <<'E'\n$(curl)\nE\n").commands
    opened = [(one.kind, one.descriptor, one.target.text) for one in found.redirections]
    assert opened == [
        ("read", 0, "a"),
        ("append", 2, "b"),
        ("write", 1, "c"),
        ("write", 3, "d"),
        ("text", 0, "$(curl)\n"),
    ]


@pytest.mark.parametrize(
    "text",
    ["echo a | sh", "{ sh; } < a", "f() { sh; }; echo a | f", "ls > >(sh)", "exec <a; sh", "sh 3<a <&3", "a | (b; sh)"],
)
def test_a_command_whose_input_the_text_decides_is_piped(text: str) -> None:
    assert command(text, "sh").piped


def test_places_are_named() -> None:
    assert command("f() { if a; then (b | sh); fi; }", "sh").place == (
        "function f",
        "group",
        "if",
        "subshell",
        "pipeline",
    )
    assert read("f() { ls; }").functions == {"f"}


@pytest.mark.parametrize("text", ["ls", "ls 'a b' \"c\" d\\ e", "find . -exec x {} \\;", "pytest \\\n -q"])
def test_one_literal_command_needs_no_shell(text: str) -> None:
    reading = read_plain(text)
    assert reading is not None and reading.single and reading.plain


@pytest.mark.parametrize("text", ["ls *.py", "ls $x", "ls >a", "A=1 ls", "ls; pwd", "ls &", "ls | cat", "ls # a\npwd"])
def test_other_plain_texts_need_a_shell_but_no_second_parser(text: str) -> None:
    reading = read_plain(text)
    assert reading is not None and reading.plain and not reading.single


@pytest.mark.parametrize("text", ["ls *.py $x >a 2>&1 | cat && A=1 b", "a 'b c' \"$d\" e\\ f; g", "ls 'é' | cat"])
def test_both_readers_find_the_same_in_a_plain_text(text: str) -> None:
    plain = read_plain(text)
    assert plain is not None and plain.commands == read_full(text).commands


@pytest.mark.parametrize("separator", ["; ", "\n", " | "])
def test_commands_are_bounded(separator: str) -> None:
    for one in ("ls", "! ls"):
        if one == "ls" or separator != " | ":
            assert len(read(separator.join([one] * lexical.MAX_COMMANDS)).commands) == lexical.MAX_COMMANDS
            with pytest.raises(UnreadableError, match="more than"):
                read(separator.join([one] * (lexical.MAX_COMMANDS + 1)))


@pytest.mark.parametrize("opening", ["(", "{ ", "$(", "! ", "if ", "${x:-", "$((", '"$(', "`", "<(", "f() { ", "[[ ( "])
def test_depth_is_bounded(opening: str) -> None:
    closing = {"(": ")", "{ ": ";}", "$(": ")", "${x:-": "}", "$((": "))", '"$(': ')"', "<(": ")"}.get(opening, "")
    for count in (200, 3000):
        with pytest.raises(UnreadableError):
            read("echo " * (opening[0] in '$"<`') + opening * count + "ls" + closing * count)


def test_without_the_second_parser_only_plain_texts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "program", lambda: None)
    assert read("ls | cat").commands
    with pytest.raises(UnreadableError, match="shfmt-py"):
        read("echo $(ls)")


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "shfmt"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(second, "program", lambda: str(program))


@pytest.mark.parametrize(
    "script",
    [
        "exec /bin/sleep 60",
        "exit 1",
        "kill -9 $$",
        "echo nonsense",
        "echo '{}'",
        "echo '[]'",
        'echo \'{"Type": "File"}\'',
        'echo \'{"Type": "File", "End": {"Offset": 9}, "Stmts": [{"New": 1}]}\'',
        "exec /bin/cat /dev/zero",
    ],
)
def test_a_second_parser_that_fails_in_any_way_refuses_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(second, "DEADLINE_SECONDS", 0.5)
    fake(tmp_path, monkeypatch, script)
    with pytest.raises(UnreadableError):
        read_full("echo $(ls)")


def test_a_second_parser_that_finds_other_programs_refuses_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, f"printf 'echo a; (ls)' | {second.program()} --to-json -ln bash -")
    assert read_full("echo a; (ls)").commands
    with pytest.raises(UnreadableError, match="more than one way"):
        read_full("echo a; ( ls)")


def test_reading_works_in_several_threads_at_once() -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.extend(len(read_full("a $(b) | (c)").commands) for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 20
