"""The safe subsets of the languages that programs take as arguments."""

from __future__ import annotations

import pytest

from sessiond.policy.programs.awk import check_awk
from sessiond.policy.programs.javascript import check_javascript
from sessiond.policy.programs.jq import check_jq
from sessiond.policy.programs.python import check_python
from sessiond.policy.programs.sed import check_sed


@pytest.mark.parametrize(
    "script",
    [
        *("p", "1,5p", "$d", "s/a/b/g", "s|a|b|gi", "s,a,b,2", "/x/d", "/a/,/b/p", "\\,x,d", "1!G;h;$!d", "y/abc/xyz/"),
        *("a\\\ntext e id", "i text; w x", "c new", "2q", "=", "n;d", ":a;N;$!ba;s/\\n/ /g", "/x/{s/a/b/;p}", "1~2d"),
        *("/a\\/b/d", "# e id\np", "s/a/b/;# w", "$!N", "/x/I,+3d", "l 5"),
    ],
)
def test_sed_that_only_edits_is_safe(script: str) -> None:
    assert check_sed(script) is None


@pytest.mark.parametrize(
    "script",
    [
        *("e", "1e id", "s/a/b/e", "s/a/b/ge", "s/a/b/w x", "w x", "W x", "r x", "R x", "/x/w y", "1,2e", "p;e id"),
        *(
            "{e id}",
            "/a/{p;e}",
            "s/a/b/;w x",
            "y/a/b/;e",
            ":a;e id",
            "ba;e id",
            "a\\\nx\ne id",
            "s/a/b",
            "s",
            "/x",
            "v x;e",
        ),
        *("s/a/b/\ne id", "# x\ne id", "1!e id", "\\,x,e id", "$!{e", "s\na\nb\n"),
    ],
)
def test_sed_that_runs_or_names_a_file_is_not(script: str) -> None:
    assert check_sed(script) is not None


@pytest.mark.parametrize(
    "program",
    [
        *("{print $1}", "NR>1 {s+=$3} END {print s}", "/x|y/ {c++}", "$1 > 3 && $2 || 0", '{print $1 "|" $2}'),
        *('{gsub(/"/, ""); print}', "{a = 1 / 2; b = 3 / 4; print a, b}", "BEGIN{for(i=0;i<3;i++) print i}", "/a\\/b/"),
        *("{if ($1 > 2) print}", "length > 80", "{print (1 > 2)}", "# a comment | x\n{print}", "/[/]/", "!seen[$0]++"),
    ],
)
def test_awk_that_only_computes_is_safe(program: str) -> None:
    assert check_awk(program) is None


@pytest.mark.parametrize(
    "program",
    [
        *(
            'BEGIN{system("x")}',
            '{print | "sh"}',
            '{print > "x"}',
            '{print >> "x"}',
            '"x" | getline',
            "getline",
            "@load",
        ),
        *(
            '/"/ {print | "sh"} /"/',
            '{printf("x") > "y"}',
            '{print "a",\n"b" > "c"}',
            "{print |& x}",
            "BEGIN{ARGV[1]=1}",
        ),
        *('BEGIN{for(;;) print > "x"}', 'BEGIN{if(1)/"/; print | "sh" #"\n}', "@include x", '{print $1, ($2) > "f"}'),
    ],
)
def test_awk_that_runs_or_writes_is_not(program: str) -> None:
    assert check_awk(program) is not None


@pytest.mark.parametrize(
    "code",
    [
        *("print(1)", "import sys; print(sys.version)", "import json; print(json.dumps({}))", "print(sum(range(3)))"),
        *(
            "import numpy; print(numpy.__version__)",
            "from app import main; main()",
            "x = [i for i in range(3)]; print(x)",
        ),
        *(
            "import math\nprint(math.pi)",
            "import sys; print(sys.path)",
            "def f(x):\n return x\nprint(f(1))",
            "import app",
        ),
    ],
)
def test_python_that_only_computes_is_safe(code: str) -> None:
    assert check_python(code).problem is None


@pytest.mark.parametrize(
    "code",
    [
        *("import os; os.system('x')", "import subprocess", "exec('1')", "eval('1')", "__import__('os')", "open(x)"),
        *(
            "().__class__",
            "getattr(1, 'x')",
            "import sys; sys.modules",
            "f = open",
            "import sys; sys.path.append('/tmp')",
        ),
        *("from os import system", "from app import os", "import app.os", "import requests", "import socket", "1 +"),
        *(
            "import json; json.codecs",
            "import typing; typing.get_type_hints",
            "import sys; sys.stdout = 1",
            "breakpoint()",
        ),
        *("match x:\n case str(__class__=c): pass", "import pip", "from x import *", "@f\ndef g(): pass", "globals()"),
        "x" * 20000,
    ],
)
def test_python_that_reaches_further_is_not(code: str) -> None:
    assert check_python(code).problem is not None


def test_the_files_that_python_opens_are_told() -> None:
    found = check_python("print(open('a').read()); open('b', 'w').write(open('c', 'rb').read())")
    assert (found.problem, found.read, found.written) == (None, ["a", "c"], ["b"])


def test_jq_and_javascript() -> None:
    assert check_jq(".a[] | select(.b == 1)") is None
    assert check_jq('import "x" as x; .') is not None
    assert check_javascript("console.log('a', 1 + 2)") is None
    for code in ("require('child_process')", "process.exit()", "this.constructor", "eval('1')", "import('fs')", "`x`"):
        assert check_javascript(code) is not None
