"""Sums of usage: what is asked for, into which buckets time is divided, and the average.

Times are microseconds since the Unix epoch. Sums are kept by quarters of an hour, so buckets begin on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import IntEnum
from typing import Final

from .times import to_datetime, to_micros

QUARTER: Final = 15 * 60 * 1_000_000
"""A quarter of an hour, in microseconds."""

MAX_ROWS: Final = 10_000
"""The most rows of one summary."""

MAX_METRICS: Final = 100_000
"""The most sums of metrics that are taken into one summary at a time, lest names without number fill the memory."""


class UsageBucket(IntEnum):
    """How finely a summary divides time. The numbers are those of creditledger.v1.UsageBucket."""

    NONE = 1
    DAY = 2
    WEEK = 3
    """From Monday."""
    MONTH = 4


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What to sum. ``start`` is inclusive, None: the beginning; ``end`` exclusive, None: now; no operations: all."""

    account_id: str
    operations: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    bucket: UsageBucket = UsageBucket.NONE
    zone: tzinfo = UTC


@dataclass(slots=True)
class UsageSums:
    """What one operation's entries in one bucket add up to.

    ``response_time`` is the sum of those that ``response_times`` entries told, in microseconds.
    """

    bucket_start: int
    operation: str
    uses: int = 0
    failures: int = 0
    credits: int = 0
    response_time: int = 0
    response_times: int = 0
    metrics: dict[str, int] = field(default_factory=dict)

    def add(self, uses: int, failures: int, credits: int, response_time: int, response_times: int) -> None:
        """Adds everything but metrics."""
        self.uses += uses
        self.failures += failures
        self.credits += credits
        self.response_time += response_time
        self.response_times += response_times


class SummaryTooLarge(ValueError):
    """A summary of more than MAX_ROWS rows, or MAX_METRICS sums of metrics."""


class UnevenZone(ValueError):
    """A zone whose days, in the span asked for, do not begin on a quarter of an hour of UTC."""


def bucket_starts(bucket: UsageBucket, zone: tzinfo, start: int, end: int) -> list[int]:
    """Where the buckets begin that ``start`` <= time < ``end`` touches, rising; the first is not after ``start``.

    A day begins when the zone's clocks first show its date; a date that they skip has no bucket. Raises UnevenZone.
    """
    if bucket is UsageBucket.NONE:
        return [start - start % QUARTER]
    starts: list[int] = []
    for first in _first_dates(bucket, to_datetime(start).astimezone(zone).date()):
        begin = to_micros(datetime.combine(first, time.min, zone).astimezone(UTC))
        if begin >= end:
            break
        if begin % QUARTER:
            raise UnevenZone(f"{zone} is {begin % QUARTER} µs off a quarter of an hour on {first}")
        if starts and starts[-1] == begin:
            starts.pop()  # of a date that the clocks skipped
        starts.append(begin)
    return starts


def average(credits: int, uses: int) -> str:
    """credits ÷ uses with six decimals, halves away from zero, so that a refund weighs what its charge did."""
    if not uses:
        return "0.000000"
    millionths = (2 * abs(credits) * 1_000_000 + uses) // (2 * uses)
    sign = "-" if credits < 0 and millionths else ""
    return f"{sign}{millionths // 1_000_000}.{millionths % 1_000_000:06}"


def _first_dates(bucket: UsageBucket, day: date) -> Iterator[date]:
    """The first dates of the bucket that holds ``day`` and of those that follow."""
    if bucket is UsageBucket.WEEK:
        day -= timedelta(days=day.weekday())
    elif bucket is UsageBucket.MONTH:
        day = day.replace(day=1)
    while True:
        yield day
        if bucket is UsageBucket.MONTH:
            day = (day + timedelta(days=31)).replace(day=1)
        else:
            day += timedelta(days=7 if bucket is UsageBucket.WEEK else 1)
