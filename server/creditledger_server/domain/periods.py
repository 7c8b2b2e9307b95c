"""The spans over which uses are counted and allowances recur: where each begins and ends.

All times are microseconds since the Unix epoch, all boundaries midnight UTC. Every period is half open: it
holds its start and not its end, which is the start of the next one.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date
from enum import IntEnum
from functools import lru_cache
from typing import Final


class Period(IntEnum):
    """A span of time. The numbers are those of creditledger.v1.Period."""

    DAY = 1
    WEEK = 2
    """From Monday."""
    MONTH = 3
    LIFETIME = 4
    """All of time: begins at 0 and never ends."""


# Looking a member up in its class costs more than the arithmetic below.
_DAY, _WEEK, _MONTH, _LIFETIME = Period

DAY_US: Final = 86_400_000_000
"""A day, in microseconds."""

_WEEK_US: Final = 7 * DAY_US
# The epoch was a Thursday, three days after a Monday.
_EPOCH_AFTER_MONDAY_US: Final = 3 * DAY_US
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()


def period_start(period: Period, time_us: int) -> int:
    """The first instant of the period that holds ``time_us``; 0 for LIFETIME.

    Both in microseconds since the epoch; a month must lie in the years 1 to 9999.
    """
    if period == _MONTH:
        return _month_bounds(time_us // DAY_US)[0]
    if period == _DAY:
        return time_us - time_us % DAY_US
    if period == _WEEK:
        return time_us - (time_us + _EPOCH_AFTER_MONDAY_US) % _WEEK_US
    return 0


def period_end(period: Period, time_us: int) -> int | None:
    """The first instant of the period after the one that holds ``time_us``; None for LIFETIME.

    Both in microseconds since the epoch; a month must lie in the years 1 to 9999, and the last one ends.
    """
    if period == _MONTH:
        return _month_bounds(time_us // DAY_US)[1]
    if period == _LIFETIME:
        return None
    return period_start(period, time_us) + (DAY_US if period == _DAY else _WEEK_US)


# Nearly all calls ask about today, the rest about the near past.
@lru_cache(maxsize=512)
def _month_bounds(day: int) -> tuple[int, int]:
    """Start and end of the month that holds this day, counted from the epoch."""
    today = date.fromordinal(day + _EPOCH_ORDINAL)
    first = day - (today.day - 1)
    # Counting days, not building the next month's date, keeps December 9999 answerable.
    after = first + monthrange(today.year, today.month)[1]
    return first * DAY_US, after * DAY_US
