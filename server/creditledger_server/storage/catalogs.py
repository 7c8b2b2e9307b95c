"""The versions of the catalog and the row that says what this ledger is."""

from __future__ import annotations

import json
import secrets
from typing import Any, NamedTuple
from uuid import UUID

from ..domain.times import to_micros
from .connect import Connection
from .errors import translated


class LedgerRow(NamedTuple):
    """What this ledger is; ``cursor_key`` signs cursors and page tokens."""

    ledger_id: UUID
    decimals: int
    cursor_key: bytes


class CatalogRow(NamedTuple):
    """One version of the catalog."""

    version: int
    document: dict[str, Any]
    fingerprint: bytes | None
    create_time: int


_COLUMNS = "version, document, fingerprint, create_time"


async def ensure_ledger(conn: Connection, decimals: int) -> LedgerRow:
    """Reads the ledger's row, written at the first start with ``decimals``."""
    await conn.execute(
        "INSERT INTO ledger (ledger_id, decimals, cursor_key, create_time)"
        " VALUES (gen_random_uuid(), %s, %s, ledger_time()) ON CONFLICT DO NOTHING",
        [decimals, secrets.token_bytes(32)],
    )
    cursor = await conn.execute("SELECT ledger_id, decimals, cursor_key FROM ledger")
    ledger_id, stored, key = await cursor.fetchone() or ()
    return LedgerRow(ledger_id, stored, key)


async def read_catalog(conn: Connection, version: int | None = None) -> CatalogRow | None:
    """One version of the catalog, or the current one."""
    query = f"SELECT {_COLUMNS} FROM catalog WHERE version = %s"
    if version is None:
        query = f"SELECT {_COLUMNS} FROM catalog ORDER BY version DESC LIMIT 1"
    return await _one(conn, query, [] if version is None else [version])


async def read_catalogs(conn: Connection, after: int) -> list[CatalogRow]:
    """All versions above ``after``, by rising number."""
    with translated():
        cursor = await conn.execute(
            f"SELECT {_COLUMNS} FROM catalog WHERE version > %s ORDER BY version", [after]
        )
        return [_row(row) for row in await cursor.fetchall()]


async def read_catalog_of_request(conn: Connection, request_id: str) -> CatalogRow | None:
    """The version that a request made."""
    return await _one(conn, f"SELECT {_COLUMNS} FROM catalog WHERE request_id = %s", [request_id])


async def lock_catalogs(conn: Connection) -> None:
    """Within a transaction: nobody else adds a version until it ends."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('creditledger.catalog', 0))")


async def insert_catalog(
    conn: Connection,
    version: int,
    document: dict[str, Any],
    request_id: str | None,
    fingerprint: bytes | None,
) -> None:
    """Adds a version."""
    await conn.execute(
        "INSERT INTO catalog (version, document, request_id, fingerprint, create_time)"
        # Each follows the one before, also where the clock was set back between them.
        " VALUES (%s, %s, %s, %s, greatest(ledger_time(), (SELECT max(create_time) FROM catalog)))",
        [version, json.dumps(document, ensure_ascii=False), request_id, fingerprint],
    )


async def _one(conn: Connection, query: str, parameters: list[Any]) -> CatalogRow | None:
    with translated():
        cursor = await conn.execute(query, parameters)
        row = await cursor.fetchone()
    return None if row is None else _row(row)


def _row(row: tuple[Any, ...]) -> CatalogRow:
    version, document, fingerprint, create_time = row
    return CatalogRow(version, document, fingerprint, to_micros(create_time))
