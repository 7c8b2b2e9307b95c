"""LISTEN and NOTIFY between the processes of a ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import AsyncConnection

from .connect import KEEPALIVE, Connection
from .errors import translated
from .exchange import Statement

_CHANNEL = "creditledger"

# The notification is all that this transaction writes, so there is nothing to wait for until it is on disk.
_NOTIFY = Statement(
    "notify", f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{_CHANNEL}', $1)"
)


async def notify(conn: Connection, sender: str) -> None:
    """Wakes whoever listens. Raises as ``translated``."""
    await conn.fetch(_NOTIFY, sender)


async def listen(dsn: str) -> AsyncIterator[str]:
    """The senders of notifications as they come, on a connection of its own; the first, '', says that it listens.

    Raises as ``translated``.
    """
    with translated():
        async with await AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=5, application_name="creditledger-hints", **KEEPALIVE
        ) as conn:
            await conn.execute(f"LISTEN {_CHANNEL}".encode())
            yield ""
            async for notification in conn.notifies():
                yield notification.payload
