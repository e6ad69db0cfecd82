"""Where a command stands: directories it may run in, and what the rest of its text lets it be fed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sessiond.policy.paths import Trees, resolve
from sessiond.policy.reading import Reading, SimpleCommand, Word

_MOST_DIRECTORIES = 8
_SUSPICIOUS = re.compile(r"~|\$|`|\\|(?:^|[/=:'\" ])\.\.(?:/|$)")
_ROOTED_SOURCE = re.compile(r"(?<![\w.})\]*?/])(/[^ '\",;:|&()<>]*)")
_ROOTED = re.compile(r"(?:^|[=:,'\" (])(/[^ '\",;:|&()<>]*)")


@dataclass(slots=True)
class Scene:
    """What is known while the commands of one text are judged, in its order."""

    trees: Trees
    directories: frozenset[str] | None
    """Where the command may run; None when that is not known."""
    reading: Reading
    index: int = 0
    """Which command of the reading it is."""
    depth: int = 0
    text: str | None = None
    functions: frozenset[str] = frozenset()
    """Those of the text that may be called by now."""
    outer: tuple[Reading, ...] = ()
    """Readings of the texts that this one stands in: their words may come in as parameters."""
    environment: tuple[str, ...] = ()
    """Values of the variables that the request sets."""
    visited: frozenset[str] | None = frozenset()
    """All directories that a `cd` may have led to; None when one of them is not known."""
    wandering: bool = False
    """Whether commands may run again after a later `cd`: in a loop, a function, a trap."""
    producer: tuple[Word, ...] = ()
    """What the names that `xargs` hands on surely begin with."""

    def resolved(self, path: str) -> list[str] | None:
        """All that `path` may mean; None when that cannot be told."""
        if path.startswith("/"):
            return [resolve(path, "/")]
        if self.directories is None:
            return None
        return [resolve(path, directory) for directory in self.directories]

    def enter(self, path: str | None, *, surely: bool) -> None:
        """Note a `cd`. Unless it happens `surely`, what comes after may run in the old directories too."""
        found = None if path is None else self.resolved(path)
        self.visited = None if found is None or self.visited is None else self.visited | frozenset(found)
        if found is None:
            self.directories = None
        elif surely and not self.wandering:
            self.directories = frozenset(found)
        elif self.directories is not None:
            self.directories |= frozenset(found)
            if len(self.directories) > _MOST_DIRECTORIES:
                self.directories = None

    def feeds_only_inside(self) -> bool:
        """Whether no known word of the whole text is, or hides, a path that may not be read.

        Names that come out of a variable, a substitution or `xargs` are not known; this is what can be asked of them.
        """
        commands = [command for reading in (self.reading, *self.outer) for command in reading.commands]
        values = [Word(value, value) for value in self.environment]
        return all(map(self._harmless, commands)) and all(map(self._harmless_word, values))

    def _harmless(self, command: SimpleCommand) -> bool:
        words = [*command.words, *(a.value for a in command.assignments), *(r.target for r in command.redirections)]
        return all(self._harmless_word(word) for word in words[:1024])

    def _harmless_word(self, word: Word) -> bool:
        text = word.text if word.text is not None else word.prefix
        for rooted in _ROOTED.findall(text) if word.text is not None else _ROOTED_SOURCE.findall(word.source):
            if not self.trees.readable(resolve(rooted, "/")) and rooted != "/":
                return False
        return not (word.text is not None and _SUSPICIOUS.search(text) and _looks_like_path(text))


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.startswith(("~", "..", "\\")) or "\\x" in text or "\\0" in text or "\\1" in text
