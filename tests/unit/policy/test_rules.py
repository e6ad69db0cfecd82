"""The tables: options that run other programs, and variables that change what runs."""

from __future__ import annotations

import pytest

from sessiond.policy.decide import CommandRequest, Policy
from sessiond.policy.rules import refused_environment
from sessiond.settings import PolicySettings

DEVELOPER = Policy.from_settings("default", PolicySettings(), "bash")


@pytest.mark.parametrize(
    "command",
    [
        *(
            "git -c core.pager=x log",
            "git -C /tmp status",
            "git --exec-path=/tmp status",
            "git -p log",
            "git --git-dir=x log",
        ),
        *(
            "git clone x",
            "git fetch",
            "git push",
            "git config core.pager x",
            "git submodule foreach x",
            "git rebase -x x",
        ),
        *(
            "git difftool -x x",
            "git bisect run x",
            "git x",
            "git --no-pager x",
            "git diff --no-index a b",
            "git diff --outp=x",
        ),
        *("git log --output=x", "git log --ext-diff", "git show --textconv x", "git grep -O x", "git grep -Ox a"),
        *(
            "git grep --open=x a",
            "git branch -D x",
            "git branch -qD x",
            "git branch --delete --force x",
            "git init --template=x",
        ),
        *(
            "find . -exec x {} +",
            "find . -execdir x",
            "find . -ok x",
            "find . -delete",
            "find . -fprintf x y",
            "find . -fls x",
        ),
        *("rg --pre x y", "rg --pre=x y", "rg --hostname-bin x y", "rg -z y", "rg -nz y", "rg --search-zip y"),
        *("sort --compress-program=x", "sort --compress-prog x", "sort -o x", "sort -uox y", "sort --outp x"),
        *("file -z x", "file --uncompress x", "diff -l a b", "diff --paginate a b", "printf -v x y", "test -v x"),
        *(
            "pylint --init-hook=x",
            "pylint --init-h x",
            "pylint --load-plugins x",
            "pytest --pdbcls=a:b",
            "pytest --tx x",
        ),
        *("mypy --python-executable x", "mypy --install-types"),
    ],
)
def test_options_that_run_something_else_are_refused(command: str) -> None:
    verdict = DEVELOPER.decide(CommandRequest(tuple(command.split()), None, {}, ""))
    assert (verdict.outcome, verdict.rule) == ("deny", "option")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "PATH",
            "HOME",
            "IFS",
            "ENV",
            "PS4",
            "SHELLOPTS",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "BASH_ENV",
            "BASH_FUNC_ls",
        ),
        *("PYTHONSTARTUP", "PYTHONPATH", "PYTHONWARNINGS", "PYTEST_ADDOPTS", "GIT_PAGER", "GIT_CONFIG_COUNT", "PAGER"),
        *(
            "EDITOR",
            "NODE_OPTIONS",
            "npm_config_x",
            "PERL5OPT",
            "RUBYOPT",
            "MAKEFLAGS",
            "RIPGREP_CONFIG_PATH",
            "LESSOPEN",
        ),
        *("XDG_CONFIG_HOME", "GLIBC_TUNABLES", "GCONV_PATH", "JAVA_TOOL_OPTIONS", "PYLINTRC"),
    ],
)
def test_variables_that_change_what_runs_are_refused(name: str) -> None:
    assert refused_environment(name, "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "1") for name in ("CI", "DEBUG", "A", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "GIT_AUTHOR_NAME", "TZ")],
        *[("LANG", value) for value in ("C", "C.UTF-8", "en_US.UTF-8", "")],
        ("LC_ALL", "POSIX"),
    ],
)
def test_other_variables_are_allowed(name: str, value: str) -> None:
    assert not refused_environment(name, value)


@pytest.mark.parametrize("value", ["zh_CN.GBK", "ja_JP.SJIS", "en_US", "x/../y", "C.UTF-8\n"])
def test_a_locale_in_which_quotes_may_be_read_otherwise_is_refused(value: str) -> None:
    assert refused_environment("LC_ALL", value)
