"""First calls of accounts that nobody has opened, at once over two servers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import pytest
from ledger_harness import ServerProcess
from ledger_load import Plan, rows, run_together, verified

CATALOG = """
default_level = "free"

[operations.trial]
display_name = "Trial"
price = { flat = 0 }

[operations.ping]
display_name = "Ping"
price = { flat = 0 }

[levels.free]
display_name = "Free"
limits = [{ operation = "trial", period = "lifetime", limit = 30 }]
"""

_KINDS = """
SELECT account_id, count(*) FILTER (WHERE kind = 1), count(*) FILTER (WHERE kind = 4) FROM entry GROUP BY account_id
"""


# Stands for other servers that are always a moment faster: so many inserts find the account opened.
_LOSING: LiteralString = """
CREATE SEQUENCE tries;
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('tries') <= LOSSES THEN
        RAISE unique_violation USING CONSTRAINT = 'account_pkey';
    END IF;
    RETURN new;
END
$$;
CREATE TRIGGER lose BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION lose();
"""


@pytest.fixture
def free_targets(start_server: Callable[..., ServerProcess], tmp_path: Path) -> list[str]:
    """Where two servers are whose operations cost nothing."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    return [start_server("--catalog", str(catalog)).target for _ in range(2)]


def test_100_first_calls_of_one_account_open_it_once_and_are_accepted_as_far_as_they_fit(
    dsn: str, free_targets: list[str]
) -> None:
    calls = [(f"id-{number}", "new") for number in range(100)]

    answers = run_together(
        [
            Plan(
                free_targets, calls[part::2], callers=50, operation="trial", account_level="free", insist=True
            )
            for part in range(2)
        ]
    )

    assert Counter(answer.outcome for answer in answers) == {"OK": 30, "LIMIT_EXCEEDED": 70}
    assert rows(dsn, _KINDS) == [("new", 1, 30)]
    assert rows(dsn, "SELECT kind FROM entry WHERE revision = 1") == [(1,)]
    assert rows(dsn, "SELECT account_id, uses FROM account") == [("new", "trial:4:0:30")]
    assert verified(dsn) == "accounts=1 entries=31 mismatches=0"


def test_batches_that_open_the_same_accounts_in_different_orders_open_each_once(
    dsn: str, free_targets: list[str]
) -> None:
    accounts = [f"new-{number}" for number in range(1_000)]
    plans = [
        Plan(
            [target],
            _shuffled_calls(accounts, seed),
            callers=4,
            batch=100,
            operation="ping",
            account_level="free",
            insist=True,
        )
        for seed, target in enumerate(free_targets * 2)
    ]

    answers = run_together(plans)

    assert Counter(answer.outcome for answer in answers) == {"OK": 4_000}
    assert sorted(rows(dsn, _KINDS)) == sorted((account_id, 1, 4) for account_id in accounts)
    assert verified(dsn) == "accounts=1000 entries=5000 mismatches=0"


def test_who_loses_the_race_to_open_an_account_again_and_again_is_served_in_the_end(
    dsn: str, free_targets: list[str]
) -> None:
    rows(dsn, _LOSING.replace("LOSSES", "7"))
    calls = [("id", f"new-{number}") for number in range(3)]

    answers = run_together([Plan(free_targets[:1], calls, batch=3, operation="ping", account_level="free")])

    assert {answer.outcome for answer in answers} <= {"OK", "CONTENTION"}
    again = run_together(
        [Plan(free_targets[:1], calls, batch=3, operation="ping", account_level="free", insist=True)]
    )
    assert Counter(answer.outcome for answer in again) == {"OK": 3}
    assert sorted(rows(dsn, _KINDS)) == [(f"new-{number}", 1, 1) for number in range(3)]


def test_who_cannot_open_an_account_is_contention_and_disturbs_nobody_else(
    dsn: str, free_targets: list[str]
) -> None:
    known = Plan(free_targets, [("first", "known")], operation="ping", account_level="free")
    assert [answer.outcome for answer in run_together([known])] == ["OK"]
    rows(dsn, _LOSING.replace("LOSSES", "1000000"))
    calls = [("id", "new"), ("id", "known"), ("id", "newer")]

    answers = run_together([Plan(free_targets[:1], calls, batch=3, operation="ping", account_level="free")])

    assert [answer.outcome for answer in answers] == ["CONTENTION", "OK", "CONTENTION"]
    assert rows(dsn, "SELECT account_id FROM account") == [("known",)]


def _shuffled_calls(accounts: list[str], seed: int) -> list[tuple[str, str]]:
    order = random.Random(seed).sample(accounts, len(accounts))
    return [(f"id-{seed}", account_id) for account_id in order]
