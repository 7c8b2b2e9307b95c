"""The commit log under slow transactions that commit in any order: a reader below the horizon misses nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.entry import EntryKind
from creditledger_server.storage.batch import Loaded, Wanted, lock_and_load, rollback, write_and_commit
from creditledger_server.storage.commits import read_committed
from creditledger_server.storage.connect import Connection

Connect = Callable[[], Awaitable[Connection]]
Seen = list[tuple[str, int]]

WRITERS = 6
ROUNDS = 60
ACCOUNTS = [f"account-{number}" for number in range(8)]

_PARTS = """
SELECT position, part.* FROM commit_log, unnest(account_ids, first_revisions, last_revisions)
    AS part (account_id, first, last)
"""
_COVERED_NOT_ONCE = f"""
SELECT entry.account_id, entry.revision, count(part.position)
FROM entry LEFT JOIN ({_PARTS}) AS part
    ON part.account_id = entry.account_id AND entry.revision BETWEEN part.first AND part.last
GROUP BY entry.account_id, entry.revision HAVING count(part.position) <> 1
"""
_FALLING = f"""
SELECT * FROM (
    SELECT account_id, position, lag(position) OVER (PARTITION BY account_id ORDER BY first) AS before
    FROM ({_PARTS}) AS part
) AS steps WHERE position < before
"""
_NOT_THE_NEWEST = f"""
SELECT account_id FROM account JOIN ({_PARTS}) AS part USING (account_id)
GROUP BY account_id, commit_position HAVING commit_position <> max(position)
"""
_UNCOVERED_PARTS = f"""
SELECT * FROM ({_PARTS}) AS part WHERE NOT EXISTS (
    SELECT FROM entry WHERE entry.account_id = part.account_id AND entry.revision = part.last)
"""


@pytest.mark.parametrize("seed", range(3))
async def test_slow_transactions_in_any_order_hide_nothing_from_a_reader_below_the_horizon(
    connect: Connect, seed: int
) -> None:
    reader = _Reader(await connect(), limit=3)
    conns = [await connect() for _ in range(WRITERS)]
    await _write(conns[0], ACCOUNTS)
    done = asyncio.Event()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reader.follow(done))
        async with asyncio.TaskGroup() as writers:
            for number, conn in enumerate(conns):
                writers.create_task(_write_slowly(conn, random.Random(f"{seed}/{number}")))
        done.set()

    history = await _fetch(conns[0], "SELECT account_id, revision FROM entry ORDER BY account_id, revision")
    assert len(history) > ROUNDS
    await reader.await_new(len(history) - len(reader.seen))
    assert sorted(reader.seen, key=lambda item: item[0]) == history  # stable: keeps the order of arrival
    for query in (_COVERED_NOT_ONCE, _FALLING, _NOT_THE_NEWEST, _UNCOVERED_PARTS):
        assert await _fetch(conns[0], query) == []


async def test_a_revision_is_not_readable_before_the_one_that_a_later_transaction_wrote(
    connect: Connect,
) -> None:
    """The case of docs/decisions/0003: A takes over from B, whose xid is above that of C, which still runs."""
    holder, a, b, c = [await connect() for _ in range(4)]
    reader = _Reader(await connect(), limit=100)
    await _write(a, ["a", "b"])
    await reader.await_new(2)
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM account WHERE account_id = 'b' FOR UPDATE")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_write(b, ["b"]))
        await _await_waiters(c, 1)
        tasks.create_task(_write(a, ["a", "b"]))
        await _await_waiters(c, 2)
        await c.execute("BEGIN")
        await c.execute("SELECT pg_current_xact_id()")
        await holder.execute("ROLLBACK")

    assert await reader.read() == []
    await c.execute("COMMIT")
    assert await reader.await_new(3) == [("a", 2), ("b", 2), ("b", 3)]


async def test_what_is_not_committed_yet_holds_back_what_is_behind_it(connect: Connect) -> None:
    slow, fast = await connect(), await connect()
    reader = _Reader(await connect(), limit=100)
    await _write(fast, ["a", "b"])
    await reader.await_new(2)

    loaded = await _load(slow, ["a"])
    await _write(fast, ["b"])
    assert await reader.read() == []
    await _post(slow, loaded)

    assert await reader.await_new(2) == [("a", 2), ("b", 2)]


async def test_a_transaction_that_was_rolled_back_leaves_no_gap(connect: Connect) -> None:
    conn, other = await connect(), await connect()
    reader = _Reader(await connect(), limit=100)
    await _write(conn, ["a"])
    await _load(conn, ["a"])
    await rollback(conn)
    await _write(other, ["a"])
    assert await reader.await_new(2) == [("a", 1), ("a", 2)]


class _Reader:
    """Reads as a watcher of all accounts may: a position whole, then on behind it."""

    def __init__(self, conn: Connection, limit: int) -> None:
        self._conn = conn
        self._limit = limit
        self._position = 0
        self.seen: Seen = []

    async def read(self) -> Seen:
        """What is new below the horizon."""
        before = len(self.seen)
        while True:
            reach = await read_committed(self._conn, self._position, self._limit)
            new = [item for item in reach.committed if item.position > self._position]
            assert all(item.position < reach.horizon for item in new)
            self.seen += [(item.entry.account_id, item.entry.revision) for item in new]
            if reach.complete:
                assert not new
                return self.seen[before:]
            self._position = new[-1].position

    async def await_new(self, count: int) -> Seen:
        """So many, once they are below the horizon: an ANALYZE of autovacuum may hold it for a moment."""
        before = len(self.seen)
        while len(self.seen) < before + count:
            await self.read()
        return self.seen[before:]

    async def follow(self, done: asyncio.Event) -> None:
        """Reads on until everything is there."""
        while not done.is_set():
            await self.read()
            await asyncio.sleep(0.001)


async def _write_slowly(conn: Connection, rng: random.Random) -> None:
    """Transactions over some of the accounts that stay open for a while; one in eight is rolled back."""
    for _ in range(ROUNDS):
        loaded = await _load(conn, rng.sample(ACCOUNTS, rng.randint(1, 4)))
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)))
        if rng.random() < 1 / 8:
            await rollback(conn)
        else:
            await _post(conn, loaded, rng.randint(1, 3))


async def _write(conn: Connection, account_ids: Sequence[str]) -> None:
    await _post(conn, await _load(conn, account_ids))


async def _load(conn: Connection, account_ids: Sequence[str]) -> Loaded:
    loaded = await lock_and_load(conn, Wanted(sorted(account_ids), []))
    for account_id in account_ids:
        loaded.accounts.setdefault(account_id, Account(account_id))
    return loaded


async def _post(conn: Connection, loaded: Loaded, entries: int = 1) -> None:
    for account in loaded.accounts.values():
        for _ in range(entries):
            account.post(EntryKind.LEVEL_CHANGED, max(loaded.now, account.last_time))
    await write_and_commit(conn, loaded.accounts.values(), loaded.transaction_id)


async def _await_waiters(conn: Connection, count: int) -> None:
    """Until so many transactions of this database wait for a lock."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while len(await _fetch(conn, query)) < count:  # noqa: ASYNC110 - Postgres tells no event
        await asyncio.sleep(0.01)


async def _fetch(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    cursor = await conn.execute(query.encode())
    return list(await cursor.fetchall())
