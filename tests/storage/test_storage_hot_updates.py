"""Updates of account rows stay heap-only: no index entry is written for a deduction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
from creditledger_server.storage.connect import Connection

ACCOUNTS = [f"account-{number}" for number in range(20)]
ROUNDS = 300


async def test_nine_tenths_of_the_updates_of_accounts_are_heap_only(
    conn: Connection, transact: Callable[[Connection, Sequence[Command]], Awaitable[None]]
) -> None:
    for account_id in ACCOUNTS:
        await transact(
            conn, [OpenAccount("open", account_id, "pro"), GrantCredits("grant", account_id, 10**6)]
        )
    for number in range(ROUNDS):
        accounts = ACCOUNTS[number % 3 :: 2]
        await transact(conn, [Deduct(f"id-{number}", name, "chat_refinement") for name in accounts])

    updates, hot = await _updates(conn)

    assert updates >= 8 * ROUNDS
    assert hot / updates >= 0.9, f"{hot} of {updates}"


async def _updates(conn: Connection) -> tuple[int, int]:
    """How many updates of account there were, and how many of them were heap-only."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    cursor = await conn.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'account'"
    )
    updates, hot = await cursor.fetchone() or (0, 0)
    return updates, hot
