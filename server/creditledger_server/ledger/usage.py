"""Summaries of usage, and the rollups that keep them cheap: made when somebody asks, compared and rebuilt on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from ..domain.refusal import Reason, Refused
from ..domain.times import iso_time
from ..domain.usage_summary import (
    MAX_ROWS,
    SummaryTooLarge,
    UnevenZone,
    UsageQuery,
    UsageSums,
    bucket_starts,
)
from ..storage.audits import consistent_reads
from ..storage.connect import Connection, Database
from ..storage.usage import (
    BEGINNING,
    Position,
    Span,
    Window,
    Wrong,
    compare,
    pull_back_head,
    read_extent,
    read_summary,
    read_summed_accounts,
    repair,
    roll_up,
)
from .history import not_found

_PAGE = 500

_OVERSTATED = "more of its usage is said to be summed than there is"


class Rebuilt(NamedTuple):
    """What a rebuild did: so many ``entries`` are summed; what was wrong is told by account in ``lines``."""

    accounts: int
    entries: int
    differences: int
    lines: list[str]


class UsageSummaries:
    """Answers what usage adds up to, exactly as of one moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rolling_up = asyncio.Semaphore(1)

    async def summarize(self, query: UsageQuery) -> list[UsageSums]:
        """The sums by bucket, then operation, without those of nothing."""
        async with self._database.connection() as conn:
            extent = await read_extent(conn, query.account_id)
        if extent.unsummed:
            await self._roll_up(query.account_id)
        async with self._database.connection() as conn, consistent_reads(conn):
            return await _summary(conn, query)

    async def _roll_up(self, account_id: str) -> None:
        # One account at a time, and between its rounds others get the connection: a long history holds nobody up.
        async with self._rolling_up:
            more = True
            while more:
                async with self._database.connection() as conn:
                    more = await roll_up(conn, account_id)


async def wrong_rollups(conn: Connection, account_id: str) -> str | None:
    """What does not fit in an account's rollups, compared with its entries; within ``consistent_reads``."""
    extent = await read_extent(conn, account_id)
    if extent.overstated:
        return _OVERSTATED
    words = _words(await _walk(partial(compare, conn, account_id, extent)))
    return words[0] if words else None


async def rebuild_usage(dsn: str, progress: Callable[[int], None]) -> Rebuilt:
    """Compares all rollups with the entries, replaces what is wrong, and sums what can be summed.

    ``progress`` is told how many accounts are done. Each step is a short transaction: servers may go on meanwhile.
    """
    database = Database(dsn, pool_size=1, lock_timeout=60_000, statement_timeout=600_000)
    done, after = Rebuilt(0, 0, 0, []), ""
    async with await database.connect() as conn:
        while page := await read_summed_accounts(conn, after, _PAGE):
            for account_id in page:
                done = await _rebuild(conn, account_id, done)
                progress(done.accounts)
            after = page[-1]
    return done


async def _rebuild(conn: Connection, account_id: str, done: Rebuilt) -> Rebuilt:
    """Adds what the rebuild of one account did."""
    problems = [_OVERSTATED] if await pull_back_head(conn, account_id) else []
    wrong = await _walk(partial(repair, conn, account_id))
    while await roll_up(conn, account_id):
        pass
    extent = await read_extent(conn, account_id)
    return Rebuilt(
        done.accounts + 1,
        done.entries + extent.rolled_up,
        done.differences + len(problems) + len(wrong),
        [*done.lines, *(f"{account_id}: {problem}" for problem in (*problems, *_words(wrong)))],
    )


async def _walk(check: Callable[[int, Position], Awaitable[Window]]) -> list[Wrong]:
    """Checks window by window; returns what is wrong."""
    chunk, after = 0, BEGINNING
    wrong: list[Wrong] = []
    while True:
        window = await check(chunk, after)
        wrong += window.wrong
        if window.next_chunk is None:
            return wrong
        chunk, after = window.next_chunk, window.end


async def _summary(conn: Connection, query: UsageQuery) -> list[UsageSums]:
    extent = await read_extent(conn, query.account_id)
    if not extent.revision:
        raise not_found(query.account_id).decided_at(0, extent.now)
    # Nothing is earlier than the account or later than its newest entry, so that no span is too long to divide.
    start = extent.create_time if query.start is None else max(query.start, extent.create_time)
    end = extent.last_time + 1 if query.end is None else min(query.end, extent.last_time + 1)
    if start >= end:
        return []
    span = Span(start, end, _bucket_starts(query, start, end))
    try:
        return await read_summary(conn, query.account_id, query.operations, span, extent)
    except SummaryTooLarge as error:
        rule = f"must be larger, or the span or operations fewer: more than {MAX_ROWS:,} rows, or too many metrics"
        raise _invalid("bucket", rule) from error


def _bucket_starts(query: UsageQuery, start: int, end: int) -> list[int]:
    try:
        return bucket_starts(query.bucket, query.zone, start, end)
    except UnevenZone as error:
        rule = "must have days that begin on a quarter of an hour of UTC, in the whole span"
        raise _invalid("time_zone", rule) from error


def _invalid(field: str, rule: str) -> Refused:
    return Refused(Reason.FIELD_INVALID, f"invalid: {field}", violations=((field, rule),))


def _words(wrong: Sequence[Wrong]) -> list[str]:
    """What is told of wrong rollups, in a line if there are any."""
    if not wrong:
        return []
    time, operation = wrong[0]
    return [
        f"{len(wrong)} sums of usage do not match the entries, first that of {operation} from {iso_time(time)}"
    ]
