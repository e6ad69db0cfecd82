"""Programs and builtins whose arguments follow no option parser: what each runs, reads and writes.

A checker raises MisfitError, or gives back what runs in turn: commands, and texts for a shell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Literal

from sessiond.policy.compiled import Rule
from sessiond.policy.errors import MisfitError, shown
from sessiond.policy.names import names
from sessiond.policy.options import Arguments, OptionTable
from sessiond.policy.reading import SimpleCommand, Word
from sessiond.policy.scene import Scene
from sessiond.policy.values import check_assignment, check_value

Words = Sequence[Word]


@dataclass(frozen=True, slots=True)
class Inner:
    """What a command runs in turn."""

    commands: tuple[tuple[Word, ...], ...] = ()
    """Simple commands, run as they are."""
    texts: tuple[tuple[str, Literal["bash", "sh"] | None], ...] = ()
    """Texts with the dialect of the shell that reads them; None is that of the outer text."""
    here: bool = False
    """Whether the texts run in the same shell, so that a `cd` in them counts."""


NOTHING = Inner()
MODULE = "python -m "
"""How rules name a module that an interpreter runs; as a word's prefix it tells such a program from a quoted name."""
Checker = Callable[[Rule, Words, SimpleCommand, Scene], Inner]


def fed_text(command: SimpleCommand) -> Word | None:
    """The here-document or here-string that is the command's standard input."""
    for redirection in reversed(command.redirections):
        if redirection.descriptor == 0:
            return redirection.target if redirection.kind == "text" else None
    return None


def _python(rule: Rule, words: Words, command: SimpleCommand, scene: Scene) -> Inner:
    found = rule.options.split(words)
    rule.check_options(found, scene)
    module = found.value("-m")
    if module is not None:
        program = Word(f"{MODULE}{module.source}", f"{MODULE}{module.text}", MODULE)
        return Inner(commands=((program, *found.operands),))
    code = next((given for given in found.options if given.name in ("-c", "-e", "-p", "--eval", "--print")), None)
    if code is not None:
        if code.clustered:
            raise MisfitError("code", f"{code.name} must stand alone, so that the code is seen", "ask")
        return NOTHING
    if found.has(frozenset(["-V", "--version", "-v", "-h", "--help"])) and not found.operands:
        return NOTHING
    if not found.operands or found.operands[0].text == "-":
        given = fed_text(command)
        if given is None or command.piped:
            raise MisfitError("code", "the program would come from standard input, which is not seen", "ask")
        check_value("javascript" if "-e" in rule.options.options else "python", given, scene)
        return NOTHING
    check_value("code", found.operands[0], scene)
    return NOTHING


_SHELL_LETTERS = frozenset("euxfvnCab")


def _shell(_: Rule, words: Words, command: SimpleCommand, scene: Scene) -> Inner:
    dialect: Literal["bash", "sh"] = "bash" if command.words[0].text in ("bash", "/bin/bash", "/usr/bin/bash") else "sh"
    text_follows, check_only, position = False, False, 0
    while position < len(words):
        option = words[position].text
        if option is None:
            raise MisfitError("computed", f"{shown(words[position].source)} is not known before it runs", "ask")
        if option in ("--norc", "--noprofile", "--posix"):
            position += 1
            continue
        if option == "--" or option[:1] not in ("-", "+") or len(option) < len("-x"):
            position += option == "--"
            break
        letters = option[1:]
        if letters.endswith("o"):
            position += 1
            if position >= len(words) or words[position].text not in ("pipefail", "errexit", "nounset", "xtrace"):
                raise MisfitError("option", "only pipefail, errexit, nounset and xtrace may be set with -o", "ask")
            letters = letters[:-1]
        text_follows |= "c" in letters and option[0] == "-"
        check_only |= "n" in letters
        if set(letters) - _SHELL_LETTERS - {"c"}:
            raise MisfitError("option", f"the option {shown(option)} of a shell is not listed", "otherwise")
        position += 1
    rest = words[position:]
    if text_follows:
        if not rest or rest[0].text is None:
            raise MisfitError("computed", "the text for the shell is not known before it runs", "ask")
        return Inner(texts=((rest[0].text, dialect),))
    if check_only and rest:
        check_value("read", rest[0], scene)
        return NOTHING
    given = fed_text(command)
    if rest or command.piped or given is None or given.text is None:
        raise MisfitError("code", "what is in a script, or comes from standard input, is not seen", "ask")
    return Inner(texts=((given.text, dialect),))


