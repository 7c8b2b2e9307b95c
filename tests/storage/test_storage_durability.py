"""A commit is durable when Postgres reports it, whatever the database's defaults are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from creditledger_server.storage.connect import Connection
from ledger_load import rows


async def test_commits_are_durable_though_the_database_does_not_ask_for_it(
    dsn: str, connect: Callable[[], Awaitable[Connection]]
) -> None:
    rows(dsn, f"ALTER DATABASE {urlsplit(dsn).path[1:]} SET synchronous_commit = off")
    conn = await connect()

    cursor = await conn.execute("SHOW synchronous_commit")

    assert await cursor.fetchone() == ("on",)
