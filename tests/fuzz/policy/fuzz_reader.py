"""Fuzz the reader of shell text against real shells: what they run must have been found, or the text refused.

    python -m tests.fuzz.policy.fuzz_reader --texts 50000

Prints the figures; exits nonzero if the forbidden program ran in a text that was read without finding it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sessiond.policy.reader import read
from sessiond.policy.reading import Reading, SimpleCommand, UnreadableError
from tests.fuzz.policy.oracle import Oracle, Ran
from tests.fuzz.policy.texts import FORBIDDEN, Texts

BATCH = 50

RUNNERS = frozenset(
    "eval source . command builtin exec trap alias hash enable mapfile readarray set shopt".split()  # noqa: SIM905
)
"""Builtins whose words are code or change what runs. The reader lists them with their words: rules judge those."""


def leaves_to_rules(reading: Reading) -> bool:
    """Whether no rule may allow it: a computed program, or a builtin that runs its words."""
    names = [command.words[0].text for command in reading.commands if command.words]
    return None in names or not RUNNERS.isdisjoint(names)


def missed(reading: Reading, ran: list[Ran]) -> list[Ran]:
    """Programs that ran, and were not found with these arguments."""
    return [one for one in ran if not any(_fits(command, one) for command in reading.commands)]


def _fits(command: SimpleCommand, ran: Ran) -> bool:
    """Whether the program with these arguments may be this command, as far as its words are known."""
    known = []
    for word in command.words:
        if word.text is None:
            return ran[: len(known)] == tuple(known)
        known.append(word.text)
    return ran == tuple(known)


def check(texts: list[str], oracle: Oracle, dialect: str, figures: Counter[str]) -> list[str]:
    """Run and read texts; returns those in which the forbidden program, or any, was missed."""
    readings: list[Reading | None] = []
    for text in texts:
        try:
            readings.append(read(text, dialect))  # type: ignore[arg-type]
        except UnreadableError:
            readings.append(None)
    bad = []
    for text, reading, ran in zip(texts, readings, oracle.run(texts), strict=True):
        curl = any(one[0] == FORBIDDEN for one in ran)
        figures["texts"] += 1
        figures["forbidden program ran"] += curl
        figures["programs ran"] += len(ran)
        if reading is None:
            figures["refused"] += 1
            figures["refused though harmless"] += not curl and bool(ran)
            continue
        figures["read"] += 1
        figures["read, plain"] += reading.plain
        if leaves_to_rules(reading):
            figures["read, with a computed program or a builtin that runs its words"] += 1
            continue
        found = any(command.words and command.words[0].text == FORBIDDEN for command in reading.commands)
        figures["read, forbidden program found"] += found
        figures["read without it"] += not found
        if missed(reading, ran) and missed(reading, oracle.run([text])[0]):
            figures["MISSED"] += 1
            figures["FORBIDDEN MISSED"] += curl and not found
            bad.append(text)
    return bad


def fuzz(count: int, seed: int, dialect: str, figures: Counter[str]) -> list[str]:
    """Try `count` texts from `seed`; returns the bad ones."""
    source = Texts(seed)
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle(Path(folder) / "oracle", dialect)
        for done in range(0, count, BATCH):
            texts = [source.next() for _ in range(min(BATCH, count - done))]
            bad += check(texts, oracle, dialect, figures)
    return bad


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--dialect", choices=["bash", "sh"], default="bash")
    arguments = parser.parse_args()
    figures: Counter[str] = Counter()
    bad = fuzz(arguments.texts, arguments.seed, arguments.dialect, figures)
    print(f"seed {arguments.seed}, dialect {arguments.dialect}")
    for name, number in figures.items():
        print(f"{number:8} {name}")
    for text in bad[:20]:
        print(f"missed: {text!r}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
