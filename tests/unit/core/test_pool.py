"""The pool's decisions: pure, so every situation can be tried."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.core.pool import (
    BACKOFF_FIRST_SECONDS,
    BACKOFF_MOST_SECONDS,
    PoolPolicy,
    PoolView,
    Warm,
    backoff,
    may_wait,
    plan,
)

POLICY = PoolPolicy(min=3, max=6, creations=2, max_age=100.0, waiters=4)


def warm(*born: float) -> tuple[Warm, ...]:
    return tuple(Warm(f"s{n}", time) for n, time in enumerate(born))


def test_fills_an_empty_pool_with_no_more_than_the_creations_allowed_in_flight():
    assert plan(POLICY, PoolView(), 0).create == 2
    assert plan(POLICY, PoolView(creating=2), 0).create == 0


def test_counts_what_is_in_flight_and_not_only_what_is_there():
    assert plan(POLICY, PoolView(warm=warm(0), creating=1), 0).create == 1
    assert plan(POLICY, PoolView(warm=warm(0), creating=2), 0).create == 0


def test_creates_for_those_who_wait():
    assert plan(POLICY, PoolView(warm=warm(0, 0, 0), waiting=1), 0).create == 1


def test_never_goes_over_its_maximum_whatever_is_asked():
    assert plan(POLICY, PoolView(claimed=5, waiting=4), 0).create == 1
    assert plan(POLICY, PoolView(claimed=4, removing=2, waiting=4), 0).create == 0


def test_waits_after_a_failure_and_says_when_to_ask_again():
    blocked = plan(POLICY, PoolView(blocked_until=5.0), 1.0)
    assert (blocked.create, blocked.again_at) == (0, 5.0)
    assert plan(POLICY, PoolView(blocked_until=5.0), 5.0).create == 2


def test_retires_what_is_old_and_replaces_it():
    old = plan(POLICY, PoolView(warm=warm(0, 50, 50)), 100.0)
    assert old.retire == ("s0",)
    assert old.create == 1
    assert old.again_at == 150.0


def test_does_not_retire_all_at_once():
    assert len(plan(POLICY, PoolView(warm=warm(0, 0, 0)), 100.0).retire) == POLICY.creations


def test_a_bounded_number_may_wait():
    assert may_wait(POLICY, 3)
    assert not may_wait(POLICY, 4)


def test_backoff_doubles_to_a_ceiling_and_is_spread():
    assert backoff(1, 0.0) == BACKOFF_FIRST_SECONDS / 2
    assert backoff(2, 0.999) > backoff(1, 0.999)
    assert BACKOFF_MOST_SECONDS / 2 <= backoff(10**6, 0.0) <= backoff(10**6, 0.999) <= BACKOFF_MOST_SECONDS


EVENTS = st.lists(
    st.sampled_from(["created", "failed", "claim", "release", "removed", "tick", "wait", "leave"]), max_size=200
)


@settings(max_examples=200, deadline=None)
@given(events=EVENTS, minimum=st.integers(0, 5), extra=st.integers(0, 5), creations=st.integers(1, 4))
def test_any_history_keeps_the_bounds_and_quiet_brings_the_minimum(events, minimum, extra, creations):
    """The kubernetes agent-sandbox pool once created ten times too many: it counted only what it had observed."""
    policy = PoolPolicy(min=minimum, max=max(1, minimum + extra), creations=creations, max_age=50.0, waiters=8)
    view, now = PoolView(), 0.0

    def act(view: PoolView) -> PoolView:
        todo = plan(policy, view, now)
        kept = tuple(w for w in view.warm if w.sandbox not in todo.retire)
        view = replace(view, warm=kept, creating=view.creating + todo.create, removing=view.removing + len(todo.retire))
        assert view.creating <= policy.creations
        assert view.total <= policy.max
        return view

    for number, event in enumerate(events):
        now += 1.0
        match event:
            case "created" if view.creating:
                view = replace(view, creating=view.creating - 1)
                if view.waiting:
                    view = replace(view, waiting=view.waiting - 1, claimed=view.claimed + 1)
                else:
                    view = replace(view, warm=(*view.warm, Warm(f"n{number}", now)))
            case "failed" if view.creating:
                view = replace(view, creating=view.creating - 1, blocked_until=now + 3.0)
            case "claim" if view.warm:
                view = replace(view, warm=view.warm[1:], claimed=view.claimed + 1)
            case "release" if view.claimed:
                view = replace(view, claimed=view.claimed - 1, removing=view.removing + 1)
            case "removed" if view.removing:
                view = replace(view, removing=view.removing - 1)
            case "wait" if may_wait(policy, view.waiting):
                view = replace(view, waiting=view.waiting + 1)
            case "leave" if view.waiting:
                view = replace(view, waiting=view.waiting - 1)
        view = act(view)

    view = replace(view, claimed=0, removing=0, waiting=0)
    for number in range(100):
        now += 5.0 if number == 0 else 0.1
        view = act(replace(view, removing=0))
        if view.creating:
            view = replace(view, creating=view.creating - 1, warm=(*view.warm, Warm(f"q{number}", now)))
    assert len(view.warm) >= policy.min
    assert view.creating == 0
