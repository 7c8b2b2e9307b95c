"""Where days, weeks, months and lifetimes begin and end."""

from datetime import UTC, datetime, timedelta

import pytest
from creditledger_server.domain.periods import Period, period_end, period_start
from hypothesis import example, given
from hypothesis import strategies as st

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_YEAR = 2200


def micros(*date: int) -> int:
    return (datetime(*date, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)  # type: ignore[arg-type, misc]


times = st.integers(0, micros(LAST_YEAR, 1, 1) - 1)
recurring = st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH])


def reference(period: Period, time_us: int) -> tuple[datetime, datetime]:
    """Start and end of a period by the calendar of the standard library alone."""
    day = (EPOCH + timedelta(microseconds=time_us)).replace(hour=0, minute=0, second=0, microsecond=0)
    if period is Period.DAY:
        return day, day + timedelta(days=1)
    if period is Period.WEEK:
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)


@given(recurring, times)
@example(Period.WEEK, 0)
@example(Period.MONTH, micros(2024, 2, 29))
@example(Period.MONTH, micros(2100, 2, 28, 23, 59, 59, 999_999))
def test_bounds_are_those_of_the_calendar(period: Period, time_us: int) -> None:
    start, end = reference(period, time_us)
    assert EPOCH + timedelta(microseconds=period_start(period, time_us)) == start
    assert EPOCH + timedelta(microseconds=period_end(period, time_us) or 0) == end


@pytest.mark.parametrize("period", [Period.DAY, Period.WEEK, Period.MONTH])
def test_periods_follow_each_other_without_gap_from_1970_to_2200(period: Period) -> None:
    start = period_start(period, 0)
    while start < micros(LAST_YEAR, 1, 1):
        end = period_end(period, start)
        assert end is not None
        assert end > start
        assert period_start(period, end - 1) == start
        assert period_start(period, end) == end
        start = end


@given(recurring, times)
def test_a_period_holds_its_time_and_all_of_it_agrees(period: Period, time_us: int) -> None:
    start, end = period_start(period, time_us), period_end(period, time_us)
    assert end is not None
    assert start <= time_us < end
    assert (period_start(period, start), period_end(period, start)) == (start, end)
    assert (period_start(period, end - 1), period_end(period, end - 1)) == (start, end)


@given(times)
def test_a_lifetime_begins_at_zero_and_never_ends(time_us: int) -> None:
    assert period_start(Period.LIFETIME, time_us) == 0
    assert period_end(Period.LIFETIME, time_us) is None


def test_a_week_begins_on_monday() -> None:
    sunday, monday = micros(2026, 11, 22, 23, 59, 59, 999_999), micros(2026, 11, 23)
    assert period_start(Period.WEEK, sunday) == micros(2026, 11, 16)
    assert period_end(Period.WEEK, sunday) == monday
    assert period_start(Period.WEEK, monday) == monday


def test_the_last_month_that_a_timestamp_can_name_has_an_end() -> None:
    assert period_end(Period.MONTH, micros(9999, 12, 31)) == micros(9999, 12, 31) + 86_400_000_000


def test_times_before_the_epoch_are_counted_too() -> None:
    assert period_start(Period.DAY, -1) == micros(1969, 12, 31)
    assert period_start(Period.WEEK, -1) == micros(1969, 12, 29)
    assert period_start(Period.MONTH, -1) == micros(1969, 12, 1)
    assert period_end(Period.MONTH, -1) == 0
