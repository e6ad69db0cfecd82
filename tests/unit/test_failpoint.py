"""Failpoints: absent unless asked for, strict about what is asked, repeatable."""

import errno
import os
import subprocess
import sys
import time

import pytest

from sessiond import failpoint


def environment(points: str, seed: str = "0") -> dict[str, str]:
    return {"SESSIOND_FAILPOINTS": points, "SESSIOND_FAILPOINT_SEED": seed}


def test_without_the_variable_nothing_happens():
    hit = failpoint.hitter({})
    for name in failpoint.NAMES:
        hit(name)
    assert failpoint.hitter({}) is failpoint.hitter({"SESSIOND_FAILPOINTS": ""})


@pytest.mark.parametrize(("action", "code"), [("eio", errno.EIO), ("enospc", errno.ENOSPC)])
def test_only_the_named_place_fails(action, code):
    hit = failpoint.hitter(environment(f"journal.fsync={action}"))
    hit("journal.write")
    for _ in range(3):
        with pytest.raises(OSError) as raised:
            hit("journal.fsync")
        assert raised.value.errno == code


def failures(points: str, seed: str, hits: int) -> list[int]:
    hit = failpoint.hitter(environment(points, seed))
    found = []
    for number in range(1, hits + 1):
        try:
            hit("store.commit")
        except OSError:
            found.append(number)
    return found


def test_a_whole_number_is_one_hit():
    assert failures("store.commit=eio:3; journal.write=eio", "0", 10) == [3]


def test_a_fraction_is_a_chance_that_a_seed_repeats():
    first = failures("store.commit=eio:0.1", "7", 1000)
    assert 50 < len(first) < 200
    assert failures("store.commit=eio:0.1", "7", 1000) == first
    assert failures("store.commit=eio:0.1", "8", 1000) != first


def test_sleep():
    before = time.monotonic()
    failpoint.hitter(environment("store.commit=sleep:0.05:1"))("store.commit")
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize(
    "points",
    [
        "nowhere=eio",
        "journal.write",
        "journal.write=explode",
        "journal.write=eio:0",
        "journal.write=eio:-1",
        "journal.write=eio:1.5",
        "journal.write=eio:often",
        "journal.write=eio:nan",
        "journal.write=eio:1:2",
        "journal.write=sleep",
        "journal.write=sleep:long",
        "journal.write=sleep:-1",
        "journal.write=eio;journal.write=eio",
    ],
)
def test_what_is_not_understood_is_refused(points):
    with pytest.raises(failpoint.FailpointError, match="SESSIOND_FAILPOINTS"):
        failpoint.parse(environment(points))


def run(points: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from sessiond.failpoint import hit; {code}"],
        env={**os.environ, **environment(points)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_process_is_killed_at_the_place():
    done = run("journal.written=kill:2", "hit('journal.written'); print('one', flush=True); hit('journal.written')")
    assert (done.returncode, done.stdout) == (-9, "one\n")


def test_a_process_does_not_start_with_an_unknown_place():
    done = run("nowhere=kill", "print('started')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("SESSIOND_FAILPOINTS: no failpoint 'nowhere'; known: journal.fsync")
