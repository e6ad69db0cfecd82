"""The safe subset of JavaScript for `node -e` and `-p`: literals, arithmetic, console.log and a few pure functions."""

from __future__ import annotations

import re

_STRING = r"'(?:[^'\\\n]|\\[^ux0-9])*'|\"(?:[^\"\\\n]|\\[^ux0-9])*\""
_NAMES = (
    r"console\.log|JSON\.(?:stringify|parse)|Math\.\w+|process\.(?:version|versions|arch|platform)(?:\.\w+)?"
    r"|true|false|null|undefined|require\((?:'|\")\./[\w.-]+\.json(?:'|\")\)(?:\.(?:version|name|description|main|license|scripts))?"
)
_SAFE = re.compile(rf"(?:\s|{_NAMES}|{_STRING}|\d+(?:\.\d+)?|[-+*/%<>=!,;:?(){{}}&|])*", re.ASCII)


def check_javascript(program: str) -> str | None:
    """What of the program is not in the safe subset; None if all is."""
    if _SAFE.fullmatch(program) is None:
        return "only console.log of literals is known to be harmless JavaScript; put the code into a file"
    return None
