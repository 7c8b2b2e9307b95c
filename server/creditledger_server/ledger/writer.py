"""The write path: one transaction for all the requests of a round (group commit under row locks).

lock and load → decide each request in order → write and commit → answer. The row lock is the only authority, between
processes too; a lane only makes it cheap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from ..domain.account import Account
from ..domain.book import CatalogBook
from ..domain.commands import Command, Settle
from ..domain.decide import Accepted, decide
from ..domain.lots import NEVER
from ..domain.refusal import Refused
from ..domain.settle import is_due, settle
from ..storage.batch import Loaded, lock_and_load, rollback, write_and_commit
from ..storage.connect import Connection
from ..storage.errors import BatchRejected, Contended, OpenedElsewhere, StorageUnavailable
from ..storage.records import load_run_out
from .catalogs import CurrentCatalog
from .counts import WriteCounts
from .failures import refusal_of
from .lane import Ticket, deadline_passed
from .needs import wanted

Request = Command | Settle
Answer = Accepted | None
"""None answers Settle, which nobody asked for."""

Write = Ticket[Request, Answer]
Outcome = Answer | Refused

_ATTEMPTS = 3


class Writer:
    """Serves the rounds of one lane on a connection of its own, which it opens when it needs one.

    ``on_commit`` is told the accounts that a committed round changed, with the entries that it wrote.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        catalog: CurrentCatalog,
        on_commit: Callable[[Iterable[Account]], None],
        counts: WriteCounts,
    ) -> None:
        self._connect = connect
        self._catalog = catalog
        self._on_commit = on_commit
        self._counts = counts
        self._conn: Connection | None = None

    async def serve(self, tickets: Sequence[Write]) -> None:
        """Carries out and answers the requests of a round, in order."""
        try:
            outcomes = await self._transact_surely(tickets)
        except (Contended, OpenedElsewhere, BatchRejected) as error:
            await self._serve_apart(tickets, error)
            return
        except StorageUnavailable as error:
            refusal = refusal_of(error, "a round of writes")
            outcomes = [refusal for _ in tickets]
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            ticket.answer(outcome)

    async def close(self) -> None:
        """Closes the connection."""
        if self._conn is not None:
            await self._conn.close()

    async def _serve_apart(self, tickets: Sequence[Write], error: Exception) -> None:
        """Serves what failed together in smaller rounds, so that what made it fail does so alone."""
        parts = _by_account(tickets)
        if len(parts) == 1:
            parts = [[ticket] for ticket in tickets] if isinstance(error, BatchRejected) else []
        if len(tickets) == 1 or not parts:
            for ticket in tickets:
                ticket.answer(refusal_of(error, "a write"))
        else:
            for part in parts:
                if waiting := _still_waited_for(part):
                    await self.serve(waiting)

    async def _transact_surely(self, tickets: Sequence[Write]) -> list[Outcome]:
        """Repeats what is safe to repeat, a lost COMMIT too: if it happened, the request ids are found and replayed."""
        unsure = False  # whether a COMMIT was lost that may still be under way
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._transact(tickets)
            except (OpenedElsewhere, StorageUnavailable, Contended) as error:
                await self._recover(error)
                unsure = unsure or isinstance(error, StorageUnavailable)
                if isinstance(error, Contended) and not unsure:
                    raise
                if attempt == _ATTEMPTS:
                    if unsure:
                        raise StorageUnavailable("the outcome of an earlier COMMIT is unknown") from error
                    raise
            except BaseException as error:
                await self._recover(error)
                raise
        raise AssertionError("unreachable")

    async def _transact(self, tickets: Sequence[Write]) -> list[Outcome]:
        conn = await self._connection()
        start = time.perf_counter()
        loaded, book = await self._load(conn, [ticket.request for ticket in tickets])
        self._counts.loads.add(time.perf_counter() - start)
        self._counts.lock_waits.add(loaded.lock_wait / 1_000_000)
        self._counts.sizes.add(len(tickets))
        try:
            outcomes = _decide_round(tickets, loaded, book)
        except Exception as error:  # a bug, or NotLoaded: what it has changed in memory must not be written
            raise BatchRejected(repr(error)) from error
        changed = [
            account for account in loaded.accounts.values() if account.written or account.touched_terms
        ]
        if not changed:
            await rollback(conn)
            return outcomes
        start = time.perf_counter()
        await write_and_commit(conn, changed, loaded.transaction_id)
        self._counts.commits.add(time.perf_counter() - start)
        self._on_commit([account for account in changed if account.written])
        return outcomes

    async def _load(self, conn: Connection, requests: Sequence[Request]) -> tuple[Loaded, CatalogBook]:
        """Loads what the requests need under the catalog that is current in the transaction itself."""
        loaded = await lock_and_load(conn, wanted(requests))
        book = await self._catalog.at(loaded.catalog_version, conn)
        run_out = {
            name: account
            for name, account in loaded.accounts.items()
            if account.active_reservations and (account.next_due_time or NEVER) <= _time_of(account, loaded)
        }
        if run_out:
            await load_run_out(conn, run_out, loaded.now)
        return loaded, book

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        return self._conn

    async def _recover(self, error: BaseException) -> None:
        """Leaves no transaction open: rolls back where the connection is sure to answer, else drops it."""
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if isinstance(error, (Contended, OpenedElsewhere)):
            try:
                await rollback(conn)
                self._conn = conn
                return
            except (StorageUnavailable, BatchRejected):
                pass
        await conn.close()


def _decide_round(tickets: Sequence[Write], loaded: Loaded, book: CatalogBook) -> list[Outcome]:
    for account in loaded.accounts.values():
        now = _time_of(account, loaded)
        if is_due(account, book, now):
            settle(account, book, now)
    clock = asyncio.get_running_loop().time()
    return [
        deadline_passed()
        if ticket.call.abandoned(clock) and not _was_accepted(ticket.request, loaded)
        else _decide_one(ticket.request, loaded, book)
        for ticket in tickets
    ]


def _was_accepted(request: Request, loaded: Loaded) -> bool:
    """Whether it was carried out before, perhaps by this very round, whose COMMIT was lost."""
    account = loaded.accounts.get(request.account_id)
    return (
        account is not None and not isinstance(request, Settle) and request.request_id in account.remembered
    )


def _decide_one(request: Request, loaded: Loaded, book: CatalogBook) -> Outcome:
    if isinstance(request, Settle):
        return None  # every account of the round has been settled
    account = loaded.accounts.get(request.account_id)
    if account is None:
        account = loaded.accounts[request.account_id] = Account(request.account_id)
    now = _time_of(account, loaded)
    try:
        return decide(request, account, book, now)
    except Refused as refusal:
        return refusal.decided_at(account.revision, now)


def _time_of(account: Account, loaded: Loaded) -> int:
    """The time for an account: the database's clock may step back, an account's time never does."""
    return max(loaded.now, account.last_time)


def _by_account(tickets: Sequence[Write]) -> list[list[Write]]:
    parts: dict[str, list[Write]] = {}
    for ticket in tickets:
        parts.setdefault(ticket.request.account_id, []).append(ticket)
    return list(parts.values())


def _still_waited_for(tickets: Sequence[Write]) -> list[Write]:
    """Drops those whose callers have left: a part of a round can have waited long for the locks of another."""
    clock = asyncio.get_running_loop().time()
    waiting = []
    for ticket in tickets:
        if ticket.call.abandoned(clock):
            ticket.answer(deadline_passed())
        else:
            waiting.append(ticket)
    return waiting
