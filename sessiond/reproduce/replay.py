"""Recorded commands run again, one after the other, in a fresh session of the same profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sessiond_client import Client, Session, SessiondError
from sessiond_client.results import ExitStatus, exit_status
from sessiond_protocol.messages import CommandStart, SessionOpen

from sessiond.reproduce.record import Step, Stream, read_output

_CONTEXT = 40
"""Bytes shown around the first difference."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one step."""

    step: Step
    verdict: Literal["same", "differs", "skipped"]
    reason: str
    """How it differs, or why it was skipped."""
    remarks: tuple[str, ...] = ()


async def open_fresh(client: Client, opening: SessionOpen) -> Session:
    """A session opened as the recorded one was, under another name."""
    return await client.open(opening.profile, env=opening.env, limits=opening.limits, name=opening.name)


async def replay(client: Client, recorded: str, fresh: Session, step: Step) -> Outcome:
    """Run one step in the session `fresh`, and compare it with what the session `recorded` has of it."""
    request, exit = step.request, step.info.exit
    if step.skipped or request is None or exit is None:
        return Outcome(step, "skipped", step.skipped)
    before = await read_output(client, recorded, step.info.command)
    was = exit_status(exit)
    try:
        now, after = await _run(fresh, request)
    except SessiondError as error:
        return Outcome(step, "differs", f"it does not run any more: {error}")
    remarks = list(step.remarks)
    reason = ""
    if (was.exit_code, was.signal) != (now.exit_code, now.signal):
        reason = f"it {_end(now)}; before it {_end(was)}"
    elif before is None:
        remarks.append("its recorded output is not whole any more: only its end was compared")
    else:
        reason = difference(before, after)
    return Outcome(step, "differs" if reason else "same", reason, tuple(remarks))


async def _run(session: Session, request: CommandStart) -> tuple[ExitStatus, dict[str, Stream]]:
    """Run it as it was asked for. What was to come by standard input later is not there."""
    result = await session.run(
        request.text if request.text is not None else list(request.argv or ()),
        timeout=request.timeout,
        stdin=request.input,
        env=request.env,
        cwd=request.cwd,
        merge_stderr=request.merge_stderr,
        grace=request.grace,
        limits=request.limits,
    )
    streams = {"stdout": Stream(), "stderr": Stream()}
    streams["stdout"].add(result.stdout)
    streams["stderr"].add(result.stderr)
    return result, streams


def difference(before: dict[str, Stream], after: dict[str, Stream]) -> str:
    """The first difference between two outputs, in words; "" when there is none."""
    for name, was in before.items():
        now = after[name]
        if was.digest == now.digest:
            continue
        pairs = zip(was.head, now.head, strict=False)
        at = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(was.head), len(now.head)))
        shown = f"{bytes(now.head[at : at + _CONTEXT])!r}; before {bytes(was.head[at : at + _CONTEXT])!r}"
        return f"its {name} differs from byte {at} on: {shown}"
    return ""


def _end(status: ExitStatus) -> str:
    return f"exited with {status.exit_code}" if status.signal is None else f"was ended by signal {status.signal}"
