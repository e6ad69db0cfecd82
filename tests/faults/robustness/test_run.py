"""A bounded run of the fault harness on each engine: no promise is broken. `make faults` runs it for longer."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.robustness.run import Options, run

ROUNDS = 2
SECONDS = 12.0


@pytest.mark.parametrize("kind", ["bubblewrap", "docker"])
async def test_what_clients_were_told_holds(kind: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("SESSIOND_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"SESSIOND_TEST_SEED={seed}")
    summary = await run(Options(kind, seed, None, ROUNDS, keep=tmp_path, round_seconds=SECONDS))
    print(summary)
    assert not summary.violations, f"{summary.violations}\nkept: {summary.kept}"
    assert summary.faults.total() >= ROUNDS
    assert summary.commands > 20 * ROUNDS
