"""How ``creditledger`` reads what is typed, and how it draws usage."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import click
import pytest
from creditledger.cli import units
from creditledger.cli.chart import Chart, Span
from creditledger.cli.units import Amounts
from creditledger.v1.credit_ledger_pb2 import UsageRow
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LATE = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)
"""A Wednesday in UTC, and a Thursday in Berlin."""


@pytest.mark.parametrize(
    ("decimals", "amount", "text"),
    [
        (0, 0, "0"),
        (0, -1250, "-1250"),
        (2, 1250, "12.50"),
        (2, 5, "0.05"),
        (2, -5, "-0.05"),
        (2, 0, "0.00"),
        (9, 9 * 10**18, "9000000000.000000000"),
    ],
)
def test_amounts_have_the_decimals_of_the_ledger(decimals: int, amount: int, text: str) -> None:
    assert Amounts(decimals).text(amount) == text


@pytest.mark.parametrize(("amount", "text"), [(5, "+0.05"), (0, "0.00"), (-5, "-0.05")])
def test_changes_have_a_sign(amount: int, text: str) -> None:
    assert Amounts(2).signed(amount) == text


@pytest.mark.parametrize(("decimals", "text"), [(0, "2.67"), (2, "0.0267")])
def test_averages_have_two_places_more(decimals: int, text: str) -> None:
    assert Amounts(decimals).average("2.666667") == text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31 12:00:05Z", datetime(2027, 1, 31, 12, 0, 5, tzinfo=UTC)),
        ("2027-01-31T12:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_times_are_in_utc_unless_they_say_otherwise(typed: str, meant: datetime) -> None:
    assert units.time(typed) == meant


@pytest.mark.parametrize("typed", ["", "soon", "31.1.2027", "2027-02-30", "1800000000"])
def test_what_is_no_time_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        units.time(typed)


@pytest.mark.parametrize("typed", ["=1", "tokens", "tokens=", "tokens=1.5", "tokens=1000000000000001"])
def test_what_is_no_metric_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        units.metric(typed)


@pytest.mark.parametrize(
    ("days", "bucket", "first", "count"),
    [
        (1, "day", date(2026, 11, 25), 1),
        (30, "day", date(2026, 10, 27), 30),
        (1, "week", date(2026, 11, 23), 1),
        (4, "week", date(2026, 11, 16), 2),
        (26, "month", date(2026, 10, 1), 2),
        (400, "month", date(2025, 10, 1), 14),
    ],
)
def test_span_begins_with_the_bucket_of_its_first_day(
    days: int, bucket: str, first: date, count: int
) -> None:
    span = Span.before(LATE, days, bucket, UTC)
    assert (span.buckets()[0], len(span.buckets())) == (first, count)
    assert span.start_time == datetime(first.year, first.month, first.day, tzinfo=UTC)
    assert span.buckets()[-1] <= LATE.date()


def test_days_are_those_of_the_zone() -> None:
    span = Span.before(LATE, 1, "day", BERLIN)
    assert span.buckets() == [date(2026, 11, 26)]
    assert span.start_time == datetime(2026, 11, 25, 23, tzinfo=UTC)


def row(operation: str, credits_: int, start: datetime) -> UsageRow:
    return UsageRow(
        operation=operation,
        bucket_start=Timestamp(seconds=int(start.timestamp())),
        uses=1,
        credits=credits_,
        average_credits=f"{credits_}.000000",
    )


def drawn(
    rows: list[UsageRow], span: Span, room: int = 200, block: str = "█", decimals: int = 0
) -> list[str]:
    """The lines below the header."""
    chart = Chart([each.operation for each in rows], Amounts(decimals), room, block)
    console = Console(width=room, color_system=None)
    with console.capture() as capture:
        console.print(chart.over_time(rows, span))
    return [line.rstrip() for line in capture.get().splitlines()[1:]]


def test_bars_are_as_long_as_what_was_spent_and_days_without_use_are_drawn_too() -> None:
    day = LATE.replace(hour=0, minute=0)
    rows = [row("voice", 30, day - timedelta(days=2)), row("chat", 15, day), row("voice", 45, day)]
    assert drawn(rows, Span.before(LATE, 3, "day", UTC)) == [
        f"2026-11-23       30  {'█' * 30}",
        "2026-11-24        0",
        f"2026-11-25       60  {'█' * 60}",
    ]


def test_next_to_nothing_is_drawn_and_refunds_are_not() -> None:
    day = LATE.replace(hour=0, minute=0)
    rows = [
        row("voice", 1, day - timedelta(days=2)),
        row("voice", -5, day - timedelta(days=1)),
        row("voice", 9_999, day),
    ]
    assert drawn(rows, Span.before(LATE, 3, "day", UTC))[:2] == [
        "2026-11-23        1  █",
        "2026-11-24       -5",
    ]


def test_bars_fit_a_narrow_terminal_and_one_without_blocks() -> None:
    rows = [row("voice", 1250, LATE.replace(hour=0, minute=0))]
    assert drawn(rows, Span.before(LATE, 1, "day", UTC), room=41, block="#", decimals=2) == [
        f"2026-11-25    12.50  {'#' * 20}"
    ]


def test_buckets_of_a_zone_are_drawn_at_their_own_day_also_when_clocks_change() -> None:
    # In New York the clocks go back on November 1.
    starts = [
        datetime(2026, 10, 31, 4, tzinfo=UTC),
        datetime(2026, 11, 1, 4, tzinfo=UTC),
        datetime(2026, 11, 2, 5, tzinfo=UTC),
    ]
    rows = [row("voice", 10 + i, start) for i, start in enumerate(starts)]
    lines = drawn(rows, Span.before(datetime(2026, 11, 2, 12, tzinfo=UTC), 3, "day", NEW_YORK))
    assert [line.split()[:2] for line in lines] == [
        ["2026-10-31", "10"],
        ["2026-11-01", "11"],
        ["2026-11-02", "12"],
    ]


def test_each_operation_has_a_colour_of_its_own_in_bars_and_names() -> None:
    rows = [row("chat", 20, LATE.replace(hour=0, minute=0)), row("voice", 40, LATE.replace(hour=0, minute=0))]
    chart = Chart(["voice", "chat"], Amounts(0), 200, "█")
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(chart.over_time(rows, Span.before(LATE, 1, "day", UTC)))
        console.print(chart.by_operation(rows))
    text = capture.get()
    assert f"\x1b[36m{'█' * 20}\x1b[0m\x1b[35m{'█' * 40}" in text
    assert "\x1b[36mchat" in text
    assert "\x1b[35mvoice" in text
