"""Watching over several server processes: the tables carry the entries, hints only hurry, and either does alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from ledger_calls import Ledger, serving
from ledger_load import await_true, rows
from watch_streams import Watch, entry_of, event_of

SOONER = 30.0
"""Seconds: less than the slowed poll and the heartbeat, so that neither brings what a test waits for."""

NO_HINTS = {"CREDITLEDGER_WATCH_HINTS": "false"}
SLOW = {"CREDITLEDGER_WATCH_POLL_MS": "60000", "CREDITLEDGER_HEARTBEAT_SECONDS": "3600"}

_LISTENERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'creditledger-hints'
"""
_HINTING = """
SELECT application_name, query FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~* 'listen|notify'
"""
# A notification's commit takes a lock of the whole cluster's databases, which is none: 0.
_NOTIFY_LOCKS = """
SELECT application_name, query FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND mode = 'AccessExclusiveLock'
"""

Watcher = Callable[[Ledger, str], Watch]
WATCHERS: dict[str, Watcher] = {
    "one account": lambda ledger, account: Watch(ledger, account, timeout=SOONER),
    "all accounts": lambda ledger, _account: Watch(ledger, timeout=SOONER),
    "summaries": lambda ledger, account: Watch(ledger, account, min_interval=0.001, timeout=SOONER),
    "summaries of all": lambda ledger, _account: Watch(ledger, min_interval=0.001, timeout=SOONER),
}
EVERY_WATCHER = pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())


class Sites:
    """Servers on one ledger."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._stack = ExitStack()

    def start(self, **env: str) -> tuple[Any, Ledger]:
        return self._stack.enter_context(serving(self.dsn, env=env))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def sites(dsn: str) -> Iterator[Sites]:
    sites = Sites(dsn)
    yield sites
    sites.close()


@pytest.fixture(scope="module")
def polling(shared_dsn: str) -> Iterator[tuple[Ledger, Ledger]]:
    """Two servers without hints."""
    with serving(shared_dsn, env=NO_HINTS) as (_, one), serving(shared_dsn, env=NO_HINTS) as (_, other):
        yield one, other


@pytest.fixture(scope="module")
def hinting(shared_dsn: str) -> Iterator[tuple[Ledger, Ledger]]:
    """Two servers that look by themselves once a minute."""
    with serving(shared_dsn, env=SLOW) as (_, one), serving(shared_dsn, env=SLOW) as (_, other):
        await_true(lambda: len(rows(shared_dsn, _LISTENERS)) == 2)
        yield one, other


def covered(watch: Watch, first: int, last: int) -> bool:
    """Whether the next messages tell these revisions, one by one or in contiguous summaries."""
    while first <= last:
        message = watch.next()
        if event_of(message) == "summary":
            assert message.summary.from_revision == first, message
            first = message.summary.to_revision + 1
        else:
            assert entry_of(message).revision == first, message
            first += 1
    return first == last + 1


# ── Either way ────────────────────────────────────────────────────────────────────────────────────────────────────


@EVERY_WATCHER
@pytest.mark.parametrize("mode", ["polling", "hinting"])
def test_entries_of_another_server_arrive(
    mode: str, watcher: Watcher, request: pytest.FixtureRequest
) -> None:
    here, elsewhere = request.getfixturevalue(mode)
    account = elsewhere.open(credits_=100)
    with watcher(here, account) as watch:
        next(watch.stream)
        for number in range(5):
            elsewhere.deduct(account)
            assert covered(watch, 3 + number, 3 + number)


@EVERY_WATCHER
@pytest.mark.parametrize("mode", ["polling", "hinting"])
def test_entries_of_both_servers_arrive_in_order(
    mode: str, watcher: Watcher, request: pytest.FixtureRequest
) -> None:
    here, elsewhere = request.getfixturevalue(mode)
    account = elsewhere.open(credits_=100)
    with watcher(here, account) as watch:
        next(watch.stream)
        for number in range(40):
            (here if number % 3 else elsewhere).deduct(account)
        assert covered(watch, 3, 42)


@EVERY_WATCHER
def test_what_waits_for_a_transaction_that_changes_nothing_arrives_with_the_poll_slowed(
    hinting: tuple[Ledger, Ledger], shared_dsn: str, watcher: Watcher
) -> None:
    """Watchers of all accounts are told nothing above the horizon; whoever held it back sends no hint when it ends."""
    here, elsewhere = hinting
    account = elsewhere.open(credits_=100)
    with watcher(here, account) as watch:
        next(watch.stream)
        with psycopg.connect(shared_dsn) as other:
            other.execute("SELECT pg_current_xact_id()")
            elsewhere.deduct(account)
            threading.Event().wait(0.3)  # the hint comes, and is in vain
            other.rollback()
        assert covered(watch, 3, 3)


# ── Hints ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def heard(dsn: str, work: Callable[[], object], seconds: float) -> int:
    """How many hints are sent during some work and so many seconds after it, or until the first."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("LISTEN creditledger")
        work()
        return len(list(conn.notifies(timeout=seconds, stop_after=1)))


