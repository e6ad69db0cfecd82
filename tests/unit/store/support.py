"""What the store's tests share."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sessiond import failpoint
from sessiond.store import changes, journal, schema
from sessiond.store.journal import Journal
from sessiond.store.reader import Reader
from sessiond.store.records import ApprovalRow, SessionRow
from sessiond.store.store import Store


def arm(monkeypatch: pytest.MonkeyPatch, points: str) -> None:
    """Set failpoints in this process; "" for none."""
    hit = failpoint.hitter({"SESSIOND_FAILPOINTS": points})
    monkeypatch.setattr(journal, "hit", hit)
    monkeypatch.setattr(changes, "hit", hit)


def until(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(0.01)


def opened(folder: Path, durability: str = "process") -> Store:
    store = Store(folder, durability=durability)
    store.open()
    return store


def row(session: str, state: str = "ready", **changed) -> SessionRow:
    values = {
        "id": session,
        "state": state,
        "profile": "default",
        "engine": "docker",
        "sandbox": "box",
        "generation": 1,
        "request": b"\x80",
        "image_env": {"PATH": "/bin", "ü": "\x00"},
        "created": 1.25,
        "expires": None,
        "idle_timeout": 600.0,
        "epoch": 1,
        "pooled": True,
        "workspace": "",
        "kernel": "",
        "ended": None,
        "reason": "",
        "policy": "p1",
    }
    return SessionRow(**{**values, **changed})


def approval(identity: str = "a", **changed) -> ApprovalRow:
    values = {
        "id": identity,
        "session": "s",
        "command": "c",
        "digest": "d",
        "policy": "p1",
        "rule": "r",
        "reason": "because",
        "profile": "default",
        "who": "uid:1",
        "request": b"\x80",
        "asked": 1.0,
        "expires": 601.0,
        "state": "pending",
        "answered": None,
        "approver": "",
        "scope": "",
        "times_left": 0,
        "until": None,
        "note": "",
    }
    return ApprovalRow(**{**values, **changed})


def end(store: Store, session: str, command: str, **changed) -> None:
    values = {
        "state": "exited",
        "result": b"\x00",
        "started": 2.0,
        "ended": 3.5,
        "output": b"out",
        "output_end": 3,
        "settled": True,
    }
    store.ended(session, command, **{**values, **changed})


def journal_with(folder: Path, bodies: list[bytes], *, power: bool = False) -> Journal:
    """A journal in use, to which `bodies` have been appended."""
    made = Journal(folder, power=power)
    made.open()
    made.begin(0)
    for body in bodies:
        made.append(body)
    return made


def found(folder: Path, after: int = 0) -> list[bytes]:
    """What a new process would find in the journal."""
    left = Journal(folder, power=False)
    left.open()
    reader = Reader(left, after)
    try:
        bodies = []
        while some := reader.take(10, 1000):
            bodies += some
        assert reader.seq == max(left.last, after)
        return bodies
    finally:
        reader.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def schema_version(folder: Path) -> int:
    connection = schema.connect(folder / "store.sqlite", power=False)
    try:
        return connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0]
    finally:
        connection.close()
