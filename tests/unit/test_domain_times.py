"""Times as whole microseconds, exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from creditledger_server.domain.times import iso_time, to_datetime, to_micros
from hypothesis import example, given, settings
from hypothesis import strategies as st

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-3))])
moments = st.datetimes(timezones=zones).filter(lambda time: 1 < time.year < 9999)


@settings(deadline=None)
@given(moments)
def test_a_time_survives_as_microseconds(time: datetime) -> None:
    assert to_datetime(to_micros(time)) == time


@settings(deadline=None)
@given(st.integers(to_micros(FIRST), to_micros(LAST)))
@example(to_micros(FIRST))
@example(to_micros(LAST))
@example(-1)
def test_microseconds_survive_as_a_time(micros: int) -> None:
    time = to_datetime(micros)
    assert (to_micros(time), time.tzinfo) == (micros, UTC)


@pytest.mark.parametrize(
    ("time", "micros"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime(2026, 11, 1, 0, 0, 0, 1, tzinfo=UTC), 1_793_491_200_000_001),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (FIRST, -62_135_596_800_000_000),
        (LAST, 253_402_300_799_999_999),
    ],
)
def test_microseconds_count_from_1970(time: datetime, micros: int) -> None:
    assert to_micros(time) == micros


@pytest.mark.parametrize("micros", [to_micros(FIRST) - 1, to_micros(LAST) + 1, 2**63, -(2**63)])
def test_times_beyond_the_years_1_to_9999_do_not_exist(micros: int) -> None:
    with pytest.raises(OverflowError):
        to_datetime(micros)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        to_micros(datetime(2026, 11, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_793_491_200_000_001, "2026-11-01T00:00:00.000001Z"),
        (to_micros(LAST), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_iso_time_has_six_decimals_and_z(micros: int, text: str) -> None:
    assert iso_time(micros) == text


@settings(deadline=None)
@given(st.integers(to_micros(FIRST), to_micros(LAST)))
def test_iso_time_names_its_time(micros: int) -> None:
    assert to_micros(datetime.fromisoformat(iso_time(micros))) == micros


@pytest.mark.parametrize("year", [1, 26, 999])
def test_iso_time_writes_every_year_with_four_digits(year: int) -> None:
    assert iso_time(to_micros(datetime(year, 1, 2, tzinfo=UTC))) == f"{year:04}-01-02T00:00:00.000000Z"
