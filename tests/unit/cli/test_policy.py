"""`sessiond policy`: no daemon is needed, and what it prints can be used by programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sessiond.cli.policy import policy


def run(*arguments: str) -> Result:
    return CliRunner().invoke(policy, arguments)


@pytest.mark.parametrize(("command", "verdict"), [("ls -la", "allow"), ("git push", "ask"), ("ls; curl x", "deny")])
def test_explain_says_the_verdict_as_json(command: str, verdict: str) -> None:
    result = run("explain", "--json", "--", command)
    answer = json.loads(result.output)
    assert (result.exit_code, answer["verdict"]) == (0, verdict)
    assert answer["rule"]
    assert answer["reason"]
    assert all({"command", "verdict", "rule", "reason", "commands"} <= set(step) for step in answer["commands"])


def test_explain_draws_what_runs_what_without_steering_the_terminal() -> None:
    lines = run("explain", "--", "sh -c 'ls; curl x'").output.splitlines()
    assert [line[:12] for line in lines[:3]] == ["allow  sh -c", "  allow  ls ", "  deny   cur"]
    assert lines[3].startswith("deny: 'curl'")
    assert "\x1b" not in run("explain", "--", "ls \x1b[2J").output


def test_explain_takes_policy_shell_and_directory(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[rule]]\nid = "a"\nprograms = ["frob"]\nany = true\n')
    assert run("explain", "--policy", str(path), "--", "frob").output.splitlines()[-1].startswith("allow")
    assert json.loads(run("explain", "--json", "--cwd", "/etc", "--", "cat passwd").output)["verdict"] == "deny"
    argv = json.loads(run("explain", "--json", "--shell", "sh", "--", "ls | wc").output)["argv"]
    assert argv == ["sh", "-c", "ls | wc"]


def test_a_broken_policy_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[rule]]\nid = "a"\nprograms = ["frob"]\ncolour = 1\n')
    result = run("explain", "--policy", str(path), "--", "frob")
    assert result.exit_code == 1
    assert "rule a: colour: unknown key" in result.output


def test_test_names_each_mismatch_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    cases = [
        ("ls", "allow"),
        ("curl x", "not-allowed"),
        ("git push", "not-allowed"),
        ("git push", "ask"),
        ("ls", "deny"),
    ]
    path.write_text("\n".join(json.dumps({"command": c, "expected": e}) for c, e in cases) + "\n\n")
    result = CliRunner().invoke(policy, ["test", str(path)], standalone_mode=False)
    assert result.return_value == 1
    assert f"{path}:5: ls: expected deny, got allow" in result.output
    assert "4 of 5 as expected" in result.output
    path.write_text('{"command": "ls"}\n')
    assert "cases.jsonl:1: expected" in run("test", str(path)).output


def test_show_lists_sets_and_rules() -> None:
    assert "developer" in run("show").output
    assert "git-ask" in run("show", "developer").output


def test_diff_and_learn_read_an_audit_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    records = [{"event": "decision", "verdict": "deny", "text": text} for text in ("ls", "frob --all src")]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    result = CliRunner().invoke(policy, ["diff", "readonly", "strict", "--against", str(path)], standalone_mode=False)
    assert (result.return_value, result.output.splitlines()[-1]) == (1, "1 commands are decided otherwise")
    assert 'programs = ["frob"]' in run("learn", str(path)).output
