"""What others commit reaches the streams of this process, in the order of revisions, whatever the storage does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.storage.commits import Positions, Range
from creditledger_server.storage.connect import Connection
from creditledger_server.storage.errors import Contended, StorageUnavailable
from creditledger_server.watch import tailer as tailer_module
from creditledger_server.watch.hub import Hub, Subscription
from creditledger_server.watch.pages import Pages
from creditledger_server.watch.tailer import NEWS, Tailer

SOON = 0.05
LONG = 10.0
MINUTE = 60.0


@asynccontextmanager
async def connect() -> AsyncIterator[Connection]:
    yield cast(Connection, None)


class Log:
    """The commit log and the entries of others; ``errors`` are raised by the next looks."""

    def __init__(self) -> None:
        self.horizon = 5
        self.commits: list[tuple[int, Range]] = []
        self.accounts: dict[str, Account] = {}
        self.errors: list[Exception] = []
        self.looks: list[int | None] = []
        self.looked = asyncio.Semaphore(0)
        self.read: list[tuple[str, int]] = []
        self.too_many = False

    def write(self, account_id: str, count: int = 1, *, position: int | None = None) -> None:
        """Commits entries of an account."""
        account = self.accounts.setdefault(account_id, Account(account_id))
        first = account.revision + 1
        for _ in range(count):
            account.post(EntryKind.ADJUSTED, 1)
        at = self.horizon if position is None else position
        self.commits.append((at, Range(account_id, first, account.revision)))

    def _look(self, position: int | None) -> None:
        self.looks.append(position)
        self.looked.release()
        if self.errors:
            raise self.errors.pop(0)

    async def read_positions(self, _conn: Any) -> Positions:
        self._look(None)
        return Positions(self.horizon, self.horizon)

    async def read_touched(self, _conn: Any, position: int, _limit: int) -> tuple[int, list[Range] | None]:
        self._look(position)
        found = [part for at, part in self.commits if at >= position]
        merged = {
            name: Range(name, min(p.first for p in found if p.account_id == name), last)
            for name, _, last in found
        }
        return self.horizon, None if self.too_many else list(merged.values())

    async def read_revisions(self, _conn: Any, account_ids: Sequence[str]) -> dict[str, int]:
        return {name: self.accounts[name].revision for name in account_ids if name in self.accounts}

    async def read_news(
        self, _conn: Any, after: Sequence[tuple[str, int]], limit: int
    ) -> dict[str, list[Entry]]:
        self.read += after
        return {
            name: news
            for name, revision in after
            if (news := self.accounts[name].written[revision : revision + limit])
        }


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    for name in ("read_positions", "read_touched", "read_revisions", "read_news"):
        monkeypatch.setattr(tailer_module, name, getattr(log, name))
    # Or the look that follows one that found something would bring what a hint must bring.
    monkeypatch.setattr(tailer_module, "SETTLE", MINUTE)
    return log


@asynccontextmanager
async def tailed(poll_seconds: float = 0.001) -> AsyncIterator[tuple[Hub, Tailer]]:
    tailer = Tailer(connect, poll_seconds)
    hub = Hub(Pages(connect), tailer.hint)
    async with asyncio.timeout(LONG), asyncio.TaskGroup() as tasks:
        work = tasks.create_task(tailer.run(hub))
        yield hub, tailer
        work.cancel()


async def taken(subscription: Subscription) -> str | None:
    """The next account to look at, waited for."""
    await subscription.wait(LONG)
    return subscription.take()


async def looked(log: Log) -> None:
    """Waits for two whole looks."""
    log.looked = asyncio.Semaphore(0)
    for _ in range(3):
        await log.looked.acquire()


def held(hub: Hub, account_id: str, revision: int) -> list[int] | None:
    changes = hub.recent.after(account_id, revision, 1_000)
    return None if changes is None else [change.entry.revision for change in changes]


async def test_entries_of_others_are_at_hand_for_those_they_concern_and_nobody_else(log: Log) -> None:
    log.write("ann", 3)
    async with tailed() as (hub, _):
        with hub.subscribe(["ann"]) as ann, hub.subscribe(["bob"]) as bob:
            hub.reached("ann", 3)
            await looked(log)
            ann.take()
            log.write("ann", 2)
            log.write("joe")
            assert await taken(ann) == "ann"
            assert held(hub, "ann", 3) == [4, 5]
            assert bob.take() is None
        assert {name for name, _ in log.read} == {"ann"}


async def test_what_was_committed_before_the_first_look_is_found_by_it(log: Log) -> None:
    log.write("ann", 3, position=1)
    async with tailed(MINUTE) as (hub, _):
        with hub.subscribe(["ann", "bob"]) as both, hub.subscribe(None) as everybody:
            assert await taken(both) == "ann"
            assert held(hub, "ann", 2) == [3]
            assert await taken(everybody) == ""


async def test_the_first_look_lets_watchers_of_all_accounts_look_once(log: Log) -> None:
    async with tailed(MINUTE) as (hub, _):
        with hub.subscribe(None) as everybody:
            assert await taken(everybody) == ""


async def test_a_hint_ends_the_rest_before_the_next_poll(log: Log) -> None:
    async with tailed(MINUTE) as (hub, tailer):
        with hub.subscribe(["ann"]) as ann:
            await asyncio.sleep(SOON)
            log.write("ann")
            tailer.hint()
            assert await taken(ann) == "ann"


async def test_a_commit_here_behind_one_of_others_brings_both_at_once(log: Log) -> None:
    async with tailed(MINUTE) as (hub, _):
        with hub.subscribe(["ann"]) as ann:
            hub.reached("ann", 0)
            await asyncio.sleep(SOON)
            ann.take()
            log.write("ann")
            log.write("ann")
            hub.committed([Account("ann", written=log.accounts["ann"].written[1:])])
            assert await taken(ann) == "ann"
            assert held(hub, "ann", 0) == [1, 2]


async def test_of_a_long_absence_only_the_end_is_read_for_the_streams(log: Log) -> None:
    async with tailed() as (hub, _):
        with hub.subscribe(["ann"]) as ann:
            hub.reached("ann", 0)
            await looked(log)
            log.write("ann", 3 * NEWS)
            ann.take()
            assert await taken(ann) == "ann"
            assert held(hub, "ann", 0) is None
            assert held(hub, "ann", 2 * NEWS) == list(range(2 * NEWS + 1, 3 * NEWS + 1))


async def test_where_too_many_have_committed_all_watched_accounts_are_compared(log: Log) -> None:
    async with tailed() as (hub, _):
        with hub.subscribe(["ann"]) as ann:
            hub.reached("ann", 0)
            await looked(log)
            ann.take()
            log.too_many = True
            log.write("ann", 2)
            assert await taken(ann) == "ann"
            assert held(hub, "ann", 0) == [1, 2]


async def test_where_too_many_have_committed_watchers_of_all_look_though_nobody_watches_by_name(
    log: Log,
) -> None:
    """As when the horizon was held up by a transaction, and traffic ends with it: nothing else would wake them."""
    async with tailed() as (hub, _):
        with hub.subscribe(None) as everybody:
            await looked(log)
            everybody.take()
            log.too_many = True
            assert await taken(everybody) == ""


async def test_what_the_hub_has_already_is_not_read_again(log: Log) -> None:
    async with tailed() as (hub, _):
        with hub.subscribe(["ann"]):
            hub.reached("ann", 0)
            log.write("ann")
            hub.committed([Account("ann", written=log.accounts["ann"].written)])
            await looked(log)
        assert log.read == []


async def test_each_look_goes_on_from_the_horizon_of_the_one_before(log: Log) -> None:
    async with tailed() as (hub, _):
        with hub.subscribe(None):
            await looked(log)
            log.horizon = 9
            await looked(log)
    assert log.looks[:2] == [None, 5]
    assert log.looks[-1] == 9


async def test_looking_goes_on_from_the_same_place_once_storage_is_back(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    away = StorageUnavailable("away")
    log.errors = [away]
    async with tailed() as (hub, _):
        with hub.subscribe(["ann"]) as ann:
            await looked(log)
            log.errors = [away, Contended("busy")]
            log.write("ann")
            assert await taken(ann) == "ann"
    assert log.looks[:3] == [None, None, 5]
    assert len(caplog.records) == 3


async def test_watchers_of_all_are_woken_until_the_horizon_has_passed_what_changed(log: Log) -> None:
    """What lies above the horizon as they look they must not be told yet, and nobody else would wake them for it."""
    async with tailed() as (hub, _):
        with hub.subscribe(["ann"]) as ann, hub.subscribe(None) as everybody:
            await looked(log)
            log.write("ann", position=7)
            for _ in range(3):
                while await taken(everybody) is None:
                    pass
            assert held(hub, "ann", 0) == [1]
            assert [ann.take(), ann.take()] == ["ann", None]
            log.horizon = 8
            await looked(log)
            everybody.take()
            await looked(log)
            assert everybody.take() is None
    assert log.read == [("ann", 0)]


async def test_a_hint_during_a_look_is_followed_by_another_look(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tailed(MINUTE) as (hub, tailer):

        async def hinted_while_reading(*arguments: Any) -> Any:
            found = await log.read_touched(*arguments)
            if len(log.commits) == 1:
                log.write("bob")
                tailer.hint()
            return found

        monkeypatch.setattr(tailer_module, "read_touched", hinted_while_reading)
        with hub.subscribe(["ann", "bob"]) as both:
            await asyncio.sleep(SOON)
            log.write("ann")
            tailer.hint()
            assert [await taken(both), await taken(both)] == ["ann", "bob"]


async def test_hints_without_end_leave_it_some_rest(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailer_module, "REST", MINUTE)
    async with tailed(MINUTE) as (hub, tailer):
        with hub.subscribe(["ann"]):
            for _ in range(300):
                tailer.hint()
                await asyncio.sleep(0)
    assert len(log.looks) == 1


async def test_many_accounts_are_read_some_at_a_time_and_none_is_left_out(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer_module, "ACCOUNTS", 3)
    names = [f"user-{number}" for number in range(10)]
    async with tailed() as (hub, _):
        with hub.subscribe(names) as many:
            await looked(log)
            for name in names:
                log.write(name)
            assert {await taken(many) for _ in names} == set(names)


async def test_nothing_is_read_while_nobody_watches_and_everything_after_a_pause(log: Log) -> None:
    async with tailed() as (hub, _):
        await asyncio.sleep(SOON)
        assert log.looks == []
        with hub.subscribe(["ann"]):
            await looked(log)
        await asyncio.sleep(SOON)
        asked = len(log.looks)
        log.write("bob", position=1)
        await asyncio.sleep(SOON)
        assert len(log.looks) == asked
        with hub.subscribe(["bob"]) as bob:
            assert await taken(bob) == "bob"
    assert log.looks.count(None) == 2
