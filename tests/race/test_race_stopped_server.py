"""A server that is stopped, not dead, in the middle of its transactions: it holds the locks, but not for ever."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

from ledger_harness import ServerProcess
from ledger_load import (
    ClientProcess,
    Plan,
    await_true,
    effects,
    open_account,
    rows,
    run_together,
    unequal,
    verified,
)

IDS = 3_000
ACCOUNTS = [f"account-{number}" for number in range(4)]
CALLS = [(f"id-{number}", ACCOUNTS[number % len(ACCOUNTS)]) for number in range(IDS)]

_HOLDERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'
    AND state_change < clock_timestamp() - interval '100 ms'
"""


def test_others_serve_the_accounts_of_a_stopped_server_and_it_comes_back_without_doing_harm(
    dsn: str, start_server: Callable[..., ServerProcess]
) -> None:
    stopped, other = start_server(), start_server()
    for account_id in ACCOUNTS:
        open_account(other.target, account_id, IDS)
    with ClientProcess(Plan([stopped.target], CALLS, callers=32, timeout=(60_000, 60_000))) as client:
        client.await_ready()
        client.go()
        _stop_within_a_transaction(dsn, stopped)
        meanwhile = run_together([Plan([other.target], CALLS[::-1], insist=True, patience=30)])
        stopped.process.send_signal(signal.SIGCONT)
        answers = client.answers()

    resent = run_together([Plan([stopped.target, other.target], CALLS, insist=True)])

    assert Counter(answer.outcome for answer in meanwhile + resent) == {"OK": 2 * IDS}
    assert effects(dsn) == IDS
    assert unequal(answers + meanwhile + resent) == []
    assert verified(dsn) == f"accounts={len(ACCOUNTS)} entries={IDS + 2 * len(ACCOUNTS)} mismatches=0"


def _stop_within_a_transaction(dsn: str, server: ServerProcess) -> None:
    """Stops the server again and again until it has a transaction open."""
    await_true(lambda: effects(dsn) > 0)

    def stopped_in_time() -> bool:
        server.process.send_signal(signal.SIGSTOP)
        if _holds(dsn):
            return True
        server.process.send_signal(signal.SIGCONT)
        return False

    await_true(stopped_in_time)


def _holds(dsn: str) -> bool:
    """Whether a transaction stays open."""
    rows(dsn, "SELECT pg_sleep(0.15)")
    return bool(rows(dsn, _HOLDERS))
