"""What the shipped policy `developer` must allow, and what it must not: two corpora of others, two of our own."""

from __future__ import annotations

import shlex

import pytest

from tests.unit.policy.deciding import argv, corpus, decide, shipped

HOSTILE = ["bypass.jsonl", "hostile.jsonl"]
EVERYDAY = ["benign.jsonl", "everyday.jsonl"]


@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_commands_are_allowed(name: str) -> None:
    commands = corpus(name)
    assert len(commands) > 150
    refused = {command: decide(command).reason for command in commands if decide(command).outcome != "allow"}
    assert refused == {}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_bypass_is_allowed(name: str) -> None:
    commands = corpus(name)
    assert len(commands) > 300
    assert [command for command in commands if decide(command).outcome == "allow"] == []


@pytest.mark.parametrize("name", [*HOSTILE, *EVERYDAY])
def test_the_policy_never_fails_inside(name: str) -> None:
    verdicts = {command: decide(command) for command in corpus(name)}
    assert [command for command, verdict in verdicts.items() if verdict.rule == "internal"] == []


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("wrap", ["timeout 5 sh -c {}", "env A=1 bash -c {}", "eval {}", "nice sh -c {} | cat"])
def test_no_bypass_is_allowed_inside_another_shell(name: str, wrap: str) -> None:
    wrapped = {command: wrap.format(shlex.quote(command)) for command in corpus(name)[::7]}
    assert [command for command, inside in wrapped.items() if decide(inside).outcome == "allow"] == []


@pytest.mark.parametrize("policy", ["strict", "readonly"])
def test_no_narrower_policy_allows_a_bypass(policy: str) -> None:
    commands = corpus("bypass.jsonl")
    assert [command for command in commands if decide(command, policy).outcome == "allow"] == []


def test_a_plain_command_is_judged_alike_as_text_and_as_argv() -> None:
    different = []
    for command in [*corpus("everyday.jsonl"), *corpus("hostile.jsonl")]:
        if all(character.isalnum() or character in " ./-_=" for character in command) and command.strip():
            as_argv = shipped("developer").decide(argv(*command.split())).outcome
            if as_argv != decide(command).outcome and "=" not in command.split()[0]:
                different.append(command)
    # A shell runs these by itself: `time` is its keyword, and `. x` and `{ls` have no program.
    assert [command for command in different if command.split()[0] not in ("time", "coproc", "select")] == []
