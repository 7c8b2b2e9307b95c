"""Plan guard: no hot statement reads a whole table, however long the history is now and however short it was.

Looked at are the statements that the storage has prepared on its own connection, with their generic plans. A plan that
joined against the whole history of a hot account once cost a hundredfold (architecture §6).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from creditledger_server.domain.account import Account, Grant, GrantSource, Payment
from creditledger_server.domain.entry import EntryKind
from creditledger_server.domain.periods import Period
from creditledger_server.domain.reservation import Reservation, ReservationState
from creditledger_server.storage import batch, commits, due, reads, records, usage
from creditledger_server.storage.arrays import text_array
from creditledger_server.storage.connect import Connection, Database

HOT_ENTRIES = 200_000
OTHERS = 500
TABLES = {
    "account", "entry", "grant_lot", "commit_log", "reservation", "refund", "purchase", "usage_rollup",
    "usage_rollup_head",
}  # fmt: skip

_FILL = f"""
INSERT INTO account (account_id, revision, available, reserved, granted, spent, forfeited, commit_position, last_time,
                     create_time, state, level, head_hash, lots, labels)
SELECT name, last, 1000, 0, 1000, 0, 0, last, now(), now(), 1, 'pro', sha256(''), '[[2,0,1000]]', '{{}}'
FROM (SELECT 'hot' AS name, {HOT_ENTRIES} AS last
      UNION ALL SELECT 'other-' || n, 10 FROM generate_series(1, {OTHERS}) AS n) AS names;

INSERT INTO entry (account_id, revision, kind, create_time, amount, cost, available, reserved, spent, forfeited,
                   quantity, catalog_version, operation, request_id, fingerprint, draws, hash)
SELECT account_id, n, 4, now(), -1, 1, 1000, 0, 0, 0,
       1, 1, 'chat_refinement', 'id-' || n, sha256(''), '2:1', sha256('')
FROM account, generate_series(1, account.revision) AS n;

INSERT INTO grant_lot (account_id, revision, amount, priority, source, create_time, reason, labels)
SELECT account_id, 2, 1000, 0, 1, now(), '', '{{}}' FROM account;

UPDATE account SET next_due_time = now() + interval '1 hour';

INSERT INTO reservation (account_id, revision, quantity, amount, create_time, expire_time, catalog_version, state,
                         operation)
SELECT account_id, n * 10, 1, 1, now(), now() + n * interval '1 second', 1, CASE WHEN n % 100 = 1 THEN 1 ELSE 2 END,
       'chat_refinement'
FROM account, generate_series(1, revision / 10) AS n;

INSERT INTO refund SELECT account_id, n * 10, 1 FROM account, generate_series(1, revision / 10) AS n;

INSERT INTO purchase
SELECT 'pi-' || n || account_id, account_id, n * 10, 'starter' FROM account, generate_series(1, revision / 10) AS n;