_ENV_OPTIONS = OptionTable.read("-i --ignore-environment -0 --null -u=name --unset=name", permute=False)


def _env(_: Rule, words: Words, __: SimpleCommand, scene: Scene) -> Inner:
    rest = _ENV_OPTIONS.split(words).operands
    position = 0
    while position < len(rest):
        text = rest[position].text if rest[position].text is not None else rest[position].prefix
        name, equals, value = (text or "").partition("=")
        if not equals:
            break
        known = rest[position].text is not None
        check_assignment(name, Word(rest[position].source, value if known else None, value), scene)
        position += 1
    return Inner(commands=(tuple(rest[position:]),)) if position < len(rest) else NOTHING


_COMMAND_OPTIONS = OptionTable.read("-v -V", permute=False)


def _command(_: Rule, words: Words, __: SimpleCommand, ___: Scene) -> Inner:
    found = _COMMAND_OPTIONS.split(words)
    if found.options or not found.operands:
        return NOTHING
    return Inner(commands=(tuple(found.operands),))


def _eval(_: Rule, words: Words, __: SimpleCommand, ___: Scene) -> Inner:
    texts = [word.text for word in words]
    if any(text is None for text in texts):
        raise MisfitError("computed", "what eval would run is not known before it runs", "ask")
    return Inner(texts=((" ".join(text or "" for text in texts), None),), here=True) if texts else NOTHING


_TRAPPED = re.compile(r"(?:SIG)?[A-Z]+\d*|\d{1,2}")


def _trap(_: Rule, words: Words, __: SimpleCommand, ___: Scene) -> Inner:
    if not words or words[0].text is None:
        raise MisfitError("computed", "what trap would run is not known before it runs", "ask")
    if words[0].text in ("-", ""):
        return NOTHING
    if words[0].text.startswith("-") or not all(_TRAPPED.fullmatch(word.text or "") for word in words[1:]):
        raise MisfitError("option", "trap takes a text and signals", "otherwise")
    return Inner(texts=((words[0].text, None),), here=True)


def _test(_: Rule, words: Words, __: SimpleCommand, ___: Scene) -> Inner:
    for word in words:
        if word.text in ("-v", "-R"):
            raise MisfitError("option", f"{word.text} makes a shell run what stands in a subscript")
        if word.splits and word.prefix == "" and _ONE_WORD.fullmatch(word.source) is None:
            raise MisfitError("computed", f"{shown(word.source)} may become an operator; quote it", "ask")
    return NOTHING


_ONE_WORD = re.compile(r"\$[?#!]|\$\(.*\)|\$\w+|\$\{#?\w+\}", re.DOTALL)
_OWN_JOB = re.compile(r"%[\w%+-]*")
_OWN_PID = re.compile(r'"?\$(?:!|\{?[A-Za-z_]*(?:pid|PID)[A-Za-z_]*\}?)"?')
_SIGNAL = re.compile(r"-(?:SIG)?(?:[A-Z]+[0-9]?|\d{1,2})")


def _kill(_: Rule, words: Words, __: SimpleCommand, ___: Scene) -> Inner:
    rest = list(words)
    if rest and rest[0].text == "-l":
        return NOTHING
    if rest and rest[0].text == "-s":
        rest = rest[2:]
    elif rest and rest[0].text is not None and _SIGNAL.fullmatch(rest[0].text):
        rest = rest[1:]
    for word in rest:
        own = _OWN_JOB.fullmatch(word.text) if word.text is not None else _OWN_PID.fullmatch(word.source)
        if own is None:
            raise MisfitError("operand", f"{shown(word.source)} is not a job of this text (%1, $!)", "otherwise")
    return NOTHING


def _cd(rule: Rule, words: Words, command: SimpleCommand, scene: Scene) -> Inner:
    found = rule.options.split(words)
    target = found.operands[0].text if len(found.operands) == 1 else None
    if len(found.operands) > 1:
        raise MisfitError("operand", "cd takes one directory", "otherwise")
    known = target is not None and target not in ("", "-")
    scene.enter(target if known else None, surely=not command.place and scene.depth == 0 and chained(scene.text))
    return NOTHING


