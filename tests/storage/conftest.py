"""Connections like the server's, and transactions like those of its lanes."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.catalog_document import catalog_document, parse_catalog
from creditledger_server.domain.commands import Command
from creditledger_server.domain.decide import decide
from creditledger_server.ledger.needs import wanted
from creditledger_server.storage.batch import lock_and_load, write_and_commit
from creditledger_server.storage.catalogs import insert_catalog
from creditledger_server.storage.connect import Connection, Database
from ledger_harness import CATALOG

Connect = Callable[[], Awaitable[Connection]]
Transact = Callable[[Connection, Sequence[Command]], Awaitable[None]]

_CATALOG = parse_catalog(tomllib.loads(CATALOG.read_text(encoding="utf-8")))
BOOK = CatalogBook([CatalogVersion(1, _CATALOG, 0)])


@pytest.fixture
async def connect(dsn: str) -> AsyncIterator[Connect]:
    """Opens a connection with the server's settings."""
    database = Database(dsn, pool_size=1, lock_timeout=20_000, statement_timeout=60_000)
    async with AsyncExitStack() as stack:

        async def open_one() -> Connection:
            conn = await database.connect()
            stack.push_async_callback(conn.close)  # also one whose transaction Postgres has ended
            return conn

        yield open_one


@pytest.fixture
async def conn(connect: Connect) -> Connection:
    """One such connection."""
    return await connect()


@pytest.fixture(scope="session")
def transact() -> Transact:
    """Carries out commands in one transaction, as a lane does."""

    async def run(conn: Connection, commands: Sequence[Command]) -> None:
        loaded = await lock_and_load(conn, wanted(commands))
        accounts = loaded.accounts
        for command in commands:
            account = accounts.setdefault(command.account_id, Account(command.account_id))
            decide(command, account, BOOK, max(loaded.now, account.last_time))
        await write_and_commit(conn, accounts.values(), loaded.transaction_id)

    return run


@pytest.fixture(scope="session")
def add_catalog() -> Callable[[Connection], Awaitable[None]]:
    """Makes the catalog of ``transact`` the current one, for whoever looks entries' versions up."""

    async def run(conn: Connection) -> None:
        await insert_catalog(conn, 1, catalog_document(_CATALOG), None, None)

    return run
