"""The command that a request about a workspace becomes."""

from __future__ import annotations

import pytest
from sessiond_protocol.messages import SessionExport, SessionImport

from sessiond.core.identity import same_body
from sessiond.runtime.tools import as_command


@pytest.mark.parametrize(
    ("request_", "mode", "stdin"),
    [
        (SessionExport(id=7, session="s", command="c", path="a/b", window=5), "tar-export", False),
        (SessionImport(id=7, session="s", command="c", path="a/b", window=5), "tar-import", True),
    ],
)
def test_it_runs_the_guests_own_program_in_the_workspace(
    request_: SessionExport | SessionImport, mode: str, stdin: bool
):
    command, verdict = as_command(request_)
    assert command.argv == ["/run/sessiond/guest", mode, "a/b"] == list(verdict.argv)
    assert (command.id, command.session, command.command, command.window) == (7, "s", "c", 5)
    assert (command.stdin, command.cwd, command.env, command.timeout) == (stdin, "", {}, None)
    assert (verdict.outcome, verdict.rule) == ("allow", "workspace")


def test_the_whole_workspace_is_the_directory_itself():
    command, _ = as_command(SessionExport(id=1, session="s", command="c"))
    assert command.argv is not None and command.argv[-1] == "."


def test_sent_again_it_is_the_same_and_the_other_way_round_it_is_not():
    one, _ = as_command(SessionExport(id=1, session="s", command="c", window=1))
    again, _ = as_command(SessionExport(id=2, session="s", command="c"))
    other, _ = as_command(SessionImport(id=2, session="s", command="c"))
    assert same_body(one, again) and not same_body(one, other)
