"""Calls to the server that a module's tests share, each on accounts of its own."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from ledger_calls import KNOWN, Ledger, serving, unique
from ledger_harness import ServerProcess
from timed_story import TimedLedger, timed_ledger


@pytest.fixture
def server(dsn: str) -> Iterator[ServerProcess]:
    """A server on the test's database."""
    with serving(dsn) as (process, _):
        yield process


@pytest.fixture(scope="module")
def shared_server(shared_dsn: str) -> Iterator[ServerProcess]:
    """A server for a whole module."""
    with serving(shared_dsn) as (process, _):
        yield process


@pytest.fixture(scope="module")
def ledger(shared_server: ServerProcess) -> Iterator[Ledger]:
    """Calls to the module's server."""
    with Ledger(shared_server.target) as calls:
        yield calls


@pytest.fixture
def account(ledger: Ledger) -> str:
    """A pro account with 100 credits, at revision 2."""
    return ledger.open(credits_=100)


@pytest.fixture
def nobody() -> str:
    """The name of an account that is not open."""
    return unique("nobody")


_WRITTEN = """
SELECT (SELECT json_agg(a) FROM account a)::text, (SELECT count(*) FROM entry), (SELECT count(*) FROM grant_lot),
       (SELECT count(*) FROM catalog),
       (SELECT json_agg(r) FROM reservation r)::text, (SELECT count(*) FROM refund), (SELECT count(*) FROM purchase)
"""


@pytest.fixture(scope="module")
def database(shared_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to the server's database."""
    with psycopg.connect(shared_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def known(ledger: Ledger) -> None:
    """An account with 99 credits, at revision 3, that tests of bad input are about."""
    ledger.call(admin_pb.OpenAccountRequest(request_id="open", account_id=KNOWN, level="pro"))
    ledger.grant(KNOWN, 100, request_id="grant")
    ledger.deduct(KNOWN, request_id="deduct")


@pytest.fixture
def untouched(ledger: Ledger, database: psycopg.Connection, known: None) -> Iterator[None]:
    """Asserts that a test writes nothing and that the next call works."""
    before = database.execute(_WRITTEN).fetchall()
    yield
    assert database.execute(_WRITTEN).fetchall() == before
    replay = ledger.deduct(KNOWN, request_id="deduct")
    assert (replay.replayed, replay.balance.available) == (True, 99)


@pytest.fixture(scope="module")
def timed(shared_dsn: str) -> Iterator[TimedLedger]:
    """A server without a sweeper, on a database whose clock the tests set."""
    with timed_ledger(shared_dsn) as ledger:
        yield ledger
