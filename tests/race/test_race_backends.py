"""Connections to Postgres that end under load, also at COMMIT."""

from __future__ import annotations

import itertools
import time
from collections import Counter

from ledger_load import (
    UNKNOWN,
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
ACCOUNTS = [f"account-{number}" for number in range(10)]
CALLS = [(f"id-{number}", ACCOUNTS[number % len(ACCOUNTS)]) for number in range(IDS)]

_TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'creditledger' AND datname = current_database() AND pid %% %s = 0
"""


def test_backends_terminated_again_and_again_lose_nothing_and_double_nothing(
    dsn: str, targets: list[str]
) -> None:
    for account_id in ACCOUNTS:
        open_account(targets[0], account_id, IDS)
    with ClientProcess(Plan(targets, CALLS, callers=48, timeout=(10_000, 10_000))) as client:
        client.await_ready()
        client.go()
        terminated = _terminate_while_running(dsn, client)
        interrupted = client.answers()

    resent = run_together([Plan(targets, CALLS, callers=32, insist=True)])

    outcomes = Counter(answer.outcome for answer in interrupted)
    assert set(outcomes) <= UNKNOWN | {"OK"}, outcomes
    assert terminated > 10
    assert Counter(answer.outcome for answer in resent) == {"OK": IDS}
    assert effects(dsn) == IDS
    assert unequal(interrupted + resent) == []
    assert verified(dsn) == f"accounts={len(ACCOUNTS)} entries={IDS + 2 * len(ACCOUNTS)} mismatches=0"


def _terminate_while_running(dsn: str, client: ClientProcess) -> int:
    """Terminates all of the servers' backends, or half of them, until the client has ended."""
    await_true(lambda: effects(dsn) > 0)
    terminated = 0
    for share in itertools.cycle((1, 2)):
        if not client.running():
            return terminated
        terminated += rows(dsn, _TERMINATE, share)[0][0]
        time.sleep(0.1)
    raise AssertionError("unreachable")
