"""One whole exchange, as `docs/protocol.md` shows it byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgpack import packb, unpackb  # type: ignore[import-untyped]

from sessiond_protocol import limits
from sessiond_protocol.codec import encode
from sessiond_protocol.messages import (
    Ack,
    ClientMessage,
    CommandStart,
    Error,
    Exit,
    Exited,
    Hello,
    Output,
    ServerLimits,
    ServerMessage,
    SessionClose,
    SessionInfo,
    SessionOpen,
    SessionReply,
    Started,
    Welcome,
)

_BYTES_A_LINE = 16
_VALUE_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One frame of the exchange."""

    remark: str
    message: ClientMessage | ServerMessage
    from_client: bool


def _step(remark: str, message: ClientMessage | ServerMessage) -> Step:
    return Step(remark, message, isinstance(message, Hello | SessionOpen | CommandStart | Ack | SessionClose))


def exchange() -> list[Step]:
    """A client that opens a session, runs `echo hi`, is refused `curl`, and closes the session."""
    info = SessionInfo(
        session="demo",
        state="open",
        profile="default",
        engine="docker",
        generation=1,
        created=1767225600.0,
        pooled=True,
    )
    accepted = ServerLimits(
        frame_bytes=limits.FRAME_BYTES,
        control_bytes=limits.CONTROL_BYTES,
        depth=limits.DEPTH,
        elements=limits.ELEMENTS,
        window_bytes=4 * 1024 * 1024,
        commands=64,
    )
    welcome = Welcome(re=1, version=1, server="sessiond 0.1.0", capabilities=[], profiles=["default"], limits=accepted)
    ended = Exit(
        code=0,
        cause="exit",
        output_bytes=3,
        wall_seconds=0.001,
        user_seconds=0.0,
        system_seconds=0.0005,
        max_rss_bytes=1048576,
    )
    refusal = Error(
        re=4,
        session="demo",
        command="c2",
        code="denied",
        message="curl is not on the allowlist",
        hint="ask the operator to allow it",
        rule="default",
    )
    closed = info.model_copy(update={"state": "closed", "commands": 2})
    return [
        _step(
            "The client says who it is and which version it speaks at most.", Hello(id=1, version=1, client="demo/1")
        ),
        _step("The server names the version that will be spoken, and what it accepts.", welcome),
        _step("Open a session under a name of the client's choice.", SessionOpen(id=2, session="demo")),
        _step(
            "It is open, and came from the warm pool.",
            SessionReply(re=2, session=info),
        ),
        _step(
            "Run a command and follow it, with room for 64 KiB of output.",
            CommandStart(id=3, session="demo", command="c1", argv=["echo", "hi"], window=65536),
        ),
        _step("Allowed, on record, and running.", Started(re=3, session="demo", command="c1", pid=7)),
        _step("Its output.", Output(session="demo", command="c1", offset=0, stream="stdout", data=b"hi\n")),
        _step("Its end, after all that it wrote.", Exited(session="demo", command="c1", exit=ended)),
        _step(
            "The output is consumed; there is room for 64 KiB again.",
            Ack(session="demo", command="c1", offset=3, window=65536),
        ),
        _step(
            "A command that policy forbids.",
            CommandStart(id=4, session="demo", command="c2", text="curl example.org"),
        ),
        _step("The answer says why, by which rule, and what to do.", refusal),
        _step("Done.", SessionClose(id=5, session="demo")),
        _step("Everything in it was killed and its sandbox erased.", SessionReply(re=5, session=closed)),
    ]


def annotated(step: Step) -> str:
    """A frame as hexadecimal bytes, an entry a paragraph, with what each entry says."""
    frame = encode(step.message)
    fields: dict[str, Any] = unpackb(frame)
    arrow = "→" if step.from_client else "←"
    lines = [f"{arrow} {step.message.type}, {len(frame)} bytes", _line(frame[:1], f"map of {len(fields)}")]
    for key, value in fields.items():
        said = f"{key}: {value!r}"
        if len(said) > _VALUE_CHARACTERS:
            said = f"{key}: {type(value).__name__} of {len(value)}"
        entry = packb(key) + packb(value)
        for start in range(0, len(entry), _BYTES_A_LINE):
            lines.append(_line(entry[start : start + _BYTES_A_LINE], "" if start else said))
    return "\n".join(lines)


def _line(data: bytes, said: str) -> str:
    return f"    {data.hex(' '):{3 * _BYTES_A_LINE}} {said}".rstrip()
