"""Callers that leave: deadlines of 1 to 50 ms and cancelled calls, under load."""

from __future__ import annotations

from collections import Counter

from ledger_load import (
    UNKNOWN,
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

_OPEN_TRANSACTIONS = """
SELECT pid, state, query FROM pg_stat_activity
WHERE datname = current_database() AND (state LIKE 'idle in transaction%%' OR wait_event_type = 'Lock')
"""


def test_callers_that_leave_cost_neither_an_effect_nor_a_second_one_nor_a_transaction(
    dsn: str, targets: list[str]
) -> None:
    for account_id in ACCOUNTS:
        open_account(targets[0], account_id, IDS)

    hasty = run_together(
        [
            Plan(order, CALLS[part::2], callers=8, timeout=(1, 50), cancelled=0.2, seed=part)
            for part, order in enumerate((targets, targets[::-1]))
        ]
    )
    resent = run_together([Plan(targets, CALLS, callers=32, insist=True)])

    outcomes = Counter(answer.outcome for answer in hasty)
    assert set(outcomes) <= UNKNOWN | {"OK"}, outcomes
    assert sum(outcomes[outcome] for outcome in UNKNOWN) > IDS / 100, (
        "the callers were too patient to test anything"
    )
    assert Counter(answer.outcome for answer in resent) == {"OK": IDS}
    assert effects(dsn) == IDS
    assert unequal(hasty + resent) == []
    assert verified(dsn) == f"accounts={len(ACCOUNTS)} entries={IDS + 2 * len(ACCOUNTS)} mismatches=0"
    await_true(lambda: not rows(dsn, _OPEN_TRANSACTIONS))
