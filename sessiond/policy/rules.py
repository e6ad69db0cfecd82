"""What the first cut of the policy knows of programs, shell builtins and environment variables.

Only facts stand here, as tables; `decide` applies them. docs/policy.md tells what they do not cover.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Refused:
    """Arguments of one program that run another program, or do what the program's name does not suggest.

    Matching is deliberately broad: an abbreviation of a long option counts as the option, a letter counts
    anywhere in a cluster of short options, and `--` ends nothing.
    """

    words: frozenset[str] = frozenset()
    """Whole arguments."""
    long: tuple[str, ...] = ()
    """Names of long options, without dashes."""
    short: str = ""
    """Letters of short options."""
    subcommands: Mapping[str, Refused] | None = None
    """What the first argument that is not in `globals` must be, with what is refused after each."""
    globals: frozenset[str] = frozenset()
    """Options allowed before the subcommand."""

    def find(self, arguments: tuple[str, ...]) -> str | None:
        """The first argument that is refused, or None."""
        for argument in arguments:
            if argument in self.words or self._is_refused_option(argument):
                return argument
        return None

    def _is_refused_option(self, argument: str) -> bool:
        if not argument.startswith("-") or len(argument) < len("-x"):
            return False
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            return bool(name) and any(option.startswith(name) for option in self.long)
        return any(letter in argument for letter in self.short)


def _git() -> Refused:
    plain = _words(
        "add blame cat-file checkout cherry-pick commit describe ls-files ls-tree merge merge-base mv reflog "
        "restore rev-list rev-parse revert rm shortlog stash status switch tag version"
    )
    subcommands = {name: Refused() for name in plain}
    subcommands |= {name: Refused(long=("no-index",)) for name in ("diff", "log", "show")}
    subcommands["branch"] = Refused(short="Df", long=("force",))
    subcommands["grep"] = Refused(short="O", long=("open-files-in-pager", "no-index"))
    subcommands["init"] = Refused(long=("template", "separate-git-dir"))
    return Refused(
        long=("ext-diff", "textconv", "output", "exec", "upload-pack", "receive-pack", "gpg-sign"),
        subcommands=subcommands,
        globals=frozenset(["--no-pager", "--version"]),
    )


RESTRICTIONS: dict[str, Refused] = {
    "diff": Refused(long=("paginate",), short="l"),
    "file": Refused(long=("uncompress", "uncompress-noreport"), short="zZ"),
    "find": Refused(words=_words("-exec -execdir -ok -okdir -delete -fls -fprint -fprint0 -fprintf -files0-from")),
    "git": _git(),
    "mypy": Refused(long=("python-executable", "install-types")),
    "printf": Refused(short="v"),
    "pylint": Refused(long=("init-hook", "load-plugins")),
    "pytest": Refused(long=("pdbcls", "tx")),
    "rg": Refused(long=("pre", "pre-glob", "search-zip", "hostname-bin"), short="z"),
    "sort": Refused(long=("compress-program", "output"), short="o"),
    "test": Refused(words=frozenset(["-v", "-R"])),
}
"""By the last part of the program's name. `printf -v` and `test -v` make bash evaluate a subscript."""

BUILTINS_REFUSED = _words(
    ". alias bind builtin command compgen complete compopt declare enable eval exec export fc getopts "
    "hash history let local mapfile popd pushd read readarray readonly set shopt source suspend trap "
    "typeset unalias unset"
)
"""Shell builtins that run what they are given or change what later words mean. No list can allow them."""

BUILTINS = BUILTINS_REFUSED | _words(
    ": bg break cd continue exit fg jobs kill logout return shift times type ulimit umask wait"
)
"""Shell builtins with no program behind them, or often none: a text that is only one of these still needs the shell."""

_ENVIRONMENT_NAMES = _words(
    "PATH HOME IFS ENV SHELL CDPATH EXECIGNORE GLOBIGNORE INPUTRC PROMPT_COMMAND PS0 PS1 PS2 PS4 "
    "SHELLOPTS BASHOPTS XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME GCONV_PATH GETCONF_DIR "
    "GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN LOCPATH NLSPATH RES_OPTIONS TERMINFO TERMINFO_DIRS TERMCAP "
    "TZDIR PAGER MANPAGER EDITOR VISUAL BROWSER LESS LESSOPEN LESSCLOSE LESSKEY MAKEFLAGS MAKEFILES "
    "MFLAGS GNUMAKEFLAGS TAR_OPTIONS GREP_OPTIONS RIPGREP_CONFIG_PATH PYLINTRC PYLINTHOME MYPYPATH "
    "COVERAGE_PROCESS_START COVERAGE_RCFILE SSH_ASKPASS CLASSPATH RUSTC RUSTC_WRAPPER RUSTFLAGS "
    "RUSTDOCFLAGS CC CXX LD AR FPATH ZDOTDIR PHPRC PHP_INI_SCAN_DIR JAVA_TOOL_OPTIONS _JAVA_OPTIONS "
    "JDK_JAVA_OPTIONS MAVEN_OPTS GRADLE_OPTS"
)
_ENVIRONMENT_PREFIXES = re.compile(
    r"BASH|PYTHON|PERL|RUBY|LUA|GO[A-Z]"
    r"|(?:LD|DYLD|GIT|PYTEST|GEM|BUNDLE|NODE|NPM|CARGO|R|SUDO|PIP|UV)_"
)
_LOCALE = re.compile(r"(?:LANG|LC_[A-Z]+)")
_LOCALE_VALUE = re.compile(r"(?:|C|POSIX|(?:C|[a-z]{2,3}(?:_[A-Z]{2})?)\.(?:UTF-8|utf8))", re.ASCII)
"""In some other encodings a backslash or a quote can be the second half of a character, for bash too."""
_ENVIRONMENT_ALLOWED = _words(
    "PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED PYTHONHASHSEED PYTHONIOENCODING PYTHONUTF8 "
    "PYTHONFAULTHANDLER PYTHONASYNCIODEBUG PYTHONDEVMODE PYTHONTRACEMALLOC GIT_AUTHOR_NAME "
    "GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE NODE_ENV"
)

ALTERNATIVES: dict[str, str] = {
    **dict.fromkeys(("bash", "sh", "dash", "zsh"), "send the shell text itself as the command's text"),
    "env": "set variables through the command's env",
    "timeout": "use the command's own timeout",
    "nohup": "start the command; it outlives the connection",
    "setsid": "every command has a session of its own",
    "sudo": "commands run without privileges",
    **dict.fromkeys(("curl", "wget", "nc", "ssh"), "sandboxes have no network"),
    "tee": "read the output from the command, or write files with a script",
    "sed": "use head, tail or grep to read, a script to change files",
    "awk": "use cut, sort or a script",
    "xargs": "name the files, or use a script",
}
"""What to do instead of a program that is often asked for."""


def refused_environment(name: str, value: str) -> bool:
    """Whether the variable can change which code a program runs or loads, or how a shell reads a text."""
    upper = name.upper()
    if _LOCALE.fullmatch(upper):
        return _LOCALE_VALUE.fullmatch(value) is None
    if name in _ENVIRONMENT_ALLOWED:
        return False
    return upper in _ENVIRONMENT_NAMES or _ENVIRONMENT_PREFIXES.match(upper) is not None
