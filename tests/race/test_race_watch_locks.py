"""What a mutation holds while watchers look on: never a lock of the whole database. And it notifies nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from ledger_calls import Ledger, deduction, serving
from ledger_load import rows
from tcp_proxy import TcpProxy, Watch, dsn_through, postgres_address

MUTATIONS = 150
BATCH = 30
TABLES = ("entry", "account", "commit_log")

# Who has written to a table of the ledger in a transaction that is still open, and all that it holds.
HELD = """
WITH writers AS (
    SELECT DISTINCT pid FROM pg_locks JOIN pg_class ON pg_class.oid = relation
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND relname = ANY(%s)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT DISTINCT locktype, mode, query FROM pg_locks JOIN writers USING (pid) JOIN pg_stat_activity USING (pid)
"""


class Sampler:
    """Looks at the locks of whoever writes, again and again."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.found: set[tuple[str, str]] = set()
        self.queries: set[str] = set()
        self.samples = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            while not self._ended.is_set():
                told = conn.execute(HELD, [list(TABLES)]).fetchall()
                self.found |= {(locktype, mode) for locktype, mode, _ in told}
                self.queries |= {query for _, _, query in told}
                self.samples += bool(told)


class Statements(Watch):
    """The text that one connection sends to Postgres, in small letters."""

    def __init__(self, sent: list[Statements]) -> None:
        self.text = b""
        sent.append(self)

    def upward(self, data: bytes) -> bytes:
        """Notes statements; their parameters do not matter."""
        self.text += data.lower()
        return data


@pytest.fixture
def watched(dsn: str) -> Iterator[tuple[Ledger, list[Statements]]]:
    """A server behind a proxy that keeps what each of its connections sends, while streams are open on another."""
    connections: list[Statements] = []
    with (
        TcpProxy(postgres_address(dsn), lambda: Statements(connections)) as proxy,
        serving(dsn_through(proxy, dsn)) as (_, ledger),
        serving(dsn) as (_, other),
    ):
        account = ledger.open("watched", credits_=10**6)
        watches = [
            _stream(each, account_ids) for each in (ledger, other) for account_ids in ([account], []) * 3
        ]
        yield ledger, connections
        for stream in watches:
            stream.cancel()


def _stream(ledger: Ledger, account_ids: list[str]) -> Any:
    stream = ledger.call(pb.WatchUsageRequest(account_ids=account_ids), timeout=60)
    next(stream)
    return stream


def test_a_mutation_takes_no_lock_of_the_whole_database_and_notifies_nobody(
    dsn: str, watched: tuple[Ledger, list[Statements]]
) -> None:
    ledger, connections = watched
    with Sampler(dsn) as sampler:
        for number in range(MUTATIONS):
            if number % 3:
                ledger.deduct("watched")
            else:
                ledger.call(pb.BatchDeductRequest(requests=[deduction("watched") for _ in range(BATCH)]))
            if number % 10 == 0:
                ledger.grant("watched", 5)
        time.sleep(0.2)  # for the last hint

    assert sampler.samples >= 10, "the sampler saw no transaction that writes"
    # Of a table, a row or a transaction, but of no object that all share; a table is extended for a moment.
    assert {kind for kind, _ in sampler.found} <= {
        "relation",
        "extend",
        "transactionid",
        "virtualxid",
        "tuple",
    }
    assert {mode for kind, mode in sampler.found if kind == "relation"} <= {
        "AccessShareLock", "RowShareLock", "RowExclusiveLock",
    }  # fmt: skip
    assert not [query for query in sampler.queries if "notify" in query.lower()]
    writers = [each for each in connections if b"insert into entry" in each.text]
    notifiers = [each for each in connections if b"pg_notify" in each.text]
    assert writers
    assert notifiers, "no hint was sent at all"
    assert not [each for each in writers if each in notifiers]


def test_no_trigger_or_function_of_the_schema_notifies(dsn: str) -> None:
    functions = rows(
        dsn,
        "SELECT proname, prosrc FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace"
        " WHERE nspname = 'public'",
    )
    assert functions
    assert not [name for name, source in functions if "notify" in source.lower()]
