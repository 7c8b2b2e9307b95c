"""Whoever changes the history or a balance behind the ledger's back is found out by verification."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import LiteralString

import psycopg
import pytest
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
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
}


# In no entry, so verification cannot know: a place in the feed of commits.
NOT_HISTORY = {"commit_position"}

_HISTORY: list[Command] = [
    OpenAccount("open", "victim", "free", {"team": "red"}),
    GrantCredits("grant", "victim", 3, reason="welcome"),
    GrantCredits("more", "victim", 100),
    Deduct("deduct", "victim", "voice_creation", 1, Usage(service="speech", metrics={"tokens": 7})),
    Deduct("upgrade", "victim", "script_generation", 2, account_level="pro"),
    Deduct("last", "victim", "chat_refinement"),
    OpenAccount("open", "bystander"),
]

# What no trigger and no constraint would let anybody change, they no longer guard.
_LOWER_GUARDS = """
ALTER TABLE entry DISABLE TRIGGER USER;
ALTER TABLE account DROP CONSTRAINT account_adds_up;
CREATE TABLE original_entry AS TABLE entry;
CREATE TABLE original_account AS TABLE account;
"""
_RESTORE = """
DELETE FROM entry;
DELETE FROM account;
INSERT INTO entry TABLE original_entry;
INSERT INTO account TABLE original_account;
"""


@pytest.fixture(scope="module")
def unguarded(shared_dsn: str, transact: Callable[[Connection, Sequence[Command]], Awaitable[None]]) -> str:
    """The DSN of a ledger of two accounts, with every kind of entry, that takes any change."""

    async def fill() -> None:
        database = Database(shared_dsn, pool_size=1, lock_timeout=1_000, statement_timeout=60_000)
        async with await database.connect() as conn:
            for command in _HISTORY:
                await transact(conn, [command])

    asyncio.run(fill())
    _execute(shared_dsn, _LOWER_GUARDS)
    return shared_dsn


@pytest.fixture
def ledger(unguarded: str) -> Iterator[str]:
    """That ledger, as it was at first."""
    yield unguarded
    _execute(unguarded, _RESTORE)


async def test_an_untouched_ledger_is_clean(ledger: str) -> None:
    assert await _verify(ledger) == Report(accounts=2, entries=8, mismatches=[])


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


@pytest.mark.parametrize(("table", "values"), [("entry", OTHER_VALUES), ("account", ACCOUNT_VALUES)])
def test_every_column_was_tampered_with(dsn: str, table: str, values: dict[str, LiteralString]) -> None:
    with psycopg.connect(dsn) as conn:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
        assert {row[0] for row in conn.execute(query, [table])} - NOT_HISTORY == set(values)


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
