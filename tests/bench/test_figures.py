"""What the bench makes of its samples, and when `python -m tests.bench` complains."""

from __future__ import annotations

from typing import Any

import pytest

from sessiond.bench.figures import PROMISES, Figures, Machine, Promise, rows
from sessiond.bench.measure import Samples, slow_end, summary
from tests.bench.__main__ import broken, table

MACHINE = Machine(cpus=2, kernel="6", engine="docker", engine_version="20", image="i", load=0.0)
GOOD = {
    "exec_over_floor": 1.5,
    "docker_exec_over_exec": 50.0,
    "cold_over_open": 90.0,
    "stdout_mb_s": 400.0,
    "guest_pss_kb": 90,
    "machine": {"load": 0.1},
}


def samples(**others: Any) -> Samples:
    values: dict[str, Any] = {
        "floor": [0.5, 0.5, 9.0],
        "command": [1.0, 1.0, 5.0],
        "python": [10.0],
        "docker_exec": [50.0],
        "open": [2.0],
        "cold": [200.0],
        "stdout": [400.0],
        "rates": {1: [800.0]},
        "loads": {1: [1.0]},
    }
    return Samples(**(values | others))


def figures(**others: Any) -> Figures:
    return summary(samples(**others), MACHINE, 90, 70.0, 1.0)


def test_ratios_are_those_of_medians() -> None:
    found = figures()
    assert (found.exec_over_floor, found.docker_exec_over_exec, found.cold_over_open) == (2.0, 50.0, 100.0)


def test_an_engine_without_docker_has_no_docker_figures() -> None:
    found = figures(docker_exec=[])
    assert found.docker_exec_ms is None
    assert found.docker_exec_over_exec is None
    assert "docker exec" not in [row.what for row in rows(found)]


def test_the_slow_end_is_the_99th_percentile() -> None:
    assert slow_end([float(number) for number in range(1000)]) == 990
    assert slow_end([7.0]) == 7


def test_people_are_told_what_each_figure_means() -> None:
    assert all(row.value and row.meaning for row in rows(figures()))


@pytest.mark.parametrize(
    ("relation", "value", "kept"),
    [("<=", 2.0, True), ("<=", 2.01, False), (">=", 2.0, True), (">=", 1.99, False), ("<=", None, False)],
)
def test_a_promise_is_kept_up_to_its_bound_and_never_by_silence(relation: Any, value: float | None, kept: bool) -> None:
    assert Promise("key", relation, 2.0).kept(value) is kept


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.key)
def test_a_promise_is_broken_when_no_run_kept_it(promise: Promise) -> None:
    bad = GOOD | {promise.key: promise.bound * (2 if promise.relation == "<=" else 0.5)}
    assert broken([GOOD]) == []
    assert broken([bad, bad]) == [promise.key]
    assert broken([bad, GOOD]) == []
    assert "BROKEN" in table([bad, bad])
    assert "BROKEN" not in table([bad, GOOD])
