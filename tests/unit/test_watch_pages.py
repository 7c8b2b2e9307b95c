"""Pages of the commit log: read once for all who need them, never older than what was told, few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.entry import EntryKind
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.storage.commits import Committed, Reach
from creditledger_server.storage.connect import Connection
from creditledger_server.watch import pages as pages_module
from creditledger_server.watch.cursor import AllPosition
from creditledger_server.watch.pages import KEPT, Extent, Pages


class Log:
    """A commit log with one entry at each position below the horizon."""

    def __init__(self) -> None:
        self.horizon = 3
        self.kept_from = 0
        self.reads: list[int] = []
        account = Account("ann")
        self.entries = [account.post(EntryKind.ADJUSTED, number) for number in range(1, 1_000)]

    async def read(self, _conn: Any, position: int, limit: int) -> Reach:
        self.reads.append(position)
        await asyncio.sleep(0)
        at = range(position, min(position + limit + 1, self.horizon))
        committed = [Committed(each, self.entries[each]) for each in at]
        return Reach(self.horizon, position + limit + 1 >= self.horizon, self.kept_from, committed)


@asynccontextmanager
async def connect() -> AsyncIterator[Connection]:
    yield cast(Connection, None)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(pages_module, "read_committed", log.read)
    return log


async def test_streams_at_the_same_place_share_one_read_and_its_items(log: Log) -> None:
    pages = Pages(connect)
    extents = await asyncio.gather(*[pages.extent(1, pages.generation) for _ in range(50)])

    assert set(extents) == {Extent(2, AllPosition(3), complete=True)}
    assert (await pages.items(1, 0))[0] is (await pages.items(1, 0))[0]
    assert log.reads == [1]


async def test_a_page_from_before_the_news_is_not_all_there_is(log: Log) -> None:
    pages = Pages(connect)
    await pages.extent(1, pages.generation)
    log.horizon = 4
    generation = pages.news()

    assert (await pages.extent(1, generation)).complete is False
    assert await pages.extent(3, generation) == Extent(1, AllPosition(4), complete=True)


async def test_a_page_without_items_is_read_again_after_news(log: Log) -> None:
    pages = Pages(connect)
    assert await pages.extent(3, pages.generation) == Extent(0, AllPosition(3), complete=True)
    assert await pages.extent(3, pages.generation) == Extent(0, AllPosition(3), complete=True)
    assert log.reads == [3]
    log.horizon = 5
    assert await pages.extent(3, pages.news()) == Extent(2, AllPosition(5), complete=True)
    assert log.reads == [3, 3]


async def test_a_page_that_was_forgotten_begins_with_the_same_items(log: Log) -> None:
    pages = Pages(connect)
    log.horizon = 2
    size = (await pages.extent(0, pages.generation)).size
    before = [item.place for item in await pages.items(0, 0)]
    assert len(before) == size
    log.horizon = 900
    for position in range(10, 10 + KEPT):
        await pages.extent(position, pages.generation)
    reads = len(log.reads)

    assert [item.place for item in await pages.items(0, 0)][:size] == before
    assert len(log.reads) == reads + 1
    assert len(pages._pages) == KEPT


async def test_what_the_log_has_forgotten_is_told_to_have_expired(log: Log) -> None:
    pages = Pages(connect)
    log.kept_from = 2
    with pytest.raises(Refused) as caught:
        await pages.extent(1, pages.generation)
    assert caught.value.reason is Reason.CURSOR_EXPIRED
    assert (await pages.extent(2, pages.generation)).complete


async def test_that_a_reader_leaves_in_the_middle_does_not_harm_the_others(log: Log) -> None:
    pages = Pages(connect)
    async with asyncio.TaskGroup() as tasks:
        leaves = tasks.create_task(pages.extent(1, pages.generation))
        stays = tasks.create_task(pages.extent(1, pages.generation))
        await asyncio.sleep(0)
        leaves.cancel()
    assert stays.result() == Extent(2, AllPosition(3), complete=True)
