"""The catalog that is current, and how it is replaced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ..domain.book import CatalogBook, CatalogVersion
from ..domain.catalog import Catalog
from ..domain.catalog_document import catalog_document, parse_catalog
from ..domain.commands import fingerprint
from ..domain.refusal import Reason, Refused
from ..storage.catalogs import (
    CatalogRow,
    insert_catalog,
    lock_catalogs,
    read_catalog,
    read_catalog_of_request,
    read_catalogs,
)
from ..storage.connect import Connection


class CurrentCatalog:
    """The catalogs that this process has seen.

    A cache of something immutable: each transaction reads which version is current, and asks for it here.
    """

    def __init__(self) -> None:
        self.book = CatalogBook()

    async def at(self, version: int, conn: Connection) -> CatalogBook:
        """The book whose newest catalog is ``version``, which the caller has just read to be current."""
        if self.book.version != version:
            known = self.book.versions if 0 < self.book.version < version else ()
            newer = [_parse(row) for row in await read_catalogs(conn, self.book.version if known else 0)]
            self.book = CatalogBook([*known, *(each for each in newer if each.version <= version)])
        return self.book


Connect = Callable[[], AbstractAsyncContextManager[Connection]]


class Catalogs:
    """Reads and replaces the catalog."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def get(self, version: int | None) -> CatalogVersion | None:
        """One version, or the current one; None if there is no such."""
        async with self._connect() as conn:
            row = await read_catalog(conn, version)
        return _parse(row) if row else None

    async def apply(self, catalog: Catalog) -> CatalogVersion:
        """Makes ``catalog`` current if it differs from what is."""
        async with self._connect() as conn, conn.transaction():
            await lock_catalogs(conn)
            current = await read_catalog(conn)
            if current is None or parse_catalog(current.document) != catalog:
                current = await _insert(conn, current, catalog, None, None)
        return _parse(current)

    async def update(
        self, request_id: str, catalog: Catalog, expected_version: int | None
    ) -> tuple[CatalogVersion, bool]:
        """Makes ``catalog`` current; returns it and whether this answers an earlier call again.

        Raises Refused with REQUEST_ID_REUSED or VERSION_MISMATCH.
        """
        identity = fingerprint("UpdateCatalog", catalog_document(catalog), expected_version)
        async with self._connect() as conn, conn.transaction():
            await lock_catalogs(conn)
            if earlier := await read_catalog_of_request(conn, request_id):
                return _replay(request_id, identity, earlier), True
            current = await read_catalog(conn)
            _check_version(current, expected_version)
            return _parse(await _insert(conn, current, catalog, request_id, identity)), False


async def _insert(
    conn: Connection,
    current: CatalogRow | None,
    catalog: Catalog,
    request_id: str | None,
    identity: bytes | None,
) -> CatalogRow:
    version = current.version + 1 if current else 1
    await insert_catalog(conn, version, catalog_document(catalog), request_id, identity)
    inserted = await read_catalog(conn, version)
    assert inserted is not None
    return inserted


def _replay(request_id: str, identity: bytes, earlier: CatalogRow) -> CatalogVersion:
    if earlier.fingerprint != identity:
        raise Refused(
            Reason.REQUEST_ID_REUSED,
            f"request id {request_id!r} was accepted before with other content",
            requestId=request_id,
        )
    return _parse(earlier)


def _check_version(current: CatalogRow | None, expected: int | None) -> None:
    version = current.version if current else 0
    if expected is not None and expected != version:
        raise Refused(
            Reason.VERSION_MISMATCH, f"the catalog is at version {version}, not {expected}",
            expected=expected, current=version,
        )  # fmt: skip


def _parse(row: CatalogRow) -> CatalogVersion:
    return CatalogVersion(row.version, parse_catalog(row.document), row.create_time)
