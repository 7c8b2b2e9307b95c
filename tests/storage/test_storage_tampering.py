"""Whoever changes the history or a balance behind the ledger's back is found out by verification."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import LiteralString

import psycopg
import pytest
from creditledger_server.domain.commands import (
    Command,
    Deduct,
    GrantCredits,
    OpenAccount,
    PurchasePackage,
    Refund,
    Reserve,
    VoidGrant,
)
from creditledger_server.domain.usage import Usage
from creditledger_server.ledger.verify import Report, verify_ledger
from creditledger_server.storage.connect import Connection, Database

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
    "account_id": "'nobody'",
    "operation": "'other'",
    "request_id": "'other'",
    "fingerprint": "sha256('other')",
    "hash": "sha256('other')",
    "draws": "coalesce(draws || ',', '') || '2:1'",
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
    "last_time": "last_time - interval '1 microsecond'",
    "create_time": "create_time - interval '1 microsecond'",
    "level": "'other'",
    "state": "2",
    "head_hash": "sha256('other')",
    "lots": "'[[2,0,1]]'",
    "labels": """'{"other":"label"}'""",
    "pending": "'[[9,0,1,4102444800000000,0]]'",
    "allowances": """'{"1":0}'""",
    "reservations": "reservations + 1",
    "uses": "'script_generation:3:' || (extract(epoch FROM date_trunc('month', last_time)) / 86400)::int || ':999'",
}

# What is kept of the account "rich" in other tables, each value another one of the right type.
KEPT_VALUES: dict[str, dict[str, LiteralString]] = {
    "reservation": {
        "account_id": "'nobody'",
        "revision": "revision + 1",
        "operation": "'other'",
        "quantity": "quantity + 1",
        "amount": "amount + 1",
        "state": "3",
        "create_time": "create_time + interval '1 microsecond'",
        "expire_time": "expire_time + interval '1 microsecond'",
        "catalog_version": "catalog_version + 1",
        "draws": "'2:1'",
        "metrics": """'{"tokens":8}'""",
    },
    "grant_lot": {
        "account_id": "'nobody'",
        "revision": "revision + 100",
        "amount": "amount + 1",
        "priority": "priority + 1",
        "source": "CASE source WHEN 1 THEN 2 ELSE 1 END",
        "create_time": "create_time + interval '1 microsecond'",
        "reason": "'other'",
        "labels": """'{"other":"label"}'""",
        "effective_time": "'2099-01-01T00:00:00Z'",
        "expire_time": "'2099-01-01T00:00:00Z'",
        "void_time": "'2099-01-01T00:00:00Z'",
    },
    "refund": {"account_id": "'nobody'", "revision": "revision + 1", "refunded": "refunded + 1"},
    "purchase": {
        "payment_reference": "'other'",
        "account_id": "'nobody'",
        "revision": "revision + 1",
        "package_id": "'other'",
    },
}


# In no entry, so verification cannot know: a place in the feed of commits.
NOT_HISTORY = {"commit_position"}

# Whether it is right depends on what falls due: see the test of its own.
BOUND = {"next_due_time"}

_HISTORY: list[Command] = [
    OpenAccount("open", "victim", "free", {"team": "red"}),
    GrantCredits("grant", "victim", 3, reason="welcome"),
    GrantCredits("more", "victim", 100),
    Deduct("deduct", "victim", "voice_creation", 1, Usage(service="speech", metrics={"tokens": 7})),
    Deduct("upgrade", "victim", "script_generation", 2, account_level="pro"),
    Deduct("last", "victim", "chat_refinement"),
    OpenAccount("open", "bystander"),
]

_FAR = 4_000_000_000_000_000  # 2096, in microseconds
_RICH: list[Command] = [
    OpenAccount("open", "rich", "pro"),
    GrantCredits("expiring", "rich", 30, expire_time=_FAR),
    GrantCredits("later", "rich", 40, effective_time=_FAR, expire_time=_FAR + 1),
    PurchasePackage("buy", "rich", "starter", "payment-1"),
    Reserve("reserve", "rich", "voice_creation", 2, {"tokens": 7}),
    Deduct("deduct", "rich", "script_generation", 3),
    Refund("refund", "rich", 6, 2),
    VoidGrant("void", "rich", 4),
]

# What no trigger and no constraint would let anybody change, they no longer guard.
_LOWER_GUARDS = """
ALTER TABLE entry DISABLE TRIGGER USER;
ALTER TABLE account DROP CONSTRAINT account_adds_up;
CREATE TABLE original_entry AS TABLE entry;
CREATE TABLE original_account AS TABLE account;
"""
_KEEP = "".join(f"CREATE TABLE original_{table} AS TABLE {table};" for table in KEPT_VALUES)
_RESTORE = """
DELETE FROM entry;
DELETE FROM account;
INSERT INTO entry TABLE original_entry;
INSERT INTO account TABLE original_account;
"""
_PUT_BACK = "".join(
    f"DELETE FROM {table}; INSERT INTO {table} TABLE original_{table};" for table in KEPT_VALUES
)


@pytest.fixture(scope="module")
def unguarded(
    shared_dsn: str,
    transact: Callable[[Connection, Sequence[Command]], Awaitable[None]],
    add_catalog: Callable[[Connection], Awaitable[None]],
) -> str:
    """The DSN of a ledger of three accounts that takes any change."""

    async def fill() -> None:
        database = Database(shared_dsn, pool_size=1, lock_timeout=1_000, statement_timeout=60_000)
        async with await database.connect() as conn:
            await add_catalog(conn)
            for command in (*_HISTORY, *_RICH):
                await transact(conn, [command])

    asyncio.run(fill())
    _execute(shared_dsn, _LOWER_GUARDS)
    _execute(shared_dsn, _KEEP)
    return shared_dsn


@pytest.fixture
def ledger(unguarded: str) -> Iterator[str]:
    """That ledger, as it was at first."""
    yield unguarded
    _execute(unguarded, _RESTORE)
    _execute(unguarded, _PUT_BACK)


async def test_an_untouched_ledger_is_clean(ledger: str) -> None:
    assert await _verify(ledger) == Report(accounts=3, entries=16, mismatches=[])


@pytest.mark.parametrize("revision", [OPENED, GRANTED, DEDUCTED, LEVEL_CHANGED, LAST])
@pytest.mark.parametrize("column", OTHER_VALUES)
async def test_a_changed_entry_is_named(ledger: str, column: str, revision: int) -> None:
    _change_one(ledger, f"UPDATE entry SET {column} = {OTHER_VALUES[column]} WHERE {_entry(revision)}")
    report = await _verify(ledger)
    if column in ("account_id", "revision"):
        _assert_missing(report, revision)
    else:
        _assert_named(report, revision)


@pytest.mark.parametrize("column", MALFORMED)
async def test_an_entry_that_cannot_even_be_read_is_named(ledger: str, column: str) -> None:
    _change_one(ledger, f"UPDATE entry SET {column} = {MALFORMED[column]} WHERE {_entry(DEDUCTED)}")
    _assert_named(await _verify(ledger), DEDUCTED)


@pytest.mark.parametrize("revision", [OPENED, DEDUCTED, LAST])
async def test_a_deleted_entry_is_missed(ledger: str, revision: int) -> None:
    _change_one(ledger, f"DELETE FROM entry WHERE {_entry(revision)}")
    _assert_missing(await _verify(ledger), revision)


async def test_an_inserted_entry_is_named(ledger: str) -> None:
    columns = (
        "create_time, amount, cost, available, reserved, spent, forfeited, quantity, catalog_version, hash"
    )
    copy = f"SELECT account_id, 8, kind, {columns} FROM entry WHERE {_entry(LAST)}"
    _change_one(ledger, f"INSERT INTO entry (account_id, revision, kind, {columns}) {copy}")
    _assert_named(await _verify(ledger), 8)


async def test_entries_of_an_account_that_is_gone_are_counted(ledger: str) -> None:
    _change_one(ledger, "DELETE FROM account WHERE account_id = 'victim'")
    report = await _verify(ledger)
    assert report.mismatches


@pytest.mark.parametrize("column", ACCOUNT_VALUES)
async def test_a_changed_account_is_named(ledger: str, column: str) -> None:
    change = f"UPDATE account SET {column} = {ACCOUNT_VALUES[column]} WHERE account_id = 'victim'"
    _change_one(ledger, change)
    name = "renamed" if column == "account_id" else "victim"
    assert [text for text in (await _verify(ledger)).mismatches if text.startswith(f"{name} ")]


async def test_a_balance_that_was_shifted_within_its_sum_is_named(ledger: str) -> None:
    change = "UPDATE account SET available = available + 1, spent = spent - 1 WHERE account_id = 'victim'"
    _change_one(ledger, change)
    _assert_named(await _verify(ledger), LAST)


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, values in KEPT_VALUES.items() for column in values]
)
async def test_what_other_tables_keep_of_an_account_is_verified_too(
    ledger: str, table: str, column: str
) -> None:
    with psycopg.connect(ledger) as conn:
        statement = f"UPDATE {table} SET {column} = {KEPT_VALUES[table][column]} WHERE account_id = 'rich'"
        assert conn.execute(statement.encode()).rowcount
    assert [text for text in (await _verify(ledger)).mismatches if text.startswith("rich ")]


@pytest.mark.parametrize("value", ["NULL", "next_due_time + interval '1 microsecond'"])
async def test_a_due_time_that_is_too_late_is_named(ledger: str, value: LiteralString) -> None:
    _change_one(ledger, f"UPDATE account SET next_due_time = {value} WHERE account_id = 'rich'")
    [mismatch] = (await _verify(ledger)).mismatches
    assert mismatch.startswith("rich revision 8: the next due time")


@pytest.mark.parametrize(
    ("table", "values"), [("entry", OTHER_VALUES), ("account", ACCOUNT_VALUES), *KEPT_VALUES.items()]
)
def test_every_column_was_tampered_with(dsn: str, table: str, values: dict[str, LiteralString]) -> None:
    with psycopg.connect(dsn) as conn:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
        assert {row[0] for row in conn.execute(query, [table])} - NOT_HISTORY - BOUND == set(values)


async def _verify(dsn: str) -> Report:
    return await verify_ledger(dsn, lambda _done, _total: None)


def _assert_named(report: Report, revision: int) -> None:
    [mismatch] = report.mismatches
    assert mismatch.startswith(f"victim revision {revision}: ")


def _assert_missing(report: Report, revision: int) -> None:
    """Where nothing follows, it is the account row that tells."""
    [mismatch] = [text for text in report.mismatches if text.startswith("victim revision ")]
    assert f"revision {revision} is missing" in mismatch or (
        revision == LAST and f"revision {LAST - 1}: the account row does not match" in mismatch
    )


def _entry(revision: int) -> str:
    return f"account_id = 'victim' AND revision = {revision}"


def _change_one(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as conn:
        assert conn.execute(statement.encode()).rowcount == 1


def _execute(dsn: str, script: LiteralString) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(script)
