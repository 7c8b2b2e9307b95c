"""CanPerform: rounds of checks answered from one lock-free statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..domain.account import Account
from ..domain.book import CatalogBook
from ..domain.evaluate import Evaluation, check_level, evaluate
from ..domain.levels import at_level
from ..domain.refusal import Reason, Refused
from ..domain.settle import is_due
from ..storage.connect import Connection
from ..storage.errors import StorageError, StorageUnavailable
from ..storage.reads import Snapshot, read_snapshot
from .catalogs import CurrentCatalog
from .failures import refusal_of
from .lane import Ticket


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a deduction would be accepted. ``account_level`` None: as stored, and the account must be known."""

    account_id: str
    operation: str
    quantity: int = 1
    metrics: Mapping[str, int] = field(default_factory=dict)
    account_level: str | None = None


class Checked(NamedTuple):
    """The answer to a check, as of an account's revision and a time; ``account`` is as the deduction would find it."""

    evaluation: Evaluation
    account: Account
    revision: int
    catalog_version: int
    now: int


Read = Ticket[Check, Checked | None]
"""Answered with None where something has fallen due that must be written first: time is decided under the lock."""


class Reader:
    """Serves the rounds of one read lane on a connection of its own, which it opens when it needs one."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], catalog: CurrentCatalog) -> None:
        self._connect = connect
        self._catalog = catalog
        self._conn: Connection | None = None

    async def serve(self, tickets: Sequence[Read]) -> None:
        """Answers a round of checks."""
        try:
            snapshot, book = await self._read(sorted({ticket.request.account_id for ticket in tickets}))
        except StorageError as error:
            refusal = refusal_of(error, "a round of checks")
            for ticket in tickets:
                ticket.answer(refusal)
            return
        for ticket in tickets:
            ticket.answer(_check(ticket.request, snapshot, book))

    async def close(self) -> None:
        """Closes the connection."""
        if self._conn is not None:
            await self._conn.close()

    async def _read(self, account_ids: Sequence[str]) -> tuple[Snapshot, CatalogBook]:
        fresh = self._conn is None or self._conn.closed
        try:
            return await self._read_once(account_ids)
        except StorageUnavailable:
            if fresh:
                raise
        return await self._read_once(account_ids)  # the connection may just be older than the Postgres

    async def _read_once(self, account_ids: Sequence[str]) -> tuple[Snapshot, CatalogBook]:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        try:
            snapshot = await read_snapshot(self._conn, account_ids)
            book = await self._catalog.at(snapshot.catalog_version, self._conn)
        except StorageUnavailable:
            await self._conn.close()
            raise
        return snapshot, book


def _check(check: Check, snapshot: Snapshot, book: CatalogBook) -> Checked | Refused | None:
    account = snapshot.accounts.get(check.account_id)
    if account is None:
        if check.account_level is None:
            return Refused(
                Reason.ACCOUNT_NOT_FOUND, f"no account {check.account_id!r}", accountId=check.account_id
            ).decided_at(0, snapshot.now)
        account = Account(check.account_id)
    now = max(snapshot.now, account.last_time)
    if is_due(account, book, now):
        return None
    try:
        level = check.account_level or account.level
        check_level(book.current, level)
        trial = at_level(account, level, book, now)
        evaluation = evaluate(trial, level, book.current, check.operation, check.quantity, check.metrics, now)
    except Refused as refusal:
        return refusal.decided_at(account.revision, now)
    return Checked(evaluation, trial, account.revision, snapshot.catalog_version, now)