INSERT INTO commit_log (position, account_id, account_ids, first_revisions, last_revisions)
SELECT n * 2, 'hot', '{{hot}}', ARRAY[n * 2 - 1], ARRAY[n * 2] FROM generate_series(1, {HOT_ENTRIES // 2}) n;

INSERT INTO usage_rollup_head SELECT account_id, revision / 2000 * 1000 FROM account;
INSERT INTO usage_rollup
SELECT account_id, now() - n * interval '15 minutes', revision / 2000 - n, 'chat_refinement', now(), now(),
       1, 0, 1, 0, 0
FROM account, generate_series(1, revision / 2000) AS n;

ANALYZE;
"""

ACCOUNTS = sorted(["hot", *(f"other-{number}" for number in range(1, 100))])
REQUESTS = [("hot", f"id-{number}") for number in range(1, 500)] + [
    ("other-1", "id-1"),
    ("other-2", "no-such"),
]
WANTED = batch.Wanted(ACCOUNTS, REQUESTS)

HOT_KEYS = [("hot", number) for number in range(10, 1_000, 10)]
RECORDS = records.WantedRecords(HOT_KEYS, HOT_KEYS, [("hot", 2)], [("hot", "pi-1hot")])
WANTED_RECORDS = batch.Wanted(["hot"], [("hot", "id-1")], RECORDS)

EVERY_FILTER = reads.EntryFilter(
    7, 900, 0, 2**52, (EntryKind.DEDUCTED,), "chat_refinement", newest_first=False
)

EXTENT = usage.Extent(200_000, 100_000, 0, 2**52, 2**52)
SPAN = usage.Span(7, 2**50, [0])


class Access(NamedTuple):
    """How a plan reads a table: the columns of the index condition, none for a whole table."""

    table: str
    columns: frozenset[str]


def by(table: str, *columns: str) -> Access:
    """An access by an index condition on these columns."""
    return Access(table, frozenset(columns))


async def write(conn: Connection) -> None:
    """A round that opens an account, changes one, counts uses and grants."""
    loaded = await batch.lock_and_load(conn, WANTED)
    known = loaded.accounts.get("hot") or Account("known", revision=1)
    opened = Account("opened")
    for account in (known, opened):
        account.post(EntryKind.LEVEL_CHANGED, max(loaded.now, account.last_time))
        account.count_uses("script_generation", Period.MONTH, 1, loaded.now)
        grant = Grant(account.account_id, account.revision, 1, 0, GrantSource.ADMIN, loaded.now, "", "{}")
        account.new_grants.append(grant)
    await batch.write_and_commit(conn, [known, opened], loaded.transaction_id)


async def write_records(conn: Connection) -> None:
    """A round that makes a reservation, refunds, credits a payment and voids a grant."""
    loaded = await batch.lock_and_load(conn, WANTED_RECORDS)
    account = loaded.accounts.get("hot") or Account("known", revision=1)
    name, now = account.account_id, loaded.now
    entry = account.post(EntryKind.RESERVED, max(now, account.last_time))
    account.touched_terms = True
    changed, revision = account.records, entry.revision
    changed.reservations[revision] = Reservation(
        name, revision, "chat_refinement", 1, 0, ReservationState.ACTIVE, now, now + 1, 1, (), None
    )
    changed.touched_reservations.add(revision)
    changed.refunded[revision] = 1
    changed.touched_refunds.add(revision)
    changed.payments["pi"] = Payment(name, "starter", entry)
    changed.new_payments["pi"] = revision
    changed.voided.append(Grant(name, 2, 1, 0, GrantSource.ADMIN, now, "", "{}", void_time=now))
    await batch.write_and_commit(conn, [account], loaded.transaction_id)


async def load_run_out(conn: Connection) -> None:
    """What a due account is settled with."""
    await records.load_run_out(conn, {"hot": Account("hot")}, 2**51)


Statements = tuple[Callable[[Connection], Awaitable[Any]], set[Access]]

LOADS_RECORDS = {
    by("account", "account_id"),
    by("entry", "account_id", "request_id"),
    by("entry", "account_id", "revision"),
    by("reservation", "account_id", "revision"),
    by("refund", "account_id", "revision"),
    by("grant_lot", "account_id", "revision"),
    by("purchase", "payment_reference"),
}

HOT: dict[str, Statements] = {
    "lock_and_load": (
        lambda conn: batch.lock_and_load(conn, WANTED),
        {
            by("account", "account_id"),
            by("entry", "account_id", "request_id"),
        },
    ),
    "write_and_commit": (
        write,
        {
            by("account", "account_id"),
            by("entry", "account_id", "request_id"),
        },
    ),
    "lock_and_load, records": (
        lambda conn: batch.lock_and_load(conn, WANTED_RECORDS),
        LOADS_RECORDS,
    ),
    "write_and_commit, records": (write_records, LOADS_RECORDS),
    "load_run_out": (
        load_run_out,
        {by("reservation", "account_id", "expire_time")},
    ),
    "read_due": (lambda conn: due.read_due(conn, 200), {by("account", "next_due_time")}),
    "read_behind": (
        lambda conn: due.read_behind(conn, "hot", ["pro"], 2**51, 5_000),
        {by("account", "account_id")},
    ),
    "read_grants_before": (
        lambda conn: reads.read_grants_before(conn, "hot", 9, 100),
        {by("grant_lot", "account_id", "revision")},
    ),
    "read_reservations_before": (
        lambda conn: reads.read_reservations_before(conn, "hot", 900, [1], 100),
        {by("reservation", "account_id", "revision")},
    ),
    "read_snapshot": (
        lambda conn: reads.read_snapshot(conn, ACCOUNTS),
        {by("account", "account_id")},
    ),
    "read_entry": (lambda conn: reads.read_entry(conn, "hot", 5), {by("entry", "account_id", "revision")}),
    "read_entry_of_request": (
        lambda conn: reads.read_entry_of_request(conn, "hot", "id-5"),
        {by("entry", "account_id", "request_id")},
    ),
    "read_entries, newest first": (
        lambda conn: reads.read_entries(conn, "hot", reads.EntryFilter(), 100),
        {by("entry", "account_id", "revision")},
    ),
    "read_entries, oldest first, all filters": (
        lambda conn: reads.read_entries(conn, "hot", EVERY_FILTER, 100),
        {by("entry", "account_id", "revision")},
    ),
    "read_accounts": (
        lambda conn: reads.read_accounts(conn, "other-1", "other", "pro", 100),
        {by("account", "account_id")},
    ),
    "read_grants": (
        lambda conn: reads.read_grants(conn, "hot", [2, 3]),
        {by("grant_lot", "account_id", "revision")},
    ),
    "read_positions": (commits.read_positions, set()),
    "read_touched": (lambda conn: commits.read_touched(conn, 399_000, 500), {by("commit_log", "position")}),
    "read_committed": (
        lambda conn: commits.read_committed(conn, 399_000, 16),
        {by("commit_log", "position"), by("entry", "account_id", "revision")},
    ),
    "read_news": (
        lambda conn: commits.read_news(conn, [("hot", 199_000), ("other-1", 5)], 100),
        {by("entry", "account_id", "revision")},
    ),
    "forget": (
        lambda conn: commits.forget(conn, 1, 5_000),
        {by("commit_log", "position"), by("entry", "account_id", "revision")},
    ),
    "read_after": (
        lambda conn: commits.read_after(conn, "hot", 199_000, 500),
        {by("entry", "account_id", "revision")},
    ),
    "read_extent": (
        lambda conn: usage.read_extent(conn, "hot"),
        {by("account", "account_id"), by("usage_rollup_head", "account_id")},
    ),
    "pull_back_head": (
        lambda conn: usage.pull_back_head(conn, "hot"),
        {by("account", "account_id"), by("usage_rollup_head", "account_id")},
    ),
    "read_summary": (
        lambda conn: usage.read_summary(conn, "hot", ["chat_refinement"], SPAN, EXTENT),
        {
            by("usage_rollup", "account_id", "quarter_start", "chunk"),
            by("entry", "account_id", "revision"),
        },
    ),
    "compare": (
        lambda conn: usage.compare(conn, "hot", EXTENT, 0, usage.BEGINNING),
        {by("usage_rollup", "account_id", "quarter_start", "chunk"), by("entry", "account_id", "revision")},
    ),
    "read_summed_accounts": (
        lambda conn: usage.read_summed_accounts(conn, "hot", 500),
        {by("account", "account_id"), by("usage_rollup_head", "account_id")},
    ),
    "read_revisions": (lambda conn: commits.read_revisions(conn, ACCOUNTS), {by("account", "account_id")}),
}


@pytest.fixture(scope="module")
def filled_dsn(shared_dsn: str) -> str:
    """A ledger with a long history of one account, and a long commit log."""
    with psycopg.connect(shared_dsn, autocommit=True) as conn:
        conn.execute(_FILL.encode())
    return shared_dsn


@pytest.fixture(params=["empty", "filled"])
async def conn(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection as the server makes it, to a ledger without accounts and to a large one."""
    dsn: str = request.getfixturevalue("dsn" if request.param == "empty" else "filled_dsn")
    database = Database(dsn, pool_size=1, lock_timeout=1_000, statement_timeout=60_000)
    async with await database.connect() as connection:
        yield connection


@pytest.mark.parametrize("name", HOT)
async def test_hot_statements_read_tables_by_their_indexes(conn: Connection, name: str) -> None:
    run, expected = HOT[name]

    await run(conn)

    plans = await _generic_plans(conn)
    assert plans
    assert {access for plan in plans for access in _accesses(plan)} == expected


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_the_search_for_request_ids_needs_no_settings_of_the_planner(
    filled_dsn: str, mode: str
) -> None:
    async with await Connection.connect(filled_dsn, autocommit=True) as conn:
        await batch.lock_and_load(conn, WANTED)
        [name] = [
            name for name, text, _ in await _prepared(conn) if "request_id" in text and "LATERAL" in text
        ]
        await conn.execute(f"SET plan_cache_mode = {mode}".encode())
        [plan] = await _explain(conn, name, *map(text_array, zip(*REQUESTS, strict=True)))

    assert by("entry", "account_id", "request_id") in set(_accesses(plan))
    assert all(access.columns for access in _accesses(plan))


async def test_a_round_touches_no_more_of_a_long_history_than_of_a_short_one(filled_dsn: str) -> None:
    """What the plan says, measured: pages touched by a probe of 500 request ids among 200,000 of one account."""
    database = Database(filled_dsn, pool_size=1, lock_timeout=1_000, statement_timeout=60_000)
    async with await database.connect() as conn:
        await batch.lock_and_load(conn, WANTED)
        [name] = [
            name for name, text, _ in await _prepared(conn) if "request_id" in text and "LATERAL" in text
        ]
        [plan] = await _explain(
            conn, name, *map(text_array, zip(*REQUESTS, strict=True)), options="ANALYZE, BUFFERS"
        )

    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert pages < 10 * len(REQUESTS)


async def _generic_plans(conn: Connection) -> list[dict[str, Any]]:
    """The plans of all that is prepared on the connection; they do not depend on parameters."""
    await conn.execute("SET plan_cache_mode = force_generic_plan")
    return [
        plan
        for name, _, parameters in await _prepared(conn)
        for plan in await _explain(conn, name, *[None] * parameters)
    ]


async def _prepared(conn: Connection) -> list[tuple[str, str, int]]:
    """Name, text and number of parameters of each prepared statement that has a plan."""
    cursor = await conn.execute(
        "SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements"
        " WHERE statement NOT IN ('BEGIN', 'COMMIT', 'ROLLBACK')"
    )
    return [(name, text, parameters) for name, text, parameters in await cursor.fetchall()]


async def _explain(
    conn: Connection, name: str, *parameters: str | None, options: str = "COSTS"
) -> list[dict[str, Any]]:
    arguments = psycopg.sql.SQL(", ").join(map(psycopg.sql.Literal, parameters))
    call = psycopg.sql.SQL("({})").format(arguments) if parameters else psycopg.sql.SQL("")
    explain = f'EXPLAIN (FORMAT JSON, {options}) EXECUTE "{name}"'.encode()
    cursor = await conn.execute(explain + call.as_bytes(conn))
    row = await cursor.fetchone()
    return [each["Plan"] for each in row[0]] if row else []


def _accesses(plan: dict[str, Any]) -> Iterator[Access]:
    """How the plan's scans read tables."""
    if plan.get("Relation Name") in TABLES and plan["Node Type"] != "ModifyTable":
        condition = plan.get("Index Cond") or " ".join(_conditions_below(plan))
        columns = re.findall(r'\("?(\w+)"? [=<>]+ ', condition)
        rows = re.findall(r"\(ROW\(([\w, ]+)\) [<>]", condition)
        yield Access(
            plan["Relation Name"], frozenset(columns + [name for row in rows for name in row.split(", ")])
        )
    for part in plan.get("Plans", []):
        yield from _accesses(part)


def _conditions_below(plan: dict[str, Any]) -> Iterator[str]:
    """The index conditions of a bitmap scan."""
    for part in plan.get("Plans", []):
        if part["Node Type"].startswith("Bitmap"):
            yield part.get("Index Cond", "")
            yield from _conditions_below(part)
