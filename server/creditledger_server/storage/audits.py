"""Reads for verification: everything, as of one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..domain.entry import Entry
from .commits import read_after
from .connect import Connection
from .errors import translated

_PAGE = 2_000


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


async def stream_entries(conn: Connection, account_id: str) -> AsyncIterator[Entry]:
    """All entries of an account by rising revision, read page by page; a gap in the revisions is no obstacle."""
    revision = 0
    while page := await read_after(conn, account_id, revision, _PAGE):
        for entry in page:
            yield entry
        revision = page[-1].revision
