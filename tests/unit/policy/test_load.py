"""Rule files: what they compose, and that a broken one says where it is broken and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessiond.policy.decide import Policy, check_examples, load_policy
from sessiond.policy.errors import PolicyError
from sessiond.policy.load import load_source, set_names
from tests.unit.policy.deciding import shipped, text


def write(directory: Path, content: str, name: str = "mine.toml") -> Path:
    path = directory / name
    path.write_text(content, encoding="utf-8")
    return path


def problems(path: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["developer", "readonly", "strict", "open", "python", "shell"])
def test_a_shipped_set_decides_its_examples_as_it_says(name: str) -> None:
    policy = load_policy(name)
    check_examples(policy, frozenset(place for place, _ in policy.source.tables if place != "wrappers"))


def test_every_shipped_set_is_described() -> None:
    assert {"developer", "readonly", "strict", "open"} <= set(set_names())
    assert all(load_source(name).tables[-1][1].description for name in set_names())


def test_a_policy_adds_to_what_it_includes_and_its_denials_win(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        include = ["readonly"]
        [[rule]]
        id = "deploy"
        programs = ["deploy"]
        options = "--dry-run --env=name"
        operands = "read?"
        network = true
        timeout = 60
        allows = ["deploy --env=test"]
        denies = ["deploy --force"]
        [[rule]]
        id = "no-log"
        programs = ["git"]
        subcommands = ["log"]
        verdict = "deny"
        any = true
        reason = "not here"
        alternative = "use git show"
        """,
    )
    policy = load_policy(path)
    verdict = policy.decide(text("deploy --dry-run; ls"))
    assert (verdict.outcome, verdict.network, verdict.timeout) == ("allow", True, 60)
    denied = policy.decide(text("git log -1"))
    assert (denied.outcome, denied.rule, denied.alternative) == ("deny", "no-log", "use git show")
    assert policy.decide(text("git show HEAD")).outcome == "allow"


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_rules_does_not_matter(tmp_path: Path, reverse: bool) -> None:
    rules = [
        '[[rule]]\nid = "a"\nprograms = ["x"]\nany = true\n',
        '[[rule]]\nid = "b"\nprograms = ["x"]\nverdict = "ask"\noptions = "--careful"\n',
        '[[rule]]\nid = "c"\nprograms = ["x"]\nverdict = "deny"\noptions = "--force -f"\n',
    ]
    policy = load_policy(write(tmp_path, "".join(reversed(rules) if reverse else rules)))
    assert policy.decide(text("x y")).outcome == "allow"
    assert policy.decide(text("x --careful")).outcome == "ask"
    assert policy.decide(text("x --careful --force")).outcome == "deny"
    assert policy.decide(text("x --for")).outcome == "deny"
    assert policy.decide(text("x -vf")).outcome == "deny"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[[rule]]\nid = "a"\nprograms = ["x"]\ncolour = 1\n', "rule a: colour: unknown key"),
        ('[[rule]]\nprograms = ["x"]\n', "rule number 1: id: Field required"),
        ('[[rule]]\nid = "a"\nprograms = []\n', "rule a: programs:"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\nverdict = "maybe"\n', "rule a: verdict:"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\noptions = "-a -a"\n', "rule a: options: -a is listed twice"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\noptions = "-a=colour"\n', "rule a: options: there is no kind 'colour'"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\noptions = "-a=~("\n', "rule a: options: '~(' is not a regular"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\noperands = "read* any*"\n', "rule a: operands:"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\ncheck = "x"\n', "rule a: check: there is no checker 'x'"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\n[[rule]]\nid = "a"\nprograms = ["y"]\n', "rule a: id: is taken"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\nallows = ["x --y"]\n', "rule a: allows: 'x --y' gets deny by option"),
        ('[[rule]]\nid = "a"\nprograms = ["x"]\nany = true\ndenies = ["x"]\n', "rule a: denies: 'x' gets allow"),
        ('include = ["nothing"]\n', "there is no policy of this name"),
        ('include = ["missing.toml"]\n', "cannot be read"),
        ('include = ["mine.toml"]\n', "goes round in a circle"),
        ("rule = 3\n", "rule:"),
        ("x = [\n", "mine.toml"),
        ('[paths]\nread = ["x"]\n', "'x' is not an absolute path"),
    ],
)
def test_an_error_names_file_rule_and_key(tmp_path: Path, content: str, expected: str) -> None:
    assert expected in problems(write(tmp_path, content))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    bad = "".join(f'[[rule]]\nid = "r{n}"\nprograms = ["x"]\nchecks = 1\n' for n in range(3))
    assert len(problems(write(tmp_path, bad)).splitlines()) == 3


def test_a_failed_load_changes_no_policy(tmp_path: Path) -> None:
    path = write(tmp_path, '[[rule]]\nid = "a"\nprograms = ["x"]\nany = true\n')
    policy = load_policy(path)
    before = (policy.digest, policy.decide(text("x")).outcome)
    write(tmp_path, "include = [")
    assert problems(path)
    assert (policy.digest, policy.decide(text("x")).outcome) == before


def test_own_policies_of_the_settings_are_found_by_name() -> None:
    named = {"mine": {"include": ["strict"], "rule": [{"id": "a", "programs": ["ls"], "any": True}]}}
    policy = load_policy("mine", named=named)
    assert isinstance(policy, Policy)
    assert policy.decide(text("ls; pytest -q")).outcome == "allow"
    assert policy.digest != shipped("strict").digest
    with pytest.raises(PolicyError, match=r"policies\.bad: rule a: programs"):
        load_policy("bad", named={"bad": {"rule": [{"id": "a"}]}})
