"""Named places at which the daemon can be made to fail, for the fault tests.

Without SESSIOND_FAILPOINTS in the environment `hit` does nothing. With it, each of `name=action[:when]`, separated by
`;`, makes one place fail. Actions: `kill` (SIGKILL this process), `stop` (SIGSTOP it), `eio`, `enospc` (raise that
OSError), `sleep:SECONDS`. `when` is a whole number n for the n-th hit only, or a fraction such as 0.01 for the
probability of each hit; without it every hit counts. SESSIOND_FAILPOINT_SEED makes the chances repeatable.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count

NAMES = frozenset({"journal.write", "journal.written", "journal.fsync", "store.commit", "store.committed"})
"""Every place that calls `hit`."""

Act = Callable[[], None]


class FailpointError(ValueError):
    """SESSIOND_FAILPOINTS names an unknown place or action, or is malformed."""


def parse(environment: Mapping[str, str]) -> dict[str, Act]:
    """What happens at each named place. Raises FailpointError."""
    seed = environment.get("SESSIOND_FAILPOINT_SEED", "0")
    acts: dict[str, Act] = {}
    for item in filter(None, map(str.strip, environment.get("SESSIOND_FAILPOINTS", "").split(";"))):
        name, separator, action = item.partition("=")
        if not separator:
            raise FailpointError(f"SESSIOND_FAILPOINTS: {item!r} is not name=action")
        if name not in NAMES:
            raise FailpointError(f"SESSIOND_FAILPOINTS: no failpoint {name!r}; known: {', '.join(sorted(NAMES))}")
        if name in acts:
            raise FailpointError(f"SESSIOND_FAILPOINTS: {name!r} is there twice")
        acts[name] = _act(item, action.split(":"), random.Random(f"{seed}:{name}"))  # noqa: S311  # repeatable on purpose
    return acts


def _act(item: str, words: list[str], chance: random.Random) -> Act:
    act: Act
    match words:
        case ["sleep", seconds, *when]:
            act = partial(time.sleep, _number(item, seconds))
        case ["kill", *when]:
            act = partial(signal.raise_signal, signal.SIGKILL)
        case ["stop", *when]:
            act = partial(signal.raise_signal, signal.SIGSTOP)
        case ["eio", *when]:
            act = partial(_fail, errno.EIO)
        case ["enospc", *when]:
            act = partial(_fail, errno.ENOSPC)
        case _:
            raise FailpointError(f"SESSIOND_FAILPOINTS: {item!r}: actions are kill, stop, eio, enospc, sleep:SECONDS")
    match when:
        case []:
            return act
        case [nth] if nth.isascii() and nth.isdecimal() and int(nth) > 0:
            return partial(_at, act, int(nth), count(1))
        case [probability] if 0 <= _number(item, probability) <= 1 and "." in probability:
            return partial(_sometimes, act, float(probability), chance)
    raise FailpointError(f"SESSIOND_FAILPOINTS: {item!r}: when is a number of hits from 1, or a fraction such as 0.01")


def _number(item: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 86400:
        raise FailpointError(f"SESSIOND_FAILPOINTS: {item!r}: {word!r} is not a number from 0 to 86400")
    return number


def _fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


def _at(act: Act, nth: int, hits: count[int]) -> None:
    if next(hits) == nth:
        act()


def _sometimes(act: Act, probability: float, chance: random.Random) -> None:
    if chance.random() < probability:
        act()


def _nothing(name: str) -> None:
    """No failpoints are set."""


def hitter(environment: Mapping[str, str]) -> Callable[[str], None]:
    """What to call at each place. Ends the process with a message when the environment cannot be understood."""
    if not environment.get("SESSIOND_FAILPOINTS"):
        return _nothing
    try:
        acts = parse(environment)
    except FailpointError as error:
        raise SystemExit(str(error)) from error

    def hit(name: str) -> None:
        if name in acts:
            acts[name]()

    return hit


hit = hitter(os.environ)
"""Call with a name of NAMES where a fault may strike. May raise OSError where one is asked for."""
