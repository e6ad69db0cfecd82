"""What the bench makes of its samples, and when `python -m tests.bench` complains."""

from __future__ import annotations

from typing import Any

import pytest

from sessiond.bench.figures import PROMISES, Figures, Machine, Promise, rows
from sessiond.bench.measure import Samples, slow_end, summary
from sessiond.bench.parts import Parts
from tests.bench.__main__ import broken, table

MACHINE = Machine(cpus=2, kernel="6", engine="docker", engine_version="20", image="i", load=0.0)
GOOD: dict[str, Any] = {
    "floor_ms": 0.5,
    "exec_ms": 0.9,
    "exec_over_floor": 1.8,
    "docker_exec_ms": 45.0,
    "docker_exec_over_exec": 50.0,
    "open_ms": 1.5,
    "cold_ms": 150.0,
    "cold_over_open": 100.0,
    "stdout_mb_s": 400.0,
    "guest_pss_kb": 90,
    "machine": {"load": 0.1},
}

BAD = {
    "exec_over_floor": {"exec_ms": 1.1, "exec_over_floor": 2.2},
    "docker_exec_over_exec": {"docker_exec_ms": 30.0, "docker_exec_over_exec": 33.3},
    "cold_over_open": {"open_ms": 3.0, "cold_over_open": 50.0},
    "stdout_mb_s": {"stdout_mb_s": 200.0},
    "guest_pss_kb": {"guest_pss_kb": 400},
}
"""By promise: what a run looks like that breaks this one alone."""


def samples(**others: Any) -> Samples:
    values: dict[str, Any] = {
        "floor": [0.5, 0.5, 9.0],
        "command": [1.0, 1.0, 5.0],
        "python": [10.0],
        "docker_exec": [50.0],
        "file_read": [1.25],
        "docker_cp": [25.0],
        "open": [2.0],
        "cold": [200.0],
        "stdout": [400.0],
        "echo": [0.3, 0.3, 2.0],
        "local_echo": [0.02],
        "rates": {1: [800.0]},
        "loads": {1: [1.0]},
    }
    return Samples(**(values | others))


def figures(**others: Any) -> Figures:
    return summary(samples(**others), MACHINE, Parts(80.0, 0.6, 3.1, 15.0, 1.2), 90, 70.0, 1.0)


def test_ratios_are_those_of_medians() -> None:
    found = figures()
    assert (found.file_read_1k_ms, found.docker_cp_ms, found.docker_cp_over_file_read) == (1.25, 25.0, 20.0)
    assert (found.exec_over_floor, found.docker_exec_over_exec, found.cold_over_open) == (2.0, 50.0, 100.0)
    assert found.pty_echo_over_local == 15.0


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
def test_a_broken_promise_is_named(promise: Promise) -> None:
    bad = GOOD | BAD[promise.key]
    assert broken([GOOD]) == []
    assert broken([bad]) == broken([bad, bad]) == [promise.key]
    assert "BROKEN" in table([bad, bad])
    assert "BROKEN" not in table([GOOD])


@pytest.mark.parametrize("key", ["exec_over_floor", "cold_over_open", "stdout_mb_s", "guest_pss_kb"])
def test_a_better_run_makes_up_for_a_bad_one(key: str) -> None:
    assert broken([GOOD | BAD[key], GOOD]) == []


def test_a_slow_rival_in_one_run_helps_nobody() -> None:
    slow = GOOD | BAD["cold_over_open"]
    lucky = slow | {"cold_ms": 900.0, "cold_over_open": 300.0}
    assert broken([slow, lucky]) == ["cold_over_open"]
