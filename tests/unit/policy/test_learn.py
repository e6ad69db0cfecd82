"""What an audit log teaches, and that nothing of it is applied."""

from __future__ import annotations

import json
import tomllib

from sessiond.policy.learn import differences, proposals, recorded
from tests.unit.policy.deciding import shipped


def line(verdict: str = "deny", **fields: object) -> str:
    return json.dumps({"event": "decision", "verdict": verdict, "cwd": "", "truncated": False, **fields})


def test_only_whole_decisions_are_taken() -> None:
    lines = [
        line(text="ls"),
        line(argv=["a", "b c"]),
        line(text="x", truncated=True),
        '{"event":"end"}',
        "rubbish",
        "3",
    ]
    assert [record.text for record in recorded(lines)] == ["ls", "a 'b c'"]


def test_differences_name_each_command_once() -> None:
    records = list(recorded([line(text="ls"), line(text="ls"), line(argv=["pytest"]), line(text="curl x")]))
    found = [
        (r.text, was.outcome, now.outcome)
        for r, was, now in differences(shipped("readonly"), shipped("strict"), records)
    ]
    assert found == [("ls", "allow", "deny"), ("pytest", "deny", "allow")]


def test_a_proposal_is_a_rule_and_network_programs_get_none() -> None:
    lines = [*[line(text="ls | terraform-docs --out=x -v src")] * 3, line(text="curl x"), line(text="ls")]
    found = proposals(shipped("developer"), recorded(lines))
    assert [(proposal.program, proposal.count) for proposal in found] == [("terraform-docs", 3), ("curl", 1)]
    rule = tomllib.loads(found[0].toml())["rule"][0]
    assert (rule["programs"], rule["options"]) == (["terraform-docs"], "--out=any -v")
    assert tomllib.loads(found[1].toml()) == {}
