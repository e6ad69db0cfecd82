"""`sessiond demo` on the real path."""

from __future__ import annotations

import signal
import time

from tests.integration.cli.conftest import CommandLine


def test_demo_shows_every_step_and_ends_clean(command_line: CommandLine) -> None:
    done = command_line.on_engine("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for step in (
        "open a session",
        "git init, add, commit",
        "exit code 1: ",
        "exit code 0: ",
        "run 100 short commands",
        "refused: 'curl' is not an allowed program",
        "its output is kept: step 0",
        "times as long",
        "no sandbox and no process is left",
    ):
        assert step in done.stdout, done.stdout
    assert done.stderr == ""


def test_demo_that_is_terminated_takes_its_daemon_along(command_line: CommandLine) -> None:
    process = command_line.start("demo", *command_line.engine_options())
    until = time.monotonic() + 60
    assert process.stdout is not None
    for line in process.stdout:
        if "open a session" in line:
            break
        assert time.monotonic() < until
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
