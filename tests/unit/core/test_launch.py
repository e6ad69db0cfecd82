"""From a request to the guest's START."""

from sessiond_protocol import guest as wire
from sessiond_protocol.messages import CommandLimits, CommandStart, SessionLimits, Terminal

from sessiond.core.launch import Environment, launch_frame, resource_limits, working_directory


def start(**fields) -> CommandStart:
    return CommandStart(**{"id": 1, "session": "s", "command": "c", "argv": ["true"], **fields})


def test_environment_is_clean_and_later_layers_win():
    layers = {"PATH": "/image/bin", "A": "image"}, {"A": "profile", "B": "profile"}, {"B": "session"}
    env = dict(entry.decode().split("=", 1) for entry in Environment(*layers).entries({"C": "command"}))
    assert env["PATH"] == "/image/bin"
    assert (env["A"], env["B"], env["C"]) == ("profile", "session", "command")
    assert set(env) == {"PATH", "HOME", "USER", "LANG", "TMPDIR", "A", "B", "C"}
    assert b"C=command" not in Environment(*layers).entries({})
    assert Environment(*layers).path == "/image/bin"


def test_working_directory_is_seen_from_the_workspace_and_never_resolved_outside():
    assert working_directory("") == "/workspace/"
    assert working_directory("src/a") == "/workspace/src/a"
    assert working_directory("/tmp") == "/tmp"
    assert working_directory("../x") == "/workspace/../x"


def test_the_lower_of_two_limits_holds():
    limits = resource_limits(SessionLimits(open_files=100, file_bytes=10), CommandLimits(open_files=200, cpu_seconds=5))
    assert dict(limits) == {7: 100, 1: 10, 0: 5}


def test_frame_carries_everything():
    frame = launch_frame(
        7,
        start(timeout=1.5, grace=0.25, env={"A": "1"}, cwd="src", input=b"x", merge_stderr=True),
        ("true",),
        Environment({"A": "0", "B": "2"}),
        SessionLimits(),
    )
    assert (frame.command, frame.timeout_ms, frame.grace_ms) == (7, 1500, 250)
    assert frame.stdin
    assert frame.merge_stderr
    assert frame.cwd == b"/workspace/src"
    assert frame.argv == (b"true",)
    assert {b"A=1", b"B=2"} <= set(frame.env)
    assert b"A=0" not in frame.env


def test_a_timeout_below_a_millisecond_is_still_one():
    assert launch_frame(1, start(timeout=0.0001), ("true",), Environment(), SessionLimits()).timeout_ms == 1
    assert launch_frame(1, start(), ("true",), Environment(), SessionLimits()).timeout_ms == 0


def test_a_terminal_has_a_size_and_is_told_its_kind() -> None:
    def launched(**fields: object) -> wire.Start:
        request = CommandStart(id=1, session="s", command="c", argv=["vi"], stdin=True, **fields)
        return launch_frame(2, request, ("vi",), Environment({"TERM": "profile"}), SessionLimits())

    terminal = launched(pty=Terminal(rows=5, columns=6, term="vt100"))
    assert terminal.pty == (5, 6)
    assert b"TERM=vt100" in terminal.env
    assert b"TERM=dumb" in launched(pty=Terminal(), env={"TERM": "dumb"}).env
    assert launched().pty is None
