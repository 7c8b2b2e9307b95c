"""CanPerform: rounds of checks answered from one lock-free statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..domain.account import Account
from ..domain.catalog import Catalog
from ..domain.decide import Evaluation, check_level, evaluate
from ..domain.refusal import Reason, Refused
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
    """The answer to a check, as of an account's revision and a time."""

    evaluation: Evaluation
    account: Account
    catalog_version: int
    now: int


Read = Ticket[Check, Checked]


class Reader:
    """Serves the rounds of one read lane on a connection of its own, which it opens when it needs one."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], catalog: CurrentCatalog) -> None:
        self._connect = connect
        self._catalog = catalog
        self._conn: Connection | None = None

    async def serve(self, tickets: Sequence[Read]) -> None:
        """Answers a round of checks."""
        try:
            snapshot, catalog = await self._read(sorted({ticket.request.account_id for ticket in tickets}))
        except StorageError as error:
            refusal = refusal_of(error, "a round of checks")
            for ticket in tickets:
                ticket.answer(refusal)
            return
        for ticket in tickets:
            ticket.answer(_check(ticket.request, snapshot, catalog))

    async def close(self) -> None:
        """Closes the connection."""
        if self._conn is not None:
            await self._conn.close()

    async def _read(self, account_ids: Sequence[str]) -> tuple[Snapshot, Catalog]:
        fresh = self._conn is None or self._conn.closed
        try:
            return await self._read_once(account_ids)
        except StorageUnavailable:
            if fresh:
                raise
        return await self._read_once(account_ids)  # the connection may just be older than the Postgres

    async def _read_once(self, account_ids: Sequence[str]) -> tuple[Snapshot, Catalog]:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        try:
            snapshot = await read_snapshot(self._conn, account_ids)
            return snapshot, (await self._catalog.at(snapshot.catalog_version, self._conn)).catalog
        except StorageUnavailable:
            await self._conn.close()
            raise


def _check(check: Check, snapshot: Snapshot, catalog: Catalog) -> Checked | Refused:
    account = snapshot.accounts.get(check.account_id)
    if account is None:
        if check.account_level is None:
            return Refused(
                Reason.ACCOUNT_NOT_FOUND, f"no account {check.account_id!r}", accountId=check.account_id
            ).decided_at(0, snapshot.now)
        account = Account(check.account_id)
    now = max(snapshot.now, account.last_time)
    try:
        level = check.account_level or account.level
        check_level(catalog, level)
        evaluation = evaluate(account, level, catalog, check.operation, check.quantity, check.metrics, now)
    except Refused as refusal:
        return refusal.decided_at(account.revision, now)
    return Checked(evaluation, account, snapshot.catalog_version, now)
