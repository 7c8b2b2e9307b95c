"""Whoever changes the history or a balance behind the ledger's back is found out by verification."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import LiteralString

import psycopg
import pytest
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
from creditledger_server.domain.usage import Usage
from creditledger_server.ledger.verify import Report, verify_ledger
from creditledger_server.storage.connect import Connection

OPENED, GRANTED, SECOND_GRANT, DEDUCTED, LEVEL_CHANGED, FREE, LAST = range(1, 8)
"""The revisions of the victim's entries."""

# What no entry of this ledger holds, of the right type.
OTHER_VALUES: dict[str, LiteralString] = {
    "revision": "revision + 100",
    "create_time": "create_time + interval '1 microsecond'",
    "amount": "amount + 1",
    "cost": "cost + 1",
    "available": "available + 1",
    "reserved": "reserved + 1",
    "spent": "spent + 1",
    "forfeited": "forfeited + 1",
    "quantity": "quantity + 1",
    "catalog_version": "catalog_version + 1",
    "kind": "CASE kind WHEN 4 THEN 2 ELSE 4 END",
    "account_id": "'bystander'",
    "operation": "'other'",
    "request_id": "'other'",
    "fingerprint": "sha256('other')",
    "hash": "sha256('other')",
    "draws": "coalesce(draws, '') || ',2:1'",
    "limits": "coalesce(limits || ',', '') || '4:9:9:'",
    "usage": """'{"service":"other"}'""",
    "details": """'{"level":"free","labels":{},"other":1}'""",
}

# What the server itself could not read.
MALFORMED: dict[str, LiteralString] = {
    "kind": "99",
    "draws": "'two:one'",
    "limits": "'no limits'",
    "details": "'[]'",
}

ACCOUNT_VALUES: dict[str, LiteralString] = {
    "account_id": "'renamed'",
    "revision": "revision - 1",
    "available": "available + 1",
    "reserved": "reserved + 1",
    "granted": "granted + 1",
    "spent": "spent + 1",
    "forfeited": "forfeited + 1",
    "commit_position": "0",
    "last_time": "last_time - interval '1 microsecond'",
    "create_time": "create_time - interval '1 microsecond'",
    "state": "2",
    "level": "'other'",
    "head_hash": "sha256('other')",
    "lots": "'[[2,0,1]]'",
    "labels": """'{"other":"label"}'""",
}


@pytest.fixture
async def ledger(
    dsn: str, conn: Connection, transact: Callable[[Connection, Sequence[Command]], Awaitable[None]]
) -> str:
    """The DSN of a ledger of two accounts, with every kind of entry."""
    usage = Usage(service="speech", metrics={"tokens": 7})
    history: list[Command] = [
        OpenAccount("open", "victim", "free", {"team": "red"}),
        GrantCredits("grant", "victim", 3, reason="welcome"),
        GrantCredits("more", "victim", 100),
        Deduct("deduct", "victim", "voice_creation", 1, usage),
        Deduct("upgrade", "victim", "script_generation", 2, account_level="pro"),
        Deduct("last", "victim", "chat_refinement"),
        OpenAccount("open", "bystander"),
    ]
    for command in history:
        await transact(conn, [command])
    return dsn


async def test_an_untouched_ledger_is_clean(ledger: str) -> None:
    assert await _verify(ledger) == Report(accounts=2, entries=8, mismatches=[])


@pytest.mark.parametrize("revision", [OPENED, GRANTED, DEDUCTED, LEVEL_CHANGED, LAST])
@pytest.mark.parametrize("column", OTHER_VALUES)
async def test_a_changed_entry_is_named(ledger: str, column: str, revision: int) -> None:
    _tamper(ledger, "entry", f"UPDATE entry SET {column} = {OTHER_VALUES[column]} WHERE {_entry(revision)}")
    if column in ("account_id", "revision"):
        _assert_missing(await _verify(ledger), revision)
    else:
        _assert_named(await _verify(ledger), revision)


@pytest.mark.parametrize("column", MALFORMED)
async def test_an_entry_that_cannot_even_be_read_is_named(ledger: str, column: str) -> None:
    _tamper(ledger, "entry", f"UPDATE entry SET {column} = {MALFORMED[column]} WHERE {_entry(DEDUCTED)}")
    _assert_named(await _verify(ledger), DEDUCTED)


@pytest.mark.parametrize("revision", [OPENED, DEDUCTED, LAST])
async def test_a_deleted_entry_is_missed(ledger: str, revision: int) -> None:
    _tamper(ledger, "entry", f"DELETE FROM entry WHERE {_entry(revision)}")
    _assert_missing(await _verify(ledger), revision)


async def test_an_inserted_entry_is_named(ledger: str) -> None:
    with psycopg.connect(ledger) as conn:
        columns: LiteralString = (
            "account_id, revision, kind, create_time, amount, cost, available, reserved, spent"
        )
        more: LiteralString = "forfeited, quantity, catalog_version, operation, hash"
        conn.execute(
            f"INSERT INTO entry ({columns}, {more}) SELECT account_id, 8, kind, create_time, amount, cost, available,"
            f" reserved, spent, {more} FROM entry WHERE account_id = 'victim' AND revision = 7"
        )
    _assert_named(await _verify(ledger), 8)


async def test_entries_of_an_account_that_is_gone_are_counted(ledger: str) -> None:
    _tamper(ledger, "account", "DELETE FROM account WHERE account_id = 'victim'")
    report = await _verify(ledger)
    assert report.mismatches


@pytest.mark.parametrize("column", ACCOUNT_VALUES)
async def test_a_changed_account_is_named(ledger: str, column: str) -> None:
    change = f"UPDATE account SET {column} = {ACCOUNT_VALUES[column]} WHERE account_id = 'victim'"
    _tamper(ledger, "account", change)
    name = "renamed" if column == "account_id" else "victim"
    assert [text for text in (await _verify(ledger)).mismatches if text.startswith(f"{name} ")]


async def test_a_balance_that_was_shifted_within_its_sum_is_named(ledger: str) -> None:
    change = "UPDATE account SET available = available + 1, spent = spent - 1 WHERE account_id = 'victim'"
    _tamper(ledger, "account", change)
    _assert_named(await _verify(ledger), LAST)


@pytest.mark.parametrize(("table", "values"), [("entry", OTHER_VALUES), ("account", ACCOUNT_VALUES)])
def test_every_column_was_tampered_with(dsn: str, table: str, values: dict[str, LiteralString]) -> None:
    with psycopg.connect(dsn) as conn:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
        assert {row[0] for row in conn.execute(query, [table])} == set(values)


async def _verify(dsn: str) -> Report:
    return await verify_ledger(dsn, lambda _done, _total: None)


def _assert_named(report: Report, revision: int) -> None:
    [mismatch] = report.mismatches
    assert mismatch.startswith(f"victim revision {revision}: ")


def _assert_missing(report: Report, revision: int) -> None:
    """At the end of a history there is no entry to tell it, but the account row."""
    named = [mismatch for mismatch in report.mismatches if mismatch.startswith("victim revision ")]
    expected = "the account row does not match" if revision == LAST else f"revision {revision} is missing"
    assert len(named) == 1 and expected in named[0]


def _entry(revision: int) -> str:
    return f"account_id = 'victim' AND revision = {revision}"


def _tamper(dsn: str, table: str, statement: str) -> None:
    """Changes what triggers and constraints would not let anybody change."""
    with psycopg.connect(dsn) as conn:
        conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        conn.execute("ALTER TABLE account DROP CONSTRAINT account_adds_up")
        cursor = conn.execute(statement.encode())
        assert cursor.rowcount == 1
