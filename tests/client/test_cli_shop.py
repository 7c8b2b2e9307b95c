"""``creditledger usage``, ``packages`` and ``buy``: what they ask for, and what they print of the answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from cli_runs import Cli
from creditledger import Balance, CreditPackage, GetServerInfoResponse, Grant
from creditledger.v1.credit_ledger_pb2 import SummarizeUsageResponse, UsageBucket, UsageRow
from creditledger.v1.ledger_admin_pb2 import ListPackagesResponse, PurchasePackageResponse
from creditledger.v1.resources_pb2 import Price
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
MIDNIGHT = Timestamp(seconds=int(NOON.timestamp()) - 12 * 3_600)
STARTER = CreditPackage(
    package_id="starter",
    display_name="Starter",
    credits=10_000,
    price=Price(currency_code="EUR", amount="9.90"),
    features=["100 credits", "Never expire"],
)
STUDIO = CreditPackage(package_id="studio", credits=50_000, price=Price(currency_code="EUR", amount="39.00"))


@pytest.fixture
def cli(server: Any) -> Cli:
    """The command, with a server that is scripted; its clock stands still, and its amounts have two decimals."""
    now = Timestamp(seconds=int(NOON.timestamp()))
    server.always("GetServerInfo", GetServerInfoResponse(decimals=2, server_time=now))
    return Cli(server.target)


def row(**fields: Any) -> UsageRow:
    return UsageRow(operation="voice_creation", uses=3, credits=1_500, average_credits="500.000000", **fields)


def summarize(request: Any, context: grpc.ServicerContext) -> SummarizeUsageResponse:
    """By day the row of today, else a row of everything."""
    if request.bucket == UsageBucket.USAGE_BUCKET_NONE:
        total = row(
            failures=1, metrics={"tokens": 1834}, response_time=Duration(seconds=2, nanos=400_000_000)
        )
        return SummarizeUsageResponse(rows=[total])
    return SummarizeUsageResponse(rows=[row(bucket_start=MIDNIGHT)])


def test_usage_is_drawn_by_day_and_summed_by_operation(cli: Cli, server: Any) -> None:
    server.always("SummarizeUsage", summarize)
    assert cli.text("usage", "user-1", "--days", "2").splitlines() == [
        "day         credits",
        "2026-11-24     0.00",
        "2026-11-25    15.00  " + "█" * 60,
        "",
        "operation       uses  failed  credits  average  response  metrics",
        "voice_creation     3       1    15.00   5.0000   2.400 s  tokens=1834",
    ]


def test_usage_without_buckets_is_the_sums_only(cli: Cli, server: Any) -> None:
    server.always("SummarizeUsage", summarize)
    header, _ = cli.lines("usage", "user-1", "--bucket", "none")
    assert header.startswith("operation uses ")


def test_usage_asks_for_what_the_options_say(cli: Cli, server: Any) -> None:
    options = ["--days", "10", "--bucket", "week", "--zone", "Europe/Berlin"]
    cli.json("usage", "user-1", *options, "--operation", "voice_creation", "--operation", "chat")
    [request] = server.requests["SummarizeUsage"]
    assert (request.account_id, list(request.operations)) == ("user-1", ["voice_creation", "chat"])
    assert (request.bucket, request.time_zone) == (UsageBucket.USAGE_BUCKET_WEEK, "Europe/Berlin")
    # The tenth day back is the 16th, which is a Monday.
    assert request.start_time.ToDatetime(UTC) == datetime(2026, 11, 15, 23, tzinfo=UTC)
    assert not request.HasField("end_time")


def test_usage_as_json_is_the_answer(cli: Cli, server: Any) -> None:
    server.always("SummarizeUsage", summarize)
    assert cli.json("usage", "user-1")["rows"] == [
        {
            "operation": "voice_creation",
            "bucket_start": "2026-11-25T00:00:00Z",
            "uses": "3",
            "credits": "1500",
            "average_credits": "500.000000",
        }
    ]


def test_usage_of_nothing_is_a_chart_of_nothing(cli: Cli) -> None:
    lines = cli.lines("usage", "user-1", "--days", "1")
    assert lines[:2] == ["day credits", "2026-11-25 0.00"]


def test_bars_are_ascii_where_there_are_no_blocks(cli: Cli, server: Any) -> None:
    server.always("SummarizeUsage", summarize)
    assert "  " + "#" * 60 in cli.text("usage", "user-1", PYTHONIOENCODING="latin-1")


def test_packages_lists_all_pages(cli: Cli, server: Any) -> None:
    pages = (
        ListPackagesResponse(packages=[STARTER], next_page_token="more"),
        ListPackagesResponse(packages=[STUDIO]),
    )
    server.answer("ListPackages", *pages, *pages)
    assert cli.lines("packages") == [
        "package name credits price features",
        "starter Starter 100.00 9.90 EUR 100 credits; Never expire",
        "studio 500.00 39.00 EUR",
    ]
    answer = cli.json("packages")
    assert [package["package_id"] for package in answer["packages"]] == ["starter", "studio"]
    assert "next_page_token" not in answer
    assert [request.page_token for request in server.requests["ListPackages"]] == ["", "more"] * 2


def test_buy_grants_a_package_for_a_payment(cli: Cli, server: Any) -> None:
    bought = PurchasePackageResponse(
        grant=Grant(grant_id="g7", account_id="user-1", amount=10_000), balance=Balance(available=10_500)
    )
    server.always("PurchasePackage", bought)
    command = ("buy", "user-1", "starter", "--payment", "pay-1", "--request-id", "order-1")
    assert cli.text(*command) == "granted 100.00 to user-1 as g7; available: 105.00\n"
    assert cli.json(*command)["grant"]["amount"] == "10000"
    request, same = server.requests["PurchasePackage"]
    assert (request.account_id, request.package_id) == ("user-1", "starter")
    assert (request.payment_reference, request.request_id) == ("pay-1", "order-1")
    assert request == same


def test_grant_tells_its_times(cli: Cli, server: Any) -> None:
    cli.text("grant", "user-1", "5", "--starts", "2027-01-01", "--expires", "2027-01-31T12:00+02:00")
    [request] = server.requests["GrantCredits"]
    assert request.effective_time.ToDatetime(UTC) == datetime(2027, 1, 1, tzinfo=UTC)
    assert request.expire_time.ToDatetime(UTC) == datetime(2027, 1, 31, 10, tzinfo=UTC)
