"""Periods, prices and catalogs of the model. Times are microseconds since 1970 in UTC.

Catalogs, like every request and response of the model, are plain dicts with the field names of the protos; enums are
their names without prefix.
"""

from __future__ import annotations

import bisect
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

Plain = dict[str, Any]

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
PERIODS = ("DAY", "WEEK", "MONTH", "LIFETIME")
"""In the order in which limits are told."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(time: int) -> datetime:
    """A time as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=time)


def from_datetime(when: datetime) -> int:
    """A datetime as a time."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def period_start(period: str, time: int) -> int:
    """When the period that contains ``time`` began; 0 for LIFETIME."""
    day = time // DAY
    if period == "DAY":
        return day * DAY
    if period == "WEEK":  # 1970-01-01 was a Thursday
        return (day - (day + 3) % 7) * DAY
    if period == "MONTH":
        midnight = to_datetime(day * DAY)
        return from_datetime(midnight.replace(day=1))
    return 0


def period_end(period: str, time: int) -> int | None:
    """When the period that contains ``time`` ends; None for LIFETIME."""
    start = period_start(period, time)
    if period == "DAY":
        return start + DAY
    if period == "WEEK":
        return start + 7 * DAY
    if period == "MONTH":
        return period_start("MONTH", start + 31 * DAY)
    return None


def price(operation: Plain, quantity: int, metrics: dict[str, int]) -> int:
    """What ``quantity`` uses cost: a metered sum is rounded up once, on the total."""
    if "flat" in operation:
        return int(operation["flat"].get("amount", 0)) * quantity
    metered = operation["metered"]
    one = sum(
        (Fraction(metrics.get(rate["metric"], 0) * rate["amount"], rate["per"]) for rate in metered["rates"]),
        Fraction(0),
    )
    total = one * quantity
    return max(-(-total.numerator // total.denominator), int(metered.get("minimum", 0)) * quantity)


class Catalog:
    """One version of the catalog."""

    def __init__(self, version: int, create_time: int, document: Plain) -> None:
        self.version = version
        self.create_time = create_time
        self.document = document
        self.operations: dict[str, Plain] = {each["operation"]: each for each in document["operations"]}
        self.levels: dict[str, Plain] = {each["level"]: each for each in document["levels"]}
        self.packages: dict[str, Plain] = {each["package_id"]: each for each in document["packages"]}

    def allowance(self, level: str) -> Plain | None:
        """The allowance of a level."""
        found: Plain | None = self.levels.get(level, {}).get("allowance")
        return found

    def limits(self, level: str, operation: str | None = None) -> list[Plain]:
        """The limits of a level, or those of one operation, by operation and period."""
        limits = [
            each
            for each in self.levels.get(level, {}).get("limits", [])
            if operation in (None, each["operation"])
        ]
        return sorted(limits, key=lambda each: (each["operation"], PERIODS.index(each["period"])))

    def counted_periods(self, operation: str) -> list[str]:
        """The periods over which any level limits an operation: uses of all levels count in those."""
        limited = {each["period"] for level in self.levels for each in self.limits(level, operation)}
        return [period for period in PERIODS if period in limited]

    def plain(self) -> Plain:
        """As responses tell it."""
        return {**self.document, "version": self.version, "create_time": self.create_time}


class Catalogs:
    """All versions, oldest first."""

    def __init__(self) -> None:
        self.versions: list[Catalog] = []

    def add(self, time: int, document: Plain) -> Catalog:
        """Makes a document current."""
        self.versions.append(Catalog(len(self.versions) + 1, time, document))
        return self.versions[-1]

    def at(self, time: int) -> Catalog:
        """The one that was current at a time: one begins at its create_time."""
        place = bisect.bisect_right(self.versions, time, key=lambda each: each.create_time)
        return self.versions[place - 1]

    def version(self, version: int) -> Catalog:
        """One version."""
        return self.versions[version - 1]
