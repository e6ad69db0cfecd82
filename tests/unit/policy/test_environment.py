"""Variables that change what runs."""

from __future__ import annotations

import pytest

from sessiond.policy.environment import refused_environment
from tests.unit.policy.deciding import decide, shipped, text

REFUSED = (
    "PATH HOME IFS ENV PS4 SHELLOPTS LD_PRELOAD LD_LIBRARY_PATH BASH_ENV BASH_FUNC_ls PYTHONSTARTUP PYTHONPATH "
    "PYTHONWARNINGS PYTEST_ADDOPTS GIT_CONFIG_COUNT EDITOR NODE_OPTIONS npm_config_x PERL5OPT RUBYOPT MAKEFLAGS "
    "RIPGREP_CONFIG_PATH LESSOPEN XDG_CONFIG_HOME GLIBC_TUNABLES GCONV_PATH JAVA_TOOL_OPTIONS PYLINTRC CC CFLAGS "
    "OPENSSL_CONF RUSTC_WRAPPER GOFLAGS CARGO_HOME TAR_OPTIONS POSIXLY_CORRECT TERMINFO"
)


@pytest.mark.parametrize("name", [*REFUSED.split(), "", "A B", "a[1]", "BASH_FUNC_x%%"])
def test_variables_that_change_what_runs_are_refused(name: str) -> None:
    assert refused_environment(name, "x")
    assert refused_environment(name, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "1") for name in ("CI", "DEBUG", "A", "PYTHONUNBUFFERED", "GIT_AUTHOR_NAME", "TZ", "RUST_BACKTRACE")],
        *[("LANG", value) for value in ("C", "C.UTF-8", "en_US.UTF-8", "")],
        *[("LC_ALL", "POSIX"), ("PAGER", "cat"), ("GIT_PAGER", "")],
    ],
)
def test_other_variables_are_allowed(name: str, value: str) -> None:
    assert not refused_environment(name, value)


@pytest.mark.parametrize("value", ["zh_CN.GBK", "ja_JP.SJIS", "en_US", "x/../y", "C.UTF-8\n"])
def test_a_locale_in_which_quotes_may_be_read_otherwise_is_refused(value: str) -> None:
    assert refused_environment("LC_ALL", value)


def test_pythonpath_may_lead_into_the_workspace_only() -> None:
    assert decide("PYTHONPATH=src:. pytest -q").outcome == "allow"
    for value in ("/tmp", "src:/tmp/x", "../x", '"$X"', ".git/x"):
        assert decide(f"PYTHONPATH={value} pytest -q").outcome != "allow"
    developer = shipped("developer")
    assert developer.decide(text("pytest", {"PYTHONPATH": "src"})).outcome == "allow"
    assert developer.decide(text("pytest", {"PYTHONPATH": "/tmp"})).outcome == "deny"
