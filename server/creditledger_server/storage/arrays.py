"""Array literals of Postgres, joined by hand.

psycopg's list dumper is plain Python and costs about 1 µs per element; a text literal costs a tenth of that, and the
write path sends thousands of elements per batch (architecture §6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def int_array(values: Iterable[int]) -> str:
    """An array of integers, to be cast: ``$1::bigint[]``."""
    return "{" + ",".join(map(str, values)) + "}"


def time_array(values: Iterable[str]) -> str:
    """An array of times as ``iso_time`` writes them, which need no quotes, to be cast: ``$1::timestamptz[]``."""
    return "{" + ",".join(values) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """An array of texts, to be cast: ``$1::text[]``. Everything is quoted, so that "null" stays a text."""
    return "{" + ",".join(["NULL" if value is None else _quote(value) for value in values]) + "}"


def bytes_array(values: Iterable[bytes | None]) -> str:
    """An array of byte strings, to be cast: ``$1::bytea[]``."""
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


_DUMPERS: dict[str, Callable[[Iterable[Any]], str]] = {
    "t": text_array,
    "T": time_array,
    "i": int_array,
    "b": bytes_array,
}


def columns(rows: Sequence[Sequence[Any]], types: str) -> list[str]:
    """Turns rows into one array literal per column: t text (or time) that may be None, T time, i integer, b bytes."""
    values = zip(*rows, strict=True) if rows else [()] * len(types)
    return [_DUMPERS[kind](column) for kind, column in zip(types, values, strict=True)]


def _quote(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
