"""Fuzz the policy `developer` with bash as the oracle: no text that it allows may run the forbidden program.

    python -m tests.fuzz.policy.fuzz_policy --texts 50000

Prints the figures; exits nonzero if the forbidden program ran in a text that was allowed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sessiond.policy.decide import CommandRequest, load_policy
from tests.fuzz.policy.oracle import Oracle
from tests.fuzz.policy.texts import FORBIDDEN, Texts

BATCH = 50


def fuzz(count: int, seed: int, figures: Counter[str]) -> list[str]:
    """Judge `count` texts from `seed`, run those that are allowed; returns those that ran the forbidden program."""
    source = Texts(seed)
    policy = load_policy("developer")
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle(Path(folder) / "oracle", "bash")
        for done in range(0, count, BATCH):
            texts = [source.next() for _ in range(min(BATCH, count - done))]
            verdicts = [policy.decide(CommandRequest(None, text, {}, "")) for text in texts]
            figures.update(verdict.outcome for verdict in verdicts)
            figures["failed inside"] += sum(verdict.rule == "internal" for verdict in verdicts)
            allowed = [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.outcome == "allow"]
            for text, ran in zip(allowed, oracle.run(allowed) if allowed else [], strict=True):
                figures["allowed, programs ran"] += bool(ran)
                if any(one[0] == FORBIDDEN for one in ran):
                    bad.append(text)
    return bad


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    arguments = parser.parse_args()
    figures: Counter[str] = Counter()
    bad = fuzz(arguments.texts, arguments.seed, figures)
    print(f"seed {arguments.seed}")
    for name, number in figures.items():
        print(f"{number:8} {name}")
    for text in bad[:20]:
        print(f"allowed: {text!r}")
    sys.exit(bool(bad) or figures["failed inside"] > 0)


if __name__ == "__main__":
    main()
