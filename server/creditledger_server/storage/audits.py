"""Reads for verification: everything, as of one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..domain.audit import Kept
from ..domain.entry import Entry, draws_text, limits_text
from .arrays import text_array
from .commits import read_rows_after
from .connect import Connection
from .errors import translated
from .exchange import Statement
from .rows import GRANT_COLUMNS, RESERVATION_COLUMNS, entry_from_row, grant_from_row, reservation_from_row

_KEPT = [
    Statement(f"kept_{table}", f"SELECT {columns} FROM {table} WHERE account_id = ANY($1::text[])")
    for table, columns in (
        ("grant_lot", GRANT_COLUMNS),
        ("reservation", RESERVATION_COLUMNS),
        ("refund", "account_id, revision, refunded"),
        ("purchase", "account_id, payment_reference, revision, package_id"),
    )
]

_PAGE = 500  # a page is read and hashed without a pause for others


@asynccontextmanager
async def consistent_reads(conn: Connection) -> AsyncIterator[None]:
    """A block whose reads all see the database as it was at its beginning."""
    with translated():
        async with conn.transaction():
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield


async def count_rows(conn: Connection) -> tuple[int, int]:
    """How many accounts and entries there are."""
    cursor = await conn.execute("SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM entry)")
    accounts, entries = await cursor.fetchone() or (0, 0)
    return accounts, entries


async def read_kept(conn: Connection, account_ids: Sequence[str]) -> dict[str, Kept]:
    """What the tables keep of accounts besides their rows."""
    names = text_array(account_ids)
    kept = {account_id: Kept({}, {}, {}, {}) for account_id in account_ids}
    grants, reservations, refunds, payments = await conn.exchange(
        *[(statement, [names]) for statement in _KEPT]
    )
    for row in grants:
        grant = grant_from_row(row)
        kept[grant.account_id].grants[grant.revision] = grant
    for row in reservations:
        reservation = reservation_from_row(row)
        kept[reservation.account_id].reservations[reservation.revision] = reservation
    for account_id, revision, refunded in refunds:
        kept[account_id].refunded[revision] = refunded
    for account_id, reference, *credited in payments:
        kept[account_id].payments[reference] = (credited[0], credited[1])
    return kept


async def misstated_sums(conn: Connection) -> frozenset[str]:
    """The accounts whose ``granted`` is not the sum of where it went: a constraint forbids it, verification looks."""
    with translated():
        cursor = await conn.execute(
            "SELECT account_id FROM account WHERE granted <> available + reserved + spent + forfeited"
        )
        return frozenset(row[0] for row in await cursor.fetchall())


async def stream_entries(conn: Connection, account_id: str) -> AsyncIterator[tuple[int, Entry | None]]:
    """The revisions of an account as they rise, each with its entry; None for one that cannot be read."""
    revision = 0
    while rows := await read_rows_after(conn, account_id, revision, _PAGE):
        for row in rows:
            yield row[1], _readable(row)
        revision = rows[-1][1]


def _readable(row: Any) -> Entry | None:
    """The entry, unless a column says something in other words than this server would have written."""
    try:
        entry = entry_from_row(row)
    except ValueError:
        return None
    return entry if (row[15], row[16]) == (draws_text(entry.draws), limits_text(entry.limits)) else None
