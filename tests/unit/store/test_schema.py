"""The database's schema: an older one is brought up to date or left alone, a newer one refused."""

import sqlite3

import pytest

from sessiond.store import schema
from sessiond.store.errors import StoreError, StoreVersionError
from tests.unit.store.support import end, opened, row, schema_version

LATER = (*schema.MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN later TEXT NOT NULL DEFAULT 'new'",))


@pytest.fixture
def first_version(tmp_path, monkeypatch):
    """A state directory that version 1 has left, with something in it."""
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    store = opened(tmp_path)
    store.session(row("s"))
    store.started("s", "c", 1, 1, b"request")
    end(store, "s", "c")
    store.close()
    assert schema_version(tmp_path) == 1
    return tmp_path


def test_an_older_database_is_migrated_and_keeps_its_rows(first_version, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", LATER)
    for state in ("ready", "closed"):
        store = opened(first_version)
        assert store.find_session("s") == row("s")
        assert store.command("s", "c").output == b"out"
        store.session(row("t", state))
        assert store.sessions() == [row("s"), row("t", state)]
        store.close()
        assert schema_version(first_version) == 2
    connection = sqlite3.connect(first_version / "store.sqlite")
    assert connection.execute("SELECT id, later FROM sessions").fetchall() == [("s", "new"), ("t", "new")]
    connection.close()


def test_a_migration_that_fails_changes_nothing(first_version, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", (*LATER, ("DROP TABLE commands", "DROP TABLE nowhere")))
    with pytest.raises(StoreError, match=r"cannot be opened: no such table: nowhere"):
        opened(first_version)
    assert schema_version(first_version) == 1
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    store = opened(first_version)
    assert store.command("s", "c") is not None
    store.close()


def test_a_newer_database_is_refused_and_left_alone(first_version, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", LATER)
    opened(first_version).close()
    monkeypatch.setattr(schema, "MIGRATIONS", LATER[:1])
    with pytest.raises(
        StoreVersionError,
        match=r"store\.sqlite has schema version 2; this sessiond knows up to 1: use a newer sessiond",
    ):
        opened(first_version)
    assert schema_version(first_version) == 2


def test_what_is_no_database_of_ours_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(StoreError, match="not a database of sessiond"):
        opened(tmp_path)
    (tmp_path / "store.sqlite").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        opened(tmp_path)
