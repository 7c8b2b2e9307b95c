"""Rollups of usage: what they hold, who may make them at once, and how wrong ones are found and repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import LiteralString

import psycopg
import pytest
from creditledger_server.domain.times import to_datetime, to_micros
from creditledger_server.domain.usage_summary import UsageBucket, UsageQuery, UsageSums, average
from creditledger_server.ledger.usage import Rebuilt, UsageSummaries, rebuild_usage, wrong_rollups
from creditledger_server.storage import usage as storage
from creditledger_server.storage.audits import consistent_reads
from creditledger_server.storage.connect import Database
from creditledger_server.storage.errors import BatchRejected
from usage_histories import (
    COMMITTED,
    DEDUCTED,
    GRANTED,
    REFUNDED,
    Row,
    expected,
    random_uses,
    write_history,
)

START = datetime(2026, 3, 2, tzinfo=UTC)
KINDS = (DEDUCTED, DEDUCTED, COMMITTED, REFUNDED, GRANTED)
LONG, SHORT = 12_345, 999
HISTORIES = {
    "long": random_uses(1, LONG, START, START + timedelta(days=40), KINDS),
    "dense": random_uses(2, 5_000, START, START + timedelta(minutes=20), KINDS),
    "short": random_uses(3, SHORT, START, START + timedelta(days=3), KINDS),
}

# What makes one rollup wrong.
TAMPERING: dict[str, LiteralString] = {
    "uses": "UPDATE usage_rollup SET uses = uses + 1 WHERE {one}",
    "failures": "UPDATE usage_rollup SET failures = failures + 1 WHERE {one}",
    "credits": "UPDATE usage_rollup SET credits = credits - 1 WHERE {one}",
    "response_time_us": "UPDATE usage_rollup SET response_time_us = response_time_us + 1 WHERE {one}",
    "response_times": "UPDATE usage_rollup SET response_times = response_times + 1 WHERE {one}",
    "metrics": """UPDATE usage_rollup SET metrics = '{{"other": 1}}' WHERE {one}""",
    "first_time": "UPDATE usage_rollup SET first_time = first_time - interval '1 us' WHERE {one}",
    "last_time": "UPDATE usage_rollup SET last_time = last_time + interval '1 us' WHERE {one}",
    "a row is gone": "DELETE FROM usage_rollup WHERE {one}",
    "a row is made up": "INSERT INTO usage_rollup SELECT account_id, quarter_start, chunk, 'other', first_time,"
    " last_time, 1, 0, 0, 0, 0 FROM usage_rollup WHERE {one}",
}
# What makes one wrong where it was, and one where it is now.
MOVED: dict[str, LiteralString] = {
    "operation": "UPDATE usage_rollup SET operation = 'other' WHERE {one}",
    "chunk": "UPDATE usage_rollup SET chunk = chunk + 100 WHERE {one}",
    "quarter_start": "UPDATE usage_rollup SET quarter_start = quarter_start + interval '40 days' WHERE {one}",
}
_ONE = (
    "(account_id, quarter_start, chunk, operation) = (SELECT account_id, quarter_start, chunk, operation"
    " FROM usage_rollup WHERE account_id = '{account_id}' ORDER BY 2, 3, 4 OFFSET {offset} LIMIT 1)"
)
CHANGES = [
    *(("dense", 17, statement) for statement in (*TAMPERING.values(), *MOVED.values())),
    *(("long", 6_000, statement) for statement in (TAMPERING["uses"], *MOVED.values())),
]


@pytest.fixture(scope="module")
def filled_dsn(shared_dsn: str) -> str:
    """A ledger with the histories."""
    with psycopg.connect(shared_dsn) as conn:
        for account_id, uses in HISTORIES.items():
            write_history(conn, account_id, uses)
    return shared_dsn


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """The same, and nothing is summed."""
    execute(filled_dsn, "TRUNCATE usage_rollup_head CASCADE")
    return filled_dsn


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """Connections to it."""
    database = Database(dsn, pool_size=4, lock_timeout=20_000, statement_timeout=60_000)
    await database.open()
    yield database
    await database.close()


@pytest.mark.parametrize("account_id", HISTORIES)
async def test_a_summary_is_what_all_entries_add_up_to(database: Database, account_id: str) -> None:
    summaries = UsageSummaries(database)
    uses = HISTORIES[account_id]
    bounds = [uses[len(uses) * part // 7].time for part in range(7)]
    for start, end in [*pairwise(bounds), (bounds[1], bounds[5])]:
        for bucket in UsageBucket:
            query = UsageQuery(account_id, (), to_micros(start), to_micros(end), bucket)
            found = [row_of(sums, bucket) for sums in await summaries.summarize(query)]
            assert found == expected(uses, bucket, start=start, end=end)
    found = [row_of(sums, UsageBucket.NONE) for sums in await summaries.summarize(UsageQuery(account_id))]
    assert found == expected(uses)


async def test_only_whole_chunks_are_summed_and_only_once_asked_for(database: Database, dsn: str) -> None:
    assert heads(dsn) == {}
    for _ in range(2):
        for account_id in HISTORIES:
            await UsageSummaries(database).summarize(UsageQuery(account_id))
    assert heads(dsn) == {"dense": len(HISTORIES["dense"]) // 1_000 * 1_000, "long": 12_000}


async def test_servers_that_sum_an_account_at_once_sum_it_once(database: Database, dsn: str) -> None:
    several = [UsageSummaries(database) for _ in range(4)]
    answers = await asyncio.gather(*(each.summarize(UsageQuery("long")) for each in several))
    assert all(answer == answers[0] for answer in answers)
    assert [row_of(sums, UsageBucket.NONE) for sums in answers[0]] == expected(HISTORIES["long"])
    assert heads(dsn) == {"long": 12_000}
    assert (await rebuild(dsn)).differences == 0


async def test_who_would_sum_waits_for_who_does_so_already(database: Database, dsn: str) -> None:
    async with (
        await database.connect() as first,
        await database.connect() as second,
        asyncio.TaskGroup() as tasks,
    ):
        async with first.transaction():
            assert await storage.roll_up(first, "long")
            waiting = tasks.create_task(storage.roll_up(second, "long"))
            assert not (await asyncio.wait([waiting], timeout=0.3))[0]
        await waiting
    assert (await rebuild(dsn)).differences == 0
    assert heads(dsn)["long"] == 12_000


async def test_a_head_that_was_set_back_counts_nothing_twice(database: Database, dsn: str) -> None:
    await UsageSummaries(database).summarize(UsageQuery("long"))
    execute(dsn, "UPDATE usage_rollup_head SET revision = 0")
    assert [*await problems(database)] == ["long"]
    with pytest.raises(BatchRejected):
        await UsageSummaries(database).summarize(UsageQuery("long"))
    assert (await rebuild(dsn)).differences > 0
    found = await UsageSummaries(database).summarize(UsageQuery("long"))
    assert [row_of(sums, UsageBucket.NONE) for sums in found] == expected(HISTORIES["long"])


@pytest.mark.parametrize(("account_id", "offset", "change"), CHANGES)
async def test_a_tampered_rollup_is_named_and_repaired(
    database: Database, dsn: str, account_id: str, offset: int, change: LiteralString
) -> None:
    await UsageSummaries(database).summarize(UsageQuery(account_id))
    assert await problems(database) == {}
    before = rollups(dsn, account_id)
    assert execute(dsn, change.format(one=_ONE.format(account_id=account_id, offset=offset))) == 1

    assert [*await problems(database)] == [account_id]
    rebuilt = await rebuild(dsn)

    assert rebuilt.differences == (2 if change in MOVED.values() else 1)
    [line] = rebuilt.lines
    assert line.startswith(f"{account_id}: ")
    assert rollups(dsn, account_id) == before
    assert await problems(database) == {}
    assert (await rebuild(dsn)).differences == 0


async def test_a_head_beyond_the_history_is_named_and_repaired(database: Database, dsn: str) -> None:
    await UsageSummaries(database).summarize(UsageQuery("long"))
    execute(dsn, "UPDATE usage_rollup_head SET revision = 13000")
    assert [*await problems(database)] == ["long"]
    rebuilt = await rebuild(dsn)
    assert (rebuilt.differences, len(rebuilt.lines)) == (1, 1)
    assert heads(dsn)["long"] == 12_000
    assert await problems(database) == {}


async def test_a_rebuild_sums_what_nobody_has_asked_for(database: Database, dsn: str) -> None:
    summed = 12_000 + len(HISTORIES["dense"]) // 1_000 * 1_000
    assert await rebuild(dsn) == Rebuilt(accounts=2, entries=summed, differences=0, lines=[])
    assert sum(heads(dsn).values()) == summed
    assert await problems(database) == {}


def test_the_tables_refuse_sums_of_parts_of_a_chunk(dsn: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        execute(dsn, "INSERT INTO usage_rollup_head VALUES ('user-1', 1500)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        execute(dsn, "INSERT INTO usage_rollup VALUES ('user-1', now(), 0, 'x', now(), now(), 0, 0, 0, 0, 0)")


def row_of(sums: UsageSums, bucket: UsageBucket) -> Row:
    """A row as an answer would tell it."""
    return Row(
        None if bucket is UsageBucket.NONE else to_datetime(sums.bucket_start),
        sums.operation, sums.uses, sums.failures, sums.credits, average(sums.credits, sums.uses), sums.metrics,
        sums.response_time // sums.response_times if sums.response_times else None,
    )  # fmt: skip


async def problems(database: Database) -> dict[str, str]:
    """What verification says of the rollups, by account."""
    async with await database.connect() as conn, consistent_reads(conn):
        found = {account_id: await wrong_rollups(conn, account_id) for account_id in HISTORIES}
    return {account_id: problem for account_id, problem in found.items() if problem}


async def rebuild(dsn: str) -> Rebuilt:
    """Rebuilds all rollups."""
    return await rebuild_usage(dsn, lambda _accounts: None)


def heads(dsn: str) -> dict[str, int]:
    """Up to which revision each account is summed."""
    with psycopg.connect(dsn) as conn:
        return dict(conn.execute("SELECT account_id, revision FROM usage_rollup_head").fetchall())


def rollups(dsn: str, account_id: str) -> list[tuple[object, ...]]:
    """All rollups of an account."""
    with psycopg.connect(dsn) as conn:
        query = "SELECT * FROM usage_rollup WHERE account_id = %s ORDER BY quarter_start, chunk, operation"
        return conn.execute(query, [account_id]).fetchall()


def execute(dsn: str, statement: str) -> int:
    """How many rows a statement changed."""
    with psycopg.connect(dsn) as conn:
        return conn.execute(statement.encode()).rowcount
