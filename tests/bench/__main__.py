"""`python -m tests.bench`: are the figures kept that SPECIFICATION.md promises for the docker engine?

Runs `sessiond bench` as a user would, on a Docker daemon of its own. A promise that is broken is measured again, since
other people's work on the machine only ever makes figures worse; exit status 1 when no run kept it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sessiond.bench.figures import PROMISES
from tests.engines import image, private_dockerd

RUNS = 3
BENCH_SECONDS = 600
SESSIOND = str(Path(sys.executable).with_name("sessiond"))

Values = dict[str, Any]


def run(docker_host: str, reference: str, quick: bool) -> Values:
    """One run's figures."""
    where = ["--engine", "docker", "--docker-host", docker_host, "--image", reference]
    done = subprocess.run(
        [SESSIOND, "bench", "--json", *where, *(["--quick"] if quick else [])],
        stdout=subprocess.PIPE,
        check=True,
        timeout=BENCH_SECONDS,
    )
    values: Values = json.loads(done.stdout)
    return values


def broken(runs: list[Values]) -> list[str]:
    """The promises that no run kept."""
    return [promise.key for promise in PROMISES if not any(promise.kept(values[promise.key]) for values in runs)]


def table(runs: list[Values]) -> str:
    """All runs, a line a figure, with the promises."""
    promised = {promise.key: promise for promise in PROMISES}
    lines = []
    for key, first in runs[0].items():
        if key == "machine":
            continue
        for name in first if isinstance(first, dict) else [None]:
            found = [values[key] if name is None else values[key][name] for values in runs]
            words = [
                f"{value['commands_per_s']:.0f}/s p99 {value['p99_ms']:.1f}" if isinstance(value, dict) else f"{value}"
                for value in found
            ]
            line = f"{key if name is None else f'{key} {name}':24}" + "".join(f"{word:>20}" for word in words)
            if key in promised:
                promise = promised[key]
                kept = any(promise.kept(value) for value in found)
                line += f"   promised {promise.relation} {promise.bound:g}: {'kept' if kept else 'BROKEN'}"
            lines.append(line)
    lines.append(f"load before each run: {', '.join(str(values['machine']['load']) for values in runs)}")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path, help="also write all runs here, as JSON")
    arguments = parser.parse_args()
    runs: list[Values] = []
    with private_dockerd() as dockerd:
        reference = image(dockerd.url)
        while len(runs) < RUNS and (not runs or broken(runs)):
            runs.append(run(dockerd.url, reference, arguments.quick))
            print(table(runs), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(runs, indent=1) + "\n")
    machine = runs[-1]["machine"]
    print(f"{machine['cpus']} processors, Linux {machine['kernel']}, Docker {machine['engine_version']}")
    failed = broken(runs)
    if failed:
        print(f"broken: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
