"""Several prepared statements in one round trip: what the ledger's paths are made of.

psycopg's cursors and pipelines do the same for more: each statement costs several times as much Python, and a pipeline
ends with a Flush behind its Sync, upon which Postgres takes the session for busy and never fires
idle_in_transaction_session_timeout: a server that stopped inside a transaction would keep its locks for ever
(docs/decisions/0007). This speaks to libpq's pipeline mode directly, by way of ``psycopg.pq``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection, OperationalError
from psycopg.adapt import Transformer
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types.numeric import Int8BinaryLoader

from .errors import translated

Row = tuple[Any, ...]


class Statement(NamedTuple):
    """A statement that a connection prepares when it first meets it. ``name`` is unique among all."""

    name: str
    sql: str


Parameters = Sequence[str | int | None]

Bound = tuple[Statement, Parameters]

BEGIN: Final[Bound] = Statement("begin", "BEGIN"), ()
COMMIT: Final[Bound] = Statement("commit", "COMMIT"), ()
ROLLBACK: Final[Bound] = Statement("rollback", "ROLLBACK"), ()


PG_EPOCH: Final = 946_684_800_000_000
"""2000-01-01, from which Postgres counts, in microseconds since the Unix epoch: add it to a time of an exchange."""


class Connection(AsyncConnection[Row]):
    """psycopg's connection that can also ``exchange``.

    Exchanges tell times (timestamptz) as Postgres sends them, as microseconds since ``PG_EPOCH``: to make a datetime of
    each and an integer of that again takes a microsecond, several times per deduction.
    """

    _prepares = True
    _known: frozenset[str] = frozenset()  # names of what is prepared

    def __init__(self, pgconn: PGconn, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        self.adapters.register_loader("timestamptz", Int8BinaryLoader)

    async def exchange(self, *statements: Bound) -> list[list[Row]]:
        """Runs the statements and waits for all their results; returns the rows of each.

        Outside a transaction they are one, implicitly. At the first that fails the rest are skipped. Raises as
        ``translated``; StorageUnavailable leaves open what happened.
        """
        with translated():
            return await self._exchange(statements)

    async def fetch(self, statement: Statement, *parameters: str | int | None) -> list[Row]:
        """The rows of one statement. Raises as ``translated``."""
        [rows] = await self.exchange((statement, parameters))
        return rows

    async def _exchange(self, statements: Sequence[Bound]) -> list[list[Row]]:
        new = self._unprepared(statements)
        async with self.lock:
            try:
                self.pgconn.enter_pipeline_mode()
                self._send(new, statements)
                await self._flush()
                results = await self._receive()
                self.pgconn.exit_pipeline_mode()
            except BaseException:
                await self.close()  # the next exchange would take what is still to come for its own results
                raise
        self._known |= {
            statement.name
            for statement, result in zip(new, results, strict=False)
            if result.status == ExecStatus.COMMAND_OK
        }
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                error = error_from_result(result)
                if isinstance(error, InvalidSqlStatementName):
                    await self.close()  # somebody has deallocated what this connection thinks is prepared
                raise error
        return [self._rows(result) for result in results[len(new) :]]

    def _unprepared(self, statements: Sequence[Bound]) -> list[Statement]:
        if not self._prepares:
            return []
        return list(dict.fromkeys(each for each, _ in statements if each.name not in self._known))

    def _send(self, new: Sequence[Statement], statements: Sequence[Bound]) -> None:
        for statement in new:
            self.pgconn.send_prepare(statement.name.encode(), statement.sql.encode())
        for statement, parameters in statements:
            values = [None if value is None else str(value).encode() for value in parameters]
            if self._prepares:
                self.pgconn.send_query_prepared(statement.name.encode(), values, result_format=Format.BINARY)
            else:
                self.pgconn.send_query_params(statement.sql.encode(), values, result_format=Format.BINARY)
        self.pgconn.pipeline_sync()

    async def _flush(self) -> None:
        while self.pgconn.flush():  # the socket takes no more for now
            await self._ready(writing=True)
            self.pgconn.consume_input()  # Postgres may be waiting for us to read

    async def _receive(self) -> list[PGresult]:
        """The results up to the Sync's; None stands between those of two statements."""
        results: list[PGresult] = []
        while True:
            if self.pgconn.is_busy():
                await self._ready(writing=False)
                self.pgconn.consume_input()
            elif (result := self.pgconn.get_result()) is None:
                if self.pgconn.status == ConnStatus.BAD:
                    raise OperationalError("the connection was lost")
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)

    async def _ready(self, *, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        socket = self.pgconn.socket
        loop.add_reader(socket, ready.set)
        if writing:
            loop.add_writer(socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(socket)
            if writing:
                loop.remove_writer(socket)

    def _rows(self, result: PGresult) -> list[Row]:
        if not result.ntuples:
            return []
        transformer = Transformer(self)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)


class UnpreparedConnection(Connection):
    """One through a pooler that hands out sessions per transaction: the next may not know what this one prepared."""

    _prepares = False
