"""What is written as an array literal is what Postgres holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from creditledger_server.storage.arrays import bytes_array, int_array, text_array
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
@given(st.lists(integers | st.none(), max_size=30))
@example([-(2**63), 2**63 - 1, 0, None])
def test_integers_arrive_as_they_are(
    conn: psycopg.Connection[tuple[Any, ...]], values: list[int | None]
) -> None:
    assert conn.execute("SELECT %s::bigint[]", [int_array(values)]).fetchone() == (values,)
