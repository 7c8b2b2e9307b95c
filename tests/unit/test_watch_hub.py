"""Who is woken, and that nothing stays behind in the hub."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.storage.connect import Connection
from creditledger_server.watch.hub import Hub, Subscription
from creditledger_server.watch.pages import Pages

SOON = 0.02
LONG = 10.0


def no_connection() -> AbstractAsyncContextManager[Connection]:
    raise AssertionError


class Gaps:
    """How often the hub told that entries are missing."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


def new_hub(gaps: Gaps | None = None) -> Hub:
    return Hub(Pages(no_connection), gaps or Gaps())


def entries(first: int, last: int) -> list[Entry]:
    account = Account("ann", revision=first - 1)
    return [account.post(EntryKind.ADJUSTED, number) for number in range(first, last + 1)]


def commit(hub: Hub, *account_ids: str, revision: int = 1) -> None:
    hub.committed([Account(name, written=entries(revision, revision)) for name in account_ids])


def taken(subscription: Subscription) -> list[str]:
    """All that waits to be looked at, in its order."""
    return list(iter(subscription.take, None))


async def woken(subscription: Subscription) -> bool:
    """Whether a wait ends before its time."""
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(subscription.wait(LONG))
        await asyncio.sleep(SOON)
        done = waiting.done()
        waiting.cancel()
    return done


def is_empty(hub: Hub) -> bool:
    return (hub.count(), hub.watched(), hub.is_idle(), hub.recent._tails) == (0, [], True, {})


def is_closed(subscription: Subscription) -> bool:
    with pytest.raises(Refused) as caught:
        subscription.take()
    assert caught.value.retry_after is not None
    return caught.value.reason is Reason.SHUTTING_DOWN


# ── One subscription ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_waiting_ends_with_nothing_after_its_time() -> None:
    subscription = Subscription(["ann"])
    await subscription.wait(SOON)
    assert taken(subscription) == []


async def test_a_change_before_the_wait_is_not_missed() -> None:
    subscription = Subscription(["ann"])
    subscription.notify("ann")
    assert await woken(subscription)
    assert taken(subscription) == ["ann"]
    assert not await woken(subscription)


async def test_a_change_during_the_wait_ends_it() -> None:
    subscription = Subscription(["ann"])
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(subscription.wait(LONG))
        await asyncio.sleep(0)
        assert not waiting.done()
        subscription.notify("ann")
    assert taken(subscription) == ["ann"]


async def test_whoever_has_waited_longest_comes_first_and_once() -> None:
    subscription = Subscription(["ann", "bob", "eve"])
    for account_id in ["bob", "ann", "bob", "eve"]:
        subscription.notify(account_id)
    assert taken(subscription) == ["bob", "ann", "eve"]


async def test_an_account_that_changes_again_waits_behind_its_neighbours() -> None:
    subscription = Subscription(["ann", "bob"])
    subscription.notify("ann")
    subscription.notify("bob")
    assert subscription.take() == "ann"
    subscription.notify("ann")
    assert taken(subscription) == ["bob", "ann"]


async def test_a_wait_that_is_cancelled_loses_no_change() -> None:
    subscription = Subscription(["ann"])
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(subscription.wait(LONG))
        await asyncio.sleep(0)
        subscription.notify("ann")
        waiting.cancel()
    assert waiting.cancelled()
    await subscription.wait(LONG)
    assert taken(subscription) == ["ann"]


async def test_a_closed_subscription_ends_every_wait_present_and_future() -> None:
    subscription = Subscription(None)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(subscription.wait(LONG))
        await asyncio.sleep(0)
        subscription.close()
    await subscription.wait(LONG)
    assert is_closed(subscription)
    subscription.notify("")
    assert is_closed(subscription)


# ── The hub ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_commit_wakes_those_it_concerns_and_no_others() -> None:
    hub = new_hub()
    with (
        hub.subscribe(["ann", "bob"]) as both,
        hub.subscribe(["bob"]) as bob,
        hub.subscribe(["eve"]) as eve,
        hub.subscribe(None) as everybody,
    ):
        commit(hub, "ann", "bob", "joe")
        assert [taken(each) for each in (both, bob, eve)] == [["ann", "bob"], ["bob"], []]
        assert await woken(everybody)
        assert not await woken(eve)


