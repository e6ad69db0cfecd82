"""Whether jails can be made: what stands in the way is said as one typed error."""

import pytest

from sessiond.engine.bubblewrap_options import Surroundings
from sessiond.engine.bubblewrap_try import bwrap_version, try_jail
from sessiond.engine.port import EngineUnavailableError


@pytest.fixture
def forbidden(tmp_path) -> Surroundings:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\nexit 1\n")
    return Surroundings(str(program), str(program), (), tmp_path)


def test_a_bwrap_that_may_not_be_run_is_no_engine(forbidden):
    with pytest.raises(EngineUnavailableError, match="cannot be run"):
        try_jail(forbidden, None)
    with pytest.raises(EngineUnavailableError, match="does not tell its version"):
        bwrap_version(forbidden)


def test_a_bwrap_that_fails_is_no_engine(forbidden):
    (forbidden.etc / "bwrap").chmod(0o755)
    with pytest.raises(EngineUnavailableError, match="no jail can be made"):
        try_jail(forbidden, None)
    with pytest.raises(EngineUnavailableError, match="does not tell its version"):
        bwrap_version(forbidden)
