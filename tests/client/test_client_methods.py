"""The keywords of every method become its request, and its response is returned, on a channel without a network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import grpc
import grpc_testing  # type: ignore[import-untyped]
import pytest
from creditledger import (
    Catalog,
    CreditLedgerClient,
    DeductRequest,
    EntryKind,
    EntryOrder,
    InsufficientCredits,
    ReservationState,
    Usage,
    UsageBucket,
)
from creditledger.v1 import credit_ledger_pb2 as ledger
from creditledger.v1 import ledger_admin_pb2 as admin
from creditledger.v1.resources_pb2 import AccountState
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

SERVICES = (
    ledger.DESCRIPTOR.services_by_name["CreditLedger"],
    admin.DESCRIPTOR.services_by_name["LedgerAdmin"],
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}

USAGE = Usage(service="openai", metrics={"tokens": 1834}, outcome=Usage.OUTCOME_FAILED)
NOON = datetime(2026, 11, 1, 12, 0, 0, 250_000, tzinfo=UTC)
NOON_STAMP = Timestamp(seconds=1_793_534_400, nanos=250_000_000)
MINUTES = timedelta(minutes=2.5)
WHOLE = UsageBucket.USAGE_BUCKET_NONE
ITEM = DeductRequest(request_id="r", account_id="u", operation="o")

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], Message]] = [
    (
        "can_perform",
        ("u", "o"),
        {},
        ledger.CanPerformRequest(account_id="u", operation="o", quantity=1),
    ),
    (
        "can_perform",
        ("u", "o"),
        {"quantity": 3, "metrics": {"tokens": 9}, "account_level": "pro"},
        ledger.CanPerformRequest(
            account_id="u", operation="o", quantity=3, metrics={"tokens": 9}, account_level="pro"
        ),
    ),
    (
        "deduct",
        ("u", "o"),
        {"request_id": "r"},
        ledger.DeductRequest(request_id="r", account_id="u", operation="o", quantity=1),
    ),
    (
        "deduct",
        ("u", "o"),
        {"quantity": 2, "usage": USAGE, "request_id": "r", "account_level": "free"},
        ledger.DeductRequest(
            request_id="r", account_id="u", operation="o", quantity=2, usage=USAGE, account_level="free"
        ),
    ),
    ("batch_deduct", ([ITEM, ITEM],), {}, ledger.BatchDeductRequest(requests=[ITEM, ITEM])),
    (
        "create_reservation",
        ("u", "o"),
        {"request_id": "r"},
        ledger.ReserveRequest(request_id="r", account_id="u", operation="o", quantity=1),
    ),
    (
        "create_reservation",
        ("u", "o"),
        {"quantity": 2, "metrics": {"tokens": 9}, "account_level": "pro", "ttl": MINUTES, "request_id": "r"},
        ledger.ReserveRequest(
            request_id="r",
            account_id="u",
            operation="o",
            quantity=2,
            metrics={"tokens": 9},
            account_level="pro",
            ttl=Duration(seconds=150),
        ),
    ),
    (
        "commit_reservation",
        ("u", "r1"),
        {"request_id": "r"},
        ledger.CommitReservationRequest(request_id="r", account_id="u", reservation_id="r1"),
    ),
    (
        "commit_reservation",
        ("u", "r1"),
        {"quantity": 2, "usage": USAGE, "request_id": "r"},
        ledger.CommitReservationRequest(
            request_id="r", account_id="u", reservation_id="r1", quantity=2, usage=USAGE
        ),
    ),
    (
        "release_reservation",
        ("u", "r1"),
        {"reason": "failed", "request_id": "r"},
        ledger.ReleaseReservationRequest(
            request_id="r", account_id="u", reservation_id="r1", reason="failed"
        ),
    ),
    (
        "extend_reservation",
        ("u", "r1"),
        {"ttl": timedelta(microseconds=1_500_000), "request_id": "r"},
        ledger.ExtendReservationRequest(
            request_id="r",
            account_id="u",
            reservation_id="r1",
            ttl=Duration(seconds=1, nanos=500_000_000),
        ),
    ),
    (
        "get_reservation",
        ("u", "r1"),
        {},
        ledger.GetReservationRequest(account_id="u", reservation_id="r1"),
    ),
    ("list_reservations", ("u",), {}, ledger.ListReservationsRequest(account_id="u")),
    (
        "list_reservations",
        ("u",),
        {
            "states": iter([ReservationState.RESERVATION_STATE_ACTIVE]),
            "page_size": 10,
            "page_token": "p",
        },
        ledger.ListReservationsRequest(
            account_id="u",
            states=[ReservationState.RESERVATION_STATE_ACTIVE],
            page_size=10,
            page_token="p",
        ),
    ),
    (
        "refund",
        ("u", 7),
        {"request_id": "r"},
        ledger.RefundRequest(request_id="r", account_id="u", revision=7),
    ),
    (
        "refund",
        ("u", 7),
        {"amount": 2, "reason": "sorry", "request_id": "r"},
        ledger.RefundRequest(request_id="r", account_id="u", revision=7, amount=2, reason="sorry"),
    ),
    ("summarize_usage", ("u",), {}, ledger.SummarizeUsageRequest(account_id="u", bucket=WHOLE)),
    (
        "summarize_usage",
        ("u",),
        {
            "operations": "script_generation",
            "start_time": NOON,
            "end_time": NOON,
            "bucket": UsageBucket.USAGE_BUCKET_WEEK,
            "time_zone": "Europe/Paris",
        },
        ledger.SummarizeUsageRequest(
            account_id="u",
            operations=["script_generation"],
            start_time=NOON_STAMP,
            end_time=NOON_STAMP,
            bucket=UsageBucket.USAGE_BUCKET_WEEK,
            time_zone="Europe/Paris",
        ),
    ),
    (
        "summarize_usage",
        ("u",),
        {"operations": iter(["o", "p"])},
        ledger.SummarizeUsageRequest(account_id="u", operations=["o", "p"], bucket=WHOLE),
    ),
    ("get_balance", ("u",), {}, ledger.GetBalanceRequest(account_id="u")),
    ("get_balance", ("u",), {"at_time": NOON}, ledger.GetBalanceRequest(account_id="u", at_time=NOON_STAMP)),
    ("get_balance", ("u",), {"at_revision": 0}, ledger.GetBalanceRequest(account_id="u", at_revision=0)),
    ("get_entry", ("u",), {"revision": 7}, ledger.GetEntryRequest(account_id="u", revision=7)),
    ("get_entry", ("u",), {"request_id": "r"}, ledger.GetEntryRequest(account_id="u", request_id="r")),
    (
        "list_entries",
        ("u",),
        {},
        ledger.ListEntriesRequest(account_id="u", order=EntryOrder.ENTRY_ORDER_NEWEST_FIRST),
    ),
    (
        "list_entries",
        ("u",),
        {
            "order": EntryOrder.ENTRY_ORDER_OLDEST_FIRST,
            "from_revision": 2,
            "to_revision": 9,
            "start_time": NOON,
            "end_time": NOON,
            "kinds": iter([EntryKind.ENTRY_KIND_DEDUCTED]),
            "operation": "o",
            "page_size": 10,
            "page_token": "p",
        },
        ledger.ListEntriesRequest(
            account_id="u",
            order=EntryOrder.ENTRY_ORDER_OLDEST_FIRST,
            from_revision=2,
            to_revision=9,
            start_time=NOON_STAMP,
            end_time=NOON_STAMP,
            kinds=[EntryKind.ENTRY_KIND_DEDUCTED],
            operation="o",
            page_size=10,
            page_token="p",
        ),
    ),
    (
        "open_account",
        ("u",),
        {"level": "pro", "labels": {"team": "a"}, "request_id": "r"},
        admin.OpenAccountRequest(request_id="r", account_id="u", level="pro", labels={"team": "a"}),
    ),
    ("open_account", ("u",), {"request_id": "r"}, admin.OpenAccountRequest(request_id="r", account_id="u")),
    ("get_account", ("u",), {}, admin.GetAccountRequest(account_id="u")),
    (
        "update_account",
        ("u",),
        {"level": "pro", "labels": {}, "state": AccountState.ACCOUNT_STATE_FROZEN, "request_id": "r"},
        admin.UpdateAccountRequest(
            request_id="r",
            account_id="u",
            update_mask=FieldMask(paths=["level", "labels", "state"]),
            level="pro",
            state=AccountState.ACCOUNT_STATE_FROZEN,
        ),
    ),
    (
        "update_account",
        ("u",),
        {"labels": {"team": "a"}, "request_id": "r"},
        admin.UpdateAccountRequest(
            request_id="r", account_id="u", update_mask=FieldMask(paths=["labels"]), labels={"team": "a"}
        ),
    ),
    ("list_accounts", (), {}, admin.ListAccountsRequest()),
    (
        "list_accounts",
        (),
        {"prefix": "u", "level": "pro", "page_size": 10, "page_token": "p"},
        admin.ListAccountsRequest(prefix="u", level="pro", page_size=10, page_token="p"),
    ),
    (
        "grant_credits",
        ("u", 100),
        {"request_id": "r"},
        admin.GrantCreditsRequest(request_id="r", account_id="u", amount=100),
    ),
    (
        "grant_credits",
        ("u", 100),
        {
            "priority": -5,
            "effective_time": NOON,
            "expire_time": NOON.astimezone(timezone(timedelta(hours=2))),
            "reason": "welcome",
            "labels": {"team": "a"},
            "request_id": "r",
        },
        admin.GrantCreditsRequest(
            request_id="r",
            account_id="u",
            amount=100,
            priority=-5,
            effective_time=NOON_STAMP,
            expire_time=NOON_STAMP,
            reason="welcome",
            labels={"team": "a"},
        ),
    ),
    (
        "void_grant",
        ("u", "g2"),
        {"reason": "fraud", "request_id": "r"},
        admin.VoidGrantRequest(request_id="r", account_id="u", grant_id="g2", reason="fraud"),
    ),
    ("list_grants", ("u",), {}, admin.ListGrantsRequest(account_id="u")),
    (
        "list_grants",
        ("u",),
        {"page_size": 10, "page_token": "p"},
        admin.ListGrantsRequest(account_id="u", page_size=10, page_token="p"),
    ),
    (
        "adjust_balance",
        ("u", -5),
        {"reason": "counted twice", "request_id": "r"},
        admin.AdjustBalanceRequest(request_id="r", account_id="u", amount=-5, reason="counted twice"),
    ),
    (
        "list_packages",
        (),
        {"page_size": 10, "page_token": "p"},
        admin.ListPackagesRequest(page_size=10, page_token="p"),
    ),
    (
        "purchase_package",
        ("u", "starter"),
        {"payment_reference": "pi_1", "request_id": "r"},
        admin.PurchasePackageRequest(
            request_id="r", account_id="u", package_id="starter", payment_reference="pi_1"
        ),
    ),
    ("get_catalog", (), {}, admin.GetCatalogRequest()),
    ("get_catalog", (), {"version": 0}, admin.GetCatalogRequest(version=0)),
    (
        "update_catalog",
        (Catalog(default_level="free"),),
        {"expected_version": 0, "request_id": "r"},
        admin.UpdateCatalogRequest(request_id="r", catalog=Catalog(default_level="free"), expected_version=0),
    ),
    (
        "update_catalog",
        (Catalog(default_level="free"),),
        {"request_id": "r"},
        admin.UpdateCatalogRequest(request_id="r", catalog=Catalog(default_level="free")),
    ),
    ("verify_account", ("u",), {}, admin.VerifyAccountRequest(account_id="u")),
    ("get_server_info", (), {}, admin.GetServerInfoRequest()),
]

MUTATIONS = {
    "deduct", "batch_deduct", "open_account", "update_account", "grant_credits", "update_catalog", "refund",
    "create_reservation", "commit_reservation", "release_reservation", "extend_reservation", "void_grant",
    "adjust_balance", "purchase_package",
}  # fmt: skip


# `reserve` is the block that makes it, works and ends it; see test_client_reservations.py.
OTHER_NAMES = {"create_reservation": "reserve"}


def rpc_of(method: str) -> Any:
    method = OTHER_NAMES.get(method, method)
    return METHODS["".join(word.title() for word in method.split("_"))]


@pytest.fixture
def channel() -> Any:
    return grpc_testing.channel(SERVICES, grpc_testing.strict_real_time())


@pytest.fixture
def client(channel: Any) -> CreditLedgerClient:
    return CreditLedgerClient.from_channel(channel)


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize(("method", "args", "kwargs", "request_"), CASES)
def test_keywords_become_the_request_and_the_response_is_returned(
    channel: Any,
    client: CreditLedgerClient,
    background: ThreadPoolExecutor,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request_: Message,
) -> None:
    call = background.submit(getattr(client, method), *args, **kwargs)
    _, sent, rpc = channel.take_unary_unary(rpc_of(method))
    response = message_factory.GetMessageClass(rpc_of(method).output_type)()
    rpc.terminate(response, (), grpc.StatusCode.OK, "")
    assert sent == request_
    assert call.result(5) is response


def test_every_method_has_a_case() -> None:
    methods = {name for name in dir(CreditLedgerClient) if not name.startswith("_")}
    assert {case[0] for case in CASES} == methods - {"close", "from_channel", "reserve", "watch_usage"}


@pytest.mark.parametrize("method", sorted({case[0] for case in CASES}))
def test_exactly_the_mutations_send_a_request_id(
    channel: Any, client: CreditLedgerClient, background: ThreadPoolExecutor, method: str
) -> None:
    args, kwargs = next((case[1], case[2]) for case in CASES if case[0] == method)
    call = background.submit(getattr(client, method), *args, **kwargs)
    _, _, rpc = channel.take_unary_unary(rpc_of(method))
    rpc.terminate(None, (), grpc.StatusCode.INTERNAL, "")
    error: Any = call.exception(5)
    assert error.outcome_unknown is (method in MUTATIONS)
    assert bool(error.request_ids) is (method in MUTATIONS)


def test_a_refusal_is_raised(
    channel: Any, client: CreditLedgerClient, background: ThreadPoolExecutor
) -> None:
    status = Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="too little")
    status.details.add().Pack(ErrorInfo(domain="creditledger", reason="INSUFFICIENT_CREDITS"))
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    call = background.submit(client.deduct, "u", "o")
    _, _, rpc = channel.take_unary_unary(rpc_of("deduct"))
    rpc.terminate(None, trailers, grpc.StatusCode.FAILED_PRECONDITION, "too little")
    with pytest.raises(InsufficientCredits, match="too little"):
        call.result(5)


@pytest.mark.parametrize("keyword", ["effective_time", "expire_time"])
def test_a_time_without_a_zone_is_an_error(client: CreditLedgerClient, keyword: str) -> None:
    naive: Any = {keyword: NOON.replace(tzinfo=None)}
    with pytest.raises(ValueError, match="has no time zone"):
        client.grant_credits("u", 100, **naive)


def test_a_balance_is_asked_for_at_one_time_or_one_revision(client: CreditLedgerClient) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        client.get_balance("u", at_time=NOON, at_revision=1)


def test_a_refund_of_nothing_is_not_taken_for_one_of_all(client: CreditLedgerClient) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        client.refund("u", 7, amount=0)


def test_an_entry_is_asked_for_by_exactly_one_key(client: CreditLedgerClient) -> None:
    with pytest.raises(ValueError, match="either"):
        client.get_entry("u")
    with pytest.raises(ValueError, match="either"):
        client.get_entry("u", revision=1, request_id="r")
