"""The channel's frames, as docs/guest.md specifies them: the daemon's side of the guest's wire.

Pure: bytes in, frames out, and the other way round. What comes from the other side is hostile until it has passed
through a decoder here; the only exception that a decoder raises is `GuestProtocolError`.

Each direction has a decoder of its own, so that a guest cannot send what only the daemon may. `encode` takes frames of
both: tests have a guest to play as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, TypeAlias

VERSION = 1
"""The version of the wire that this module speaks."""
MAGIC = 0x444E5353
MOST_DATA = 256 * 1024
"""Bytes of a stream in one frame."""
MOST_PAYLOAD = MOST_DATA + 64
STDIN_WINDOW = 256 * 1024
"""Bytes of standard input that may be on the way beyond what STDIN_ACK confirmed."""
NO_MORE_STDIN = 2**64 - 1
"""STDIN_ACK's offset when the reading end is gone."""
MOST_ERROR_TEXT = 200

STDOUT, STDERR = 1, 2
STAGE_COMMANDS, STAGE_PIPES, STAGE_FORK, STAGE_RLIMIT, STAGE_CWD, STAGE_EXEC, STAGE_UNSUPPORTED = range(1, 8)
"""Where a START failed."""
SCOPE_GROUP, SCOPE_TREE = 0, 1
"""Whom a SIGNAL reaches."""
RESTRICT_EXECUTE, RESTRICT_READ, RESTRICT_WRITE, RESTRICT_TCP, RESTRICT_SCOPE, RESTRICT_IOCTL = 1, 2, 4, 8, 16, 32
"""What RESTRICT restricts; SCOPE: abstract unix sockets and signals."""
ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE, ACCESS_IOCTL, ACCESS_PROGRAM = 1, 2, 4, 8, 16
"""What RESTRICT allows on a path. PROGRAM stands alone: reading and executing it, and what it needs to run."""
MOST_GRANTS = 4096

_HEADER = Struct("<IBBHI")
_U16 = Struct("<H")
_U64 = Struct("<Q")
_PAIR = Struct("<II")
_SIZE = Struct("<HH")
_HELLO = Struct("<IHH16sII")
_START = Struct("<IIIBBHHH")
_RLIMIT = Struct("<IIQ")
_EXITED = Struct("<IIIIQQQQQ")
_RESTRICT = Struct("<IHH")
_RESTRICTED = Struct("<IIIII")
_OFFSET_AT = _HEADER.size
_DATA_AT = _HEADER.size + _U64.size

_STDIN_PIPE, _MERGE_STDERR, _PTY = 1, 2, 4
_TIMED_OUT, _OOM, _KILLED, _STDOUT_EOF, _STDERR_EOF = 1, 2, 4, 8, 16


_EXIT_FLAGS = _TIMED_OUT | _OOM | _KILLED | _STDOUT_EOF | _STDERR_EOF
_RESTRICTIONS = (RESTRICT_IOCTL << 1) - 1
_ACCESSES = ACCESS_PROGRAM - 1
_ERRNOS = 4096


class GuestProtocolError(Exception):
    """The other side broke a rule of docs/guest.md. The connection is of no further use."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.frames: Sequence[Frame] = ()
        """The frames in front of the bad one, from the same `feed`."""


# --- daemon to guest --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answers HELLO: the version that the daemon speaks."""

    version: int = VERSION
    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Run a command. `command` is a handle that this sandbox has never seen; repeating a START runs nothing again."""

    command: int
    argv: tuple[bytes, ...]
    cwd: bytes
    env: tuple[bytes, ...] = ()
    """The whole environment, each entry `NAME=value`."""
    timeout_ms: int = 0
    grace_ms: int = 0
    stdin: bool = False
    merge_stderr: bool = False
    pty: tuple[int, int] | None = None
    """Rows and columns of its terminal; None: pipes."""
    rlimits: tuple[tuple[int, int], ...] = ()
    """Linux's number of the resource, and the value for its soft and hard limit."""


@dataclass(frozen=True, slots=True)
class Stdin:
    """Bytes for the command's standard input."""

    command: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StdinClose:
    """Standard input ends at `offset`."""

    command: int
    offset: int


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the command's process group (scope 0) or its whole tree (1)."""

    command: int
    signal: int
    scope: int = SCOPE_GROUP


