"""SPECIFICATION.md names what enforces each promise: what it names must exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "SPECIFICATION.md").read_text()
CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, str]]:
    """Promise and enforcer of each row of the tables."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")
    ]
    return [(promise, enforcer) for promise, enforcer in cells if promise != "promise"]


def names(enforcer: str) -> list[tuple[str, str]]:
    """Paths and tests that an enforcer names; a bare test is of the path before it."""
    found, path = [], ""
    for code in CODE.findall(enforcer):
        where, _, test = code.partition("::")
        if "/" in where:
            path = where
        elif code.startswith("test_"):
            test = code
        elif not code.startswith("::"):
            continue
        found.append((path, test))
    return found


@pytest.mark.parametrize(("promise", "enforcer"), rows())
def test_what_enforces_a_promise_exists(promise, enforcer):
    known = [code for code in CODE.findall(enforcer) if code.startswith(("make ", "sessiond "))]
    found = names(enforcer)
    assert known or found, f"nothing enforces: {promise}"
    for path, test in found:
        where = TESTS / path
        assert where.exists(), f"{path} does not exist"
        if test:
            pattern = re.compile(rf"^(async )?def {re.escape(test).replace(re.escape('*'), '.*')}\b", re.MULTILINE)
            assert pattern.search(where.read_text()), f"{path} has no test {test}"


def test_every_promised_figure_is_checked():
    from sessiond.bench.figures import PROMISES

    assert {promise.key for promise in PROMISES} == set(re.findall(r"`make bench`: `(\w+)`", TEXT))
