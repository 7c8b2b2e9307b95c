"""Migrations: once each, whoever runs them; and what a server says to a schema that is not its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from creditledger_server.storage import schema
from ledger_harness import Postgres, with_database


@pytest.fixture
def empty_dsn(postgres: Postgres) -> Iterator[str]:
    """A database without any schema."""
    name = f"creditledger_test_{uuid.uuid4().hex}"
    _execute(postgres.dsn, f"CREATE DATABASE {name}")
    yield with_database(postgres.dsn, name)
    _execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(dsn: str, script: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(script.encode())


def _columns(dsn: str) -> list[tuple[object, ...]]:
    query = """
        SELECT table_name, column_name, data_type, is_nullable, column_default
        FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
    """
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def test_every_revision_is_applied_once(empty_dsn: str) -> None:
    before = schema.status(empty_dsn)
    assert (before.current, before.pending[-1]) == (None, schema.expected_version())
    assert schema.migrate(empty_dsn) == before.pending
    assert schema.migrate(empty_dsn) == ()
    after = schema.status(empty_dsn)
    assert (after.current, after.pending) == (schema.expected_version(), ())
    schema.check(empty_dsn)


def test_processes_that_migrate_at_once_do_not_collide(empty_dsn: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        applied = [*threads.map(schema.migrate, [empty_dsn] * 4)]
    assert sorted(revision for each in applied for revision in each) == [
        revision.revision_id for revision in schema.status(empty_dsn).revisions
    ]


def test_a_failed_revision_leaves_nothing(empty_dsn: str) -> None:
    _execute(empty_dsn, "CREATE TABLE entry ()")  # In the way.
    with pytest.raises(schema.SchemaError, match="entry") as caught:
        schema.migrate(empty_dsn)
    assert "\n" not in str(caught.value)
    assert [row[0] for row in _columns(empty_dsn)] == []
    assert schema.status(empty_dsn).current is None


def test_the_printed_sql_makes_the_same_schema(empty_dsn: str, dsn: str) -> None:
    _execute(empty_dsn, schema.sql())
    schema.check(empty_dsn)
    assert _columns(empty_dsn) == _columns(dsn)


def test_a_database_without_its_revisions_is_refused(empty_dsn: str) -> None:
    with pytest.raises(schema.SchemaOutdated, match="migrate up"):
        schema.check(empty_dsn)


def test_a_database_of_a_newer_server_is_refused(dsn: str) -> None:
    _execute(dsn, "UPDATE alembic_version SET version_num = '9999'")
    for use in (schema.check, schema.migrate, schema.status):
        with pytest.raises(schema.SchemaTooNew, match="9999") as caught:
            use(dsn)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:secret@127.0.0.1:1/x", "postgresql://u:secret@127.0.0.1:1/x?nonsense=1"]
)
def test_a_database_out_of_reach_is_told_without_its_password(dsn: str) -> None:
    with pytest.raises(schema.DatabaseUnreachable) as caught:
        schema.status(dsn)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