@dataclass(frozen=True, slots=True)
class Resize:
    """A new size of the command's terminal."""

    command: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class OutputAck:
    """All output below `offset` may be forgotten."""

    command: int
    offset: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The command's end is on record: its own record may go."""

    command: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered by PONG with the same token."""

    token: int
    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Kill everything, say GOODBYE, exit."""

    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Restrict:
    """Restrict the session, once and before its first START: what `flags` name is forbidden but where a grant allows
    it."""

    flags: int
    search: bytes = b""
    """PATH, along which programs are found that are named without a directory."""
    grants: tuple[tuple[int, bytes], ...] = ()
    """Access, and an absolute path, in whose last part * and ? stand for characters, or a program's name."""
    command: ClassVar[int] = 0


# --- guest to daemon --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of each connection."""

    version: int
    features: int
    boot: bytes
    """16 random bytes, the same for the guest's whole life."""
    ring: int
    """Most bytes of unacknowledged output that it keeps a command."""
    commands: int
    """Most commands that it remembers at once."""
    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs. `pid` is its number inside the sandbox."""

    command: int
    pid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be started, and that is its end."""

    command: int
    errno: int
    stage: int


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that the command wrote to `stream`. Both streams share one space of offsets."""

    command: int
    stream: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputEof:
    """`stream` ended when the command's output had `offset` bytes."""

    command: int
    stream: int
    offset: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The command's own process ended."""

    command: int
    code: int
    signal: int
    output_bytes: int = 0
    wall_ns: int = 0
    user_us: int = 0
    system_us: int = 0
    max_rss_kib: int = 0
    timed_out: bool = False
    oom: bool = False
    killed: bool = False
    """By a signal that the daemon had asked for."""
    stdout_eof: bool = False
    """That stream has ended; there is no OUTPUT_EOF of its own then."""
    stderr_eof: bool = False


@dataclass(frozen=True, slots=True)
class StdinAck:
    """Standard input below `offset` was written to the pipe; `NO_MORE_STDIN` when nobody reads it any more."""

    command: int
    offset: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All that the guest remembers was said."""

    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to PING."""

    token: int
    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The guest has killed everything and exits."""

    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class GuestError:
    """Why the guest is about to close the connection."""

    code: int
    text: str
    command: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Restricted:
    """Answers RESTRICT."""

    abi: int
    """Landlock's version; 0 where the kernel has none."""
    applied: int
    """Which of the flags hold from now on."""
    rules: int = 0
    """Grants as the kernel counts them."""
    missing: int = 0
    """Paths and programs that are not there."""
    error: int = 0
    """errno of what failed although there is a Landlock; then nothing is applied."""
    command: ClassVar[int] = 0


DaemonFrame: TypeAlias = (
    Welcome | Start | Stdin | StdinClose | Signal | Resize | OutputAck | Forget | Ping | Shutdown | Restrict
)
GuestFrame: TypeAlias = (
    Hello
    | Started
    | Failed
    | Output
    | OutputEof
    | Exited
    | StdinAck
    | Synced
    | Pong
    | Goodbye
    | GuestError
    | Restricted
)
Frame: TypeAlias = DaemonFrame | GuestFrame


# --- encoding ---------------------------------------------------------------------------------------------------------

_WITHOUT_PAYLOAD: dict[type[Frame], int] = {Forget: 0x08, Shutdown: 0x0A, Synced: 0x88, Goodbye: 0x8A}


