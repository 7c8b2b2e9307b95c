"""What the ledger is held against: a transaction per deduction, as textbooks have it, on psycopg and without gRPC.

BEGIN; lock the account; look the request id up; insert the entry; update the account; COMMIT. With features in use
also: read two limits' counters and the grants, and write the counters and the grant that is drawn from.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable

import psycopg

from .generators import timed_one_by_one
from .sample import Sample, random_account
from .site import BenchError, Site

CONNECTIONS = 8

_SCHEMA = """
CREATE TABLE account (
    account_id text COLLATE "C" PRIMARY KEY,
    revision   bigint NOT NULL,
    available  bigint NOT NULL CHECK (available >= 0),
    spent      bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE entry (
    account_id  text COLLATE "C" NOT NULL,
    revision    bigint NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    operation   text NOT NULL,
    amount      bigint NOT NULL,
    available   bigint NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (account_id, revision),
    UNIQUE (account_id, request_id)
);
CREATE TABLE limit_use (
    account_id   text COLLATE "C" NOT NULL,
    operation    text NOT NULL,
    period       text NOT NULL,
    period_start timestamptz NOT NULL,
    uses         bigint NOT NULL,
    PRIMARY KEY (account_id, operation, period)
) WITH (fillfactor = 50);
CREATE TABLE lot (
    account_id  text COLLATE "C" NOT NULL,
    lot_id      bigint NOT NULL,
    priority    integer NOT NULL,
    expire_time timestamptz NOT NULL,
    remaining   bigint NOT NULL CHECK (remaining >= 0),
    PRIMARY KEY (account_id, lot_id)
) WITH (fillfactor = 50);
INSERT INTO account SELECT 'account-' || n, 0, 1000000000, 0 FROM generate_series(0, {accounts} - 1) AS n;
INSERT INTO lot SELECT account_id, n, n - 2, 'infinity', 1000000000 FROM account, generate_series(1, 4) AS n
"""

Deduct = Callable[[psycopg.Connection, str], None]


def create(site: Site, name: str, accounts: int) -> str:
    """A database with the textbook's tables; returns its DSN."""
    site.execute(f"CREATE DATABASE {name}")
    site.execute(_SCHEMA.format(accounts=accounts), name)
    return site.database(name)


def deductions(dsn: str, accounts: range, count: int, *, features: bool = False) -> Sample:
    """``count`` deductions on 8 connections, a thread each; psycopg's C part lets others run while it waits."""
    deduct_one = deduct_with_features if features else deduct
    barrier = threading.Barrier(CONNECTIONS + 1)
    names = [[random_account(accounts) for _ in range(count // CONNECTIONS)] for _ in range(CONNECTIONS)]
    done = itertools.count()

    def work(own: list[str]) -> None:
        with psycopg.connect(dsn) as conn:
            barrier.wait()
            for name in own:
                deduct_one(conn, name)
                next(done)

    threads = [threading.Thread(target=work, args=(own,)) for own in names]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    operations = sum(map(len, names))
    if next(done) != operations:
        raise BenchError("a textbook transaction failed")
    return Sample(operations, seconds, time.process_time() - cpu)


def lone_deductions(dsn: str, accounts: range, count: int) -> Sample:
    """One after the other, on one connection."""
    with psycopg.connect(dsn) as conn:
        return timed_one_by_one(
            [random_account(accounts) for _ in range(count)], lambda name: deduct(conn, name)
        )


def deduct(conn: psycopg.Connection, account: str) -> None:
    """One deduction of 1 credit."""
    request_id = uuid.uuid4().hex
    with conn.transaction():
        [revision, available] = _row(
            conn, "SELECT revision, available FROM account WHERE account_id = %s FOR UPDATE", [account]
        )
        known = conn.execute(
            "SELECT revision FROM entry WHERE account_id = %s AND request_id = %s", [account, request_id]
        ).fetchone()
        if known is None and available >= 1:
            conn.execute(
                "INSERT INTO entry (account_id, revision, request_id, operation, amount, available)"
                " VALUES (%s, %s, %s, 'chat_refinement', -1, %s)",
                [account, revision + 1, request_id, available - 1],
            )
            conn.execute(
                "UPDATE account SET revision = %s, available = %s, spent = spent + 1 WHERE account_id = %s",
                [revision + 1, available - 1, account],
            )


def deduct_with_features(conn: psycopg.Connection, account: str) -> None:
    """The same under a daily and a monthly limit, from the first of several grants that has not expired."""
    request_id = uuid.uuid4().hex
    with conn.transaction():
        [revision, available] = _row(
            conn, "SELECT revision, available FROM account WHERE account_id = %s FOR UPDATE", [account]
        )
        known = conn.execute(
            "SELECT revision FROM entry WHERE account_id = %s AND request_id = %s", [account, request_id]
        ).fetchone()
        used = conn.execute(
            "SELECT uses FROM limit_use WHERE account_id = %s AND operation = 'chat_refinement'"
            " AND period_start = date_trunc(period, now(), 'UTC')",
            [account],
        ).fetchall()
        [lot, remaining] = _row(
            conn,
            "SELECT lot_id, remaining FROM lot WHERE account_id = %s AND remaining > 0 AND expire_time > now()"
            " ORDER BY priority, expire_time, lot_id LIMIT 1",
            [account],
        )
        if known is None and min(available, remaining) >= 1 and all(uses < 10**12 for (uses,) in used):
            _write_with_features(conn, account, request_id, revision, available, lot)


def _write_with_features(
    conn: psycopg.Connection, account: str, request_id: str, revision: int, available: int, lot: int
) -> None:
    conn.execute(
        "INSERT INTO entry (account_id, revision, request_id, operation, amount, available)"
        " VALUES (%s, %s, %s, 'chat_refinement', -1, %s)",
        [account, revision + 1, request_id, available - 1],
    )
    conn.execute(
        "UPDATE account SET revision = %s, available = %s, spent = spent + 1 WHERE account_id = %s",
        [revision + 1, available - 1, account],
    )
    conn.execute(
        "UPDATE lot SET remaining = remaining - 1 WHERE account_id = %s AND lot_id = %s", [account, lot]
    )
    conn.execute(
        "INSERT INTO limit_use SELECT %s, 'chat_refinement', period, date_trunc(period, now(), 'UTC'), 1"
        " FROM unnest('{day,month}'::text[]) AS period"
        " ON CONFLICT (account_id, operation, period) DO UPDATE SET period_start = excluded.period_start,"
        " uses = CASE WHEN limit_use.period_start = excluded.period_start THEN limit_use.uses ELSE 0 END + 1",
        [account],
    )


def _row(conn: psycopg.Connection, query: str, parameters: list[object]) -> tuple[int, int]:
    row = conn.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0], row[1]
