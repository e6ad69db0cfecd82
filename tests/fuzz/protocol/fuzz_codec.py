"""Fuzz the decoders: whatever bytes come, only the documented errors may escape, and what is accepted is stable.

    python tests/fuzz/protocol/fuzz_codec.py --seconds 60

Coverage guides the inputs where atheris is installed; elsewhere random mutations of valid frames have to do.
Prints how many inputs were tried; exits nonzero on the first one that breaks the promise, which it prints.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["sessiond_protocol"]) if atheris else nullcontext():
    from sessiond_protocol import limits, messages
    from sessiond_protocol.codec import decode_client, decode_server, encode
    from sessiond_protocol.errors import (
        FrameTooLargeError,
        InvalidMessageError,
        MalformedFrameError,
        RemoteProtocolError,
    )

DOCUMENTED = (MalformedFrameError, FrameTooLargeError, InvalidMessageError)
LONGEST_INPUT = 4096
NAMES = {"session": "s-1", "command": "c-1"}


def seeds() -> list[bytes]:
    """Valid frames that between them have every shape of field."""
    exit_ = messages.Exit(
        code=0,
        cause="exit",
        output_bytes=3,
        wall_seconds=0.5,
        user_seconds=0.25,
        system_seconds=0.0,
        max_rss_bytes=4096,
    )
    info = messages.CommandInfo(**NAMES, state="exited", argv=["true"], started=1.5, exit=exit_)
    failure = messages.Failure(code="denied", message="no", rule="deny-curl")
    sent: list[messages.ClientMessage | messages.ServerMessage] = [
        messages.Hello(id=1, version=1, client="fuzz"),
        messages.SessionOpen(id=2, labels={"a": "b"}, env={"K": "v"}, limits=messages.SessionLimits(pids=9), ttl=60.0),
        messages.CommandStart(
            id=3, **NAMES, argv=["a", "b"], input=b"in", limits=messages.CommandLimits(cpu_seconds=1)
        ),
        messages.CommandStart(id=2**40, **NAMES, text="true | false", window=1 << 20),
        messages.CommandStdin(**NAMES, offset=70000, data=b"x" * 300),
        messages.Ack(**NAMES, offset=3, window=65536),
        messages.CommandReply(re=4, command=info),
        messages.CommandsReply(re=5, commands=[info, info], more=True),
        messages.Output(**NAMES, offset=0, stream="stderr", data=b"out"),
        messages.Gap(**NAMES, start=1, end=2),
        messages.Failed(**NAMES, failure=failure),
    ]
    return [encode(message) for message in sent]


def try_one(data: bytes) -> None:
    """Decode as either side would; what is accepted must survive being sent on."""
    for decode in (decode_client, decode_server):
        try:
            message = decode(data)
        except RemoteProtocolError as error:
            if not isinstance(error, DOCUMENTED):
                raise
        else:
            frame = encode(message)
            if decode(frame) != message or len(frame) > limits.FRAME_BYTES:
                raise AssertionError(f"changed by being sent on: {message!r}")


class Target:
    """Counts the inputs, tells the one that breaks the promise, and ends the process in time."""

    def __init__(self, seconds: float, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.seconds = seconds
        self.folder = folder
        self.begun = time.monotonic()
        self.runs = 0

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        try:
            try_one(data)
        except BaseException:
            print(f"broken after {self.runs} runs by {data.hex()}", file=sys.stderr, flush=True)
            raise
        if self.runs % 64 == 0 and time.monotonic() - self.begun > self.seconds:
            print(f"{self.runs} runs in {self.seconds:g} s: only documented errors", flush=True)
            self.folder.cleanup()
            os._exit(0)  # libFuzzer gives back control in no other way


def fuzz_guided(target: Target) -> None:
    """Let coverage guide the inputs."""
    folder = target.folder.name
    for number, seed in enumerate(seeds()):
        (Path(folder) / str(number)).write_bytes(seed)
    flags = [f"-max_len={LONGEST_INPUT}", "-verbosity=0", f"-artifact_prefix={folder}/", folder]
    atheris.Setup([sys.argv[0], *flags], target)
    atheris.Fuzz()


def fuzz_blindly(target: Target) -> None:
    """Mutate valid frames at random, from a seed that is printed."""
    seed = time.time_ns()
    print(f"no atheris: random mutations with seed {seed}", flush=True)
    chance = random.Random(seed)
    frames = seeds()
    while True:
        frame = bytearray(chance.choice(frames))
        for _ in range(chance.randrange(6)):
            position = chance.randrange(len(frame) + 1)
            frame[position : position + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
        target(bytes(frame))


def main() -> None:
    """Fuzz for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    target = Target(parser.parse_args().seconds, tempfile.TemporaryDirectory())
    (fuzz_guided if atheris else fuzz_blindly)(target)


if __name__ == "__main__":
    main()
