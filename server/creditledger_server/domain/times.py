"""Times: ints of microseconds since the Unix epoch in the domain, datetimes at its borders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Microseconds since the Unix epoch, exactly."""
    return (time - _EPOCH) // _MICROSECOND


def to_datetime(micros: int) -> datetime:
    """The aware datetime (UTC) of a time in the years 1 to 9999; OverflowError outside."""
    return _EPOCH + timedelta(microseconds=micros)


def iso_time(micros: int) -> str:
    """RFC 3339 with six decimals, for example ``2026-11-01T00:00:00.000000Z``."""
    return to_datetime(micros).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
