"""Batches over the same accounts in different orders, from two servers: no deadlock, and every balance exact."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from ledger_harness import ServerProcess
from ledger_load import Plan, await_true, open_account, rows, run_together, verified

ACCOUNTS = [f"account-{number}" for number in range(30)]
CREDITS = 200
CALLS = 300
"""To each account."""

_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def test_overlapping_batches_never_deadlock_and_each_account_pays_for_exactly_what_it_can(
    dsn: str, start_server: Callable[..., ServerProcess]
) -> None:
    servers = [start_server(env={"CREDITLEDGER_LANES": lanes}) for lanes in ("4", "3")]
    for account_id in ACCOUNTS:
        open_account(servers[0].target, account_id, CREDITS)
    calls = [(f"id-{number}", account_id) for number in range(CALLS) for account_id in ACCOUNTS]
    random.Random(0).shuffle(calls)

    answers = run_together(
        [
            Plan([server.target], calls[part::2], callers=12, batch=50, insist=True)
            for part, server in enumerate(servers)
        ]
    )

    accepted = Counter(answer.account_id for answer in answers if answer.outcome == "OK")
    refused = Counter(answer.account_id for answer in answers if answer.outcome == "INSUFFICIENT_CREDITS")
    assert accepted == dict.fromkeys(ACCOUNTS, CREDITS)
    assert refused == dict.fromkeys(ACCOUNTS, CALLS - CREDITS)
    assert rows(dsn, "SELECT DISTINCT available, spent FROM account") == [(0, CREDITS)]
    assert verified(dsn) == f"accounts=30 entries={30 * (CREDITS + 2)} mismatches=0"
    _stop(dsn, servers)
    assert rows(dsn, _DEADLOCKS) == [(0,)]


def _stop(dsn: str, servers: list[ServerProcess]) -> None:
    """Ends the servers, so that their backends report what they have counted."""
    for server in servers:
        server.kill()
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'creditledger' AND datname = current_database()"
    await_true(lambda: not rows(dsn, query))