def encode(frame: Frame) -> bytes:
    """The frame's bytes. Raises ValueError when a field cannot be said in a frame: that is the caller's mistake."""
    stream = 0
    match frame:
        case Output():
            kind, stream, payload = 0x84, frame.stream, _data(frame.offset, frame.data)
        case Stdin():
            kind, payload = 0x03, _data(frame.offset, frame.data)
        case OutputAck():
            kind, payload = 0x07, _U64.pack(frame.offset)
        case Start():
            kind, payload = 0x02, _start(frame)
        case Welcome():
            kind, payload = 0x01, _U16.pack(frame.version)
        case StdinClose():
            kind, payload = 0x04, _U64.pack(frame.offset)
        case Signal():
            kind, payload = 0x05, _PAIR.pack(frame.signal, frame.scope)
        case Resize():
            kind, payload = 0x06, _SIZE.pack(frame.rows, frame.columns)
        case Ping():
            kind, payload = 0x09, _U64.pack(frame.token)
        case Forget() | Shutdown() | Synced() | Goodbye():
            kind, payload = _WITHOUT_PAYLOAD[type(frame)], b""
        case Restrict():
            kind, payload = 0x40, _restrict(frame)
        case Hello():
            kind = 0x81
            payload = _HELLO.pack(MAGIC, frame.version, frame.features, frame.boot, frame.ring, frame.commands)
        case Started():
            kind, payload = 0x82, _PAIR.pack(frame.pid, 0)
        case Failed():
            kind, payload = 0x83, _PAIR.pack(frame.errno, frame.stage)
        case OutputEof():
            kind, stream, payload = 0x85, frame.stream, _U64.pack(frame.offset)
        case Exited():
            kind, payload = 0x86, _exited(frame)
        case StdinAck():
            kind, payload = 0x87, _U64.pack(frame.offset)
        case Pong():
            kind, payload = 0x89, _U64.pack(frame.token)
        case GuestError():
            kind = 0x8B
            payload = frame.code.to_bytes(4, "little") + frame.text.encode()[:MOST_ERROR_TEXT]
        case Restricted():
            kind = 0xC0
            payload = _RESTRICTED.pack(frame.abi, frame.applied, frame.rules, frame.missing, frame.error)
    if len(payload) > MOST_PAYLOAD:
        raise ValueError(f"{type(frame).__name__} of {len(payload)} bytes; a frame holds {MOST_PAYLOAD}")
    return b"".join((_HEADER.pack(len(payload), kind, stream, 0, frame.command), payload))


def _data(offset: int, data: bytes) -> bytes:
    if not 0 < len(data) <= MOST_DATA:
        raise ValueError(f"{len(data)} bytes of data; a frame has 1 to {MOST_DATA}")
    return _U64.pack(offset) + data


def _start(frame: Start) -> bytes:
    words = (frame.cwd, *frame.argv, *frame.env)
    if not frame.argv:
        raise ValueError("START without a program")
    strings = b"\0".join((*words, b""))
    if strings.count(b"\0") != len(words):
        raise ValueError("START with a NUL inside a string")
    if any(b"=" not in entry for entry in frame.env):
        raise ValueError("START with an environment entry without '='")
    if frame.pty is not None and frame.merge_stderr:
        raise ValueError("START with a terminal, and stderr merged into a pipe")
    flags = _STDIN_PIPE * frame.stdin | _MERGE_STDERR * frame.merge_stderr | _PTY * (frame.pty is not None)
    counts = (len(frame.rlimits), 0, len(frame.argv), len(frame.env), 0)
    try:
        head = _START.pack(frame.timeout_ms, frame.grace_ms, flags, *counts)
        limits = [_RLIMIT.pack(resource, 0, value) for resource, value in frame.rlimits]
        size = _SIZE.pack(*frame.pty) if frame.pty is not None else b""
    except Exception as error:
        raise ValueError(f"START with a number out of range: {error}") from error
    return b"".join((head, *limits, size, strings))


def _restrict(frame: Restrict) -> bytes:
    if not 0 < frame.flags <= _RESTRICTIONS or len(frame.grants) > MOST_GRANTS or b"\0" in frame.search:
        raise ValueError(f"RESTRICT with flags {frame.flags:#x}, {len(frame.grants)} grants, or a NUL in its PATH")
    parts = [_RESTRICT.pack(frame.flags, len(frame.grants), 0), frame.search, b"\0"]
    for access, path in frame.grants:
        if not _is_grant(access, path) or b"\0" in path:
            raise ValueError(f"RESTRICT with access {access} to {path!r}")
        parts += [bytes((access,)), path, b"\0"]
    return b"".join(parts)


def _is_grant(access: int, path: bytes) -> bool:
    """A program may be a bare name; all else is an absolute path."""
    if access == ACCESS_PROGRAM:
        return path.startswith(b"/") or (b"/" not in path and path != b"")
    return 0 < access <= _ACCESSES and path.startswith(b"/")


def _exited(frame: Exited) -> bytes:
    flags = _TIMED_OUT * frame.timed_out | _OOM * frame.oom | _KILLED * frame.killed
    flags |= _STDOUT_EOF * frame.stdout_eof | _STDERR_EOF * frame.stderr_eof
    usage = (frame.output_bytes, frame.wall_ns, frame.user_us, frame.system_us, frame.max_rss_kib)
    return _EXITED.pack(frame.code, frame.signal, flags, 0, *usage)


# --- decoding ---------------------------------------------------------------------------------------------------------


