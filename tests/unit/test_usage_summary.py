"""Buckets of time in every zone, and the average."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo, available_timezones

import pytest
from creditledger_server.domain.times import to_datetime, to_micros
from creditledger_server.domain.usage_summary import (
    QUARTER,
    UnevenZone,
    UsageBucket,
    average,
    bucket_starts,
)
from hypothesis import given
from hypothesis import strategies as st

MICROSECOND = timedelta(microseconds=1)
ZONES = sorted(
    zone for zone in available_timezones() if "/" in zone and not zone.startswith(("posix", "right"))
)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1))  # noqa: DTZ001 - hypothesis wants naive ones


def starts(bucket: UsageBucket, zone: str, start: str, end: str) -> list[str]:
    """The starts of buckets as local times with their offset."""
    info = ZoneInfo(zone)
    bounds = (to_micros(datetime.fromisoformat(text).replace(tzinfo=info)) for text in (start, end))
    return [to_datetime(begin).astimezone(info).isoformat() for begin in bucket_starts(bucket, info, *bounds)]


def test_without_buckets_there_is_one_from_the_quarter_of_an_hour_before() -> None:
    assert bucket_starts(UsageBucket.NONE, UTC, 7 * QUARTER + 1, 99 * QUARTER) == [7 * QUARTER]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Europe/Berlin", "2026-06-01", 24),
        ("Asia/Kathmandu", "2026-03-29", 24),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("America/Sao_Paulo", "2018-11-04", 23),  # clocks jump at midnight
        ("America/Havana", "2026-11-01", 25),  # midnight happens twice
    ],
)
def test_days_are_as_long_as_the_zone_says(zone: str, day: str, hours: float) -> None:
    first = date.fromisoformat(day)
    noons = (f"{first}T12:00", f"{first + timedelta(days=1)}T12:00")

    begin, end = starts(UsageBucket.DAY, zone, *noons)

    assert datetime.fromisoformat(end) - datetime.fromisoformat(begin) == timedelta(hours=hours)
    assert begin.startswith(day)


def test_days_begin_at_local_midnight() -> None:
    assert starts(UsageBucket.DAY, "Asia/Kolkata", "2026-05-01T00:00", "2026-05-02T00:01") == [
        "2026-05-01T00:00:00+05:30",
        "2026-05-02T00:00:00+05:30",
    ]


def test_a_day_that_the_clocks_skip_has_no_bucket() -> None:
    assert starts(UsageBucket.DAY, "Pacific/Apia", "2011-12-29T12:00", "2011-12-31T12:00") == [
        "2011-12-29T00:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
    ]


def test_weeks_begin_on_monday() -> None:
    assert starts(UsageBucket.WEEK, "Europe/Berlin", "2026-03-29T23:59", "2026-04-06T00:00") == [
        "2026-03-23T00:00:00+01:00",
        "2026-03-30T00:00:00+02:00",
    ]


def test_months_begin_on_their_first() -> None:
    assert starts(UsageBucket.MONTH, "Europe/Berlin", "2026-12-31T23:00", "2027-03-01T00:00") == [
        "2026-12-01T00:00:00+01:00",
        "2027-01-01T00:00:00+01:00",
        "2027-02-01T00:00:00+01:00",
    ]


def test_a_zone_off_the_quarters_of_an_hour_is_refused_only_where_it_is() -> None:
    zone = "Africa/Monrovia"  # 44 minutes and 30 seconds behind UTC until 1972
    with pytest.raises(UnevenZone):
        starts(UsageBucket.DAY, zone, "1971-12-01T00:00", "1971-12-02T00:00")
    assert starts(UsageBucket.DAY, zone, "2026-12-01T00:00", "2026-12-02T00:00") == [
        "2026-12-01T00:00:00+00:00"
    ]
    assert starts(UsageBucket.NONE, zone, "1971-12-01T00:00", "1971-12-02T00:00")


@given(st.sampled_from(ZONES), TIMES, st.integers(1, 100_000), st.sampled_from([*UsageBucket][1:]))
def test_buckets_cover_the_span_and_begin_where_the_local_date_does(
    zone: str, start: datetime, minutes: int, bucket: UsageBucket
) -> None:
    info = ZoneInfo(zone)
    first = to_micros(start.replace(tzinfo=UTC))
    last = first + minutes * 60_000_000

    found = bucket_starts(bucket, info, first, last + 1)

    assert found == sorted(set(found))
    assert found[0] <= first
    assert found[-1] <= last < bucket_starts(bucket, info, last, last + 40 * 86_400_000_000)[1]
    for begin in found:
        now = to_datetime(begin).astimezone(info)
        before = (to_datetime(begin) - MICROSECOND).astimezone(info)
        assert before.date() < now.date()
        assert bucket is UsageBucket.DAY or now.date() == _first_date(bucket, now.date())


def _first_date(bucket: UsageBucket, day: date) -> date:
    return day.replace(day=1) if bucket is UsageBucket.MONTH else day - timedelta(days=day.weekday())


@pytest.mark.parametrize(
    ("credits", "uses", "text"),
    [
        (0, 0, "0.000000"),
        (7, 0, "0.000000"),
        (-7, 0, "0.000000"),
        (0, 3, "0.000000"),
        (10, 3, "3.333333"),
        (20, 3, "6.666667"),
        (1, 2_000_000, "0.000001"),
        (1, 2_000_001, "0.000000"),
        (-1, 3, "-0.333333"),
        (-1, 2_000_000, "-0.000001"),
        (-1, 2_000_001, "0.000000"),
        (9 * 10**18, 1, "9000000000000000000.000000"),
    ],
)
def test_average(credits: int, uses: int, text: str) -> None:
    assert average(credits, uses) == text


@given(st.integers(-(2**63), 2**63), st.integers(1, 2**63))
def test_the_average_is_that_of_decimal(credits: int, uses: int) -> None:
    exact = Decimal(average(credits, uses)) * 1_000_000
    assert abs(exact * uses - credits * 1_000_000) * 2 <= uses
    if uses < 1_000:
        quotient = (Decimal(credits) / uses).quantize(Decimal("0.000001"), ROUND_HALF_UP)
        assert Decimal(average(credits, uses)) == quotient
