"""The ledger of one server process: its lanes and the use cases that the services call."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..domain.account import Account, Grant
from ..domain.commands import Command
from ..domain.decide import Accepted, limit_states
from ..domain.entry import Entry, LimitState
from ..domain.refusal import Reason, Refused
from ..storage.catalogs import LedgerRow
from ..storage.connect import Connection, Database
from ..storage.reads import (
    DatabaseInfo,
    EntryFilter,
    Snapshot,
    read_accounts,
    read_entries,
    read_entry,
    read_entry_of_request,
    read_grants,
    read_info,
    read_snapshot,
)
from .catalogs import Catalogs, CurrentCatalog
from .lane import Lane, LaneGroup
from .reader import Check, Checked, Reader
from .verify import AccountReport, verify_account
from .writer import Writer


class Standing(NamedTuple):
    """An account with all limits of its level and its live grants in burn order, at one moment."""

    account: Account
    limits: tuple[LimitState, ...]
    grants: tuple[tuple[Grant, int], ...]
    now: int


class Ledger:
    """What the services call. ``run`` serves the lanes; the other methods are for the callers' tasks.

    Deadlines are in seconds of the event loop's clock. All methods raise Refused, or StorageUnavailable of the storage.
    """

    def __init__(
        self,
        database: Database,
        identity: LedgerRow,
        *,
        lanes: int,
        max_batch: int,
        queue_limit: int,
        on_commit: Callable[[Iterable[Account]], None],
    ) -> None:
        self.identity = identity
        self.catalogs = Catalogs(database.connection)
        self._database = database
        self._verifying = asyncio.Semaphore(1)
        current = CurrentCatalog()
        self._writers = [Writer(database.connect, current, on_commit) for _ in range(lanes)]
        self._reader = Reader(database.connect, current)
        self._current = current
        self._writes: LaneGroup[Command, Accepted] = LaneGroup(
            [Lane(writer.serve, queue_limit=queue_limit, round_limit=max_batch) for writer in self._writers],
            lambda command: lane_of(command.account_id, lanes),
        )
        # One lane for all: a round of checks is one statement, and the fewer rounds the better.
        self._checks: LaneGroup[Check, Checked] = LaneGroup(
            [Lane(self._reader.serve, queue_limit=queue_limit, round_limit=max_batch)], lambda check: 0
        )

    async def run(self) -> None:
        """Serves the lanes until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._writes.run())
                tasks.create_task(self._checks.run())
        finally:
            for writer in self._writers:
                await writer.close()
            await self._reader.close()

    async def write(self, commands: Sequence[Command], deadline: float) -> list[Accepted | Refused]:
        """Carries out commands, each on its own; the answers come in their order."""
        return await self._writes.submit(commands, deadline)

    async def check(self, check: Check, deadline: float) -> Checked:
        """Tells whether a deduction would be accepted."""
        [answer] = await self._checks.submit([check], deadline)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def standing(self, account_id: str) -> Standing:
        """An account's balance, limits and grants now."""
        async with self._database.connection() as conn:
            snapshot = await read_snapshot(conn, [account_id])
            account = _known(snapshot, account_id)
            limits = await self._limits(conn, account, snapshot)
            terms = await read_grants(conn, account_id, [lot.grant_revision for lot in account.lots])
        grants = tuple((terms[lot.grant_revision], lot.remaining) for lot in account.lots)
        return Standing(account, limits, grants, max(snapshot.now, account.last_time))

    async def account(self, account_id: str) -> Account:
        """One account."""
        async with self._database.connection() as conn:
            return _known(await read_snapshot(conn, [account_id]), account_id)

    async def accounts(self, after: str, prefix: str, level: str | None, limit: int) -> list[Account]:
        """Accounts by rising id, at most ``limit`` behind ``after``."""
        async with self._database.connection() as conn:
            return await read_accounts(conn, after, prefix, level, limit)

    async def entry(self, account_id: str, revision: int | None, request_id: str) -> Entry:
        """The entry of a revision, or of a request."""
        async with self._database.connection() as conn:
            if revision is None:
                entry = await read_entry_of_request(conn, account_id, request_id)
            else:
                entry = await read_entry(conn, account_id, revision)
            if entry is not None:
                return entry
            await _check_known(conn, account_id)
        which = f"request {request_id!r}" if revision is None else f"revision {revision}"
        raise Refused(
            Reason.ENTRY_NOT_FOUND, f"account {account_id!r} has no entry of {which}",
            accountId=account_id, revision=revision, requestId=request_id or None,
        )  # fmt: skip

    async def entries(self, account_id: str, which: EntryFilter, limit: int) -> list[Entry]:
        """The first entries of an account that pass the filter."""
        async with self._database.connection() as conn:
            entries = await read_entries(conn, account_id, which, limit)
            if not entries:
                await _check_known(conn, account_id)
        return entries

    async def verify(self, account_id: str) -> AccountReport:
        """Recomputes an account from its entries; tells the first thing that does not fit."""
        # One at a time, and not from the pool: a long history must not keep others from reading.
        async with self._verifying, await self._database.connect() as conn:
            report = await verify_account(conn, account_id)
        if report.account is None:
            raise _not_found(account_id)
        return report

    async def _limits(self, conn: Connection, account: Account, snapshot: Snapshot) -> tuple[LimitState, ...]:
        catalog = (await self._current.at(snapshot.catalog_version, conn)).catalog
        now = max(snapshot.now, account.last_time)
        level = catalog.levels.get(account.level)
        operations = sorted({limit.operation for limit in level.limits}) if level else []
        return tuple(
            state
            for operation in operations
            for state in limit_states(account, account.level, catalog, operation, now)
        )

    async def info(self) -> DatabaseInfo:
        """What the database holds."""
        async with self._database.connection() as conn:
            return await read_info(conn)


def lane_of(account_id: str, lanes: int) -> int:
    """The lane of an account. Nothing more is assumed than that an account has one lane per process."""
    return zlib.crc32(account_id.encode()) % lanes


def _known(snapshot: Snapshot, account_id: str) -> Account:
    account = snapshot.accounts.get(account_id)
    if account is None:
        raise _not_found(account_id).decided_at(0, snapshot.now)
    return account


async def _check_known(conn: Connection, account_id: str) -> None:
    _known(await read_snapshot(conn, [account_id]), account_id)


def _not_found(account_id: str) -> Refused:
    return Refused(Reason.ACCOUNT_NOT_FOUND, f"no account {account_id!r}", accountId=account_id)
