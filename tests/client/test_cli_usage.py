"""``creditledger usage`` against a real server: what it sums and draws is what happened."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cli_runs import Cli
from creditledger import CreditLedgerClient, Usage
from google.protobuf.duration_pb2 import Duration
from ledger_clock import LedgerClock
from ledger_harness import ServerProcess, running_server

USER = "user-1"
WEDNESDAY = datetime(2026, 11, 25, 12, tzinfo=UTC)
"""Now."""

BAR = "█"


@pytest.fixture(scope="module")
def clock(shared_dsn: str) -> LedgerClock:
    """It is a Monday three weeks ago."""
    return LedgerClock(shared_dsn, WEDNESDAY - timedelta(days=23))


@pytest.fixture(scope="module")
def served(shared_dsn: str, clock: LedgerClock) -> Iterator[ServerProcess]:
    """A server that goes by that clock."""
    with running_server(shared_dsn) as process:
        yield process


@pytest.fixture(scope="module")
def cli(served: ServerProcess, clock: LedgerClock) -> Cli:
    """The command, and an account on pro with uses on a Monday long ago, a late Monday evening, Tuesday and today."""
    with CreditLedgerClient(served.target) as ledger:
        ledger.open_account(USER, level="pro")
        ledger.grant_credits(USER, 100)
        ledger.deduct(USER, "voice_creation", quantity=2)
        clock.set(datetime(2026, 11, 23, 23, 30, tzinfo=UTC))  # Tuesday in Berlin
        usage = Usage(metrics={"tokens": 1_834}, response_time=Duration(seconds=2))
        ledger.deduct(USER, "voice_creation", usage=usage)
        clock.set(datetime(2026, 11, 24, 9, tzinfo=UTC))
        charged = ledger.deduct(USER, "chat_refinement", quantity=4)
        ledger.deduct(USER, "voice_creation", usage=Usage(outcome=Usage.OUTCOME_FAILED))
        clock.set(WEDNESDAY)
        ledger.deduct(USER, "chat_refinement")
        ledger.refund(USER, charged.entry.revision, amount=2)
    return Cli(served.target)


def test_days_are_drawn_and_operations_summed(cli: Cli) -> None:
    assert cli.lines("usage", USER, "--days", "3") == [
        "day credits",
        f"2026-11-23 5 {BAR * 60}",
        f"2026-11-24 4 {BAR * 48}",
        "2026-11-25 -1",
        "",
        "operation uses failed credits average response metrics",
        "chat_refinement 5 0 3 0.60",
        "voice_creation 1 1 5 5.00 2.000 s tokens=1834",
    ]


def test_days_are_those_of_the_zone(cli: Cli) -> None:
    lines = cli.lines("usage", USER, "--days", "3", "--zone", "Europe/Berlin")

    assert lines[1:4] == ["2026-11-23 0", f"2026-11-24 9 {BAR * 60}", "2026-11-25 -1"]


@pytest.mark.parametrize(
    ("bucket", "drawn"),
    [
        (
            "week",
            [
                "2026-10-26 0",
                f"2026-11-02 10 {BAR * 60}",
                "2026-11-09 0",
                "2026-11-16 0",
                f"2026-11-23 8 {BAR * 48}",
            ],
        ),
        ("month", ["2026-10-01 0", f"2026-11-01 18 {BAR * 60}"]),
    ],
)
def test_weeks_and_months_begin_where_they_begin(cli: Cli, bucket: str, drawn: list[str]) -> None:
    lines = cli.lines("usage", USER, "--days", "30", "--bucket", bucket)

    assert lines[: len(drawn) + 1] == [f"{bucket} credits", *drawn]
    assert "voice_creation 3 1 15 5.00 2.000 s tokens=1834" in lines


def test_only_the_operations_that_are_named_are_summed(cli: Cli) -> None:
    lines = cli.lines("usage", USER, "--days", "2", "--operation", "chat_refinement")

    assert lines[1:3] == [f"2026-11-24 4 {BAR * 60}", "2026-11-25 -1"]
    assert lines[5:] == ["chat_refinement 5 0 3 0.60"]


def test_json_is_the_answer_with_a_row_for_each_operation_and_day(cli: Cli) -> None:
    rows = cli.json("usage", USER, "--days", "3")["rows"]

    told = [(row["bucket_start"], row["operation"], row.get("uses"), row.get("credits")) for row in rows]
    assert told == [
        ("2026-11-23T00:00:00Z", "voice_creation", "1", "5"),
        ("2026-11-24T00:00:00Z", "chat_refinement", "4", "4"),
        ("2026-11-24T00:00:00Z", "voice_creation", None, None),
        ("2026-11-25T00:00:00Z", "chat_refinement", "1", "-1"),
    ]
    assert rows[0]["metrics"] == {"tokens": "1834"}
    assert (rows[0]["response_time"], rows[2]["failures"]) == ("2s", "1")


def test_the_chart_fits_a_terminal_and_has_colours(cli: Cli) -> None:
    with cli.in_terminal("usage", USER, "--days", "3", width=50) as screen:
        screen.await_text(f"2026-11-23 5 {BAR}+ 2026-11-24 4 {BAR}+ 2026-11-25 -1")
    assert max(line.count(BAR) for line in screen.drawn.splitlines()) <= 29
    assert "\x1b[3" in screen.drawn


def test_what_the_server_refuses_is_told_in_a_line(cli: Cli) -> None:
    assert cli.failure("usage", "nobody") == "ACCOUNT_NOT_FOUND: no account 'nobody'"
    assert cli.failure("usage", USER, "--operation", "No").startswith("FIELD_INVALID: ")
