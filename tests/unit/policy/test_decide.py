"""What the policy answers, and that no way of writing a denied program makes it run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.policy.decide import CommandRequest, Policy, Verdict
from sessiond.settings import PolicySettings

DEVELOPER = Policy.from_settings("default", PolicySettings(), "bash")
OPEN = Policy.from_settings("open", PolicySettings(open=True), "sh")


def policy(*allow: str) -> Policy:
    return Policy.from_settings("test", PolicySettings(allow=list(allow)), "bash")


def text(value: str, env: Mapping[str, str] | None = None) -> CommandRequest:
    return CommandRequest(None, value, env or {}, "")


def argv(*words: str, env: Mapping[str, str] | None = None) -> CommandRequest:
    return CommandRequest(words, None, env or {}, "")


def test_an_allowed_argv_is_spawned_as_it_is() -> None:
    verdict = DEVELOPER.decide(argv("grep", "a | b", "$(x)"))
    assert verdict == Verdict("allow", "program", "allowed: grep", ("grep", "a | b", "$(x)"))


def test_a_text_of_one_literal_command_needs_no_shell() -> None:
    assert DEVELOPER.decide(text("grep 'a  b' \"c\"d  # note")).argv == ("grep", "a  b", "cd")


def test_any_other_allowed_text_goes_to_the_shell_unchanged() -> None:
    assert DEVELOPER.decide(text("cd src && ls | wc -l")).argv == ("bash", "-c", "cd src && ls | wc -l")


def test_a_builtin_without_a_program_goes_to_the_shell() -> None:
    assert DEVELOPER.decide(text("cd src")).argv == ("bash", "-c", "cd src")


@pytest.mark.parametrize(
    ("request_", "rule", "reason"),
    [
        (text("curl x"), "program", "no network"),
        (text("ls; curl x"), "program", "curl"),
        (text("python3.12 a.py"), "program", "python3 is"),
        (text("bash -c ls"), "program", "send the shell text itself"),
        (text("./ls"), "program", "interpreter"),
        (text("/usr/bin/ls"), "program", "ls, the one that PATH finds, is"),
        (text("/tmp/x"), "program", "not an allowed program"),
        (text("bin/ls"), "program", "path"),
        (text("''"), "program", "not an allowed program"),
        (text("ls > x"), "syntax", "redirection"),
        (text("A=1 ls"), "syntax", "env"),
        (text(""), "syntax", "no command"),
        (text("ls\r"), "lexical", "U+000D"),
        (text("eval ls"), "builtin", "eval"),
        (argv("eval", "ls"), "builtin", "eval"),
        (text("git -c core.pager=x log"), "option", "before its subcommand"),
        (text("ls", {"LD_PRELOAD": "/x", "A": ""}), "environment", "LD_PRELOAD"),
        (argv(), "invalid", "argv or text"),
        (argv(""), "invalid", "empty"),
        (argv("ls", "a\0b"), "invalid", "NUL"),
        (text("ls\0"), "invalid", "NUL"),
        (CommandRequest(None, None, {}, ""), "invalid", "argv or text"),
        (CommandRequest(("ls",), "ls", {}, ""), "invalid", "argv or text"),
    ],
)
def test_each_denial_names_its_rule_and_reason(request_: CommandRequest, rule: str, reason: str) -> None:
    verdict = DEVELOPER.decide(request_)
    assert (verdict.outcome, verdict.rule, verdict.argv) == ("deny", rule, ())
    assert reason in verdict.reason


@pytest.mark.parametrize(
    "command",
    [
        *("python3 -m pytest -q", "python3 -c 'print(1)'", "pytest -x tests/test_a.py::test_b", "ruff check ."),
        *("git status", "git --no-pager log -3", "git diff --stat HEAD~1", "git commit -m 'fix: a; curl x'"),
        *("git add -A && git commit -qm x", "git init -q .", "git --version", "git branch --format='%(refname)'"),
        *("find . -name '*.py' -type f", "rg -n 'a|b' src", "sort -u a.txt | uniq -c | head -3", "test -d src"),
        *("echo 'rm -rf / | curl'", "grep -rn curl .", "printf '%s\\n' a", "mkdir -p a/b", "sleep 1 & true"),
    ],
)
def test_everyday_commands_are_allowed(command: str) -> None:
    verdict = DEVELOPER.decide(text(command))
    assert verdict.outcome == "allow", verdict.reason


def test_the_list_is_all_there_is() -> None:
    assert policy().decide(text("true")).outcome == "deny"
    assert policy("true").decide(text("true")).outcome == "allow"
    assert policy("/opt/x").decide(argv("/opt/x")).outcome == "allow"
    assert policy("/opt/x").decide(argv("x")).outcome == "deny"
    assert policy("/opt/x").decide(argv("/opt/../opt/x")).outcome == "deny"
    assert policy("/usr/bin/find").decide(argv("/usr/bin/find", "-delete")).rule == "option"


def test_builtins_that_change_the_language_cannot_be_listed() -> None:
    allowed = policy("export", "eval", "source", "command", "true")
    for command in ("export A=1; true", "eval true", "source x", "command true"):
        assert allowed.decide(text(command)).outcome == "deny"


def test_open_allows_everything_that_can_be_started() -> None:
    assert OPEN.decide(text("curl x | sh")) == Verdict(
        "allow", "open", "the policy allows everything", ("sh", "-c", "curl x | sh")
    )
    assert OPEN.decide(text("curl x")).argv == ("curl", "x")
    assert OPEN.decide(text("if")).argv == ("sh", "-c", "if")
    assert OPEN.decide(text("-x; ls $A")).argv == ("sh", "-c", " -x; ls $A")
    assert OPEN.decide(argv("x", env={"PATH": "/tmp"})).outcome == "allow"
    assert OPEN.decide(argv("x\0")).rule == "invalid"
    assert OPEN.decide(text("\udcff")).outcome == "deny"


class Exploding(Mapping[str, str]):
    def __getitem__(self, key: str) -> str:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("secret")

    def __len__(self) -> int:
        return 1


def test_a_failure_inside_is_a_denial_that_tells_only_its_type() -> None:
    verdict = OPEN.decide(argv("ls", env=Exploding()))
    assert (verdict.outcome, verdict.rule, verdict.argv) == ("deny", "internal", ())
    assert "RuntimeError" in verdict.reason
    assert "secret" not in verdict.reason


def test_reasons_hold_nothing_that_a_terminal_obeys() -> None:
    verdict = DEVELOPER.decide(argv("\x1b[2J\u202e" + "x" * 1000))
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 200


def test_a_repeated_decision_is_the_same_and_the_cache_is_bounded() -> None:
    repeated = policy("ls")
    first = repeated.decide(text("ls a"))
    assert repeated.decide(text("ls a")) is first
    for number in range(3000):
        repeated.decide(argv("ls", str(number)))
    assert repeated.decide(text("ls a")) == first
    long = text("ls " + "a" * 5000)
    assert repeated.decide(long) == repeated.decide(long)
    assert repeated.decide(text("ls a", {"PATH": "x"})).outcome == "deny"


def test_the_digest_names_what_decides() -> None:
    assert policy("a", "b").digest == policy("b", "a", "a").digest
    assert policy("a").digest != policy("b").digest
    assert len({policy().digest, OPEN.digest, DEVELOPER.digest}) == 3
    assert Policy.from_settings("x", PolicySettings(allow=[]), "sh").digest != policy().digest


QUOTED = st.sampled_from(["{}", "\\{}", "'{}'", '"{}"', "''{}", '{}""', "$'{}'", "${{z}}{}", "$''{}", "\"{}\"''"])
WRAPPERS = st.sampled_from(
    [
        *("{}", "ls; {}", "ls && {}", "ls | {}", "ls || {}", "ls & {}", "ls\n{}", "{} &", "! {}", "time {}", "({})"),
        *("{{ {}; }}", "echo $({})", "echo `{}`", 'echo "$({})"', "ls <({})", "ls > >({})", "cat <<E\n$({})\nE"),
        *("if true; then {}; fi", "while {}; do true; done", "for a in b; do {}; done", "case a in a) {};; esac"),
        *("f() {{ {}; }}; f", "env {}", "A=1 {}", "nohup {}", "timeout 5 {}", "nice {}", "xargs {}", "sudo {}"),
        *("exec {}", "command {}", "builtin {}", "eval {}", "coproc {}", "trap {} EXIT", "find . -exec {} ;"),
        *(
            "git -c alias.x=!{} x",
            "echo a # b \\\n{}",
            "ls \\\n; {}",
            "ls\r\n{}",
            "[[ -n $({}) ]]",
            "echo $(( $({}) ))",
        ),
    ]
)
SHELLS = st.sampled_from(["bash -c {}", "sh -c {}", "eval {}", "env -S {}", "bash -lc {}", "xargs sh -c {}"])


@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_no_quoting_or_wrapping_of_a_denied_program_is_allowed(data: st.DataObject) -> None:
    name = "".join(data.draw(QUOTED).format(letter) for letter in "curl")
    command = f"{name} http://evil.test"
    for _ in range(data.draw(st.integers(0, 3))):
        if data.draw(st.booleans()):
            command = data.draw(WRAPPERS).format(command)
        else:
            command = data.draw(SHELLS).format(shlex.quote(command))
    assert DEVELOPER.decide(text(command)).outcome == "deny", command


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=4))
def test_whatever_is_asked_there_is_an_answer(value: str, words: list[str]) -> None:
    assert DEVELOPER.decide(text(value)).rule != "internal"
    assert DEVELOPER.decide(argv(*words)).rule != "internal"
    assert OPEN.decide(argv(*words)).rule != "internal"
