"""`python -m tests.bench`: are the figures kept that SPECIFICATION.md promises for the docker engine?

Runs `sessiond bench` as a user would, on a Docker daemon of its own. When a promise is broken it measures again, up to
three times, since other people's work on the machine slows things and never speeds them up. What counts is the best of
all runs, figure by figure; ratios are made anew of the best on both sides, so a rival that was slow once helps nobody.
Exit status 1 when a promise is broken even so.
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

RATIOS = {
    "exec_over_floor": ("exec_ms", "floor_ms"),
    "docker_exec_over_exec": ("docker_exec_ms", "exec_ms"),
    "cold_over_open": ("cold_ms", "open_ms"),
}
"""The times of which each ratio is made."""

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


def best(runs: list[Values]) -> Values:
    """The best of all runs of what is promised; ratios of the best on both sides."""
    found: Values = {}
    for promise in PROMISES:
        over, under = RATIOS.get(promise.key, (promise.key, None))
        choose = max if under is None and promise.relation == ">=" else min
        found[promise.key] = choose(values[over] for values in runs)
        if under is not None:
            found[promise.key] = round(found[promise.key] / min(values[under] for values in runs), 2)
    return found


def broken(runs: list[Values]) -> list[str]:
    """The promises that are not kept, by the best of all runs."""
    values = best(runs)
    return [promise.key for promise in PROMISES if not promise.kept(values[promise.key])]


def table(runs: list[Values]) -> str:
    """All runs, a line a figure, with the promises."""
    promised = {promise.key: promise for promise in PROMISES}
    values = best(runs)
    lines = []
    for key, first in runs[0].items():
        if key == "machine":
            continue
        for name in first if isinstance(first, dict) else [None]:
            found = [run[key] if name is None else run[key][name] for run in runs]
            words = [
                f"{value['commands_per_s']:.0f}/s p99 {value['p99_ms']:.1f}" if isinstance(value, dict) else f"{value}"
                for value in found
            ]
            line = f"{key if name is None else f'{key} {name}':24}" + "".join(f"{word:>20}" for word in words)
            if key in promised:
                promise = promised[key]
                verdict = "kept" if promise.kept(values[key]) else "BROKEN"
                line += f"   best {values[key]}, promised {promise.relation} {promise.bound:g}: {verdict}"
            lines.append(line)
    lines.append(f"load before each run: {', '.join(str(run['machine']['load']) for run in runs)}")
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
