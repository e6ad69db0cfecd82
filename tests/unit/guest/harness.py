"""A daemon for the guest to talk to: just enough of one, synchronous, in charge of every byte."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sessiond_protocol.guest import (
    Exited,
    Failed,
    Forget,
    Frame,
    GuestDecoder,
    Hello,
    Output,
    OutputAck,
    OutputEof,
    Ping,
    Pong,
    Start,
    Started,
    Stdin,
    StdinClose,
    Synced,
    Welcome,
    encode,
)

DEADLINE = 30.0
"""Nothing here takes this long; it ends a test that hangs."""

UID = 54321
"""Nobody else's on the machine, so that limits on processes count the test's own."""

ENVIRONMENT = (b"PATH=/usr/local/bin:/usr/bin:/bin",)


def pid_one(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` as PID 1 of a pid namespace with its own /proc, as an ordinary user."""
    if os.getuid() == 0:
        user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *user, *command]
    binds = ["--bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    return ["bwrap", "--unshare-user", "--unshare-pid", "--as-pid-1", "--die-with-parent", *binds, *command]


class Closed(Exception):
    """The guest closed the connection."""


class Run:
    """What was heard of one command, put together."""

    def __init__(self) -> None:
        self.started: list[Started] = []
        self.failed: list[Failed] = []
        self.exited: list[Exited] = []
        self.eof: dict[int, int] = {}
        self.pieces: list[tuple[int, bytes]] = []
        self.length = 0

    def add(self, frame: Frame) -> None:
        match frame:
            case Started():
                self.started.append(frame)
            case Failed():
                self.failed.append(frame)
            case Exited():
                assert frame.output_bytes <= self.length, "EXITED before the command's output"
                self.exited.append(frame)
                self.eof |= {1: self.length} if frame.stdout_eof else {}
                self.eof |= {2: self.length} if frame.stderr_eof else {}
            case OutputEof():
                self.eof[frame.stream] = frame.offset
            case Output():
                assert frame.offset <= self.length, "a hole in the output"
                fresh = frame.data[self.length - frame.offset :]
                if fresh:
                    self.pieces.append((frame.stream, fresh))
                    self.length += len(fresh)

    def stream(self, number: int) -> bytes:
        return b"".join(data for stream, data in self.pieces if stream == number)

    @property
    def stdout(self) -> bytes:
        return self.stream(1)

    @property
    def stderr(self) -> bytes:
        return self.stream(2)

    @property
    def exit(self) -> Exited:
        assert len(self.exited) == 1
        return self.exited[0]


class Guest:
    """A running guest, and the one connection it has to the test."""

    def __init__(
        self, binary: Path, *, first: bool = False, arguments: Iterable[str] = (), within: Iterable[str] = ()
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="guest"))
        self.directory.chmod(0o755)
        self.path = self.directory / "channel.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.path.chmod(0o777)
        self.listener.listen()
        self.listener.settimeout(DEADLINE)
        command = [*within, str(binary), "init", "--dial", str(self.path), *arguments]
        # The sanitizer's leak check would ptrace the guest, which is undumpable; it allocates nothing anyway.
        environment = {"ASAN_OPTIONS": "detect_leaks=0", "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            pid_one(command) if first else command, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.connection: socket.socket | None = None
        self.decoder = GuestDecoder()
        self.hello: Hello | None = None
        self.runs: dict[int, Run] = {}
        self.acknowledging = True
        self.next_handle = 1

    # --- the connection -----------------------------------------------------------------------------------------

    def accept(self) -> socket.socket:
        """Take the guest's next connection, without a word."""
        self.hang_up()
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(DEADLINE)
        self.decoder = GuestDecoder()
        return self.connection

    def connect(self) -> list[Frame]:
        """Take the guest's next connection and shake hands; return what it says up to SYNCED."""
        self.accept()
        hello = self.until(lambda frame: True)[0]
        assert isinstance(hello, Hello)
        self.hello = hello
        self.send(Welcome())
        return self.until(lambda frame: isinstance(frame, Synced))

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def send(self, *frames: Frame) -> None:
        self.send_raw(b"".join(encode(frame) for frame in frames))

    def send_raw(self, data: bytes) -> None:
        assert self.connection is not None
        self.connection.sendall(data)

    def receive(self, seconds: float = DEADLINE) -> list[Frame]:
        """The next frames; none when `seconds` pass. Raises Closed at the end of the connection."""
        assert self.connection is not None
        if not select.select([self.connection], [], [], seconds)[0]:
            return []
        try:
            data = self.connection.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed
        frames = self.decoder.feed(data)
        acks = {}
        for frame in frames:
            if frame.command:
                run = self.runs.setdefault(frame.command, Run())
                run.add(frame)
                if isinstance(frame, Output):
                    acks[frame.command] = run.length
        if self.acknowledging and acks:
            with contextlib.suppress(BrokenPipeError):  # it may have gone after the last word
                self.send(*(OutputAck(handle, offset) for handle, offset in acks.items()))
        return frames

    def until(self, reached: Callable[[Frame], bool]) -> list[Frame]:
        """Receive up to and with the frames among which `reached` holds for one."""
        frames: list[Frame] = []
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            fresh = self.receive()
            frames += fresh
            if any(reached(frame) for frame in fresh):
                return frames
        raise TimeoutError(f"not reached; the last frames: {frames[-5:]}")

    def wait(self, holds: Callable[[], bool]) -> None:
        """Receive until `holds`."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            self.receive(0.05)

    def silence(self, seconds: float) -> list[Frame]:
        """Whatever comes within `seconds`."""
        frames: list[Frame] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            frames += self.receive(left)
        return frames

    # --- commands -----------------------------------------------------------------------------------------------

    def start(self, *argv: str | bytes, handle: int | None = None, **fields: object) -> int:
        """Send START and return the handle."""
        if handle is None:
            handle = self.next_handle
        self.next_handle = max(self.next_handle, handle + 1)
        words = tuple(word.encode() if isinstance(word, str) else word for word in argv)
        fields = {"cwd": b"/", "env": ENVIRONMENT, **fields}
        self.runs.setdefault(handle, Run())
        self.send(Start(command=handle, argv=words, **fields))  # type: ignore[arg-type]
        return handle

    def finish(self, handle: int, *, forget: bool = True) -> Run:
        """Wait for the command's end, both ends of stream included unless someone else holds them."""
        run = self.runs[handle]
        self.wait(lambda: bool(run.exited or run.failed))
        if forget:
            self.send(Forget(handle))
        return run

    def run(self, *argv: str | bytes, stdin: bytes | None = None, **fields: object) -> Run:
        """Run a command to its end."""
        handle = self.start(*argv, stdin=stdin is not None, **fields)
        if stdin is not None:
            if stdin:
                self.send(Stdin(handle, 0, stdin))
            self.send(StdinClose(handle, len(stdin)))
        return self.finish(handle)

    def shell(self, script: str, **fields: object) -> Run:
        return self.run("sh", "-c", script, **fields)

    def settled(self) -> None:
        """Return when the guest has acted on all that was sent."""
        token = time.monotonic_ns()
        self.send(Ping(token))
        self.until(lambda frame: frame == Pong(token))

    # --- the process --------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The guest's own process on this machine, below unshare where that is used."""
        pid = self.process.pid
        while Path(f"/proc/{pid}/comm").read_text().strip() in ("unshare", "setpriv", "bwrap", "prlimit", "sh"):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                break
            pid = int(children[0])
        return pid

    def close(self) -> None:
        self.hang_up()
        self.listener.close()
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
            try:
                assert self.process.wait(DEADLINE) == 0, "it did not end in peace"
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        assert self.process.stderr is not None
        complaint = self.process.stderr.read().decode(errors="replace")
        self.process.stderr.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert "Sanitizer" not in complaint and "runtime error" not in complaint, complaint
