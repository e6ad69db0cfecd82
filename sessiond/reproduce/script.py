"""Recorded commands as a shell script and a Dockerfile. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from sessiond_protocol.messages import CommandStart

from sessiond.core.launch import working_directory
from sessiond.core.paths import WORKSPACE
from sessiond.reproduce.record import Step

SCRIPT, DOCKERFILE = "reproduce.sh", "Dockerfile"

_HEAD = """#!/bin/sh
# The commands of session {session}, as they were recorded. Stops at the first that ends otherwise than it did.
# What they wrote is not compared; the sandbox's limits and its policy are not here.
here=$(cd "$(dirname "$0")" && pwd)
check() {{
    if [ "$3" != "$2" ]; then
        echo "step $1: ended with $3, before with $2" >&2
        exit 1
    fi
}}
"""


def files(session: str, image: str, env: Mapping[str, str], shell: str, steps: Iterable[Step]) -> dict[str, bytes]:
    """What to write, by name: the script, the Dockerfile, and the inputs. `env` is every command's."""
    found: dict[str, bytes] = {}
    lines = [_HEAD.format(session=session)]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    for step in steps:
        lines.append(f"\n# {step.number}: command {step.info.command}")
        lines += [f"# {remark}" for remark in step.remarks]
        request, exit = step.request, step.info.exit
        if step.skipped or request is None or exit is None:
            lines.append(f"# left out: {step.skipped}")
            continue
        source = "/dev/null"
        if request.input:
            found[f"input-{step.number}"] = request.input
            source = f'"$here"/input-{step.number}'
        lines.append(f"({_command(request, shell)}) < {source}")
        if exit.cause == "timeout":
            lines.append("# it ran into its timeout: how it ends then depends on the tool that keeps the time")
        else:
            lines.append(f"check {step.number} {exit.code if exit.code is not None else 128 + (exit.signal or 0)} $?")
    found[SCRIPT] = ("\n".join(lines) + '\n\necho "all as recorded"\n').encode()
    found[DOCKERFILE] = (
        f"# docker build -t reproduce . && docker run --rm --network none reproduce\n"
        f"FROM {image}\n"
        f"WORKDIR {WORKSPACE}\n"
        f"COPY . /reproduce\n"
        f'ENTRYPOINT ["sh", "/reproduce/{SCRIPT}"]\n'
    ).encode()
    return found


def _command(request: CommandStart, shell: str) -> str:
    argv = request.argv if request.argv is not None else [shell, "-c", request.text or ""]
    words = [f"{name}={value}" for name, value in request.env.items()]
    words = ["env", *words] if words else []
    if request.timeout is not None:
        words += ["timeout", "-k", f"{request.grace:g}", f"{request.timeout:g}"]
    merged = " 2>&1" if request.merge_stderr else ""
    return f"cd {shlex.quote(working_directory(request.cwd))} && {shlex.join([*words, *argv])}{merged}"
