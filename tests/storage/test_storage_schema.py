"""The migrations and the SQL that they print make the same schema."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from creditledger_server.storage import schema
from ledger_harness import Postgres, with_database

_COLUMNS = """
SELECT table_name, ordinal_position, column_name, data_type, collation_name, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
_INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
_TRIGGERS = """
SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger
WHERE NOT tgisinternal ORDER BY 1, 2
"""
_OPTIONS = """
SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1
"""


@pytest.fixture
def empty_dsn(postgres: Postgres) -> Iterator[str]:
    """A database without any schema."""
    dsn = with_database(postgres.dsn, f"creditledger_test_{uuid.uuid4().hex}")
    name = psycopg.sql.Identifier(dsn.rpartition("/")[2].partition("?")[0])
    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(name))
    yield dsn
    postgres.drop_database(dsn)


def test_migrating_an_empty_database_twice_applies_everything_once(empty_dsn: str) -> None:
    assert schema.migrate(empty_dsn)
    before = _schema(empty_dsn)
    assert schema.migrate(empty_dsn) == ()
    schema.check(empty_dsn)
    assert _schema(empty_dsn) == before


def test_the_printed_sql_makes_the_schema_that_migrating_makes(empty_dsn: str, dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(schema.sql().encode())

    schema.check(empty_dsn)
    assert schema.migrate(empty_dsn) == ()
    assert _schema(empty_dsn) == _schema(dsn)


def test_the_catalog_of_postgres_shows_what_is_compared(dsn: str) -> None:
    columns, constraints, indexes, triggers, options = _schema(dsn)
    assert ("entry", "entry_is_append_only") in {row[:2] for row in triggers}
    assert ("account", "account_adds_up") in {row[:2] for row in constraints}
    assert ("commit_log", "commit_log_position_idx") in {row[:2] for row in indexes}
    assert any(row[0] == "account" and "fillfactor=50" in row[1] for row in options if row[1])
    assert any(row[0] == "entry" and row[2] == "account_id" and row[4] == "C" for row in columns)


def _schema(dsn: str) -> list[list[tuple[str, ...]]]:
    queries: list[LiteralString] = [_COLUMNS, _CONSTRAINTS, _INDEXES, _TRIGGERS, _OPTIONS]
    with psycopg.connect(dsn) as conn:
        return [conn.execute(query).fetchall() for query in queries]