def _offset(name: str, payload: bytes) -> int:
    _expect(name, payload, _U64.size)
    return int(_U64.unpack(payload)[0])


def _expect(name: str, payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise GuestProtocolError(f"{name} with a payload of {len(payload)} bytes, not {size}")


def _decode_welcome(command: int, payload: bytes) -> Welcome:
    _expect("WELCOME", payload, _U16.size)
    return Welcome(_U16.unpack(payload)[0])


def _decode_start(command: int, payload: bytes) -> Start:
    if len(payload) < _START.size:
        raise GuestProtocolError(f"START with a payload of {len(payload)} bytes")
    timeout, grace, flags, limits, zero, argc, envc, zeros = _START.unpack_from(payload)
    if zero or zeros or flags & ~(_STDIN_PIPE | _MERGE_STDERR | _PTY) or not argc:
        raise GuestProtocolError("START with reserved bits, or without a program")
    if flags & _PTY and flags & _MERGE_STDERR:
        raise GuestProtocolError("START with a terminal, and stderr merged into a pipe")
    size_at = _START.size + limits * _RLIMIT.size
    strings_at = size_at + (_SIZE.size if flags & _PTY else 0)
    if len(payload) < strings_at:
        raise GuestProtocolError("START that ends within its rlimits or its terminal's size")
    rlimits = []
    for resource, reserved, value in _RLIMIT.iter_unpack(payload[_START.size : size_at]):
        if reserved:
            raise GuestProtocolError("START with reserved bits in an rlimit")
        rlimits.append((resource, value))
    words = payload[strings_at:].split(b"\0")
    if words.pop() or len(words) != 1 + argc + envc:
        raise GuestProtocolError(f"START whose strings are not 1 + {argc} + {envc}")
    env = tuple(words[1 + argc :])
    if any(b"=" not in entry for entry in env):
        raise GuestProtocolError("START with an environment entry without '='")
    return Start(
        command=command,
        argv=tuple(words[1 : 1 + argc]),
        cwd=words[0],
        env=env,
        timeout_ms=timeout,
        grace_ms=grace,
        stdin=bool(flags & _STDIN_PIPE),
        merge_stderr=bool(flags & _MERGE_STDERR),
        pty=_SIZE.unpack(payload[size_at:strings_at]) if flags & _PTY else None,
        rlimits=tuple(rlimits),
    )


def _decode_stdin(command: int, payload: bytes) -> Stdin:
    if not _U64.size < len(payload) <= _U64.size + MOST_DATA:
        raise GuestProtocolError(f"STDIN with a payload of {len(payload)} bytes")
    return Stdin(command, _U64.unpack_from(payload)[0], payload[_U64.size :])


def _decode_stdin_close(command: int, payload: bytes) -> StdinClose:
    return StdinClose(command, _offset("STDIN_CLOSE", payload))


def _decode_signal(command: int, payload: bytes) -> Signal:
    _expect("SIGNAL", payload, _PAIR.size)
    signal, scope = _PAIR.unpack(payload)
    if not 1 <= signal <= 64 or scope > SCOPE_TREE:
        raise GuestProtocolError(f"SIGNAL {signal} with scope {scope}")
    return Signal(command, signal, scope)


def _decode_resize(command: int, payload: bytes) -> Resize:
    _expect("RESIZE", payload, _SIZE.size)
    return Resize(command, *_SIZE.unpack(payload))


def _decode_output_ack(command: int, payload: bytes) -> OutputAck:
    return OutputAck(command, _offset("OUTPUT_ACK", payload))


def _decode_forget(command: int, payload: bytes) -> Forget:
    _expect("FORGET", payload, 0)
    return Forget(command)


def _decode_ping(command: int, payload: bytes) -> Ping:
    return Ping(_offset("PING", payload))


def _decode_shutdown(command: int, payload: bytes) -> Shutdown:
    _expect("SHUTDOWN", payload, 0)
    return Shutdown()


def _decode_restrict(command: int, payload: bytes) -> Restrict:
    if len(payload) <= _RESTRICT.size:
        raise GuestProtocolError(f"RESTRICT with a payload of {len(payload)} bytes")
    flags, count, reserved = _RESTRICT.unpack_from(payload)
    if not 0 < flags <= _RESTRICTIONS or count > MOST_GRANTS or reserved:
        raise GuestProtocolError(f"RESTRICT with flags {flags:#x}, {count} grants, reserved {reserved}")
    search, *words = payload[_RESTRICT.size :].split(b"\0")
    if len(words) != count + 1 or words.pop():
        raise GuestProtocolError(f"RESTRICT whose strings are not 1 + {count}")
    grants = tuple((word[0] if word else 0, word[1:]) for word in words)
    for access, path in grants:
        if not _is_grant(access, path):
            raise GuestProtocolError(f"RESTRICT with access {access} to {path!r}")
    return Restrict(flags, search, grants)


def _decode_hello(command: int, payload: bytes) -> Hello:
    _expect("HELLO", payload, _HELLO.size)
    magic, *fields = _HELLO.unpack(payload)
    if magic != MAGIC:
        raise GuestProtocolError(f"HELLO with the magic {magic:#010x}")
    return Hello(*fields)


def _decode_started(command: int, payload: bytes) -> Started:
    _expect("STARTED", payload, _PAIR.size)
    pid, reserved = _PAIR.unpack(payload)
    if reserved or not 0 < pid < 2**31:
        raise GuestProtocolError(f"STARTED with pid {pid}, reserved {reserved}")
    return Started(command, pid)


def _decode_failed(command: int, payload: bytes) -> Failed:
    _expect("FAILED", payload, _PAIR.size)
    errno, stage = _PAIR.unpack(payload)
    if not STAGE_COMMANDS <= stage <= STAGE_UNSUPPORTED or not 0 < errno < _ERRNOS:
        raise GuestProtocolError(f"FAILED with errno {errno}, stage {stage}")
    return Failed(command, errno, stage)


def _decode_exited(command: int, payload: bytes) -> Exited:
    _expect("EXITED", payload, _EXITED.size)
    code, signal, flags, reserved, output, wall, user, system, rss = _EXITED.unpack(payload)
    if reserved or flags > _EXIT_FLAGS or code > 255 or signal > 64 or (code and signal):
        raise GuestProtocolError(f"EXITED with code {code}, signal {signal}, flags {flags:#x}, reserved {reserved}")
    return Exited(
        command=command,
        code=code,
        signal=signal,
        output_bytes=output,
        wall_ns=wall,
        user_us=user,
        system_us=system,
        max_rss_kib=rss,
        timed_out=bool(flags & _TIMED_OUT),
        oom=bool(flags & _OOM),
        killed=bool(flags & _KILLED),
        stdout_eof=bool(flags & _STDOUT_EOF),
        stderr_eof=bool(flags & _STDERR_EOF),
    )


def _decode_stdin_ack(command: int, payload: bytes) -> StdinAck:
    return StdinAck(command, _offset("STDIN_ACK", payload))


def _decode_synced(command: int, payload: bytes) -> Synced:
    _expect("SYNCED", payload, 0)
    return Synced()


def _decode_pong(command: int, payload: bytes) -> Pong:
    return Pong(_offset("PONG", payload))


def _decode_goodbye(command: int, payload: bytes) -> Goodbye:
    _expect("GOODBYE", payload, 0)
    return Goodbye()


def _decode_error(command: int, payload: bytes) -> GuestError:
    if not 4 <= len(payload) <= 4 + MOST_ERROR_TEXT:
        raise GuestProtocolError(f"ERROR with a payload of {len(payload)} bytes")
    return GuestError(int.from_bytes(payload[:4], "little"), payload[4:].decode(errors="replace"))


def _decode_restricted(command: int, payload: bytes) -> Restricted:
    _expect("RESTRICTED", payload, _RESTRICTED.size)
    abi, applied, rules, missing, error = _RESTRICTED.unpack(payload)
    if applied > _RESTRICTIONS or error >= _ERRNOS or (applied and (error or not abi)):
        raise GuestProtocolError(f"RESTRICTED with abi {abi}, applied {applied:#x}, error {error}")
    return Restricted(abi, applied, rules, missing, error)


_Decode: TypeAlias = Callable[[int, bytes], Frame]
_OUTPUT, _OUTPUT_EOF = 0x84, 0x85
_OF_DAEMON: dict[int, tuple[_Decode, bool]] = {
    0x01: (_decode_welcome, False),
    0x02: (_decode_start, True),
    0x03: (_decode_stdin, True),
    0x04: (_decode_stdin_close, True),
    0x05: (_decode_signal, True),
    0x06: (_decode_resize, True),
    0x07: (_decode_output_ack, True),
    0x08: (_decode_forget, True),
    0x09: (_decode_ping, False),
    0x0A: (_decode_shutdown, False),
    0x40: (_decode_restrict, False),
}
_OF_GUEST: dict[int, tuple[_Decode, bool]] = {
    0x81: (_decode_hello, False),
    0x82: (_decode_started, True),
    0x83: (_decode_failed, True),
    0x86: (_decode_exited, True),
    0x87: (_decode_stdin_ack, True),
    0x88: (_decode_synced, False),
    0x89: (_decode_pong, False),
    0x8A: (_decode_goodbye, False),
    0x8B: (_decode_error, False),
    0xC0: (_decode_restricted, False),
}
"""What decodes a type, and whether it names a command. OUTPUT and OUTPUT_EOF have streams: the decoder knows them."""


class _Decoder:
    """Turns bytes into frames, however the bytes are cut. Keeps at most one incomplete frame."""

    _kinds: ClassVar[dict[int, tuple[_Decode, bool]]]
    _has_output: ClassVar[bool]

    def __init__(self) -> None:
        self._partial = bytearray()
        self._dead: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises GuestProtocolError, from then on always."""
        if self._dead is not None:
            raise GuestProtocolError(self._dead)
        frames: list[Frame] = []
        try:
            self._take(data, frames)
        except GuestProtocolError as error:
            self._dead = str(error)
            self._partial.clear()
            error.frames = frames
            raise
        return frames

    def _take(self, data: bytes, frames: list[Frame]) -> None:
        at = 0
        partial = self._partial
        while partial:
            # Complete the frame that the last data began, and no more than it: what follows is decoded where it lies.
            wanted = self._frame_size(partial, 0) if len(partial) >= _HEADER.size else _HEADER.size
            missing = wanted - len(partial)
            if missing > 0:
                partial += data[at : at + missing]
                at += missing
                if len(partial) < wanted:
                    return
                if wanted == _HEADER.size and self._frame_size(partial, 0) > wanted:
                    continue
            frames.append(self._decode(bytes(partial), 0, wanted))
            partial.clear()

        size = len(data)
        while size - at >= _HEADER.size:
            end = at + self._frame_size(data, at)
            if end > size:
                break
            frames.append(self._decode(data, at, end))
            at = end
        partial += data[at:]

    def _frame_size(self, source: bytes | bytearray, at: int) -> int:
        """The whole size of the frame whose header is at `at`, once the header has been found good."""
        length, kind, stream, reserved, command = _HEADER.unpack_from(source, at)
        if length > MOST_PAYLOAD:
            raise GuestProtocolError(f"a frame of {length} bytes; at most {MOST_PAYLOAD} are allowed")
        if reserved:
            raise GuestProtocolError(f"a frame of type {kind:#04x} with reserved bits {reserved:#06x}")
        if self._has_output and kind in (_OUTPUT, _OUTPUT_EOF):
            if stream not in (STDOUT, STDERR):
                raise GuestProtocolError(f"output of stream {stream}")
            of_command = True
            if kind == _OUTPUT and not _U64.size < length <= _U64.size + MOST_DATA:
                raise GuestProtocolError(f"OUTPUT with a payload of {length} bytes")
        else:
            if kind not in self._kinds:
                raise GuestProtocolError(f"a frame of type {kind:#04x}")
            if stream:
                raise GuestProtocolError(f"a frame of type {kind:#04x} with stream {stream}")
            of_command = self._kinds[kind][1]
        if of_command != (command != 0):
            raise GuestProtocolError(f"a frame of type {kind:#04x} for command {command}")
        return int(_HEADER.size + length)

    def _decode(self, source: bytes, at: int, end: int) -> Frame:
        """Decode the frame that lies from `at` to `end`, with a good header."""
        _, kind, stream, _, command = _HEADER.unpack_from(source, at)
        if kind == _OUTPUT:
            return Output(command, stream, _U64.unpack_from(source, at + _OFFSET_AT)[0], source[at + _DATA_AT : end])
        payload = source[at + _HEADER.size : end]
        if kind == _OUTPUT_EOF:
            return OutputEof(command, stream, _offset("OUTPUT_EOF", payload))
        return self._kinds[kind][0](command, payload)


class GuestDecoder(_Decoder):
    """Decodes what a guest sends."""

    _kinds = _OF_GUEST
    _has_output = True


class DaemonDecoder(_Decoder):
    """Decodes what a daemon sends."""

    _kinds = _OF_DAEMON
    _has_output = False
