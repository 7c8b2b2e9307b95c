"""What the ledger is held against: a transaction per deduction, as textbooks have it, on psycopg and without gRPC.

BEGIN; lock the account; look the request id up; insert the entry; update the account; COMMIT.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid

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
INSERT INTO account SELECT 'account-' || n, 0, 1000000000, 0 FROM generate_series(0, {accounts} - 1) AS n
"""


def create(site: Site, name: str, accounts: int) -> str:
    """A database with the textbook's tables; returns its DSN."""
    site.execute(f"CREATE DATABASE {name}")
    site.execute(_SCHEMA.format(accounts=accounts), name)
    return site.database(name)


def deductions(dsn: str, accounts: range, count: int) -> Sample:
    """``count`` deductions on 8 connections, a thread each; psycopg's C part lets others run while it waits."""
    barrier = threading.Barrier(CONNECTIONS + 1)
    names = [[random_account(accounts) for _ in range(count // CONNECTIONS)] for _ in range(CONNECTIONS)]
    done = itertools.count()

    def work(own: list[str]) -> None:
        with psycopg.connect(dsn) as conn:
            barrier.wait()
            for name in own:
                deduct(conn, name)
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


def _row(conn: psycopg.Connection, query: str, parameters: list[object]) -> tuple[int, int]:
    row = conn.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0], row[1]
