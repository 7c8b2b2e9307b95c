"""What WatchUsage reads: entries by account and revision, and the commit log by position.

A position never falls from one revision of an account to the next: it is the transaction's own id or, where larger,
the position that one of its accounts had before (docs/decisions/0003). Transactions commit in any order, but none that
is still running, or to come, can get a position below the horizon, so what lies below it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..domain.entry import Entry
from .arrays import columns, text_array
from .connect import Connection
from .exchange import Row, Statement
from .rows import ENTRY_COLUMNS, entry_from_row


class Positions(NamedTuple):
    """Below ``horizon`` the commit log is complete; ``next`` is above every position so far."""

    horizon: int
    next: int


class Range(NamedTuple):
    """Which revisions of an account some transactions wrote, from the first to the last."""

    account_id: str
    first: int
    last: int


class Committed(NamedTuple):
    """An entry and its position; tuples of (position, account id, revision) are in the order of delivery."""

    position: int
    entry: Entry


class Reach(NamedTuple):
    """What a read found. ``complete``: below ``horizon`` there is nothing beyond it.

    Of what was committed below ``kept_from`` the log keeps nothing any more.
    """

    horizon: int
    complete: bool
    kept_from: int
    committed: list[Committed]


_HORIZON = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

_POSITIONS = Statement(
    "positions", f"SELECT {_HORIZON}, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)

_TOUCHED = Statement(
    "touched",
    f"""
WITH newest AS MATERIALIZED (
    SELECT account_ids, first_revisions, last_revisions FROM commit_log WHERE position >= $1
    ORDER BY position DESC LIMIT $2::bigint
)
SELECT {_HORIZON}, (SELECT count(*) FROM newest), touched.* FROM (SELECT) AS one LEFT JOIN LATERAL (
    SELECT account_id, min(first), max(last) FROM newest
    CROSS JOIN LATERAL unnest(account_ids, first_revisions, last_revisions) AS part (account_id, first, last)
    GROUP BY account_id
) AS touched ON true
""",
)

# Everything of the first position, of which some may have been read, and of about as many more as the limit says.
_COMMITTED = Statement(
    "committed",
    f"""
WITH reach AS MATERIALIZED (
    SELECT {_HORIZON} AS horizon, (SELECT commit_log_from FROM ledger) AS kept_from, (SELECT max(position) FROM (
        SELECT position FROM commit_log WHERE position > $1::bigint AND position < {_HORIZON}
        ORDER BY position LIMIT $2::bigint) AS further) AS last
)
SELECT reach.horizon, reach.last, reach.kept_from, found.* FROM reach LEFT JOIN LATERAL (
    SELECT commits.position, written.*
    FROM commit_log AS commits
    CROSS JOIN LATERAL unnest(account_ids, first_revisions, last_revisions) AS part (account_id, first, last)
    CROSS JOIN LATERAL (
        SELECT {ENTRY_COLUMNS} FROM entry
        WHERE entry.account_id = part.account_id AND revision BETWEEN part.first AND part.last
        ORDER BY revision OFFSET 0
    ) AS written
    WHERE commits.position >= $1::bigint AND commits.position <= coalesce(reach.last, $1::bigint)
      AND commits.position < {_HORIZON}
) AS found ON true
""",
)

_AFTER = Statement(
    "after",
    f"""
SELECT {ENTRY_COLUMNS} FROM entry WHERE account_id = $1 AND revision > $2 ORDER BY revision LIMIT $3::bigint
""",
)

_NEWS = Statement(
    "news",
    f"""
SELECT written.* FROM unnest($1::text[], $2::bigint[]) AS wanted (account_id, revision) CROSS JOIN LATERAL (
    SELECT {ENTRY_COLUMNS} FROM entry
    WHERE entry.account_id = wanted.account_id AND entry.revision > wanted.revision
    ORDER BY revision LIMIT $3::bigint
) AS written
""",
)

# The oldest row that stays whatever its age, and the time of its first entry.
_OLDEST_TO_STAY = Statement(
    "oldest_to_stay",
    """