def test_watchers_of_all_accounts_remember_none_of_them() -> None:
    hub = new_hub()
    with hub.subscribe(None) as everybody:
        commit(hub, *(f"user-{number}" for number in range(1_000)))
        assert len(everybody._changed) == 1


def test_a_commit_without_subscriptions_leaves_no_trace() -> None:
    hub = new_hub()
    commit(hub, "ann", "bob")
    assert is_empty(hub)


def test_what_is_committed_here_is_at_hand_without_the_tables() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]):
        hub.reached("ann", 4)
        commit(hub, "ann", revision=5)
        [change] = hub.recent.after("ann", 4, 10) or ()
        assert change.entry.revision == 5


def test_a_commit_behind_those_of_others_asks_for_these_and_tells_nobody_before() -> None:
    gaps = Gaps()
    hub = new_hub(gaps)
    with hub.subscribe(["ann"]) as ann:
        hub.reached("ann", 4)
        taken(ann)
        commit(hub, "ann", revision=7)
        assert (gaps.count, taken(ann)) == (1, [])
        hub.read("ann", entries(5, 7))
        assert taken(ann) == ["ann"]
        assert [change.entry.revision for change in hub.recent.after("ann", 4, 10) or ()] == [5, 6, 7]


def test_a_stream_is_told_of_what_another_was_first_to_find() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]) as live:
        hub.reached("ann", 10)
        taken(live)
        with hub.subscribe(["ann"]) as new:
            hub.reached("ann", 11)
            assert (taken(live), taken(new)) == (["ann"], ["ann"])
            hub.reached("ann", 11)
            assert (taken(live), taken(new)) == ([], [])
        assert hub.recent.after("ann", 10, 5) is None


def test_what_is_read_for_those_who_have_left_is_dropped() -> None:
    hub = new_hub()
    hub.read("ann", entries(1, 2))
    assert is_empty(hub)


def test_nothing_is_left_in_the_hub_after_the_block() -> None:
    hub = new_hub()
    with hub.subscribe(["ann", "bob", "ann"]), hub.subscribe(None):
        assert hub.count() == 2
    assert is_empty(hub)


def test_nothing_is_left_in_the_hub_after_a_block_that_fails() -> None:
    hub = new_hub()
    for account_ids in (["ann"], None):
        with pytest.raises(RuntimeError), hub.subscribe(account_ids):
            raise RuntimeError
    assert is_empty(hub)


async def test_nothing_is_left_in_the_hub_after_a_stream_that_is_cancelled() -> None:
    hub = new_hub()

    async def stream(account_ids: list[str] | None) -> None:
        with hub.subscribe(account_ids) as subscription:
            await subscription.wait(LONG)

    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(stream(ids)) for ids in (["ann"], ["ann", "bob"], None)]
        await asyncio.sleep(0)
        assert hub.count() == 3
        for one in streams:
            one.cancel()
    assert is_empty(hub)


def test_those_who_stay_are_kept_when_another_leaves() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]) as stays:
        with hub.subscribe(["ann", "bob"]) as leaves:
            assert hub.count() == 2
        assert (hub.count(), hub.watched()) == (1, ["ann"])
        commit(hub, "ann", "bob")
        assert (taken(stays), taken(leaves)) == (["ann"], [])


def test_drain_closes_present_and_future_subscriptions() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]) as one, hub.subscribe(None) as everybody:
        hub.drain()
        with hub.subscribe(["bob"]) as later, hub.subscribe(None) as later_everybody:
            assert all(map(is_closed, (one, everybody, later, later_everybody)))
    assert is_empty(hub)


async def test_whoever_waits_for_streams_sees_one_that_came_and_one_that_left() -> None:
    hub = new_hub()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(hub.wait_for_streams())
        await asyncio.sleep(0)
        with hub.subscribe(None):
            await waiting
        waiting = tasks.create_task(hub.wait_for_streams())
        await asyncio.sleep(SOON)
        assert not waiting.done()
        waiting.cancel()
