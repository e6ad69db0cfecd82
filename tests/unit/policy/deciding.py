"""Policies and requests as the tests of this folder need them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from sessiond.policy.decide import CommandRequest, Policy, Verdict, load_policy

CORPORA = Path(__file__).parent / "corpora"


@cache
def shipped(name: str, shell: str = "bash") -> Policy:
    return load_policy(name, shell="sh" if shell == "sh" else "bash")


def text(value: str, env: Mapping[str, str] | None = None, cwd: str = "/workspace") -> CommandRequest:
    return CommandRequest(None, value, env or {}, cwd)


def argv(*words: str, env: Mapping[str, str] | None = None) -> CommandRequest:
    return CommandRequest(words, None, env or {}, "")


def decide(value: str, policy: str = "developer", cwd: str = "/workspace") -> Verdict:
    return shipped(policy).decide(text(value, cwd=cwd))


def corpus(name: str) -> list[str]:
    return [json.loads(line)["command"] for line in (CORPORA / name).read_text(encoding="utf-8").splitlines()]
