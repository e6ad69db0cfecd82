"""The system call allowlist of `sessiond/guest/seccomp.toml`: read, checked, and put into Docker's format. Pure but for
reading it."""

from __future__ import annotations

import errno as errnos
import itertools
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

LAST_ARGUMENT = 5
"""System calls have six arguments."""

LOW_32_BITS = 0xFFFFFFFF
ALL_64_BITS = 0xFFFFFFFFFFFFFFFF

ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
"""Without their 32-bit and x32 relatives: a call in another architecture's numbering kills the process."""


class SeccompListError(ValueError):
    """The list does not have the form that its own head describes; nothing may run under a half-understood list."""


@dataclass(frozen=True, slots=True)
class ArgumentRule:
    """A condition on one argument of an allowed call, as the head of seccomp.toml defines it."""

    syscall: str
    index: int
    op: str
    values: tuple[int, ...] = ()
    mask: int = 0


@dataclass(frozen=True, slots=True)
class SeccompList:
    """The whole allowlist. A name is in `allow` or in `errno`, never in both."""

    default_errno: str
    allow: frozenset[str]
    errno: dict[str, str]
    arguments: tuple[ArgumentRule, ...]


def packaged() -> SeccompList:
    """The list that this version ships."""
    return load(resources.files("sessiond.guest").joinpath("seccomp.toml").read_text(encoding="utf-8"))


def load(text: str) -> SeccompList:
    """Read a list. Raises SeccompListError for anything that is not exactly of the documented form."""
    document = tomllib.loads(text)
    _only(document, "the file", {"default_errno", "allow", "errno", "argument"})
    allow: set[str] = set()
    refused: dict[str, str] = {}
    for entry in document.get("allow", []):
        _only(entry, "allow", {"reason", "syscalls"})
        _add_names(entry["syscalls"], allow | set(refused))
        allow.update(entry["syscalls"])
    for entry in document.get("errno", []):
        _only(entry, "errno", {"reason", "errno", "syscalls"})
        _add_names(entry["syscalls"], allow | set(refused))
        refused.update(dict.fromkeys(entry["syscalls"], _errno_name(entry["errno"])))
    arguments = tuple(_argument(entry, allow) for entry in document.get("argument", []))
    seen = [(rule.syscall, rule.index) for rule in arguments]
    if len(seen) != len(set(seen)):
        raise SeccompListError("one argument of one call has two [[argument]] entries; libseccomp cannot AND them")
    return SeccompList(_errno_name(document["default_errno"]), frozenset(allow), refused, arguments)


def docker_profile(rules: SeccompList | None = None) -> str:
    """The list as the JSON of Docker's `--security-opt seccomp=`. Docker 20.10 ignores defaultErrnoRet; its own default
    is EPERM.

    Conditions within one rule are AND-ed, rules of one call OR-ed. runc turns several conditions on the *same* argument
    into OR, so each rule has at most one an argument, and `not_in` is spelled as the blocks of numbers that remain.
    """
    rules = rules or packaged()
    conditions: dict[str, list[list[dict[str, Any]]]] = {}
    for rule in rules.arguments:
        conditions.setdefault(rule.syscall, []).append(list(_alternatives(rule)))
    syscalls: list[dict[str, Any]] = [
        {"names": sorted(rules.allow - conditions.keys()), "action": "SCMP_ACT_ALLOW", "args": []}
    ]
    for name, alternatives in sorted(conditions.items()):
        syscalls.extend(
            {"names": [name], "action": "SCMP_ACT_ALLOW", "args": list(args)}
            for args in itertools.product(*alternatives)
        )
    for error in sorted(set(rules.errno.values())):
        names = sorted(name for name, value in rules.errno.items() if value == error)
        number = getattr(errnos, error)
        syscalls.append({"names": names, "action": "SCMP_ACT_ERRNO", "args": [], "errnoRet": number})
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": getattr(errnos, rules.default_errno),
            "archMap": [{"architecture": architecture, "subArchitectures": []} for architecture in ARCHITECTURES],
            "syscalls": syscalls,
        },
        separators=(",", ":"),
    )


def remaining_blocks(values: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """All 32-bit numbers but `values`, as (mask, bits) blocks: n is in a block when `n & mask == bits`.

    The blocks are disjoint and there are at most 32 a value: at each bit, the half without forbidden values is one
    block.
    """
    pending = [(0, 0, tuple(value & LOW_32_BITS for value in values))]
    while pending:
        mask, bits, inside = pending.pop()
        if not inside:
            yield mask, bits
            continue
        if mask == LOW_32_BITS:
            continue
        bit = 1 << (31 - mask.bit_count())
        for half in (0, bit):
            pending.append((mask | bit, bits | half, tuple(value for value in inside if value & bit == half)))


def _alternatives(rule: ArgumentRule) -> Iterator[dict[str, Any]]:
    """The conditions of which one must hold for the rule to hold."""
    if rule.op == "in":
        for value in rule.values:
            yield {"index": rule.index, "value": value, "op": "SCMP_CMP_EQ"}
        return
    blocks = [(rule.mask, 0)] if rule.op == "masked_zero" else remaining_blocks(rule.values)
    for mask, bits in blocks:
        yield {"index": rule.index, "value": mask, "valueTwo": bits, "op": "SCMP_CMP_MASKED_EQ"}


def _only(entry: dict[str, Any], where: str, keys: set[str]) -> None:
    unknown = entry.keys() - keys
    if unknown:
        raise SeccompListError(f"{where} has unknown keys: {', '.join(sorted(unknown))}")
    if "reason" in keys and not entry.get("reason"):
        raise SeccompListError(f"an entry of {where} gives no reason")


def _add_names(names: list[str], known: set[str]) -> None:
    twice = {name for name in names if name in known or names.count(name) > 1}
    if twice:
        raise SeccompListError(f"named twice: {', '.join(sorted(twice))}")


def _errno_name(name: str) -> str:
    if name not in errnos.errorcode.values():
        raise SeccompListError(f"{name} is not an errno")
    return name


def _argument(entry: dict[str, Any], allow: set[str]) -> ArgumentRule:
    _only(entry, "argument", {"reason", "syscall", "index", "op", "values", "mask"})
    rule = ArgumentRule(
        entry["syscall"], entry["index"], entry["op"], tuple(entry.get("values", ())), entry.get("mask", 0)
    )
    if rule.syscall not in allow:
        raise SeccompListError(f"an argument of {rule.syscall} is narrowed, but it is not allowed at all")
    if not 0 <= rule.index <= LAST_ARGUMENT:
        raise SeccompListError(f"{rule.syscall} has no argument {rule.index}")
    takes_mask = rule.op == "masked_zero"
    if rule.op not in {"in", "not_in", "masked_zero"}:
        raise SeccompListError(f"{rule.syscall}: unknown op {rule.op!r}")
    if takes_mask != bool(rule.mask) or takes_mask == bool(rule.values):
        raise SeccompListError(
            f"{rule.syscall}: {rule.op} takes {'a mask' if takes_mask else 'values'} and nothing else"
        )
    if not all(0 <= number <= ALL_64_BITS for number in (*rule.values, rule.mask)):
        raise SeccompListError(f"{rule.syscall}: a number does not fit into 64 bits")
    return rule
