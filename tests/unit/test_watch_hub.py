"""Who is woken, and that nothing stays behind in the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.storage.commits import Positions
from creditledger_server.storage.connect import Connection
from creditledger_server.storage.errors import Contended, StorageUnavailable
from creditledger_server.watch import hub as hub_module
from creditledger_server.watch.hub import Hub, Subscription

SOON = 0.02
LONG = 10.0


@asynccontextmanager
async def connect() -> AsyncIterator[Connection]:
    yield cast(Connection, None)


def new_hub() -> Hub:
    return Hub(connect, poll_seconds=0.001)


def commit(hub: Hub, *account_ids: str) -> None:
    hub.committed([Account(account_id) for account_id in account_ids])


def is_empty(hub: Hub) -> bool:
    return (hub.count(), hub._by_account, hub._of_all) == (0, {}, set())


async def shutting_down(subscription: Subscription) -> bool:
    with pytest.raises(Refused) as caught:
        await subscription.wait(LONG)
    assert caught.value.retry_after is not None
    return caught.value.reason is Reason.SHUTTING_DOWN


# ── One subscription ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_waiting_ends_with_nothing_after_its_time() -> None:
    assert await Subscription(frozenset({"ann"})).wait(SOON) is None


async def test_a_change_before_the_wait_is_not_missed() -> None:
    subscription = Subscription(frozenset({"ann"}))
    subscription.notify("ann")
    assert await subscription.wait(LONG) == {"ann"}
    assert await subscription.wait(SOON) is None


async def test_a_change_during_the_wait_ends_it() -> None:
    subscription = Subscription(frozenset({"ann"}))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(subscription.wait(LONG))
        await asyncio.sleep(0)
        assert not waiting.done()
        subscription.notify("ann")
    assert waiting.result() == {"ann"}


async def test_changes_gather_until_they_are_taken() -> None:
    subscription = Subscription(frozenset({"ann", "bob"}))
    for account_id in ["ann", "bob", "ann"]:
        subscription.notify(account_id)
    assert await subscription.wait(LONG) == {"ann", "bob"}


async def test_a_change_after_the_time_is_told_by_the_next_wait() -> None:
    subscription = Subscription(frozenset({"ann"}))
    assert await subscription.wait(SOON) is None
    subscription.notify("ann")
    assert await subscription.wait(LONG) == {"ann"}


async def test_a_subscription_to_all_wakes_and_remembers_no_accounts() -> None:
    subscription = Subscription(None)
    for number in range(1_000):
        subscription.notify(f"user-{number}")
    assert subscription._changed == set()
    assert await subscription.wait(LONG) == set()
    assert await subscription.wait(SOON) is None


async def test_a_closed_subscription_ends_every_wait_present_and_future() -> None:
    subscription = Subscription(None)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(shutting_down(subscription))
        await asyncio.sleep(0)
        subscription.close()
    assert waiting.result()
    assert await shutting_down(subscription)
    subscription.notify("ann")
    assert await shutting_down(subscription)


async def test_a_wait_that_is_cancelled_loses_no_change() -> None:
    subscription = Subscription(frozenset({"ann"}))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(subscription.wait(LONG))
        await asyncio.sleep(0)
        subscription.notify("ann")
        waiting.cancel()
    assert waiting.cancelled()
    assert await subscription.wait(LONG) == {"ann"}


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
        assert await both.wait(LONG) == {"ann", "bob"}
        assert await bob.wait(LONG) == {"bob"}
        assert await everybody.wait(LONG) == set()
        assert await eve.wait(SOON) is None


async def test_a_commit_without_subscriptions_leaves_no_trace() -> None:
    hub = new_hub()
    commit(hub, "ann", "bob")
    assert is_empty(hub)


async def test_nothing_is_left_in_the_hub_after_the_block() -> None:
    hub = new_hub()
    with hub.subscribe(["ann", "bob", "ann"]), hub.subscribe(None):
        assert hub.count() == 2
    assert is_empty(hub)


async def test_nothing_is_left_in_the_hub_after_a_block_that_fails() -> None:
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


async def test_those_who_stay_are_kept_when_another_leaves() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]) as stays:
        with hub.subscribe(["ann", "bob"]):
            assert hub.count() == 2
        assert (hub.count(), set(hub._by_account)) == (1, {"ann"})
        commit(hub, "ann")
        assert await stays.wait(LONG) == {"ann"}


async def test_a_stream_that_has_left_is_not_woken() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]) as left:
        pass
    commit(hub, "ann")
    assert await left.wait(SOON) is None


async def test_drain_closes_present_and_future_subscriptions() -> None:
    hub = new_hub()
    with hub.subscribe(["ann"]) as one, hub.subscribe(None) as everybody:
        hub.drain()
        with hub.subscribe(["bob"]) as later, hub.subscribe(None) as later_everybody:
            for subscription in (one, everybody, later, later_everybody):
                assert await shutting_down(subscription)
    assert is_empty(hub)


# ── Commits of other processes ────────────────────────────────────────────────────────────────────────────────────


class CommitLog:
    """What the hub reads: every answer in turn, an error to be raised or (horizon, accounts); then nothing new."""

    def __init__(self, *answers: Exception | tuple[int, list[str]]) -> None:
        self.answers = list(answers)
        self.asked: list[int | None] = []
        self.exhausted = asyncio.Event()

    async def read(self, position: int | None) -> tuple[int, list[str]]:
        self.asked.append(position)
        if not self.answers:
            self.exhausted.set()
            return position or 0, []
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read_positions(self, _conn: Any) -> Positions:
        horizon, _ = await self.read(None)
        return Positions(horizon, horizon)

    async def read_touched(self, _conn: Any, position: int) -> tuple[int, list[str]]:
        return await self.read(position)


@asynccontextmanager
async def polled(monkeypatch: pytest.MonkeyPatch, hub: Hub, log: CommitLog) -> AsyncIterator[None]:
    monkeypatch.setattr(hub_module, "read_positions", log.read_positions)
    monkeypatch.setattr(hub_module, "read_touched", log.read_touched)
    async with asyncio.timeout(LONG), asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(hub.run())
        yield
        polling.cancel()


async def test_commits_of_others_wake_those_they_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, log = new_hub(), CommitLog((5, []), (5, ["ann"]))
    async with polled(monkeypatch, hub, log):
        with hub.subscribe(["ann"]) as ann, hub.subscribe(["bob"]) as bob:
            await log.exhausted.wait()
            assert await ann.wait(LONG) == {"ann"}
            # The first poll lets everybody look once, and bob is not concerned by the second.
            assert await bob.wait(LONG) == {"bob"}
            assert await bob.wait(SOON) is None


async def test_commits_of_others_wake_again_those_who_have_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, log = new_hub(), CommitLog((5, []))
    async with polled(monkeypatch, hub, log):
        with hub.subscribe(["ann"]) as ann:
            assert await ann.wait(LONG) == {"ann"}
            log.answers.append((6, ["ann"]))
            assert await ann.wait(LONG) == {"ann"}


async def test_the_first_poll_lets_every_stream_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, log = new_hub(), CommitLog((5, []))
    async with polled(monkeypatch, hub, log):
        with hub.subscribe(["ann", "bob"]) as both, hub.subscribe(None) as everybody:
            assert await both.wait(LONG) == {"ann", "bob"}
            assert await everybody.wait(LONG) == set()


async def test_each_poll_goes_on_from_the_horizon_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, log = new_hub(), CommitLog((5, []), (8, ["ann"]), (8, []), (9, []))
    async with polled(monkeypatch, hub, log):
        with hub.subscribe(None):
            await log.exhausted.wait()
    assert log.asked[:5] == [None, 5, 8, 8, 9]


async def test_polling_goes_on_from_the_same_place_once_storage_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = StorageUnavailable("away")
    hub, log = new_hub(), CommitLog(away, (5, []), away, Contended("busy"), (7, ["ann"]))
    async with polled(monkeypatch, hub, log):
        with hub.subscribe(["ann"]) as ann:
            await log.exhausted.wait()
            assert await ann.wait(LONG) == {"ann"}
    assert log.asked[:6] == [None, None, 5, 5, 5, 7]
    assert len(caplog.records) == 3


async def test_nothing_is_read_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, log = new_hub(), CommitLog((5, []))
    async with polled(monkeypatch, hub, log):
        await asyncio.sleep(SOON)
        assert log.asked == []
        with hub.subscribe(["ann"]):
            await log.exhausted.wait()
        await asyncio.sleep(SOON)
        asked = len(log.asked)
        await asyncio.sleep(SOON)
        assert len(log.asked) == asked


async def test_whoever_comes_after_a_pause_is_let_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, log = new_hub(), CommitLog((5, []))
    async with polled(monkeypatch, hub, log):
        with hub.subscribe(["ann"]):
            await log.exhausted.wait()
        await asyncio.sleep(SOON)
        with hub.subscribe(["bob"]) as bob:
            assert await bob.wait(LONG) == {"bob"}
    assert log.asked.count(None) == 2
