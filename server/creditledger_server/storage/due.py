"""What the sweeper reads: accounts at which something has fallen due."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from ..domain.times import iso_time
from .arrays import text_array
from .connect import Connection
from .exchange import BEGIN, COMMIT, PG_EPOCH, Statement

SWEEPER_LOCK = int.from_bytes(b"crsweepr")

# A lock of a transaction and not of the session: behind a pooler a session is nobody's.
_LEAD = Statement(
    "lead",
    """
SELECT pg_try_advisory_xact_lock($1::bigint), set_config('idle_in_transaction_session_timeout', '20s', true)
""",
)

_CLOCK = Statement("clock", "SELECT ledger_time(), coalesce((SELECT max(version) FROM catalog), 0)")

# The time as a subquery: compared with a volatile function, every account that will ever be due is looked at.
_DUE = Statement(
    "due",
    """
SELECT account_id FROM account WHERE next_due_time <= (SELECT ledger_time()) ORDER BY next_due_time LIMIT $1::bigint
""",
)

# A page of all accounts, whatever their level, so that no statement reads more than a page.
_BEHIND = Statement(
    "behind",
    """
SELECT max(account_id), array_agg(account_id ORDER BY account_id) FILTER (
    WHERE level = ANY($2::text[]) AND last_time < $3::timestamptz AND state <> 3)
FROM (
    SELECT account_id, level, last_time, state FROM account WHERE account_id > $1 ORDER BY account_id LIMIT $4::bigint
) AS page
""",
)


class Page(NamedTuple):
    """A page of all accounts: its last one (None: there are no more), and those at which an allowance has begun."""

    last: str | None
    behind: list[str]


@asynccontextmanager
async def leading(conn: Connection) -> AsyncIterator[bool]:
    """Whether this connection is the one whose sweeper works; no other is before the block ends."""
    _, [(leads, _)] = await conn.exchange(BEGIN, (_LEAD, [SWEEPER_LOCK]))
    yield bool(leads)
    await conn.exchange(COMMIT)


async def read_clock(conn: Connection) -> tuple[int, int]:
    """The time, and the current catalog's version."""
    [(now, version)] = await conn.fetch(_CLOCK)
    return now + PG_EPOCH, version


async def read_due(conn: Connection, limit: int) -> list[str]:
    """The first accounts at which a grant or reservation has fallen due."""
    return [account_id for (account_id,) in await conn.fetch(_DUE, limit)]


async def read_behind(conn: Connection, after: str, levels: Sequence[str], start: int, limit: int) -> Page:
    """The accounts of these levels whose newest entry is older than ``start``, among the ``limit`` behind ``after``."""
    [(last, behind)] = await conn.fetch(_BEHIND, after, text_array(levels), iso_time(start), limit)
    return Page(last, behind or [])
