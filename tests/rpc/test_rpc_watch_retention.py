"""The commit log forgets what is old, and says so to those who would need it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger_server.storage.commits import forget
from creditledger_server.storage.connect import Connection, Database
from ledger_calls import TIMEOUT, Ledger, failure_of, serving
from ledger_load import rows

DAY = 24


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    """Calls to a server on a ledger of its own."""
    with serving(dsn) as (_, calls):
        yield calls


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    database = Database(dsn, pool_size=1, lock_timeout=1_000, statement_timeout=60_000)
    async with await database.connect() as connection:
        yield connection


def make_older(dsn: str, hours: int) -> None:
    """Lets the ledger's clock run ahead: what is there is older then."""
    rows(
        dsn,
        "CREATE OR REPLACE FUNCTION ledger_time() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE"
        f" AS 'SELECT clock_timestamp() + interval ''{hours} hours'''",
    )


def first_cursor(ledger: Ledger, *names: str) -> str:
    stream = ledger.call(pb.WatchUsageRequest(account_ids=names), timeout=TIMEOUT)
    cursor: str = next(stream).cursor
    stream.cancel()
    return cursor


def resumed(ledger: Ledger, cursor: str, *names: str) -> Iterator[pb.WatchUsageResponse]:
    request = pb.WatchUsageRequest(account_ids=names, cursor=cursor)
    return iter(ledger.call(request, timeout=TIMEOUT))


async def test_a_cursor_of_all_accounts_from_before_is_expired(
    ledger: Ledger, dsn: str, conn: Connection
) -> None:
    account = ledger.open(credits_=50)
    cursors = [first_cursor(ledger), first_cursor(ledger, account)]
    for _ in range(10):
        ledger.deduct(account)
    make_older(dsn, DAY + 1)
    assert await forget(conn, DAY, 4)

    with pytest.raises(grpc.RpcError) as caught:
        next(resumed(ledger, cursors[0]))
    assert failure_of(caught.value).word == "OUT_OF_RANGE / CURSOR_EXPIRED"
    assert next(resumed(ledger, cursors[1], account)).change.entry.revision == 3
    assert ledger.deduct(account).entry.revision == 13


async def test_what_is_young_stays_and_so_do_the_newest_rows(
    ledger: Ledger, dsn: str, conn: Connection
) -> None:
    account = ledger.open(credits_=50)
    for _ in range(10):
        ledger.deduct(account)
    count = rows(dsn, "SELECT count(*) FROM commit_log")

    assert not await forget(conn, DAY, 4)
    assert rows(dsn, "SELECT count(*) FROM commit_log") == count
    make_older(dsn, DAY + 1)
    while await forget(conn, DAY, 4):
        pass
    assert rows(dsn, "SELECT count(*) FROM commit_log") == [(4,)]
    [(kept_from, oldest)] = rows(
        dsn, "SELECT (SELECT commit_log_from FROM ledger), (SELECT min(position) FROM commit_log)"
    )
    assert kept_from == oldest


async def test_a_stream_that_was_there_goes_on(ledger: Ledger, dsn: str, conn: Connection) -> None:
    account = ledger.open(credits_=50)
    stream = ledger.call(pb.WatchUsageRequest(), timeout=TIMEOUT)
    next(stream)
    for number in range(8):
        ledger.deduct(account)
        assert next(stream).change.entry.revision == 3 + number
    make_older(dsn, DAY + 1)
    assert await forget(conn, DAY, 4)
    ledger.deduct(account)
    assert next(stream).change.entry.revision == 11
    stream.cancel()
