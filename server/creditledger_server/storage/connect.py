"""Connections to Postgres as the ledger wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from psycopg_pool import AsyncConnectionPool

from .arrays import text_array
from .errors import StorageUnavailable, translated
from .exchange import Connection as Connection
from .exchange import Statement, UnpreparedConnection

KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class PoolUsage(NamedTuple):
    """Connections of a pool, those of them that are in use, and callers that wait for one."""

    size: int
    in_use: int
    waiting: int


class Database:
    """Where the ledger's Postgres is: connections of their own for the lanes, a pool for everything else.

    Timeouts are in milliseconds; ``standby`` allows one that can only be read; ``pooled`` is for one behind a pooler
    that hands out sessions per transaction, which has to give every session the settings that are needed. All methods
    raise as ``translated``.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int,
        lock_timeout: int,
        statement_timeout: int,
        standby: bool = False,
        pooled: bool = False,
    ) -> None:
        self._dsn = dsn
        settings = _settings(lock_timeout, statement_timeout)
        self._expected = settings if pooled else {}
        self._connection_class = UnpreparedConnection if pooled else Connection
        self._parameters = dict(_PARAMETERS)
        if not pooled:
            self._parameters["options"] = _options(settings)
        if not standby:
            # A standby may not have what was acknowledged.
            self._parameters["target_session_attrs"] = "read-write"
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            connection_class=self._connection_class,
            kwargs=self._parameters,
            min_size=pool_size,
            max_size=pool_size,
            timeout=2.0,
            max_waiting=1_000,
            reconnect_timeout=30.0,
            open=False,
        )

    async def open(self) -> None:
        """Fills the pool. Raises StorageUnavailable also where a pooler's sessions lack settings; it names them."""
        with translated():
            await self._pool.open(wait=True, timeout=10.0)
        if self._expected:
            await self._check_settings()

    async def close(self) -> None:
        """Closes the pool."""
        await self._pool.close(timeout=5.0)

    async def connect(self) -> Connection:
        """A connection of the caller's own, in autocommit."""
        with translated():
            return await self._connection_class.connect(self._dsn, **self._parameters)

    async def replace_broken(self) -> None:
        """Replaces the connections of the pool that do not answer any more: all of them, after a restart."""
        with translated():
            await self._pool.check()

    def usage(self) -> PoolUsage:
        """How the pool is used at the moment."""
        told = self._pool.get_stats()
        size = told["pool_size"]
        return PoolUsage(size, size - told["pool_available"], told["requests_waiting"])

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, in autocommit."""
        with translated():
            async with self._pool.connection() as conn:
                yield conn

    async def _check_settings(self) -> None:
        async with self.connection() as conn:
            told: dict[str, str] = dict(await conn.fetch(_SETTINGS, text_array([*self._expected])))
        wrong = [
            f"ALTER ROLE CURRENT_USER SET {name} = '{value}';"
            for name, value in self._expected.items()
            if told.get(name) != str(value)
        ]
        if wrong:
            raise StorageUnavailable(f"behind a pooler the role needs: {' '.join(wrong)}")


_SETTINGS = Statement("settings", "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])")

_PARAMETERS: dict[str, Any] = {
    "connect_timeout": 5,
    "client_encoding": "UTF8",
    "application_name": "creditledger",
    "autocommit": True,
    # Only exchanges prepare. What psycopg prepares it forgets at a ROLLBACK, with DEALLOCATE ALL: theirs as well.
    "prepare_threshold": None,
    **KEEPALIVE,
}


def _settings(lock_timeout: int, statement_timeout: int) -> dict[str, str | int]:
    """What every session of the ledger needs, in the words of pg_settings; times in milliseconds."""
    return {
        # Without these a stopped server or client could hold a lock, or wait for one, for ever.
        "lock_timeout": lock_timeout,
        "statement_timeout": statement_timeout,
        "idle_in_transaction_session_timeout": 5_000,
        "client_connection_check_interval": 1_000,
        # Whatever the database's default is: what is acknowledged must be durable.
        "synchronous_commit": "on",
        "TimeZone": "UTC",
        "default_transaction_isolation": "read committed",
        # Every statement asks for rows by key. A plan that reads a whole table is never right, however small the
        # table was when the plan was made (architecture §6: such a plan cost a hundredfold within a minute).
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "max_parallel_workers_per_gather": 0,
        "jit": "off",
    }


def _options(settings: Mapping[str, str | int]) -> str:
    """The same for the start of a session."""
    return " ".join(f"-c {name}={str(value).replace(' ', chr(92) + ' ')}" for name, value in settings.items())
