"""What the tables refuse, whoever asks for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import LiteralString

import psycopg
import pytest
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
from creditledger_server.storage.connect import Connection
from psycopg import errors


@pytest.fixture
async def ledger(
    dsn: str, conn: Connection, transact: Callable[[Connection, Sequence[Command]], Awaitable[None]]
) -> str:
    """The DSN of a ledger with two accounts and a catalog."""
    for account_id in ("a", "b"):
        deduct = Deduct("deduct", account_id, "chat_refinement")
        await transact(
            conn, [OpenAccount("open", account_id, "pro"), GrantCredits("grant", account_id, 100), deduct]
        )
    await conn.execute("INSERT INTO catalog (version, document, create_time) VALUES (1, '{}', now())")
    return dsn


@pytest.mark.parametrize("table", ["entry", "catalog"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET create_time = create_time",
        "UPDATE {} SET create_time = create_time WHERE false",
        "DELETE FROM {}",
        "TRUNCATE {}",
    ],
)
def test_what_is_appended_stays_as_it_is(ledger: str, table: str, statement: LiteralString) -> None:
    before = _count(ledger, table)
    with pytest.raises(errors.InsufficientPrivilege, match=f"{table} is append-only"):
        _execute(ledger, statement, table)
    assert _count(ledger, table) == before > 0


def test_an_upsert_cannot_change_an_entry_either(ledger: str) -> None:
    upsert: LiteralString = """
    INSERT INTO {0} SELECT * FROM {0} WHERE account_id = 'a' AND revision = 3
    ON CONFLICT (account_id, revision) DO UPDATE SET amount = 0
    """
    with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
        _execute(ledger, upsert, "entry")


@pytest.mark.parametrize(
    "change",
    [
        "available = -1, spent = spent + available + 1",
        "reserved = -1, available = available + 1",
        "spent = -1, available = available + spent + 1",
        "forfeited = -1, available = available + 1",
        "granted = granted + 1",
        "available = available - 1",
        "spent = spent + 1",
        "reserved = 1",
        "forfeited = 1",
        "granted = 9000000000000000001, available = 9000000000000000001 - spent",
        "revision = 0",
        "state = 0",
        "state = 4",
        "head_hash = '\\x00'",
    ],
)
def test_an_account_has_no_balance_that_cannot_be(ledger: str, change: LiteralString) -> None:
    with pytest.raises(errors.CheckViolation):
        _execute(ledger, "UPDATE {} SET " + change + " WHERE account_id = 'a'", "account")


@pytest.mark.parametrize(
    "column", ["available", "reserved", "spent", "forfeited", "cost", "quantity", "revision"]
)
def test_an_entry_has_no_number_below_zero(ledger: str, column: LiteralString) -> None:
    with pytest.raises(errors.CheckViolation):
        _insert_entry(ledger, **{column: "-1"})


@pytest.mark.parametrize("column", ["hash", "fingerprint"])
def test_a_digest_has_32_bytes(ledger: str, column: LiteralString) -> None:
    with pytest.raises(errors.CheckViolation):
        _insert_entry(ledger, **{column: "'\\x00'"})


def test_a_request_id_is_unique_within_its_account(ledger: str) -> None:
    with pytest.raises(errors.UniqueViolation) as raised:
        _insert_entry(ledger, request_id="'deduct'")
    assert raised.value.diag.constraint_name == "entry_request_id_key"
    _insert_entry(ledger, account_id="'c'", request_id="'deduct'")


def test_a_revision_is_unique_within_its_account(ledger: str) -> None:
    with pytest.raises(errors.UniqueViolation) as raised:
        _insert_entry(ledger, revision="2")
    assert raised.value.diag.constraint_name == "entry_pkey"


def test_entries_without_a_request_do_not_collide(ledger: str) -> None:
    _insert_entry(ledger, request_id="NULL", revision="10")
    _insert_entry(ledger, request_id="NULL", revision="11")


def test_account_ids_differ_by_case_and_sort_by_bytes(ledger: str) -> None:
    for number, name in enumerate(("'A'", "'_'", "'B'", "'-'")):
        _insert_entry(ledger, account_id=name, revision=f"{number + 1}", request_id="NULL")
    with psycopg.connect(ledger) as conn:
        found = conn.execute("SELECT DISTINCT account_id FROM entry ORDER BY account_id").fetchall()
    assert [row[0] for row in found] == sorted(["A", "_", "B", "-", "a", "b"])


def _insert_entry(dsn: str, **columns: LiteralString) -> None:
    """Copies revision 3 of account a as its revision 9, with these columns changed."""
    changed: dict[str, LiteralString] = {"revision": "9", "request_id": "'another'", **columns}
    with psycopg.connect(dsn, autocommit=True) as conn:
        [(row,)] = conn.execute(
            "SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute"
            " WHERE attrelid = 'entry'::regclass AND attnum > 0"
        ).fetchall()
        values = ", ".join(changed.get(name, name) for name in row)
        conn.execute(
            f"INSERT INTO entry SELECT {values} FROM entry WHERE account_id = 'a' AND revision = 3".encode()
        )


def _execute(dsn: str, statement: LiteralString, table: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL(statement).format(psycopg.sql.Identifier(table)))


def _count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as conn:
        query = psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(table))
        [(count,)] = conn.execute(query).fetchall()
        return int(count)
