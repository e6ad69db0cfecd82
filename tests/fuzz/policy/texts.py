"""Makes shell texts at random, dense with the ways in which shells hide a program from those who read for them."""

from __future__ import annotations

import random

FORBIDDEN = "curl"
PROGRAMS = ("ls", "cat", "grep", "git", FORBIDDEN)

_HIDDEN = (
    *("curl", "curl", "curl", "\\curl", "c'u'rl", '"curl"', "'curl'", "cu\\rl", 'cu""rl', "$'\\x63url'", "$'\\143url'"),
    *("cur[l]", "{curl,x}", "$x", "$y", "${y}", "${z:-curl}", "$(ls)curl", "cu$()rl", "$'cu'rl", '$"curl"'),
)
_LITERALS = (
    "a",
    "b1",
    "-n",
    "--x=y",
    "'curl'",
    "'a b'",
    '"a b"',
    "'$(curl)'",
    "'`curl`'",
    "\\$\\(curl\\)",
    "\\`",
    "''",
)
_ODD_WORDS = (
    *(
        "*.z",
        "a[b]",
        "{a,b}",
        "{1..3}",
        "~",
        "HEAD~1",
        "{}",
        "a#b",
        "#",
        "\\#",
        "$x",
        '"$x"',
        "${x}",
        '"$@"',
        "$?",
        "$#",
    ),
    *(
        "${x@P}",
        "${x@E}",
        "${!x}",
        "${#x}",
        "${x:1}",
        "${x:$((1))}",
        "${a[0]}",
        "${a[@]}",
        "${x#a}",
        "$[1+1]",
        "$'a\\'b'",
    ),
    *("$'a'", '$"a"', "=", "a=b", "if", "done", "}", "!", "time", "@(a|b)", "${x^^}", "$((1))"),
    *('"\\`curl\\`"', '"\\$(curl)"', "\"'$(curl)'\"", "'\"$(curl)\"'", "`ls \\`curl\\``", '"`ls \\"a\\"`"', "$(<f)"),
    *(
        "${x:-'$(curl)'}",
        "\"${x:-'$(curl)'}\"",
        '"${x:-\\$(curl)}"',
        '${x:-"$(curl)"}',
        "${x:-`curl`}",
        '"${x:-`curl`}"',
    ),
    *("${x:-\\}$(curl)}", "$(( a[$(curl)] ))", "$((y[0]))", "$((v))", "${a[$(curl)]}", "${x:v}", "${x/$(curl)/b}"),
)
_EVALUATED = (
    *("[[ 'a[$(curl)]' -eq 0 ]]", "[[ $v -eq 0 ]]", "[[ v -lt 1 ]]", "[[ -v 'a[$(curl)]' ]]", "test -v 'a[$(curl)]'"),
    *("read 'a[$(curl)]' <<< x", "printf -v 'a[$(curl)]' x", "unset 'a[$(curl)]'", "declare 'a[$(curl)]=1'", "((v))"),
    *("let v", "let 'q=a[$(curl)]'", "(( a[$(curl)] ))", "declare -i q=v", "export 'a[$(curl)]=1'", "a[v]=1"),
    *(
        "for ((q=v;q<1;q++)); do ls; break; done",
        "[ -v 'a[$(curl)]' ]",
        "\\read 'a[$(curl)]' <<< x",
        "wait -p 'a[$(curl)]'",
    ),
    *("'declare' 'a[$(curl)]=1'", "declare -a 'q=($(curl))'", "[ $w ]", "test $w", "printf $w x", "q=1; echo $((q+1))"),
    *(
        "echo ${x:=$(curl)}",
        "builtin read 'a[$(curl)]' <<< x",
        "command printf -v 'a[$(curl)]' x",
        "mapfile 'a[$(curl)]'",
    ),
)
_PREAMBLES = (
    *("", "", "", "", "y=curl; ", "x='$(curl)'; ", "v='a[$(curl)]'; ", "w='-v a[$(curl)]'; ", "x=1\n", "set -- curl; "),
    *("w='-va[$(curl)]'; ", "f() { curl; }; ", "IFS=r; y=cxurl; ", "x='`curl`'; y=x; "),
)
_SEPARATORS = (";", "; ", " && ", " || ", " | ", " & ", "\n", "\n\n", " |& ", " # it's a \n")
_COMMENTS = (" # curl\n", " # `\n", " # '\n", " # $(curl)\n")
_SOUP = (
    *"'\"\\`$(){}[]<>|&;#!~=*? \n\t",
    *(
        "$(",
        "`",
        "\\`",
        "$((",
        "))",
        "${",
        "<<E\n",
        "<<-E\n",
        "<<'E'\n",
        "\nE\n",
        "\n\tE\n",
        "\\\n",
        " \\\n",
        "# ",
        ";;",
        "&&",
    ),
    *(
        "curl",
        " curl ",
        "\ncurl\n",
        "$(curl)",
        "`curl`",
        ";curl;",
        "|curl",
        "'",
        '"',
        "$'",
        '$"',
        "<(",
        ">(",
        "|&",
        "&>",
    ),
    *("case x in x) ", " esac", "if ", "then ", "fi", "for q in ", "do ", "done", "time ", "! ", "function g ", "g() "),
)


