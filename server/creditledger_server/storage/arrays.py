"""Array literals of Postgres, joined by hand.

psycopg's list dumper is plain Python and costs about 1 µs per element; a text literal costs a tenth of that, and the
write path sends thousands of elements per batch (architecture §6).
"""

from __future__ import annotations

from collections.abc import Iterable


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


def _quote(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
