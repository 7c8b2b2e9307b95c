"""Bad values of every type of field, and the tables that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import Ledger

MAX, MIN = 2**63 - 1, -(2**63)
MAX_32, MIN_32 = 2**31 - 1, -(2**31)

BAD_IDS = {
    "missing": "",
    "129 characters": "x" * 129,
    "60,000 bytes": "x" * 60_000,
    "NUL": "a\0b",
    "NUL at the end": "the-account\0",
    "newline": "a\nb",
    "newline at the end": "the-account\n",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "single quote": "a'b",
    "double quote": 'a"b',
    "backslash": "a\\b",
    "SQL": "x'; DROP TABLE account; --",
    "percent": "a%b",
    "format": "%s{0}$1",
    "comma": "a,b",
    "braces": "{a}",
    "space": "a b",
    "space before": " the-account",
    "space behind": "the-account ",
    "no-break space": "the-account\u00a0",
    "umlaut": "ä",
    "emoji": "😀",
    "homoglyph": "the-\u0430ccount",
    "fullwidth digit": "\uff11",
    "right-to-left override": "the-\u202eaccount",
    "zero width": "the-\u200baccount",
    "byte order mark": "\ufeffthe-account",
    "combining": "e\u0301",
}
BAD_NAMES = {
    **BAD_IDS,
    "65 characters": "x" * 65,
    "capital": "Voice_creation",
    "hyphen": "voice-creation",
    "digit first": "1st",
    "underscore first": "_x",
    "dot": "a.b",
}
BAD_LABELS: dict[str, tuple[dict[str, str], str]] = {
    "33 labels": ({f"k{number}": "v" for number in range(33)}, "labels"),
    "empty key": ({"": "v"}, "labels"),
    "65-byte key": ({"k" * 65: "v"}, f"labels['{'k' * 64}']"),
    "key of 33 two-byte characters": ({"é" * 33: "v"}, "labels['"),
    "NUL in a key": ({"a\0": "v"}, "labels['a\\x00']"),
    "escape in a key": ({"a\x1b": "v"}, "labels['a\\x1b']"),
    "257-byte value": ({"k": "v" * 257}, "labels['k']"),
    "NUL in a value": ({"k": "\0"}, "labels['k']"),
    "carriage return in a value": ({"k": "\r"}, "labels['k']"),
}
BAD_TIMES = {
    "year 0": Timestamp(seconds=-62_135_596_801),
    "year 10000": Timestamp(seconds=253_402_300_800),
    "largest": Timestamp(seconds=MAX),
    "smallest": Timestamp(seconds=MIN),
    "negative nanos": Timestamp(nanos=-1),
    "a whole second of nanos": Timestamp(nanos=10**9),
    "largest nanos": Timestamp(nanos=MAX_32),
}
BAD_DURATIONS = {
    "negative": Duration(seconds=-1),
    "negative nanos": Duration(nanos=-1),
    "mixed signs": Duration(seconds=1, nanos=-1),
    "a whole second of nanos": Duration(nanos=10**9),
    "one nanosecond beyond 366 days": Duration(seconds=366 * 86_400, nanos=1),
    "366 days and a second": Duration(seconds=366 * 86_400 + 1),
    "largest": Duration(seconds=MAX, nanos=999_999_999),
    "smallest": Duration(seconds=MIN),
}
BAD_TEXTS = {
    "1,025 bytes": "x" * 1_025, "513 two-byte characters": "é" * 513, "60,000 bytes": "x" * 60_000, "NUL": "a\0b",
    "escape": "\x1b[31m", "carriage return": "a\r\nb", "delete": "\x7f",
}  # fmt: skip
BAD_TOKENS = {
    "garbage": "garbage", "one character": "x", "not base64": "!!!", "not ASCII": "é", "60,000 bytes": "A" * 60_000,
    "spaces": "   ", "NUL": "\0", "JSON": "[1]", "padding": "====", "all zero": "A" * 64,
}  # fmt: skip
UNKNOWN_NUMBERS = {"99": 99, "-1": -1, "2^31-1": MAX_32, "-2^31": MIN_32}
BAD_SIZES = {"-1": -1, "-2^31": MIN_32}
BAD_QUANTITIES = {"0": 0, "-1": -1, "-2^63": MIN, "10^9+1": 10**9 + 1, "2^63-1": MAX}
NOT_POSITIVE = {"0": 0, "-1": -1, "-2^63": MIN}


class Row(NamedTuple):
    """A request, and the path of the field that is to be refused."""

    name: str
    request: Message
    field: str


def nested(depth: int) -> Struct:
    """A Struct with this many objects in one another."""
    struct = Struct(fields={"leaf": Value(number_value=1)})
    for _ in range(depth - 1):
        struct = Struct(fields={"in": Value(struct_value=struct)})
    return struct


def nested_lists(depth: int) -> Struct:
    """A Struct whose values are in this many lists in one another."""
    value = Value(number_value=1)
    for _ in range(depth):
        value = Value(list_value=ListValue(values=[value]))
    return Struct(fields={"in": value})


def struct_of(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


BAD_METADATA = {
    "NaN": Struct(fields={"x": Value(number_value=math.nan)}),
    "infinity": Struct(fields={"x": Value(number_value=math.inf)}),
    "minus infinity, inside": struct_of(x=[{"y": -math.inf}]),
    "17 deep": nested(17),
    "17 deep in lists": nested_lists(16),
    "30 deep": nested(30),
    "4,097 bytes": struct_of(k="x" * (4_097 - len('{"k":""}'))),
    "4,097 bytes of two-byte characters": struct_of(k="é" * 2_045),
    "60,000 bytes": struct_of(k="x" * 60_000),
    "1,000 keys": struct_of(**{f"key{number}": number for number in range(1_000)}),
    "NUL in a text": struct_of(k="a\0b"),
    "NUL in a key": struct_of(**{"a\0b": 1}),
    "NUL in a list": struct_of(k=["\0"]),
}


class Table:
    """Rows about the requests that ``valid`` makes, by method: each is valid but for one change."""

    def __init__(self, valid: Callable[[], Mapping[str, Any]]) -> None:
        self.valid = valid

    def row(self, method: str, name: str, field: str, change: Callable[[Any], object]) -> Row:
        """The row of one change."""
        request = self.valid()[method]
        change(request)
        return Row(f"{method} {field[:40]} {name}", request, field)

    def setting(self, method: str, field: str, values: Mapping[str, Any]) -> Iterator[Row]:
        """A row for each bad value of a field, also of one that is a message."""
        for name, value in values.items():

            def change(request: Any, value: Any = value) -> None:
                if isinstance(value, Message):
                    getattr(request, field).CopyFrom(value)
                else:
                    setattr(request, field, value)

            yield self.row(method, name, field, change)

    def ids(self) -> Iterator[Row]:
        """Rows of every method's account and request."""
        for method, request in self.valid().items():
            for field in ("account_id", "request_id"):
                if field in request.DESCRIPTOR.fields_by_name:
                    yield from self.setting(method, field, BAD_IDS)

    def usage(self, method: str) -> Iterator[Row]:
        """Rows of what a use was."""

        def usage(name: str, field: str, **values: Any) -> Row:
            return self.row(
                method, name, field, lambda request: request.usage.CopyFrom(resources_pb2.Usage(**values))
            )

        for name, text in {
            "129 bytes": "x" * 129,
            "NUL": "\0",
            "escape": "\x1b",
            "65 characters": "é" * 65,
        }.items():
            yield usage(name, "usage.service", service=text)
        for number in (3, *UNKNOWN_NUMBERS.values()):
            yield usage(str(number), "usage.outcome", outcome=number)
        for name, time in BAD_TIMES.items():
            yield usage(name, "usage.occur_time", occur_time=time)
        for name, duration in BAD_DURATIONS.items():
            yield usage(name, "usage.response_time", response_time=duration)
        for name, metadata in BAD_METADATA.items():
            yield usage(name, "usage.metadata", metadata=metadata)
        for name, field, metrics in metric_values():
            yield usage(name, f"usage.{field}", metrics=metrics)

    def metrics(self, method: str) -> Iterator[Row]:
        """Rows of a request's own metrics."""
        for name, field, metrics in metric_values():
            yield self.row(method, name, field, changed_by("metrics", "update", metrics))


def changed_by(name: str, method: str, *arguments: Any) -> Callable[[Any], object]:
    """Calls a method of a field: extend, update or CopyFrom."""
    return lambda request: getattr(getattr(request, name), method)(*arguments)


def metric_values() -> Iterator[tuple[str, str, dict[str, int]]]:
    """A name, the path that is told, and the metrics."""
    yield "33 metrics", "metrics", {f"m{number}": 1 for number in range(33)}
    for name, key in BAD_NAMES.items():
        yield f"name: {name}", f"metrics[{key[:64]!r}]" if key.isascii() else "metrics['", {key: 1}
    for value in (-1, 10**15 + 1, MAX, MIN):
        yield f"value: {value}", "metrics['m']", {"m": value}


def check_named(ledger: Ledger, case: Row) -> None:
    """Asserts that a row's request is refused with its field named."""
    failure = ledger.refusal(case.request)

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert failure.kinds == {"BadRequest"}
    # Of a long path the beginning is told; how other characters than ASCII are shown is left open.
    assert any(found.startswith(case.field[:100]) for found in failure.fields), failure.fields
