"""What WatchUsage reads: entries by account and revision, and the commit log by position.

A position never falls from one revision of an account to the next: it is the transaction's own id or, where larger,
the position that one of its accounts had before (docs/decisions/0003). Transactions commit in any order, but none that
is still running, or to come, can get a position below the horizon, so what lies below it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..domain.entry import Entry
from .arrays import text_array
from .connect import Connection
from .exchange import Row, Statement
from .rows import ENTRY_COLUMNS, entry_from_row


class Positions(NamedTuple):
    """Below ``horizon`` the commit log is complete; ``next`` is above every position so far."""

    horizon: int
    next: int


class Committed(NamedTuple):
    """An entry and its position; tuples of (position, account id, revision) are in the order of delivery."""

    position: int
    entry: Entry


class Reach(NamedTuple):
    """What a read found. ``complete``: below ``horizon`` there is nothing beyond it."""

    horizon: int
    complete: bool
    committed: list[Committed]


_HORIZON = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

_POSITIONS = Statement(
    "positions", f"SELECT {_HORIZON}, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)

_TOUCHED = Statement(
    "touched",
    f"SELECT {_HORIZON}, array(SELECT DISTINCT unnest(account_ids) FROM commit_log WHERE position >= $1)",
)

# Everything of the first position, of which some may have been read, and of about as many more as the limit says.
_COMMITTED = Statement(
    "committed",
    f"""
WITH reach AS MATERIALIZED (
    SELECT {_HORIZON} AS horizon, (SELECT max(position) FROM (
        SELECT position FROM commit_log WHERE position > $1::bigint AND position < {_HORIZON}
        ORDER BY position LIMIT $2::bigint) AS further) AS last
)
SELECT reach.horizon, reach.last, found.* FROM reach LEFT JOIN LATERAL (
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

_REVISIONS = Statement(
    "revisions", "SELECT account_id, revision FROM account WHERE account_id = ANY($1::text[])"
)


async def read_positions(conn: Connection) -> Positions:
    """The horizon and end of the commit log, as of now."""
    rows = await conn.fetch(_POSITIONS)
    return Positions(*rows[0])


async def read_touched(conn: Connection, position: int) -> tuple[int, list[str]]:
    """The horizon, and the accounts in commits from ``position`` on, complete or not: a hint for whom to wake."""
    rows = await conn.fetch(_TOUCHED, position)
    return rows[0][0], rows[0][1]


async def read_committed(conn: Connection, position: int, limit: int) -> Reach:
    """The entries of ``position`` and of the next positions, about ``limit`` commits, below the horizon.

    All entries of a position come together: commits can share one.
    """
    rows = await conn.fetch(_COMMITTED, position, limit)
    committed = [Committed(row[2], entry_from_row(row[3:])) for row in rows if row[2] is not None]
    committed.sort(key=lambda item: (item.position, item.entry.account_id, item.entry.revision))
    horizon, last = rows[0][:2]
    return Reach(horizon, last is None, committed)


async def read_after(conn: Connection, account_id: str, revision: int, limit: int) -> list[Entry]:
    """The first ``limit`` entries of an account after a revision. Revisions have no gap, so nothing is ever skipped."""
    return [entry_from_row(row) for row in await read_rows_after(conn, account_id, revision, limit)]


async def read_rows_after(conn: Connection, account_id: str, revision: int, limit: int) -> list[Row]:
    """The same as rows of ``ENTRY_COLUMNS``: verification judges the values before it takes them for an entry."""
    return await conn.fetch(_AFTER, account_id, revision, limit)


async def read_revisions(conn: Connection, account_ids: Sequence[str]) -> dict[str, int]:
    """The newest revision of each account that exists."""
    return dict(await conn.fetch(_REVISIONS, text_array(account_ids)))
