"""Watchers that break off and resume at random, on either server, under load: every revision once, in order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from ledger_harness import ServerProcess
from ledger_load import ClientProcess, Plan, Watched, WatchPlan, open_account, rows, run_together, verified

RECONNECTS = 200
IDS = 6_000
ACCOUNTS = [f"account-{number:02}" for number in range(24)]
HOT = ACCOUNTS[0]


@pytest.fixture
def targets(start_server: Callable[..., ServerProcess]) -> list[str]:
    """Where two servers are whose streams soon have a first message, and with it a cursor."""
    return [start_server(env={"CREDITLEDGER_HEARTBEAT_SECONDS": "0.3"}).target for _ in range(2)]


def test_watchers_that_reconnect_200_times_see_every_revision_once_and_in_order(
    dsn: str, targets: list[str]
) -> None:
    for account_id in ACCOUNTS:
        open_account(targets[0], account_id, IDS)
    newest = {account_id: 2 + len(_calls(account_id)) for account_id in ACCOUNTS}
    watches: list[list[str]] = [[HOT], ACCOUNTS, []]

    one, listed, everything = _watch_under_load(targets, watches, newest)

    assert one.revisions == {HOT: list(range(3, newest[HOT] + 1))}
    for seen in (listed, everything):
        assert seen.revisions == {name: list(range(3, newest[name] + 1)) for name in ACCOUNTS}
    for seen in (one, listed, everything):
        assert seen.connections > RECONNECTS
        assert seen.errors == []
    assert dict(rows(dsn, "SELECT account_id, revision FROM account")) == newest
    assert verified(dsn).endswith("mismatches=0")


def _watch_under_load(targets: list[str], watches: list[list[str]], newest: dict[str, int]) -> list[Watched]:
    """What watchers saw that were there before the load began."""
    with ExitStack() as stack:
        watchers = [
            stack.enter_context(ClientProcess(_watch_plan(targets, account_ids, newest, seed)))
            for seed, account_ids in enumerate(watches)
        ]
        for watcher in watchers:
            watcher.await_ready()
        for watcher in watchers:
            watcher.go()
        calls = [call for account_id in ACCOUNTS for call in _calls(account_id)]
        calls.sort()
        run_together(
            [
                Plan(targets, calls[::2], callers=16, insist=True),
                Plan(targets, calls[1::2], callers=2, batch=20, insist=True),
            ]
        )
        return [watcher.watched() for watcher in watchers]


def _watch_plan(targets: list[str], account_ids: list[str], newest: dict[str, int], seed: int) -> WatchPlan:
    """Reconnects so often that about four fifths of all changes have come by then."""
    until = {account_id: newest[account_id] for account_id in account_ids or ACCOUNTS}
    most = round(2 * 0.8 * sum(until.values()) / RECONNECTS)
    return WatchPlan(targets, account_ids, until, RECONNECTS, most, seed)


def _calls(account_id: str) -> list[tuple[str, str]]:
    """A third of all calls is to one account."""
    count = IDS // 3 if account_id == HOT else 2 * IDS // 3 // (len(ACCOUNTS) - 1)
    return [(f"id-{number:04}", account_id) for number in range(count)]
