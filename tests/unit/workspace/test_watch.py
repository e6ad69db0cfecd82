"""When a measured volume is looked at, and when somebody is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.workspace.watch import LONGEST_SECONDS, SHORTEST_SECONDS, WRITES_A_SECOND, Watch


def test_it_is_told_when_it_is_too_large_and_again_when_it_has_grown():
    watch = Watch(100)
    assert [watch.exceeded(used) for used in (0, 100, 101, 101, 150, 150, 151)] == [
        *(False, False, True, False, True, False, True)
    ]


def test_who_clears_up_is_left_alone():
    watch = Watch(100)
    assert watch.exceeded(500)
    assert [watch.exceeded(used) for used in (400, 300, 200, 90)] == [False] * 4
    assert watch.exceeded(101)


def test_who_grows_again_while_it_is_cleared_up_is_not():
    watch = Watch(100)
    assert [watch.exceeded(used) for used in (500, 300, 301)] == [True, False, True]


@given(st.integers(0, 2**50), st.integers(0, 2**50), st.floats(0, 60))
def test_it_is_looked_at_before_it_can_be_full_and_at_a_bounded_cost(size: int, used: int, took: float):
    pause = Watch(size).pause(used, took)
    assert pause >= SHORTEST_SECONDS and pause >= 10 * took
    assert pause <= max(LONGEST_SECONDS, 10 * took)
    if took == 0 and pause > SHORTEST_SECONDS:
        assert used + pause * WRITES_A_SECOND <= size + 1


@pytest.mark.parametrize(("used", "seconds"), [(0, 5.0), (10**10 - 10**9, 2.0), (10**10, 0.25), (2 * 10**10, 0.25)])
def test_the_nearer_to_its_size_the_sooner(used: int, seconds: float):
    assert Watch(10**10).pause(used, 0.0) == pytest.approx(seconds)
