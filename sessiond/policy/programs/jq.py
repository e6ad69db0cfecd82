"""The safe subset of jq: a filter computes; only `include`, `import` and the module functions read other files."""

from __future__ import annotations

import re

_REFUSED = re.compile(r"\b(?:include|import|modulemeta|get_search_list|input_filename|\$__prog\w*)\b")


def check_jq(program: str) -> str | None:
    """What of the filter is not in the safe subset; None if all is."""
    found = _REFUSED.search(program)
    return None if found is None else f"{found[0]} in a jq filter reads other files"