def test_a_server_without_hints_neither_listens_nor_notifies(sites: Sites) -> None:
    _, ledger = sites.start(**NO_HINTS)
    account = ledger.open(credits_=100)
    with Watch(ledger, account) as watch, Watch(ledger) as everything:
        watch.next()
        next(everything.stream)

        def work() -> None:
            for number in range(10):
                ledger.deduct(account)
                assert covered(watch, 3 + number, 3 + number)

        assert heard(sites.dsn, work, seconds=1) == 0
    assert (rows(sites.dsn, _LISTENERS), rows(sites.dsn, _HINTING)) == ([], [])
    _, hinting = sites.start()
    assert heard(sites.dsn, lambda: hinting.deduct(account), seconds=SOONER) == 1
    await_true(lambda: len(rows(sites.dsn, _LISTENERS)) == 1)


def test_no_mutation_takes_the_lock_of_a_notification(sites: Sites) -> None:
    _, ledger = sites.start()
    account = ledger.open(credits_=1_000)
    done = threading.Event()
    found: list[tuple[str, str]] = []

    def sample() -> None:
        with psycopg.connect(sites.dsn, autocommit=True) as conn:
            while not done.is_set():
                found.extend(conn.execute(_NOTIFY_LOCKS).fetchall())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for _ in range(400):
            ledger.deduct(account)
    finally:
        done.set()
        sampler.join()
    assert [query for _, query in found if "pg_notify" not in query] == []


def test_a_listen_url_that_leads_nowhere_is_warned_of_and_polling_goes_on(sites: Sites) -> None:
    process, here = sites.start(CREDITLEDGER_LISTEN_URL="postgresql://127.0.0.1:1/nowhere")
    _, elsewhere = sites.start(**NO_HINTS)
    account = here.open(credits_=100)
    with Watch(here, account) as watch, Watch(here) as everything:
        watch.next()
        next(everything.stream)
        await_true(lambda: "cannot listen to other servers" in process.log())
        elsewhere.deduct(account)
        assert covered(watch, 3, 3)
        assert covered(everything, 3, 3)


@pytest.mark.parametrize("url", ["postgresql://[nonsense", "postgresql:///x?no_such_option=1"])
def test_a_listen_url_that_is_none_is_warned_of_and_the_server_serves(sites: Sites, url: str) -> None:
    process, ledger = sites.start(CREDITLEDGER_LISTEN_URL=url)

    await_true(lambda: "cannot listen to other servers" in process.log())

    account = ledger.open(credits_=100)
    assert ledger.deduct(account).balance.available == 99
    assert process.stop() == 0


def test_a_listener_whose_connection_was_ended_listens_again(sites: Sites) -> None:
    process, here = sites.start(**SLOW)
    _, elsewhere = sites.start(**SLOW)
    account = here.open(credits_=100)
    await_true(lambda: len(rows(sites.dsn, _LISTENERS)) == 2)
    before = rows(sites.dsn, _LISTENERS)
    with Watch(here, account, timeout=SOONER) as watch:
        watch.next()
        rows(sites.dsn, f"SELECT pg_terminate_backend(pid) FROM ({_LISTENERS}) AS listeners")
        elsewhere.deduct(account)  # of this there is no hint, but whoever listens again looks first
        assert covered(watch, 3, 3)
        await_true(lambda: len(rows(sites.dsn, _LISTENERS)) == 2)
        assert not set(before) & set(rows(sites.dsn, _LISTENERS))
        elsewhere.deduct(account)
        assert covered(watch, 4, 4)
    assert "cannot listen to other servers" in process.log()
