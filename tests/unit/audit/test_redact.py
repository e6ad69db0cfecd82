"""Redaction: no part of a declared secret is left, and nothing else is touched."""

from hypothesis import given
from hypothesis import strategies as st

from sessiond.audit.redact import REDACTED, SHORTEST_SECRET, Redactor


def test_each_occurrence_of_each_secret_is_replaced():
    redact = Redactor(["secret-one", "secret-two"])
    assert redact("a secret-one b secret-two c secret-one") == f"a {REDACTED} b {REDACTED} c {REDACTED}"


def test_overlapping_secrets_leave_nothing():
    assert Redactor(["abcdef", "defghi"])("xabcdefghix") == f"x{REDACTED}x"
    assert Redactor(["aaaaaa"])("a" * 9 + "b") == f"{REDACTED}b"
    assert Redactor(["abcdef", "abcdefgh"])("abcdefgh") == REDACTED


def test_a_value_too_short_to_be_a_secret_is_not_replaced():
    redact = Redactor(["x" * (SHORTEST_SECRET - 1), ""])
    assert not redact
    assert redact("xxxxx") == "xxxxx"


@given(st.lists(st.text("ab", min_size=6, max_size=8), min_size=1, max_size=4), st.text("abc", max_size=40))
def test_only_what_is_in_no_secret_is_left(secrets, text):
    covered = [False] * len(text)
    for secret in secrets:
        for start in range(len(text)):
            if text.startswith(secret, start):
                covered[start : start + len(secret)] = [True] * len(secret)
    shown = Redactor(secrets)(text)
    left = "".join(character for character, hidden in zip(text, covered, strict=True) if not hidden)
    assert shown.replace(REDACTED, "") == left
