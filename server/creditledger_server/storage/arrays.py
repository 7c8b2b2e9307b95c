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


def text_array(values: Sequence[str | None]) -> str:
    """An array of texts, to be cast: ``$1::text[]``. Everything is quoted, so that "null" stays a text."""
    if values.count(None) == len(values):
        return "{" + ",".join(["NULL"] * len(values)) + "}"
    if None not in values:
        joined = '","'.join(values)  # type: ignore[arg-type]
        if "\\" not in joined and joined.count('"') == 2 * (
            len(values) - 1
        ):  # nothing in them needs an escape
            return f'{{"{joined}"}}'
    return "{" + ",".join(["NULL" if value is None else _quote(value) for value in values]) + "}"


def bytes_array(values: Sequence[bytes | None]) -> str:
    """An array of byte strings, to be cast: ``$1::bytea[]``."""
    if None not in values and set(map(len, values)) == {_DIGEST}:  # type: ignore[arg-type]
        digests = b"".join(values).hex(",", _DIGEST)  # type: ignore[arg-type]
        return '{"\\\\x' + digests.replace(",", '","\\\\x') + '"}'
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


_DIGEST = 32  # bytes of a SHA-256, which is what most byte strings are


_DUMPERS: dict[str, Callable[[Sequence[Any]], str]] = {
    "t": text_array,
    "T": time_array,
    "i": int_array,
    "b": bytes_array,
}


def columns(rows: Sequence[Sequence[Any]], types: str) -> list[str]:
    """Turns rows into one array literal per column; ``types`` as in ``arrays``."""
    return arrays(list(zip(*rows, strict=True)) if rows else [()] * len(types), types)


def arrays(values: Sequence[Sequence[Any]], types: str) -> list[str]:
    """Turns columns into array literals: t text (or time) that may be None, T time, i integer, b bytes."""
    return [_DUMPERS[kind](column) for kind, column in zip(types, values, strict=True)]


def _quote(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