SELECT position, (
    SELECT create_time FROM entry WHERE entry.account_id = commit_log.account_id AND revision >= first_revisions[1]
    ORDER BY revision LIMIT 1
) < ledger_time() - $2::bigint * interval '1 hour'
FROM commit_log WHERE position >= (SELECT commit_log_from FROM ledger) ORDER BY position OFFSET $1::bigint LIMIT 1
""",
)

_KEEP_FROM = Statement("keep_from", "UPDATE ledger SET commit_log_from = $1 WHERE commit_log_from < $1")

_FORGET = Statement("forget", "DELETE FROM commit_log WHERE position < $1")

_REVISIONS = Statement(
    "revisions", "SELECT account_id, revision FROM account WHERE account_id = ANY($1::text[])"
)


async def read_positions(conn: Connection) -> Positions:
    """The horizon and end of the commit log, as of now."""
    rows = await conn.fetch(_POSITIONS)
    return Positions(*rows[0])


async def read_touched(conn: Connection, position: int, limit: int) -> tuple[int, list[Range] | None]:
    """The horizon, and what transactions from ``position`` on wrote, below the horizon or not.

    None: there are as many as ``limit``, or more.
    """
    rows = await conn.fetch(_TOUCHED, position, limit)
    horizon, count = rows[0][:2]
    return horizon, [Range(*row[2:]) for row in rows if row[2] is not None] if count < limit else None


async def read_news(conn: Connection, after: Sequence[tuple[str, int]], limit: int) -> dict[str, list[Entry]]:
    """Of each account the first ``limit`` entries after a revision, if there are any."""
    news: dict[str, list[Entry]] = {}
    for row in await conn.fetch(_NEWS, *columns(after, "ti"), limit):
        entry = entry_from_row(row)
        news.setdefault(entry.account_id, []).append(entry)
    return news


async def read_committed(conn: Connection, position: int, limit: int) -> Reach:
    """The entries of ``position`` and of the next positions, about ``limit`` commits, below the horizon.

    All entries of a position come together: commits can share one.
    """
    rows = await conn.fetch(_COMMITTED, position, limit)
    committed = [Committed(row[3], entry_from_row(row[4:])) for row in rows if row[3] is not None]
    committed.sort(key=lambda item: (item.position, item.entry.account_id, item.entry.revision))
    horizon, last, kept_from = rows[0][:3]
    return Reach(horizon, last is None, kept_from, committed)


async def forget(conn: Connection, hours: int, at_once: int) -> bool:
    """Deletes the oldest ``at_once`` rows of the commit log if all are older than ``hours``; whether it did.

    The newest ``at_once`` rows stay in any case.
    """
    rows = await conn.fetch(_OLDEST_TO_STAY, at_once, hours)
    if not rows or not rows[0][1]:
        return False
    position = rows[0][0]
    await conn.exchange((_KEEP_FROM, [position]), (_FORGET, [position]))
    return True


async def read_after(conn: Connection, account_id: str, revision: int, limit: int) -> list[Entry]:
    """The first ``limit`` entries of an account after a revision. Revisions have no gap, so nothing is ever skipped."""
    return [entry_from_row(row) for row in await read_rows_after(conn, account_id, revision, limit)]


async def read_rows_after(conn: Connection, account_id: str, revision: int, limit: int) -> list[Row]:
    """The same as rows of ``ENTRY_COLUMNS``: verification judges the values before it takes them for an entry."""
    return await conn.fetch(_AFTER, account_id, revision, limit)


async def read_revisions(conn: Connection, account_ids: Sequence[str]) -> dict[str, int]:
    """The newest revision of each account that exists."""
    return dict(await conn.fetch(_REVISIONS, text_array(account_ids)))