_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\$`]|\\.)*\"", re.DOTALL)
_OTHER_OPERATORS = re.compile(r"[;|\n(){}`#<\\'\"]|(?<!&)&(?!&)|&&&|\$\(")


def chained(text: str | None) -> bool:
    """Whether the text is commands joined by && alone, so that what follows a `cd` runs only if it succeeded."""
    return text is not None and _OTHER_OPERATORS.search(_QUOTED.sub("", text).strip()) is None


_XARGS = "names from standard input"


def _xargs(rule: Rule, words: Words, _: SimpleCommand, scene: Scene) -> Inner:
    found = rule.options.split(words)
    rule.check_options(found, scene)
    if not found.operands:
        return NOTHING
    places = [given for given in found.options if given.name in ("-I", "-i", "--replace")]
    fed = scene.producer or (Word(_XARGS, None, "", quoted=True),)
    if not places:
        return Inner(commands=((*found.operands, *fed),))
    mark = (places[-1].values[0].text if places[-1].values else "{}") or "{}"
    return Inner(commands=(tuple(_put(word, mark, fed[0]) for word in found.operands),))


def _put(word: Word, mark: str, value: Word) -> Word:
    """`word` with the unknown `value` where `mark` stands."""
    known = word.text if word.text is not None else word.prefix
    if mark not in known:
        return word
    before = known.partition(mark)[0]
    if not before:
        return value if known == mark else Word(word.source, None, value.prefix, False, True)
    return Word(word.source, None, before, False, True)


def names_below(paths: Words) -> Word | None:
    """The word for any name that is found below `paths`; None when one of those is not known."""
    prefixes = []
    for path in paths:
        known = path.text if path.text is not None else path.prefix
        if not known or known.startswith("-"):
            return None
        prefixes.append(known if path.text is None or known.endswith("/") else f"{known}/")
    return Word("{}", None, commonprefix(prefixes), True, True, False, tuple(prefixes)) if prefixes else None  # noqa: RUF071


_FIND_TESTS: dict[str, int] = {
    **dict.fromkeys(
        names(
            "-true -false -empty -readable -writable -executable -nouser -nogroup -daystart -depth -d -mount -xdev "
            "-noleaf -print -print0 -ls -prune -quit -o -or -a -and -not ! ( ) , -noignore_readdir_race "
            "-ignore_readdir_race -follow -nowarn -warn --help --version"
        ),
        0,
    ),
    **dict.fromkeys(
        names(
            "-name -iname -path -ipath -wholename -iwholename -regex -iregex -lname -ilname -type -xtype -size -mtime "
            "-mmin -atime -amin -ctime -cmin -perm -user -group -uid -gid -maxdepth -mindepth -links -inum -fstype "
            "-regextype -used -printf -context"
        ),
        1,
    ),
    **dict.fromkeys(names("-newer -anewer -cnewer -samefile -newermt -newerct -newerat -newermm -newercc"), 1),
}
_FIND_RUN = "-exec"
_FIND_FILES = frozenset(["-newer", "-anewer", "-cnewer", "-samefile", "-newermm", "-newercc"])


def _find(_: Rule, words: Words, __: SimpleCommand, scene: Scene) -> Inner:
    position = 0
    while position < len(words) and words[position].text in ("-L", "-P", "-H", "-O1", "-O2", "-O3"):
        position += 1
    paths: list[Word] = []
    while position < len(words) and not _begins_expression(words[position]):
        paths.append(words[position])
        position += 1
    paths = paths or [Word(".", ".")]
    for path in paths:
        check_value("read", path, scene)
    commands: list[tuple[Word, ...]] = []
    while position < len(words):
        name = words[position].text
        if name is None:
            raise MisfitError(
                "computed", f"{shown(words[position].source)} may become another test of find", "otherwise"
            )
        if name == _FIND_RUN:
            end = position + 1
            while end < len(words) and not (words[end].text == ";" or _ends_plus(words, end)):
                end += 1
            run = words[position + 1 : end]
            if end == len(words) or not run:
                raise MisfitError("option", f"{name} of find lacks its end", "otherwise")
            names = names_below(paths) or Word("{}", None, "", quoted=True)
            commands.append(tuple(_put(word, "{}", names) for word in run))
            position = end + 1
            continue
        if name not in _FIND_TESTS:
            raise MisfitError("option", f"{shown(name)} of find deletes, writes, or is not listed", "otherwise")
        count = _FIND_TESTS[name]
        values = words[position + 1 : position + 1 + count]
        if len(values) < count:
            raise MisfitError("option", f"{name} of find lacks its value", "otherwise")
        for value in values:
            if value.splits or (value.text is None and value.pattern):
                raise MisfitError("computed", f"{shown(value.source)} may become more than one word", "otherwise")
            if name in _FIND_FILES:
                check_value("read", value, scene)
        position += 1 + count
    return Inner(commands=tuple(commands))


