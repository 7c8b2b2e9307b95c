"""Many commits at one position: transactions that began before it and were made to wait for the account it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from creditledger_server.domain.entry import EntryKind
from creditledger_server.storage.batch import Wanted, lock_and_load, write_and_commit
from creditledger_server.storage.commits import Committed, read_committed
from creditledger_server.storage.connect import Connection
from ledger_harness import running_server
from ledger_load import ClientProcess, WatchPlan, open_account

TIES = 20
HOT = "hot"
OTHERS = [f"account-{number:02}" for number in range(TIES)]

_LOCK_WAITS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_POSITIONS = "SELECT position, count(*) FROM commit_log GROUP BY position ORDER BY 2 DESC, 1 LIMIT 1"


async def test_a_position_of_many_commits_is_read_whole(
    dsn: str, connect: Callable[[], Awaitable[Connection]]
) -> None:
    with running_server(dsn) as server:
        _open_accounts(server.target)
    await _make_ties(connect)
    conn = await connect()
    [(position, commits)] = await _fetch(conn, _POSITIONS)
    assert commits > TIES

    committed: list[Committed] = []
    while not committed:  # an ANALYZE of autovacuum may hold the horizon for a moment
        committed = (await read_committed(conn, position - 1, 1)).committed

    revisions = [(item.entry.account_id, item.entry.revision) for item in committed]
    hot = [(HOT, revision) for revision in range(3, TIES + 4)]
    assert revisions == [*((name, 3) for name in OTHERS), *hot]
    assert {item.position for item in committed} == {position}
    # Again from there: a reader may have been told some of it only.
    assert (await read_committed(conn, position, 1)).committed[: len(committed)] == committed


async def test_a_watcher_of_all_accounts_goes_on_behind_a_position_of_many_commits(
    dsn: str, connect: Callable[[], Awaitable[Connection]]
) -> None:
    expected = {HOT: [*range(3, TIES + 4)], **{account_id: [3, 4] for account_id in OTHERS}}
    until = {account_id: revisions[-1] for account_id, revisions in expected.items()}
    with running_server(dsn) as server:
        _open_accounts(server.target)
        with ClientProcess(WatchPlan([server.target], [], until, patience=20)) as watcher:
            watcher.await_ready()
            await _make_ties(connect)
            conn = await connect()
            for account_id in OTHERS:
                await _write(conn, [account_id])
            watcher.go()
            watched = watcher.watched()

    assert watched.revisions == expected


def _open_accounts(target: str) -> None:
    for account_id in (HOT, *OTHERS):
        open_account(target, account_id, 1)


async def _make_ties(connect: Callable[[], Awaitable[Connection]]) -> None:
    """The first to get the hot account gets its xid then; all others have theirs already, so they take its position."""
    holder, first, *others = [await connect() for _ in range(TIES + 2)]
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM account WHERE account_id = 'hot' FOR UPDATE")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_write(first, [HOT]))
        await _await_waiters(holder, 1)
        for conn, account_id in zip(others, OTHERS, strict=True):
            tasks.create_task(_write(conn, [account_id, HOT]))
        await _await_waiters(holder, TIES + 1)
        await holder.execute("ROLLBACK")


async def _write(conn: Connection, account_ids: list[str]) -> None:
    loaded = await lock_and_load(conn, Wanted(account_ids, []))
    for account in loaded.accounts.values():
        account.post(EntryKind.LEVEL_CHANGED, max(loaded.now, account.last_time))
    await write_and_commit(conn, loaded.accounts.values(), loaded.transaction_id)


async def _await_waiters(conn: Connection, count: int) -> None:
    while len(await _fetch(conn, _LOCK_WAITS)) < count:  # noqa: ASYNC110 - Postgres tells no event
        await asyncio.sleep(0.01)


async def _fetch(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    cursor = await conn.execute(query.encode())
    return list(await cursor.fetchall())
