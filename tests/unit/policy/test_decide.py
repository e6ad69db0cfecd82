"""What the policy answers, and that no way of writing a denied program makes it run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.policy.decide import CommandRequest, Policy
from sessiond.settings import PolicySettings
from tests.unit.policy.deciding import argv, decide, shipped, text

DEVELOPER = Policy.from_settings("default", PolicySettings(), "bash")
OPEN = Policy.from_settings("open", PolicySettings(open=True), "sh")


def listed(*allow: str) -> Policy:
    return Policy.from_settings("test", PolicySettings(allow=list(allow)), "bash")


def test_an_allowed_argv_is_spawned_as_it_is() -> None:
    verdict = DEVELOPER.decide(argv("grep", "a | b", "x y"))
    assert (verdict.outcome, verdict.rule, verdict.argv) == ("allow", "grep", ("grep", "a | b", "x y"))


def test_a_text_of_one_literal_command_needs_no_shell() -> None:
    assert decide("grep 'a  b' \"c\"d  # note").argv == ("grep", "a  b", "cd")


@pytest.mark.parametrize("command", ["cd src && ls | wc -l", "cd src", "ls > a.txt", "A=1 ls", "kill %1"])
def test_any_other_allowed_text_goes_to_the_shell_unchanged(command: str) -> None:
    assert decide(command).argv == ("bash", "-c", command)


@pytest.mark.parametrize(
    ("request_", "rule", "reason"),
    [
        (text("curl x"), "program", "no network"),
        (text("ls; curl x"), "program", "curl"),
        (text("./ls"), "program", "interpreter"),
        (text("/opt/ls"), "program", "as PATH finds it"),
        (text("$X y"), "computed", "not known"),
        (text("cat /etc/shadow"), "path", "/etc/shadow"),
        (text("echo x > ../y"), "path", "/y"),
        (text("echo x > .git/config"), "path", ".git/config"),
        (text("ls\r"), "lexical", ""),
        (text("if"), "syntax", ""),
        (text(""), "syntax", ""),
        (text("# [[ x ]]"), "syntax", "no command"),
        (text("LD_PRELOAD=x ls"), "environment", "LD_PRELOAD"),
        (text("ls", {"LD_PRELOAD": "/x", "A": ""}), "environment", "LD_PRELOAD"),
        (text("ls() { :; }; ls"), "function", "hide"),
        (argv(), "invalid", "argv or text"),
        (argv(""), "invalid", "empty"),
        (argv("ls", "a\0b"), "invalid", "NUL"),
        (CommandRequest(None, None, {}, ""), "invalid", "argv or text"),
        (CommandRequest(("ls",), "ls", {}, ""), "invalid", "argv or text"),
    ],
)
def test_each_denial_names_its_rule_and_reason(request_: CommandRequest, rule: str, reason: str) -> None:
    verdict = DEVELOPER.decide(request_)
    assert (verdict.outcome, verdict.rule, verdict.argv) == ("deny", rule, ())
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        *(("git push", "git-ask"), ("pip install x", "pip-ask"), ("ls --frobnicate", "option")),
        *(("python -c 'import os; os.system(1)'", "code"), ("sh x.sh", "code"), ("python -m unknown", "module")),
    ],
)
def test_what_a_person_may_allow_is_asked_with_what_would_run(command: str, rule: str) -> None:
    verdict = decide(command)
    assert (verdict.outcome, verdict.rule) == ("ask", rule)
    assert verdict.argv


def test_deny_comes_before_ask_and_ask_before_allow() -> None:
    assert decide("ls; git push").outcome == "ask"
    assert decide("git push; curl x").outcome == "deny"
    assert decide("curl x; git push").outcome == "deny"


def test_every_simple_command_is_in_the_breakdown() -> None:
    verdict = decide("cd src && timeout 5 sh -c 'ls; curl x'")
    found = [(step.command, step.outcome) for outer in verdict.steps for step in outer.all()]
    assert found == [
        ("cd src", "allow"),
        ("timeout 5 sh -c 'ls; curl x'", "allow"),
        ("sh -c 'ls; curl x'", "allow"),
        ("ls", "allow"),
        ("curl x", "deny"),
    ]


def test_a_list_of_programs_is_all_there_is() -> None:
    assert listed().decide(text("true")).outcome == "deny"
    assert listed("true").decide(text("true")).outcome == "allow"
    assert listed("python3").decide(argv("python3", "-c", "import os")).outcome == "allow"
    assert listed("/opt/x").decide(argv("/opt/x")).outcome == "allow"
    assert listed("/opt/x").decide(argv("x")).outcome == "deny"
    assert listed("/opt/x").decide(argv("/opt/../opt/x")).outcome == "deny"
    assert listed("x").decide(argv("/usr/bin/x")).outcome == "deny"


@pytest.mark.parametrize(
    "command",
    [
        "git -c core.pager=x log",
        "find . -delete",
        "rg --pre x y",
        "sort --compress-program=x y",
        "pytest --pdbcls=a:b",
        "file -z x",
    ],
)
def test_programs_with_options_that_run_others_keep_their_rules_when_listed(command: str) -> None:
    name = command.split()[0]
    assert listed(name).decide(text(command)).outcome == "deny"
    assert listed(name).decide(text(f"{name} --version")).outcome in ("allow", "deny")
    assert listed(f"/usr/bin/{name}").decide(text(f"/usr/bin/{command}")).outcome == "deny"


def test_builtins_that_change_the_language_cannot_be_listed() -> None:
    allowed = listed("export", "eval", "source", "command", "true")
    for command in ("export A=1; true", "eval true", "source x", "command true"):
        assert allowed.decide(text(command)).outcome == "deny"


def test_open_allows_everything_that_can_be_started() -> None:
    verdict = OPEN.decide(text("curl x | sh"))
    assert (verdict.outcome, verdict.rule, verdict.argv) == ("allow", "open", ("sh", "-c", "curl x | sh"))
    assert OPEN.decide(text("curl x")).argv == ("curl", "x")
    assert OPEN.decide(text("if")).argv == ("sh", "-c", "if")
    assert OPEN.decide(text("-x; ls $A")).argv == ("sh", "-c", " -x; ls $A")
    assert OPEN.decide(argv("x", env={"PATH": "/tmp"})).outcome == "allow"
    assert OPEN.decide(argv("x\0")).rule == "invalid"
    assert OPEN.decide(text("\udcff")).outcome == "deny"


def test_strict_is_four_programs() -> None:
    for command in ("python a.py", "pytest -q", "black .", "pylint src", "python3 -m pytest -q && black --check ."):
        assert decide(command, "strict").outcome == "allow"
    for command in ("ls", "echo a", "cd src", "git status", "env pytest", "sh -c pytest", "python -m pip list"):
        assert decide(command, "strict").outcome != "allow"


def test_readonly_writes_nothing() -> None:
    for command in ("ls", "cat a | sort", "git log -3", "find . -name x", "sed -n 1p a", "cat a > /dev/null"):
        assert decide(command, "readonly").outcome == "allow"
    for command in ("touch a", "cat a > b", "sed -i s/a/b/ a", "git add .", "git branch x", "python a.py", "rm a"):
        assert decide(command, "readonly").outcome != "allow"


def test_a_directory_that_is_not_known_for_sure_counts() -> None:
    assert decide("cd src && cat ../a.txt").outcome == "allow"
    assert decide("cat a.txt", cwd="/etc").outcome == "deny"
    assert decide("cat a.txt", cwd="src/../../etc").outcome == "deny"
    assert decide("cd src; cat ../../etc/passwd").outcome == "deny"
    assert decide("for i in 1 2; do cat passwd; cd /etc; done").outcome == "deny"


def test_shells_within_shells_end() -> None:
    command = "ls"
    for _ in range(12):
        command = f"sh -c {shlex.quote(command)}"
    assert decide(command).outcome == "deny"


class Exploding(Mapping[str, str]):
    def __getitem__(self, key: str) -> str:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("secret")

    def __len__(self) -> int:
        return 1


def test_a_failure_inside_is_a_denial_that_tells_only_its_type() -> None:
    for decision in (OPEN.decide, OPEN.judge):
        verdict = decision(argv("ls", env=Exploding()))
        assert (verdict.outcome, verdict.rule, verdict.argv) == ("deny", "internal", ())
        assert "RuntimeError" in verdict.reason
        assert "secret" not in verdict.reason


def test_reasons_hold_nothing_that_a_terminal_obeys() -> None:
    verdict = DEVELOPER.decide(argv("\x1b[2J\u202e" + "x" * 1000))
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 200


def test_a_repeated_decision_is_the_same_and_the_cache_is_bounded() -> None:
    repeated = listed("ls")
    first = repeated.decide(text("ls a"))
    assert repeated.decide(text("ls a")) is first
    for number in range(3000):
        repeated.decide(argv("ls", str(number)))
    assert repeated.decide(text("ls a")) == first
    long = text("ls " + "a" * 5000)
    assert repeated.decide(long) == repeated.decide(long)
    assert repeated.decide(text("ls a", {"PATH": "x"})).outcome == "deny"


def test_what_needs_the_second_parser_is_told_and_then_remembered() -> None:
    fresh = Policy.from_settings("x", PolicySettings(), "bash")
    request = text("for i in 1 2; do echo $i; done")
    assert fresh.decide_cached(text("ls -la")) is not None
    assert fresh.decide_cached(request) is None
    verdict = fresh.judge(request)
    assert fresh.decide_cached(request) is None
    fresh.remember(request, verdict)
    assert fresh.decide_cached(request) is verdict
    assert fresh.decide(request) is verdict


def test_the_digest_names_what_decides() -> None:
    assert listed("a", "b").digest == listed("a", "b", "a").digest
    assert listed("a").digest != listed("b").digest
    assert len({listed().digest, OPEN.digest, DEVELOPER.digest, shipped("strict").digest}) == 4
    assert Policy.from_settings("x", PolicySettings(allow=[]), "sh").digest != listed().digest
    assert shipped("developer").digest == DEVELOPER.digest


QUOTED = st.sampled_from(["{}", "\\{}", "'{}'", '"{}"', "''{}", '{}""', "$'{}'", "${{z}}{}", "$''{}", "\"{}\"''"])
WRAPPERS = st.sampled_from(
    [
        *("{}", "ls; {}", "ls && {}", "ls | {}", "ls || {}", "ls & {}", "ls\n{}", "{} &", "! {}", "time {}", "({})"),
        *("{{ {}; }}", "echo $({})", "echo `{}`", 'echo "$({})"', "ls <({})", "ls > >({})", "cat <<E\n$({})\nE"),
        *("if true; then {}; fi", "while {}; do true; done", "for a in b; do {}; done", "case a in a) {};; esac"),
        *("f() {{ {}; }}; f", "env {}", "A=1 {}", "nohup {}", "timeout 5 {}", "nice {}", "xargs {}", "sudo {}"),
        *("exec {}", "command {}", "builtin {}", "coproc {}", "find . -exec {} ;"),
        *("nice -n 3 {}", "timeout -k 1 5 {}", "stdbuf -oL {}", "setsid {}", "env -i A=1 {}", "x=$({})", "cd a && {}"),
        *("git -c alias.x=!{} x", "echo a # b \\\n{}", "ls \\\n; {}", "ls\r\n{}", "[[ -n $({}) ]]"),
        *("echo $(( $({}) ))", "echo ${{x:-$({})}}", "cat <<< $({})", "read x < <({})", "find . -exec {} \\;"),
    ]
)
SHELLS = st.sampled_from(
    ["bash -c {}", "sh -c {}", "eval {}", "env -S {}", "bash -lc {}", "xargs sh -c {}", "trap {} EXIT", "bash <<< {}"]
)
DENIED = st.sampled_from(["curl", "nc", "ssh", "sudo", "evil"])


@settings(max_examples=3000, deadline=None)
@given(st.data())
def test_no_quoting_or_wrapping_of_a_denied_program_is_allowed(data: st.DataObject) -> None:
    name = "".join(data.draw(QUOTED).format(letter) for letter in data.draw(DENIED))
    command = f"{name} http://evil.test"
    for _ in range(data.draw(st.integers(0, 3))):
        if data.draw(st.booleans()):
            command = data.draw(WRAPPERS).format(command)
        else:
            command = data.draw(SHELLS).format(shlex.quote(command))
    assert DEVELOPER.decide(text(command)).outcome != "allow", command


ARGUMENTS = st.sampled_from(
    [
        *(
            "sort --compress-program=sh a",
            "rg --pre sh x",
            "git -c core.pager=sh log",
            "find . -delete",
            "sed 1e\\ id a",
        ),
        *("tar xf a --to-command=sh", "cat /etc/shadow", "cp a .git/config", "rm -rf /", "python -i", "git push"),
        *(
            "pytest -p evil",
            "make -f /tmp/x",
            "awk -f /tmp/x a",
            "go run x@latest",
            "npm install x",
            "node -r /tmp/x a",
        ),
    ]
)


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_no_quoting_or_wrapping_of_a_denied_argument_is_allowed(data: st.DataObject) -> None:
    words = shlex.split(data.draw(ARGUMENTS))
    marks = st.sampled_from(["{}", "'{}'", '"{}"', "''{}", "$'{}'"])
    command = " ".join(data.draw(marks).format(word) for word in words)
    for _ in range(data.draw(st.integers(0, 2))):
        if data.draw(st.booleans()):
            command = data.draw(WRAPPERS).format(command)
        else:
            command = data.draw(SHELLS).format(shlex.quote(command))
    assert DEVELOPER.decide(text(command)).outcome != "allow", command


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=4))
def test_whatever_is_asked_there_is_an_answer(value: str, words: list[str]) -> None:
    assert DEVELOPER.decide(text(value)).rule != "internal"
    assert DEVELOPER.decide(argv(*words)).rule != "internal"
    assert OPEN.decide(argv(*words)).rule != "internal"


PROGRAMS = st.sampled_from(
    ["grep", "sed", "awk", "tar", "find", "git", "python", "xargs", "jq", "sort", "cp", "rm", "ls", "env"]
)


@settings(max_examples=800, deadline=None)
@given(PROGRAMS, st.data())
def test_whatever_the_arguments_are_there_is_an_answer(program: str, data: st.DataObject) -> None:
    pieces = st.sampled_from(
        ["-", "--", "-e", "-x", "-exec", "{}", ";", "+", "a=b", "-f", "/", "..", "x/y", "\n", "é", ""]
    )
    words = data.draw(st.lists(st.builds("".join, st.lists(pieces, max_size=3)), max_size=5))
    assert DEVELOPER.decide(argv(program, *words)).rule != "internal"