def _begins_expression(word: Word) -> bool:
    if word.text is None:
        starts = word.alternatives or (word.prefix,)
        if all(start and start[0] not in "-(!," for start in starts) and not word.splits:
            return False
        if word.prefix == "" or word.splits:
            raise MisfitError("computed", f"{shown(word.source)} may become a test of find", "otherwise")
        return True
    return word.text.startswith("-") or word.text in ("(", ")", "!", ",")


def _ends_plus(words: Words, position: int) -> bool:
    return words[position].text == "+" and words[position - 1].text == "{}"


_LISTING = frozenset(["-l", "-L", "--files-with-matches", "--files-without-match", "--files"])
_FILTERS = frozenset(["sort", "head", "tail", "uniq", "grep", "egrep"])


def producer_of(commands: Sequence[SimpleCommand], index: int) -> tuple[Word, ...]:
    """What is known of the names that the command before in the pipeline prints."""
    place = commands[index].place
    for command in reversed(commands[:index]):
        if command.place != place or not command.words:
            return ()
        name = command.words[0].text
        rest = command.words[1:]
        if name == "find":
            paths: list[Word] = []
            for word in rest:
                if word.text is None or word.text[:1] in ("-", "(", "!"):
                    break
                paths.append(word)
            prints = any(word.text in ("-printf", "-exec", "-execdir", "-ls") for word in rest)
            found = None if prints else names_below(paths or [Word(".", ".")])
            return (found,) if found else ()
        if name in ("grep", "rg") and any(word.text in _LISTING or _clustered_l(word) for word in rest):
            operands = [word for word in rest if not (word.text or word.prefix).startswith("-")]
            skipped = 0 if any(word.text == "--files" for word in rest) else 1
            found = names_below(operands[skipped:])
            valued = any(word.text in ("-e", "-f", "-A", "-B", "-C", "-m", "-g", "-t", "--include") for word in rest)
            return (found,) if found and not valued else ()
        files = [word for word in rest if word.text is None or not (word.text.startswith("-") or word.text.isdigit())]
        if name not in _FILTERS or not command.piped or len(files) > int(name.endswith("grep")):
            return ()
    return ()


def _clustered_l(word: Word) -> bool:
    return word.text is not None and re.fullmatch(r"-[rRniwElFGP]*l[rRniwEFGP]*", word.text) is not None


def _tar(rule: Rule, words: Words, _: SimpleCommand, scene: Scene) -> Inner:
    """`tar xzf FILE` is `tar -x -z -f FILE`: letters without a dash take their values from the words that follow."""
    rest = list(words)
    if rest and rest[0].text is not None and rest[0].text.isalpha():
        letters, rest = rest[0].text, rest[1:]
        apart: list[Word] = []
        for letter in letters:
            option = rule.options.options.get(f"-{letter}")
            apart.append(Word(f"-{letter}", f"-{letter}"))
            if option is not None and option.kinds:
                apart += rest[:1]
                rest = rest[1:]
        rest = [*apart, *rest]
    rule.fit(rest, scene)
    return NOTHING


CHECKERS: dict[str, Checker] = {
    "cd": _cd,
    "command": _command,
    "env": _env,
    "eval": _eval,
    "find": _find,
    "interpreter": _python,
    "kill": _kill,
    "shell": _shell,
    "tar": _tar,
    "test": _test,
    "trap": _trap,
    "xargs": _xargs,
}


def arguments_of(rule: Rule, words: Words) -> Arguments:
    """The arguments before a subcommand."""
    table = rule.options
    return OptionTable(table.options, table.style, False, table.dashes, table.number).split(words)
