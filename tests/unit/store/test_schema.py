"""The database's schema: an older one is brought up to date or left alone, a newer one refused."""

import json
import sqlite3

import pytest
from msgpack import packb

from sessiond.store import changes, schema
from sessiond.store.errors import StoreError, StoreVersionError
from tests.unit.store.support import end, journal_with, opened, row, schema_version

LATER = (*schema.MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN later TEXT NOT NULL DEFAULT 'new'",))


NOW = len(schema.MIGRATIONS)


@pytest.fixture
def this_version(tmp_path):
    """A state directory that this version has left, with something in it."""
    store = opened(tmp_path)
    store.session(row("s"))
    store.started("s", "c", 1, 1, b"request")
    end(store, "s", "c")
    store.close()
    assert schema_version(tmp_path) == NOW
    return tmp_path


def test_an_older_database_is_migrated_and_keeps_its_rows(this_version, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", LATER)
    for state in ("ready", "closed"):
        store = opened(this_version)
        assert store.find_session("s") == row("s")
        assert store.command("s", "c").output == b"out"
        store.session(row("t", state))
        assert store.sessions() == [row("s"), row("t", state)]
        store.close()
        assert schema_version(this_version) == NOW + 1
    connection = sqlite3.connect(this_version / "store.sqlite")
    assert connection.execute("SELECT id, later FROM sessions").fetchall() == [("s", "new"), ("t", "new")]
    connection.close()


def test_what_version_1_left_in_database_and_journal_is_taken_over(tmp_path):
    """It knew no policy of a session and no approvals; its records are shorter."""
    old = row("s", policy="")
    values = [getattr(old, name) for name in changes.SESSION_COLUMNS if name != "policy"]
    connection = schema.connect(tmp_path / "store.sqlite", power=False)
    schema.migrate(connection, tmp_path / "store.sqlite", schema.MIGRATIONS[:1])
    in_database = [json.dumps(value) if isinstance(value, dict) else value for value in values]
    connection.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * len(values))})", in_database)
    connection.close()
    journal_with(tmp_path / "journal", [packb((1, "t", *values[1:]))]).close()
    store = opened(tmp_path)
    assert store.sessions() == [old, row("t", policy="")]
    assert store.approvals("s") == []
    store.close()


def test_a_migration_that_fails_changes_nothing(this_version, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", (*LATER, ("DROP TABLE commands", "DROP TABLE nowhere")))
    with pytest.raises(StoreError, match=r"cannot be opened: no such table: nowhere"):
        opened(this_version)
    assert schema_version(this_version) == NOW
    monkeypatch.setattr(schema, "MIGRATIONS", LATER[:NOW])
    store = opened(this_version)
    assert store.command("s", "c") is not None
    store.close()


def test_a_newer_database_is_refused_and_left_alone(this_version, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", LATER)
    opened(this_version).close()
    monkeypatch.setattr(schema, "MIGRATIONS", LATER[:NOW])
    with pytest.raises(
        StoreVersionError,
        match=rf"store\.sqlite has schema version {NOW + 1}; this sessiond knows up to {NOW}: use a newer sessiond",
    ):
        opened(this_version)
    assert schema_version(this_version) == NOW + 1


def test_what_is_no_database_of_ours_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(StoreError, match="not a database of sessiond"):
        opened(tmp_path)
    (tmp_path / "store.sqlite").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        opened(tmp_path)
