"""The project that the demo makes in its session: small, but a real one, with a bug that its tests find."""

from __future__ import annotations

import json

WRITER = """
import json, pathlib, sys
for name, text in json.load(sys.stdin).items():
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
"""
"""A command that writes the files which it reads from its standard input."""

_README = """# wordcount

Counts words, whatever their case: the words of a text, and which words occur most.
"""

_COUNTING = '''"""How often words occur in a text."""

from collections import Counter


def words(text):
    """The words of a text, in order, in lower case."""
    return text.split()


def most_common(text, count=3):
    """The words that occur most, with how often."""
    return Counter(words(text)).most_common(count)
'''

_COUNTING_FIXED = _COUNTING.replace(
    "from collections import Counter", "import re\nfrom collections import Counter"
).replace("text.split()", 're.findall(r"[a-z\']+", text.lower())')

_REPORT = '''"""python3 report.py FILE: the most common words of a file."""

import sys

from wordcount.counting import most_common

for word, count in most_common(open(sys.argv[1]).read()):
    print(f"{count:4} {word}")
'''

_TESTS = """import unittest

from wordcount.counting import most_common, words


class CountingTest(unittest.TestCase):
    def test_words_are_split_at_spaces(self):
        self.assertEqual(words("one two  three"), ["one", "two", "three"])

    def test_nothing_has_no_words(self):
        self.assertEqual(words(""), [])

    def test_case_and_punctuation_do_not_matter(self):
        self.assertEqual(most_common("Stop, stop! STOP it.", 1), [("stop", 3)])
"""

FILES = {
    ".gitignore": "__pycache__/\n.pytest_cache/\n",
    "README.md": _README,
    "report.py": _REPORT,
    "tests/__init__.py": "",
    "tests/test_counting.py": _TESTS,
    "wordcount/__init__.py": "",
    "wordcount/counting.py": _COUNTING,
}

FIX = {"wordcount/counting.py": _COUNTING_FIXED}

IDENTITY = {
    "GIT_AUTHOR_NAME": "demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_COMMITTER_NAME": "demo",
    "GIT_COMMITTER_EMAIL": "demo@localhost",
}
"""Environment with which git knows who commits."""

SHORT = (
    "ls wordcount",
    "cat README.md",
    "grep -n def wordcount/counting.py",
    "wc -l report.py wordcount/counting.py",
    "head -n 3 tests/test_counting.py",
)
"""Commands as an agent runs them to look around."""


def as_input(files: dict[str, str]) -> bytes:
    """Standard input for WRITER."""
    return json.dumps(files).encode()
