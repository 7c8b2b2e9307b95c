"""Reads of what has been written: entries, reservations and grants. What time has done is written before they read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from ..domain.account import Account, Grant
from ..domain.audit import Audit
from ..domain.book import CatalogBook
from ..domain.catalog import Catalog
from ..domain.entry import Entry, LimitState
from ..domain.evaluate import limit_states
from ..domain.refusal import Reason, Refused
from ..domain.reservation import Reservation
from ..domain.settle import is_due
from ..storage.audits import consistent_reads, stream_entries
from ..storage.connect import Connection, Database
from ..storage.errors import BatchRejected
from ..storage.reads import (
    EntryFilter,
    Snapshot,
    read_entries,
    read_entry,
    read_entry_of_request,
    read_grants_before,
    read_reservations_before,
    read_snapshot,
)
from .catalogs import CurrentCatalog

MAX_REVISION = 2**63 - 1
"""The largest number that a name may have and Postgres compares with; no account gets there."""


class Standing(NamedTuple):
    """An account with all limits of its level and its live grants in burn order, at one moment."""

    account: Account
    limits: tuple[LimitState, ...]
    grants: tuple[tuple[Grant, int], ...]
    now: int


class History:
    """What the services call to read an account's past. All methods raise Refused or StorageUnavailable."""

    def __init__(
        self,
        database: Database,
        current: CurrentCatalog,
        settle: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._database = database
        self._current = current
        self._settle = settle
        self._replaying = asyncio.Semaphore(1)

    async def settled(self, account_id: str) -> Account:
        """The account, with everything written that was due when it was read."""
        async with self._database.connection() as conn:
            snapshot = await read_snapshot(conn, [account_id])
            account = known(snapshot, account_id)
            book = await self._current.at(snapshot.catalog_version, conn)
        if is_due(account, book, max(snapshot.now, account.last_time)):
            await self._settle([account_id])
        return account

    async def entry(self, account_id: str, revision: int | None, request_id: str) -> Entry:
        """The entry of a revision, or of a request."""
        await self.settled(account_id)
        async with self._database.connection() as conn:
            if revision is None:
                entry = await read_entry_of_request(conn, account_id, request_id)
            else:
                entry = await read_entry(conn, account_id, revision)
        if entry is not None:
            return entry
        raise _no_entry(account_id, revision, request_id)

    async def entries(self, account_id: str, which: EntryFilter, limit: int) -> list[Entry]:
        """The first entries of an account that pass the filter."""
        await self.settled(account_id)
        async with self._database.connection() as conn:
            return await read_entries(conn, account_id, which, limit)

    async def past(self, account_id: str, revision: int | None, time: int | None) -> Standing:
        """An account as it stood after a revision, or at a time: recomputed from its entries."""
        await self.settled(account_id)
        # One at a time, and not from the pool: a long history must not keep others from reading.
        async with self._replaying, await self._database.connect() as conn, consistent_reads(conn):
            snapshot = await read_snapshot(conn, [account_id])
            book = await self._current.at(snapshot.catalog_version, conn)
            account = known(snapshot, account_id)
            if revision is not None and revision > account.revision:
                raise _no_entry(account_id, revision, "")
            if time is not None and time > max(snapshot.now, account.last_time):
                raise Refused(
                    Reason.FIELD_INVALID,
                    "invalid: at_time",
                    violations=(("at_time", "must not be later than now"),),
                )
            audit = await _replay(conn, account_id, book, revision, time)
        if not audit.account.revision:
            raise not_found(account_id)
        return _past_standing(audit, book, time)

    async def reservation(self, account_id: str, revision: int) -> Reservation:
        """One reservation."""
        found = await self.reservations(account_id, min(revision + 1, MAX_REVISION), (), 1)
        if found and found[0].revision == revision:
            return found[0]
        raise Refused(
            Reason.RESERVATION_NOT_FOUND, f"account {account_id!r} has no reservation 'r{revision}'",
            accountId=account_id, reservationId=f"r{revision}",
        )  # fmt: skip

    async def reservations(
        self, account_id: str, before: int | None, states: Sequence[int], limit: int
    ) -> list[Reservation]:
        """Reservations of an account, newest first, at most ``limit`` below the revision ``before``."""
        await self.settled(account_id)
        async with self._database.connection() as conn:
            return await read_reservations_before(conn, account_id, before, states, limit)

    async def grants(self, account_id: str, before: int | None, limit: int) -> list[tuple[Grant, int]]:
        """Grants of an account with what remains of them, newest first, at most ``limit`` below ``before``."""
        await self.settled(account_id)
        async with self._database.connection() as conn:
            account = known(await read_snapshot(conn, [account_id]), account_id)
            grants = await read_grants_before(conn, account_id, before, limit)
        remaining = {lot.grant_revision: lot.remaining for lot in account.lots}
        remaining |= {grant.grant_revision: grant.amount for grant in account.pending}
        return [(grant, remaining.get(grant.revision, 0)) for grant in grants]


async def _replay(
    conn: Connection, account_id: str, book: CatalogBook, revision: int | None, time: int | None
) -> Audit:
    audit = Audit(account_id, book)
    async for number, entry in stream_entries(conn, account_id):
        if entry is None:
            raise BatchRejected(f"revision {number} of {account_id!r} cannot be read")
        if (revision is not None and number > revision) or (time is not None and entry.create_time > time):
            break
        audit.add(entry)
    return audit


def _past_standing(audit: Audit, book: CatalogBook, time: int | None) -> Standing:
    account = audit.account
    now = account.last_time if time is None else time
    grants = tuple(
        (audit.kept.grants[lot.grant_revision], lot.remaining) for lot in account.lots if lot.remaining
    )
    return Standing(account, limits_of_level(account, book.at(now).catalog, now), grants, now)


def _no_entry(account_id: str, revision: int | None, request_id: str) -> Refused:
    which = f"request {request_id!r}" if revision is None else f"revision {revision}"
    return Refused(
        Reason.ENTRY_NOT_FOUND, f"account {account_id!r} has no entry of {which}",
        accountId=account_id, revision=revision, requestId=request_id or None,
    )  # fmt: skip


def limits_of_level(account: Account, catalog: Catalog, now: int) -> tuple[LimitState, ...]:
    """Where an account stands against all limits of its level; none if the catalog has no such level."""
    level = catalog.levels.get(account.level)
    operations = sorted({limit.operation for limit in level.limits}) if level else []
    return tuple(
        state
        for operation in operations
        for state in limit_states(account, account.level, catalog, operation, now)
    )


def known(snapshot: Snapshot, account_id: str) -> Account:
    """The account of a snapshot. Raises Refused if there is none."""
    account = snapshot.accounts.get(account_id)
    if account is None:
        raise not_found(account_id).decided_at(0, snapshot.now)
    return account


def not_found(account_id: str) -> Refused:
    """The refusal for an account that nobody has opened."""
    return Refused(Reason.ACCOUNT_NOT_FOUND, f"no account {account_id!r}", accountId=account_id)
