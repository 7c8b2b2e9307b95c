"""Reads that take no lock: each one statement, so that what it tells is of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..domain.account import Account, Grant
from ..domain.entry import Entry
from ..domain.reservation import Reservation
from ..domain.times import iso_time
from .arrays import int_array, text_array
from .connect import Connection
from .exchange import PG_EPOCH, Statement
from .rows import (
    ACCOUNT_COLUMNS,
    ENTRY_COLUMNS,
    GRANT_COLUMNS,
    RESERVATION_COLUMNS,
    account_from_row,
    entry_from_row,
    grant_from_row,
    reservation_from_row,
)


class Snapshot(NamedTuple):
    """Accounts at one moment; lacks those that do not exist."""

    accounts: dict[str, Account]
    now: int
    catalog_version: int


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries of an account; times in microseconds, ``end_time`` exclusive, everything else inclusive."""

    from_revision: int = 1
    to_revision: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    kinds: tuple[int, ...] = ()
    operation: str | None = None
    newest_first: bool = True


class DatabaseInfo(NamedTuple):
    """The version of the schema and of the current catalog (0: none), and the database's time in microseconds."""

    schema_version: str
    catalog_version: int
    now: int


_INFO = Statement(
    "info",
    """
SELECT (SELECT version_num FROM alembic_version), coalesce((SELECT max(version) FROM catalog), 0), ledger_time()
""",
)

_SNAPSHOT = Statement(
    "snapshot",
    f"""
SELECT context.now, context.version, found.*
FROM (SELECT ledger_time() AS now, coalesce((SELECT max(version) FROM catalog), 0) AS version OFFSET 0) AS context
LEFT JOIN LATERAL (
    SELECT {ACCOUNT_COLUMNS} FROM account WHERE account_id = ANY($1::text[])
) AS found ON true
""",
)

_ENTRIES = f"""
SELECT {ENTRY_COLUMNS} FROM entry
WHERE account_id = $1 AND revision >= $2::bigint AND ($3::bigint IS NULL OR revision <= $3)
  AND ($4::timestamptz IS NULL OR create_time >= $4) AND ($5::timestamptz IS NULL OR create_time < $5)
  AND ($6::smallint[] IS NULL OR kind = ANY($6)) AND ($7::text IS NULL OR operation = $7)
ORDER BY revision {{order}} LIMIT $8::bigint
"""
_ENTRIES_NEWEST_FIRST = Statement("entries_newest_first", _ENTRIES.format(order="DESC"))
_ENTRIES_OLDEST_FIRST = Statement("entries_oldest_first", _ENTRIES.format(order="ASC"))

_ENTRY_OF_REQUEST = Statement(
    "entry_of_request",
    f"""
SELECT {ENTRY_COLUMNS} FROM entry WHERE account_id = $1 AND request_id = $2
""",
)

_ACCOUNTS = Statement(
    "accounts",
    f"""
SELECT {ACCOUNT_COLUMNS} FROM account
WHERE account_id > $1 AND starts_with(account_id, $2) AND account_id >= $2 AND ($3::text IS NULL OR level = $3)
ORDER BY account_id LIMIT $4::bigint
""",
)

_GRANTS = Statement(
    "grants",
    f"""
SELECT {GRANT_COLUMNS} FROM grant_lot WHERE account_id = $1 AND revision = ANY($2::bigint[])
""",
)

# As one comparison: behind an OR, every newer row would be read and passed over.
_BELOW = "revision < coalesce($2::bigint, 9223372036854775807)"

_GRANTS_BEFORE = Statement(
    "grants_before",
    f"""
SELECT {GRANT_COLUMNS} FROM grant_lot
WHERE account_id = $1 AND {_BELOW} ORDER BY revision DESC LIMIT $3::bigint
""",
)

_RESERVATIONS_BEFORE = Statement(
    "reservations_before",
    f"""
SELECT {RESERVATION_COLUMNS} FROM reservation
WHERE account_id = $1 AND {_BELOW} AND ($3::smallint[] IS NULL OR state = ANY($3))
ORDER BY revision DESC LIMIT $4::bigint
""",
)


async def read_info(conn: Connection) -> DatabaseInfo:
    """What Postgres holds now; also the probe of health. Raises StorageUnavailable without a schema."""
    [(schema_version, catalog_version, now)] = await conn.fetch(_INFO)
    return DatabaseInfo(schema_version, catalog_version, now + PG_EPOCH)


async def read_snapshot(conn: Connection, account_ids: Sequence[str]) -> Snapshot:
    """Reads accounts at one moment."""
    rows = await conn.fetch(_SNAPSHOT, text_array(account_ids))
    accounts = {}
    for row in rows:
        if row[2] is not None:
            account = account_from_row(row[2:])
            accounts[account.account_id] = account
    return Snapshot(accounts, rows[0][0] + PG_EPOCH, rows[0][1])


async def read_entry(conn: Connection, account_id: str, revision: int) -> Entry | None:
    """The entry of one revision."""
    # By way of a statement that is ordered by revision: before the first ANALYZE the planner could take the index of
    # request ids for a bare equality, and would read all of the account's history through it.
    entries = await read_entries(conn, account_id, EntryFilter(revision, revision), 1)
    return entries[0] if entries else None


async def read_entry_of_request(conn: Connection, account_id: str, request_id: str) -> Entry | None:
    """The entry that a request caused."""
    rows = await conn.fetch(_ENTRY_OF_REQUEST, account_id, request_id)
    return entry_from_row(rows[0]) if rows else None


async def read_entries(conn: Connection, account_id: str, which: EntryFilter, limit: int) -> list[Entry]:
    """The first ``limit`` entries that pass the filter, in its order."""
    rows = await conn.fetch(
        _ENTRIES_NEWEST_FIRST if which.newest_first else _ENTRIES_OLDEST_FIRST,
        account_id,
        which.from_revision,
        which.to_revision,
        _iso(which.start_time),
        _iso(which.end_time),
        int_array(which.kinds) if which.kinds else None,
        which.operation,
        limit,
    )
    return [entry_from_row(row) for row in rows]


async def read_accounts(
    conn: Connection, after: str, prefix: str, level: str | None, limit: int
) -> list[Account]:
    """The first ``limit`` accounts behind ``after`` by rising id."""
    return [account_from_row(row) for row in await conn.fetch(_ACCOUNTS, after, prefix, level, limit)]


async def read_grants(conn: Connection, account_id: str, revisions: Sequence[int]) -> dict[int, Grant]:
    """The terms of grants by the revision that made them."""
    rows = await conn.fetch(_GRANTS, account_id, int_array(revisions))
    return {grant.revision: grant for grant in map(grant_from_row, rows)}


async def read_grants_before(
    conn: Connection, account_id: str, revision: int | None, limit: int
) -> list[Grant]:
    """The first ``limit`` grants of an account below ``revision``, newest first."""
    return [grant_from_row(row) for row in await conn.fetch(_GRANTS_BEFORE, account_id, revision, limit)]


async def read_reservations_before(
    conn: Connection, account_id: str, revision: int | None, states: Sequence[int], limit: int
) -> list[Reservation]:
    """The first ``limit`` reservations of an account below ``revision``, newest first; ``states`` empty: all."""
    wanted = int_array(states) if states else None
    rows = await conn.fetch(_RESERVATIONS_BEFORE, account_id, revision, wanted, limit)
    return [reservation_from_row(row) for row in rows]


def _iso(time: int | None) -> str | None:
    return None if time is None else iso_time(time)
