"""Checks of request fields that need no state; all violations of a request are told at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from creditledger.v1 import resources_pb2
from creditledger.v1.credit_ledger_pb2 import (
    CanPerformRequest,
    CommitReservationRequest,
    DeductRequest,
    ReserveRequest,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from ..domain.names import ID_PATTERN, MAX_AMOUNT, MAX_QUANTITY, NAME_PATTERN
from ..domain.refusal import Reason, Refused
from ..domain.reservation import MAX_LIFE, MIN_TTL
from ..domain.usage import JSON, Usage, canonical_json

MAX_TEXT = 1_024
MAX_SHORT_TEXT = 128
MAX_LABELS = 32
MAX_METRICS = 32
MAX_METADATA = 4_096
MAX_METADATA_DEPTH = 16
MAX_KINDS = 100
MAX_PAGE = 1_000
DEFAULT_PAGE = 100

_NUMBERED = re.compile(r"[gr][1-9][0-9]{0,18}")
_ID_RULE = "must be 1 to 128 characters of [A-Za-z0-9._:@/+=-]"
_NAME_RULE = "must match [a-z][a-z0-9_]{0,63}"
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
_MAX_RESPONSE_TIME = 366 * 86_400


class Fields:
    """Collects the violations of one request. Each method returns what the field means, if it means anything."""

    def __init__(self) -> None:
        self.violations: list[tuple[str, str]] = []

    def wrong(self, field: str, rule: str) -> None:
        """Notes a violation."""
        self.violations.append((field, rule))

    def check(self) -> None:
        """Raises Refused FIELD_INVALID if there was any."""
        if self.violations:
            names = ", ".join(field or "request" for field, _ in self.violations[:10])
            raise Refused(Reason.FIELD_INVALID, f"invalid: {names}", violations=tuple(self.violations))

    def identifier(self, field: str, value: str) -> str:
        """An account id, request id or payment reference."""
        if not ID_PATTERN.fullmatch(value):
            self.wrong(field, _ID_RULE)
        return value

    def name(self, field: str, value: str) -> str:
        """The name of an operation, level or package."""
        if not NAME_PATTERN.fullmatch(value):
            self.wrong(field, _NAME_RULE)
        return value

    def optional_name(self, field: str, value: str) -> str | None:
        """A name, or None where the field is empty."""
        return self.name(field, value) if value else None

    def numbered(self, field: str, value: str, prefix: str) -> int:
        """The name of a grant or reservation, which is that of an entry: the prefix and its revision."""
        if not _NUMBERED.fullmatch(value) or value[0] != prefix or (number := int(value[1:])) >= 1 << 63:
            self.wrong(field, f"must be {prefix} and a number, as the ledger gave it")
            return 0
        return number

    def quantity(
        self, request: CanPerformRequest | DeductRequest | ReserveRequest | CommitReservationRequest
    ) -> int:
        """The optional field quantity: absent is 1, zero is an error."""
        quantity = request.quantity if request.HasField("quantity") else 1
        return self.between("quantity", quantity, 1, MAX_QUANTITY)

    def amount(self, field: str, value: int) -> int:
        """An amount of credits."""
        return self.between(field, value, 1, MAX_AMOUNT)

    def between(self, field: str, value: int, low: int, high: int) -> int:
        """An integer in a range, both ends included."""
        if not low <= value <= high:
            self.wrong(field, f"must be {low} to {high}")
        return value

    def text(self, field: str, value: str, most: int = MAX_TEXT) -> str:
        """Free text for people: bounded in bytes, and without control characters but tab and newline."""
        if len(value.encode()) > most:
            self.wrong(field, f"must be at most {most} bytes")
        elif any((char < " " and char not in "\t\n") or char == "\x7f" for char in value):
            self.wrong(field, "must not contain control characters")
        return value

    def labels(self, field: str, labels: Mapping[str, str]) -> dict[str, str]:
        """A map of labels."""
        if len(labels) > MAX_LABELS:
            self.wrong(field, f"must be at most {MAX_LABELS} labels")
            return {}
        for key, value in labels.items():
            if not key:
                self.wrong(field, "must have no empty key")
            self.text(_entry_of(field, key), key, 64)
            self.text(_entry_of(field, key), value, 256)
        return dict(labels)

    def metrics(self, field: str, metrics: Mapping[str, int]) -> dict[str, int]:
        """Measured quantities by name."""
        if len(metrics) > MAX_METRICS:
            self.wrong(field, f"must be at most {MAX_METRICS} metrics")
            return {}
        for name, value in metrics.items():
            path = _entry_of(field, name)
            self.name(path, name)
            self.between(path, value, 0, MAX_AMOUNT)
        return dict(metrics)

    def time(self, field: str, value: Timestamp) -> int:
        """A time, in microseconds; what is finer is cut off."""
        if not (_MIN_SECONDS <= value.seconds <= _MAX_SECONDS and 0 <= value.nanos < 1_000_000_000):
            self.wrong(field, "must be a time in the years 1 to 9999")
            return 0
        return value.seconds * 1_000_000 + value.nanos // 1_000

    def optional_time(self, field: str, message: Message) -> int | None:
        """A field with a time, or None where it is absent."""
        return self.time(field, getattr(message, field)) if message.HasField(field) else None

    def ttl(self, field: str, value: Duration) -> int:
        """How long a reservation lives, in microseconds; what is finer is cut off."""
        nanos = value.seconds * 1_000_000_000 + value.nanos
        if not (0 <= value.nanos < 1_000_000_000 and MIN_TTL * 1_000 <= nanos <= MAX_LIFE * 1_000):
            self.wrong(field, "must be 1 s to 24 h")
        return nanos // 1_000

    def duration(self, field: str, value: Duration, most: int) -> int:
        """A duration of 0 to ``most`` seconds, in microseconds; what is finer is cut off."""
        if not (0 <= value.nanos < 1_000_000_000 and (0, 0) <= (value.seconds, value.nanos) <= (most, 0)):
            self.wrong(field, f"must be 0 to {most} seconds")
            return 0
        return value.seconds * 1_000_000 + value.nanos // 1_000

    def page_size(self, value: int) -> int:
        """How many items a page may have."""
        if value < 0:
            self.wrong("page_size", "must be 0 or more")
        return min(value or DEFAULT_PAGE, MAX_PAGE)

    def enums(self, field: str, values: Sequence[int], known: Iterable[int]) -> None:
        """Values of an open enum, where the zero and unknown numbers mean nothing."""
        if len(values) > MAX_KINDS:
            self.wrong(field, f"must be at most {MAX_KINDS} values")
            return
        allowed = set(known) - {0}
        for index, value in enumerate(values):
            if value not in allowed:
                self.wrong(f"{field}[{index}]", "must be a known value other than unspecified")

    def mask(self, field: str, mask: FieldMask, known: Sequence[str]) -> frozenset[str]:
        """The paths of a field mask, of which there must be one at least."""
        if not 1 <= len(mask.paths) <= len(known):
            self.wrong(field, f"must name 1 to {len(known)} of: {', '.join(known)}")
            return frozenset()
        for index, path in enumerate(mask.paths):
            if path not in known:
                self.wrong(f"{field}.paths[{index}]", f"must be one of: {', '.join(known)}")
        return frozenset(mask.paths)

    def usage(self, message: resources_pb2.Usage) -> Usage:
        """What the use was."""
        if message.outcome not in resources_pb2.Usage.Outcome.values():
            self.wrong("usage.outcome", "must be a known value")
        return Usage(
            service=self.text("usage.service", message.service, MAX_SHORT_TEXT),
            metrics=self.metrics("usage.metrics", message.metrics),
            response_time=self._response_time(message),
            failed=message.outcome == resources_pb2.Usage.OUTCOME_FAILED,
            occur_time=self.time("usage.occur_time", message.occur_time)
            if message.HasField("occur_time")
            else None,
            metadata=self._metadata(message.metadata) if message.HasField("metadata") else None,
        )

    def _response_time(self, message: resources_pb2.Usage) -> int | None:
        if not message.HasField("response_time"):
            return None
        return self.duration("usage.response_time", message.response_time, _MAX_RESPONSE_TIME)

    def _metadata(self, struct: Struct) -> dict[str, JSON]:
        if struct.ByteSize() > 16 * MAX_METADATA:  # before looking into it
            self.wrong("usage.metadata", f"must be at most {MAX_METADATA} bytes as JSON")
            return {}
        try:
            metadata = _from_struct(struct, MAX_METADATA_DEPTH)
            size = len(canonical_json(metadata).encode())
        except ValueError as error:
            self.wrong("usage.metadata", str(error))
            return {}
        if size > MAX_METADATA:
            self.wrong("usage.metadata", f"must be at most {MAX_METADATA} bytes as JSON")
        return metadata


def _entry_of(field: str, key: str) -> str:
    """The path of one entry of a map."""
    return f"{field}[{key[:64]!r}]"


def _from_struct(struct: Struct, depth: int) -> dict[str, JSON]:
    _check_depth(depth)
    return {_clean(key): _from_value(value, depth - 1) for key, value in struct.fields.items()}


def _from_value(value: Value, depth: int) -> JSON:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _from_struct(value.struct_value, depth)
    if kind == "list_value":
        return _from_list(value.list_value, depth)
    if kind == "number_value" and not math.isfinite(value.number_value):
        raise ValueError("must have finite numbers only")
    if kind == "string_value":
        return _clean(value.string_value)
    return None if kind in (None, "null_value") else getattr(value, kind)


def _from_list(values: ListValue, depth: int) -> list[JSON]:
    _check_depth(depth)
    return [_from_value(item, depth - 1) for item in values.values]


def _check_depth(depth: int) -> None:
    if depth <= 0:
        raise ValueError(f"must be nested at most {MAX_METADATA_DEPTH} deep")


def _clean(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text
