"""What is written as an array literal is what Postgres holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from creditledger_server.domain.entry import EntryKind
from creditledger_server.domain.times import iso_time, to_micros
from creditledger_server.storage.arrays import bytes_array, int_array, text_array, time_array
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_harness import Postgres

HOSTILE = [
    "", " ", "NULL", "null", '"', "\\", '\\"', '"\\', "\\\\", "{", "}", "{}", ",", "a,b", '{"a"}', "'", "''", "$1",
    "%s", "%", "\n", "\r\n", "\t", "\v", " x ", "\\x00", "\\n", "\\N", "é", "\u2028", "\u00a0", "\ufeff", "👩‍👩‍👧",
    "\x01", "\x7f", "\U0010ffff",
]  # fmt: skip

# Postgres stores neither NUL nor half of a surrogate pair.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(HOSTILE)
pieces = st.lists(st.sampled_from(['"', "\\", "{", "}", ",", "NULL", " ", "\n", "a", "é"])).map("".join)
integers = st.integers(-(2**63), 2**63 - 1)

FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

many = settings(max_examples=300, deadline=None)


@pytest.fixture(scope="module")
def conn(postgres: Postgres) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        yield connection


@many
@given(st.lists(texts | pieces | st.none(), max_size=30))
@example(HOSTILE)
@example([])
@example([None])
@example(["NULL", None, ""])
def test_texts_arrive_as_they_are(
    conn: psycopg.Connection[tuple[Any, ...]], values: list[str | None]
) -> None:
    assert conn.execute("SELECT %s::text[]", [text_array(values)]).fetchone() == (values,)


@many
@given(st.lists(st.binary(max_size=64) | st.none(), max_size=30))
@example([b"", b"\0", b"\\x", bytes(range(256)), None])
def test_bytes_arrive_as_they_are(
    conn: psycopg.Connection[tuple[Any, ...]], values: list[bytes | None]
) -> None:
    assert conn.execute("SELECT %s::bytea[]", [bytes_array(values)]).fetchone() == (values,)


@many
@given(st.lists(integers, max_size=30))
@example([-(2**63), 2**63 - 1, 0])
@example([EntryKind.DEDUCTED])
def test_integers_arrive_as_they_are(conn: psycopg.Connection[tuple[Any, ...]], values: list[int]) -> None:
    assert conn.execute("SELECT %s::bigint[]", [int_array(values)]).fetchone() == (values,)


@many
@given(st.lists(st.integers(to_micros(FIRST), to_micros(LAST)), max_size=30))
def test_times_arrive_to_the_microsecond(
    conn: psycopg.Connection[tuple[Any, ...]], values: list[int]
) -> None:
    times = time_array(map(iso_time, values))
    [arrived] = conn.execute("SELECT %s::timestamptz[]", [times]).fetchone() or ()
    assert [to_micros(time) for time in arrived] == values
