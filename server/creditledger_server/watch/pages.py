"""Pages of the commit log with their entries, read once for all the streams that need them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from ..domain.entry import Entry
from ..storage.commits import read_committed
from ..storage.connect import Connection
from .cursor import AllPosition, expired
from .message import Message

COMMITS = 16
"""How many commits are read at once."""

KEPT = 8
"""How many pages are held in memory, however many streams there are and however slowly their readers read."""

TAKEN = 100
"""How many items a stream takes at once: bounds what it holds in memory while its reader does not read."""


class Item:
    """An entry and its place. ``shared``: its message to the streams that tell it with the same cursor."""

    __slots__ = ("entry", "place", "shared")

    def __init__(self, place: AllPosition, entry: Entry) -> None:
        self.place = place
        self.entry = entry
        self.shared: Message | None = None


class Extent(NamedTuple):
    """How many items a page has, where the next page begins, and whether there is nothing more for now."""

    size: int
    end: AllPosition
    complete: bool


class _Page(NamedTuple):
    items: list[Item]
    extent: Extent
    generation: int


class Pages:
    """Pages by the position that they begin with.

    Below the horizon nothing comes to be any more, so whatever was read of it stays right: a page that is read again
    begins with the same items, and may have more behind them.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        self._connect = connect
        self._pages: OrderedDict[int, _Page] = OrderedDict()
        self._reading = asyncio.Lock()
        self._generation = 0

    def news(self) -> int:
        """Tells that there may be something new; returns the generation of what will be read from now on."""
        self._generation += 1
        return self._generation

    @property
    def generation(self) -> int:
        """How often it was told that there may be something new."""
        return self._generation

    async def extent(self, position: int, generation: int) -> Extent:
        """The extent of the page from a position on.

        ``complete`` takes in everything that was told up to ``generation``: the page may have been read before that.
        Raises Refused CURSOR_EXPIRED, or as ``translated``.
        """
        page = await self._page(position, generation)
        return page.extent._replace(complete=page.extent.complete and page.generation >= generation)

    async def items(self, position: int, index: int) -> list[Item]:
        """The next items of that page: some at a time, so that no stream holds a page while it sends."""
        return (await self._page(position, 0)).items[index : index + TAKEN]

    async def _page(self, position: int, generation: int) -> _Page:
        page = self._kept(position, generation)
        if page is None:
            async with self._reading:  # whoever waited for it finds the page that was read meanwhile
                page = self._kept(position, generation) or await self._read(position)
                self._pages[position] = page
                if len(self._pages) > KEPT:
                    self._pages.popitem(last=False)
        return page

    def _kept(self, position: int, generation: int) -> _Page | None:
        page = self._pages.get(position)
        return page if page and (page.items or page.generation >= generation) else None

    async def _read(self, position: int) -> _Page:
        generation = self._generation
        async with self._connect() as conn:
            reach = await read_committed(conn, position, COMMITS)
        if position < reach.kept_from:
            raise expired()
        items = [
            Item(AllPosition(at, entry.account_id, entry.revision), entry) for at, entry in reach.committed
        ]
        end = AllPosition(reach.horizon) if reach.complete else items[-1].place
        return _Page(items, Extent(len(items), end, reach.complete), generation)
