"""The ledger of one server process: its lanes and the use cases that the services call."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast

from ..domain.account import Account
from ..domain.book import CatalogBook
from ..domain.commands import Command, Settle
from ..domain.decide import Accepted
from ..domain.refusal import Refused
from ..domain.settle import is_due
from ..storage.catalogs import LedgerRow
from ..storage.connect import Database
from ..storage.reads import DatabaseInfo, read_accounts, read_grants, read_info, read_snapshot
from .catalogs import Catalogs, CurrentCatalog
from .counts import WriteCounts
from .history import History, Standing, known, limits_of_level, not_found
from .lane import Lane, LaneGroup
from .reader import Check, Checked, Reader
from .sweeper import Sweeper
from .usage import UsageSummaries
from .verify import AccountReport, verify_account
from .writer import Answer, Request, Writer

_PATIENCE = 10.0
"""How long settling may take, in seconds."""


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
        self.counts = WriteCounts()
        self._writers = [Writer(database.connect, current, on_commit, self.counts) for _ in range(lanes)]
        self._reader = Reader(database.connect, current)
        self._current = current
        self.history = History(database, current, self.settle)
        self.usage = UsageSummaries(database)
        self.sweeper = Sweeper(database.connect, current, self.settle)
        self._writes: LaneGroup[Request, Answer] = LaneGroup(
            [Lane(writer.serve, queue_limit=queue_limit, round_limit=max_batch) for writer in self._writers],
            lambda command: lane_of(command.account_id, lanes),
        )
        # One lane for all: a round of checks is one statement, and the fewer rounds the better.
        self._checks: LaneGroup[Check, Checked | None] = LaneGroup(
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

    def waiting(self) -> dict[str, int]:
        """How many requests wait for a round, by what they wait for."""
        return {"writes": self._writes.waiting(), "checks": self._checks.waiting()}

    async def write(self, commands: Sequence[Command], deadline: float) -> list[Accepted | Refused]:
        """Carries out commands, each on its own; the answers come in their order."""
        answers = await self._writes.submit(commands, deadline)
        return cast("list[Accepted | Refused]", answers)  # only Settle is answered with None

    async def settle(self, account_ids: Sequence[str]) -> None:
        """Has written what time has done to accounts. Raises the first refusal."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        for answer in await self._writes.submit([Settle(account_id) for account_id in account_ids], deadline):
            if isinstance(answer, Refused):
                raise answer

    async def check(self, check: Check, deadline: float) -> Checked:
        """Tells whether a deduction would be accepted."""
        while True:
            [answer] = await self._checks.submit([check], deadline)
            if isinstance(answer, Refused):
                raise answer
            if answer is not None:
                return answer
            await self.settle([check.account_id])

    async def standing(self, account_id: str) -> Standing:
        """An account's balance, limits and grants now."""
        account, book, now = await self._read(account_id)
        async with self._database.connection() as conn:
            terms = await read_grants(conn, account_id, [lot.grant_revision for lot in account.lots])
        grants = tuple((terms[lot.grant_revision], lot.remaining) for lot in account.lots if lot.remaining)
        return Standing(account, limits_of_level(account, book.current, now), grants, now)

    async def account(self, account_id: str) -> Account:
        """One account."""
        account, _, _ = await self._read(account_id)
        return account

    async def accounts(self, after: str, prefix: str, level: str | None, limit: int) -> list[Account]:
        """Accounts by rising id, at most ``limit`` behind ``after``."""
        async with self._database.connection() as conn:
            found = await read_accounts(conn, after, prefix, level, limit)
            snapshot = await read_snapshot(conn, [])
            book = await self._current.at(snapshot.catalog_version, conn)
        due = [each.account_id for each in found if is_due(each, book, max(snapshot.now, each.last_time))]
        if not due:
            return found
        await self.settle(due)
        async with self._database.connection() as conn:
            return await read_accounts(conn, after, prefix, level, limit)

    async def _read(self, account_id: str) -> tuple[Account, CatalogBook, int]:
        """An account at which nothing is due that is not written, the catalogs, and the time."""
        while True:
            async with self._database.connection() as conn:
                snapshot = await read_snapshot(conn, [account_id])
                account = known(snapshot, account_id)
                book = await self._current.at(snapshot.catalog_version, conn)
            now = max(snapshot.now, account.last_time)
            if not is_due(account, book, now):
                return account, book, now
            await self.settle([account_id])

    async def verify(self, account_id: str) -> AccountReport:
        """Recomputes an account from its entries; tells the first thing that does not fit."""
        with suppress(Refused):  # what cannot be settled can still be verified
            await self.history.settled(account_id)
        # One at a time, and not from the pool: a long history must not keep others from reading.
        async with self._verifying, await self._database.connect() as conn:
            report = await verify_account(conn, account_id)
        if report.account is None:
            raise not_found(account_id)
        return report

    async def info(self) -> DatabaseInfo:
        """What the database holds."""
        async with self._database.connection() as conn:
            return await read_info(conn)


def lane_of(account_id: str, lanes: int) -> int:
    """The lane of an account. Nothing more is assumed than that an account has one lane per process."""
    return zlib.crc32(account_id.encode()) % lanes
