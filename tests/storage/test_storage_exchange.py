"""Exchanges: several statements and one answer, and a connection that is in order afterwards or closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import psycopg
import pytest
from creditledger_server.domain.times import to_micros
from creditledger_server.storage.connect import Connection
from creditledger_server.storage.errors import BatchRejected, StorageUnavailable
from creditledger_server.storage.exchange import PG_EPOCH, Statement

Connect = Callable[[], Awaitable[Connection]]

ECHO = Statement("echo", "SELECT $1::text, $2::bigint")
ONE = Statement("one", "SELECT 1")
DIVIDE = Statement("divide", "SELECT 1 / $1::int")
SLEEP = Statement("sleep", "SELECT pg_sleep($1::float8)")
MANY = Statement("many", "SELECT n, repeat('x', 1000) FROM generate_series(1, $1::int) AS n")
TYPES = Statement(
    "types",
    "SELECT '2026-11-22 20:00:00.000001+00'::timestamptz, '\\x00ff'::bytea, 7::smallint, NULL::text,"
    " 'ü'::text COLLATE \"C\", '{a,b}'::text[], '[1, 2]'::json",
)
CREATE = Statement("create", "CREATE TEMPORARY TABLE seen (number bigint)")
INSERT = Statement("insert", "INSERT INTO seen VALUES ($1::bigint)")
COUNT = Statement("count", "SELECT count(*) FROM seen")


async def test_each_statement_has_its_own_rows_in_its_place(connect: Connect) -> None:
    conn = await connect()
    for _ in range(2):  # prepared, and known
        assert await conn.exchange((ECHO, ["a", 1]), (ONE, []), (ECHO, [None, -(2**63)])) == [
            [("a", 1)], [(1,)], [(None, -(2**63))],
        ]  # fmt: skip


async def test_values_come_as_pythons_own_and_times_in_microseconds(connect: Connect) -> None:
    [(time, *others)] = await (await connect()).fetch(TYPES)

    assert time + PG_EPOCH == to_micros(datetime(2026, 11, 22, 20, 0, 0, 1, UTC))
    assert others == [b"\x00\xff", 7, None, "ü", ["a", "b"], [1, 2]]


async def test_what_follows_a_failure_is_skipped_and_undone_with_it(connect: Connect) -> None:
    conn = await connect()
    await conn.exchange((CREATE, []))

    with pytest.raises(BatchRejected, match="division by zero"):
        await conn.exchange((INSERT, [1]), (DIVIDE, [0]), (INSERT, [2]))

    assert await conn.fetch(COUNT) == [(0,)]


async def test_statements_that_were_skipped_when_new_can_be_used_later(connect: Connect) -> None:
    conn = await connect()
    broken = Statement("broken", "SELECT no_such_function()")

    with pytest.raises(BatchRejected):
        await conn.exchange((ECHO, ["a", 1]), (broken, []), (ONE, []))

    assert await conn.exchange((ONE, []), (ECHO, ["b", 2])) == [[(1,)], [("b", 2)]]


async def test_a_connection_is_an_ordinary_one_between_exchanges(connect: Connect) -> None:
    conn = await connect()
    for number in range(10):
        async with conn.transaction():
            assert await conn.fetch(ECHO, "a", number) == [("a", number)]
            cursor = await conn.execute("SELECT %s::int", [number])
            assert await cursor.fetchone() == (number,)


async def test_a_rollback_by_psycopg_leaves_what_exchanges_have_prepared(connect: Connect) -> None:
    conn = await connect()
    await conn.fetch(ONE)
    for _ in range(10):  # psycopg would prepare it after five
        await conn.execute("SELECT 2")
    with contextlib.suppress(ZeroDivisionError):
        async with conn.transaction():
            raise ZeroDivisionError

    assert await conn.fetch(ONE) == [(1,)]


async def test_a_connection_whose_statements_were_deallocated_is_unavailable_and_closed(
    connect: Connect,
) -> None:
    conn = await connect()
    await conn.fetch(ONE)
    await conn.execute("DEALLOCATE ALL")

    with pytest.raises(StorageUnavailable):
        await conn.fetch(ONE)

    assert conn.closed


async def test_parameters_and_rows_larger_than_any_buffer_pass_both_ways(connect: Connect) -> None:
    conn = await connect()
    large = "ä" * 4_000_000

    async with asyncio.timeout(60):
        [echoed, many, again] = await conn.exchange((ECHO, [large, 1]), (MANY, [20_000]), (ECHO, [large, 2]))

    assert echoed == [(large, 1)] and again == [(large, 2)]
    assert len(many) == 20_000


async def test_a_lost_connection_is_unavailable_and_closed(connect: Connect, dsn: str) -> None:
    conn = await connect()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(_terminate, dsn, conn.info.backend_pid))
        with pytest.raises(StorageUnavailable):
            await conn.fetch(SLEEP, 60)
    assert conn.closed


async def test_an_exchange_that_is_abandoned_closes_its_connection(connect: Connect) -> None:
    """Its results would be the next one's."""
    conn = await connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await conn.fetch(SLEEP, 60)

    assert conn.closed


async def test_a_connection_that_was_closed_is_unavailable(connect: Connect) -> None:
    conn = await connect()
    await conn.close()

    with pytest.raises(StorageUnavailable):
        await conn.fetch(ONE)


def _terminate(dsn: str, pid: int) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_sleep(0.1), pg_terminate_backend(%s)", [pid])
