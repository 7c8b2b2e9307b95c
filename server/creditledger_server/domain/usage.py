"""What a use of an operation was, as its caller tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


_quote = json.encoder.encode_basestring


def json_text(value: str | None) -> str:
    """What ``canonical_json`` makes of a text or None; a third of the time for what is encoded with every deduction."""
    return "null" if value is None else _quote(value)


def canonical_json(value: object) -> str:
    """The one text of a JSON value that is stored and hashed: keys sorted, no blanks, no NaN (ValueError)."""
    return _encode(value)


@dataclass(frozen=True, slots=True)
class Usage:
    """See the proto message of the same name; times and durations in microseconds, absent values are None."""

    service: str = ""
    metrics: Mapping[str, int] = field(default_factory=dict)
    response_time: int | None = None
    failed: bool = False
    occur_time: int | None = None
    metadata: dict[str, JSON] | None = None

    def to_json(self) -> str:
        """The canonical text that the entry keeps; fields that say nothing are left out."""
        told = {
            "service": self.service or None,
            "metrics": dict(self.metrics) or None,
            "response_time_us": self.response_time,
            "outcome": "failed" if self.failed else None,
            "occur_time_us": self.occur_time,
            "metadata": self.metadata,
        }
        return canonical_json({key: value for key, value in told.items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> Usage:
        """The usage that ``to_json`` wrote."""
        told = json.loads(text)
        return cls(
            service=told.get("service", ""),
            metrics=told.get("metrics", {}),
            response_time=told.get("response_time_us"),
            failed=told.get("outcome") == "failed",
            occur_time=told.get("occur_time_us"),
            metadata=told.get("metadata"),
        )