class Texts:
    """Texts from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self) -> str:
        """A text that may run FORBIDDEN, or may only look so."""
        text = self._pick(_PREAMBLES) + self._list(self._random.choice((1, 2, 2, 3)))
        if self._chance(0.25):
            text = self._spoiled(text)
        return text

    def _pick(self, choices: tuple[str, ...]) -> str:
        return self._random.choice(choices)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _list(self, depth: int) -> str:
        text = self._command(depth)
        while self._chance(0.25):
            text += "" if text.endswith("\n") else self._pick(_SEPARATORS)
            text += self._command(depth)
        if self._chance(0.12):
            text += self._pick(_COMMENTS if text.endswith("\n") or self._chance(0.3) else (";", "\n", " &"))
        elif self._chance(0.005):
            text += " # x \\\n"
        return text

    def _closed(self, depth: int) -> str:
        """A list after which a reserved word may stand."""
        text = self._list(depth)
        return text if text.endswith(("\n", ";", "&")) else text + self._pick((";", "\n"))

    def _command(self, depth: int) -> str:
        kinds = [self._simple] * 6 + [self._assigning]
        if depth > 0:
            kinds += [self._compound] * 3 + [self._document] * 2
        if self._chance(0.03):
            return self._pick(_EVALUATED)
        return self._random.choice(kinds)(depth)

    def _simple(self, depth: int) -> str:
        program = (
            self._pick(_HIDDEN)
            if self._chance(0.25)
            else "c\\\nurl"
            if self._chance(0.005)
            else self._pick(PROGRAMS[:4])
        )
        prefix = f"q={self._word(depth)} " if self._chance(0.1) else ""
        words = "".join(
            (" \\\n " if self._chance(0.03) else " ") + self._word(depth)
            for _ in range(self._random.choice((0, 1, 1, 2, 3)))
        )
        return prefix + program + words + (self._redirection(depth) if self._chance(0.2) else "")

    def _redirection(self, depth: int) -> str:
        operator = self._pick((">", "2>", ">>", "<", "&>", ">|", "<<< ", "2>&1 >", ">&", "<>", "3<", "{fd}>"))
        return f" {operator}{self._word(depth) if self._chance(0.4) else 'f'}"

    def _assigning(self, depth: int) -> str:
        word = self._word(depth)
        shapes = (
            f"q={word}",
            f"q=({word} b)",
            f"q+={word}",
            f"export q={word}",
            f"declare -x q={word}",
            f"q[0]={word}",
        )
        return self._random.choice((*shapes, f"local q={word}", f"readonly Q={word}", "q[$(curl)]=1"))

    def _word(self, depth: int) -> str:
        if depth <= 0 or self._chance(0.65):
            return self._pick(_LITERALS) if self._chance(0.8) else self._pick(_ODD_WORDS)
        inner = self._list(depth - 1)
        shapes = (
            *(f"$({inner})", f'"$({inner})"', f'"a $({inner}) b"', f"$( {inner} )", f"<({inner})", f">({inner})"),
            *(f"`{inner}`", f'"`{inner}`"', f"${{x:-$({inner})}}", f'"${{x:-$({inner})}}"', f"${{x:+$({inner})}}"),
            *(f"${{x//a/$({inner})}}", f"$(( $({inner}) + 1 ))", f"${{x:-`{inner}`}}", f"a$({inner})b", f"'{inner}'"),
        )
        return self._random.choice(shapes)

    def _compound(self, depth: int) -> str:
        a, b, word = self._closed(depth - 1), self._closed(depth - 1), self._word(depth - 1)
        shapes = (
            *(f"if {a} then {b} fi", f"if {a} then ls; else {b} fi", f"{{ {a} }}", f"({a})"),
            *(f"while {a} do {b} break; done", f"until {a} do {b} break; done", f"! {a}", f"time {a}"),
            *(f"for q in {word} c; do {a} done", f"for q in a b; do $q; {a} done", f"for q do {a} done"),
            *(
                f"case {word} in a) {a}\n;; *) {b}\n esac",
                f"case a in ({word}) {a}\n;; esac",
                f"case a in a) {a}\n;& b) {b}\n;; esac",
            ),
            *(f"f() {{ {a} }}; f", f"function f {{ {a} }}; f", f"f() ({a}); f", f"[[ -n {word} ]] && {a}"),
            *(
                f"[[ a == {word} || -f {word} ]]",
                f"coproc {a}",
                f"coproc N {{ {a} }}",
                f"time -p {a}",
                f"[ {word} = a ]",
            ),
            *(f"select q in {word}; do {a} break; done < /dev/null", f"(( $({a}) ))", f"{{ {a} }} | ({b})"),
            *(f"{{ {a} }} > f", f"for ((q=0;q<2;q++)); do {a} done", f"ls;\n{a}", f"if ls; then {b} fi 2>&1"),
        )
        return self._random.choice(shapes)

    def _document(self, depth: int) -> str:
        end = self._pick(("E", "E", "'E'", '"E"', "\\E", "E''", "$x"))
        dash = self._chance(0.3)
        tab = self._pick(("", "\t")) if dash else ""
        pieces = (
            f"$({self._list(depth - 1)})",
            "`curl`",
            "text",
            "\\$(curl)",
            "\\`curl\\`",
            "${x:-$(curl)}",
            "'$(curl)'",
            "E ",
            " E",
            "$x",
        )
        pieces += ("a \\", "E\\", '"$(curl)"', "${x:-`curl`}", "$((v))", "curl", "#", "\\\\$(curl)")
        body = "\n".join(tab + self._pick(pieces) for _ in range(self._random.randrange(1, 4)))
        program = self._pick(("cat", "ls", "curl"))
        rest = self._pick(("", "", " | grep a", " > f", " && ls", " <<E2", "; curl"))
        second = "\nz $(ls)\nE2" if rest == " <<E2" else ""
        return f"{program} <<{'-' if dash else ''}{end}{rest}\n{body}\n{tab}E{second}\n"

    def _spoiled(self, text: str) -> str:
        """The text with some of its characters gone, doubled, or followed by others."""
        for _ in range(self._random.randrange(1, 4)):
            place = self._random.randrange(len(text) + 1)
            cut = self._random.choice((0, 0, 1, 2, 5))
            inserted = self._pick(_SOUP) if self._chance(0.8) else text[place : place + 6]
            text = text[:place] + inserted + text[place + cut :]
        return text
