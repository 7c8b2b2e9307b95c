"""What type checkers and people are told about the methods.

mypy checks the functions that are not tests; each of their ignores must be needed, so a call that mypy should refuse
and does not is an error too.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, assert_type

import pytest
from creditledger import (
    AdjustBalanceResponse,
    AsyncCreditLedgerClient,
    AsyncReservationBlock,
    AsyncUsageWatch,
    BatchDeductResponse,
    CanPerformResponse,
    Catalog,
    CommitReservationResponse,
    CreditLedgerClient,
    DeductRequest,
    DeductResponse,
    EntryKind,
    EntryOrder,
    ExtendReservationResponse,
    GetAccountResponse,
    GetBalanceResponse,
    GetCatalogResponse,
    GetEntryResponse,
    GetReservationResponse,
    GetServerInfoResponse,
    GrantCreditsResponse,
    ListAccountsResponse,
    ListEntriesResponse,
    ListGrantsResponse,
    ListPackagesResponse,
    ListReservationsResponse,
    OpenAccountResponse,
    PurchasePackageResponse,
    RefundResponse,
    ReleaseReservationResponse,
    Reservation,
    ReservationBlock,
    ReservationState,
    ReserveResponse,
    SummarizeUsageResponse,
    UpdateAccountResponse,
    UpdateCatalogResponse,
    Usage,
    UsageBucket,
    UsageWatch,
    VerifyAccountResponse,
    VoidGrantResponse,
    WatchUsageResponse,
)


def sync_methods_return_responses(client: CreditLedgerClient) -> None:
    assert_type(client.can_perform("u", "o", metrics={"tokens": 1}), CanPerformResponse)
    assert_type(client.deduct("u", "o", quantity=2, usage=Usage(), timeout=1), DeductResponse)
    assert_type(client.batch_deduct([DeductRequest()]), BatchDeductResponse)
    assert_type(client.create_reservation("u", "o", ttl=timedelta(minutes=5)), ReserveResponse)
    assert_type(client.commit_reservation("u", "r1", quantity=2, usage=Usage()), CommitReservationResponse)
    assert_type(client.release_reservation("u", "r1", reason="failed"), ReleaseReservationResponse)
    assert_type(client.extend_reservation("u", "r1", ttl=timedelta(minutes=5)), ExtendReservationResponse)
    assert_type(client.get_reservation("u", "r1"), GetReservationResponse)
    active = ReservationState.RESERVATION_STATE_ACTIVE
    assert_type(client.list_reservations("u", states=[active]), ListReservationsResponse)
    assert_type(client.refund("u", 7, amount=1), RefundResponse)
    assert_type(
        client.summarize_usage("u", bucket=UsageBucket.USAGE_BUCKET_DAY, time_zone="Europe/Paris"),
        SummarizeUsageResponse,
    )
    assert_type(client.get_balance("u", at_revision=1), GetBalanceResponse)
    assert_type(client.get_entry("u", revision=1), GetEntryResponse)
    assert_type(
        client.list_entries(
            "u", order=EntryOrder.ENTRY_ORDER_OLDEST_FIRST, kinds=[EntryKind.ENTRY_KIND_GRANTED]
        ),
        ListEntriesResponse,
    )
    assert_type(client.open_account("u", level="pro"), OpenAccountResponse)
    assert_type(client.get_account("u"), GetAccountResponse)
    assert_type(client.update_account("u", level="pro"), UpdateAccountResponse)
    assert_type(client.list_accounts(prefix="u"), ListAccountsResponse)
    assert_type(client.grant_credits("u", 100), GrantCreditsResponse)
    assert_type(client.void_grant("u", "g2"), VoidGrantResponse)
    assert_type(client.list_grants("u"), ListGrantsResponse)
    assert_type(client.adjust_balance("u", -5, reason="counted twice"), AdjustBalanceResponse)
    assert_type(client.list_packages(), ListPackagesResponse)
    assert_type(client.purchase_package("u", "p", payment_reference="pi_1"), PurchasePackageResponse)
    assert_type(client.get_catalog(version=1), GetCatalogResponse)
    assert_type(client.update_catalog(Catalog()), UpdateCatalogResponse)
    assert_type(client.verify_account("u"), VerifyAccountResponse)
    assert_type(client.get_server_info(), GetServerInfoResponse)
    with client.reserve("u", "o", ttl=timedelta(minutes=5), commit_timeout=60) as block:
        assert_type(block, ReservationBlock)
        assert_type(block.reservation, Reservation)
        block.quantity = 2
        block.usage(service="openai", metrics={"tokens": 1}, outcome=Usage.OUTCOME_SUCCEEDED)
        assert_type(block.release(reason="failed"), ReleaseReservationResponse)
    assert_type(block.commit(), CommitReservationResponse)
    assert_type(block.response, CommitReservationResponse)
    assert_type(client.watch_usage("u"), UsageWatch)
    for message in client.watch_usage(["u"]):
        assert_type(message, WatchUsageResponse)


async def async_methods_return_coroutines_of_them(client: AsyncCreditLedgerClient) -> None:
    pending = assert_type(client.deduct("u", "o", request_id="r"), Coroutine[Any, Any, DeductResponse])
    assert_type(await pending, DeductResponse)
    assert_type(await client.can_perform("u", "o"), CanPerformResponse)
    assert_type(await client.batch_deduct([DeductRequest()]), BatchDeductResponse)
    assert_type(await client.create_reservation("u", "o"), ReserveResponse)
    assert_type(await client.commit_reservation("u", "r1"), CommitReservationResponse)
    assert_type(await client.release_reservation("u", "r1"), ReleaseReservationResponse)
    ttl = timedelta(minutes=5)
    assert_type(await client.extend_reservation("u", "r1", ttl=ttl), ExtendReservationResponse)
    assert_type(await client.get_reservation("u", "r1"), GetReservationResponse)
    assert_type(await client.list_reservations("u"), ListReservationsResponse)
    assert_type(await client.refund("u", 7), RefundResponse)
    assert_type(await client.summarize_usage("u"), SummarizeUsageResponse)
    assert_type(await client.get_balance("u"), GetBalanceResponse)
    assert_type(await client.get_entry("u", request_id="r"), GetEntryResponse)
    assert_type(await client.list_entries("u"), ListEntriesResponse)
    assert_type(await client.open_account("u"), OpenAccountResponse)
    assert_type(await client.get_account("u"), GetAccountResponse)
    assert_type(await client.update_account("u"), UpdateAccountResponse)
    assert_type(await client.list_accounts(), ListAccountsResponse)
    assert_type(await client.grant_credits("u", 100), GrantCreditsResponse)
    assert_type(await client.void_grant("u", "g2"), VoidGrantResponse)
    assert_type(await client.list_grants("u"), ListGrantsResponse)
    assert_type(await client.adjust_balance("u", -5, reason="counted twice"), AdjustBalanceResponse)
    assert_type(await client.list_packages(), ListPackagesResponse)
    paid = await client.purchase_package("u", "p", payment_reference="pi_1")
    assert_type(paid, PurchasePackageResponse)
    assert_type(await client.get_catalog(), GetCatalogResponse)
    assert_type(await client.update_catalog(Catalog()), UpdateCatalogResponse)
    assert_type(await client.verify_account("u"), VerifyAccountResponse)
    assert_type(await client.get_server_info(), GetServerInfoResponse)
    async with client.reserve("u", "o", ttl=ttl, commit_timeout=60) as block:
        assert_type(block, AsyncReservationBlock)
        assert_type(await block.release(reason="failed"), ReleaseReservationResponse)
    assert_type(await block.commit(), CommitReservationResponse)
    assert_type(client.watch_usage("u"), AsyncUsageWatch)
    async for message in client.watch_usage():
        assert_type(message, WatchUsageResponse)


def mistakes_are_told(client: CreditLedgerClient) -> None:
    client.deduct("u")  # type: ignore[call-arg]
    client.deduct("u", "o", 2)  # type: ignore[call-arg]
    client.deduct("u", "o", quantity="2")  # type: ignore[arg-type]
    client.deduct("u", "o", qty=2)  # type: ignore[call-arg]
    _ = client.deduct("u", "o").entry_id  # type: ignore[attr-defined]
    client.get_account("u", timeout="soon")  # type: ignore[arg-type]
    client.extend_reservation("u", "r1")  # type: ignore[call-arg]
    client.adjust_balance("u", -5)  # type: ignore[call-arg]
    client.reserve("u", "o").usage(tokens=5)  # type: ignore[call-arg]
    _ = client.reserve("u", "o").reservation_id  # type: ignore[attr-defined]


@pytest.mark.parametrize("client", [CreditLedgerClient, AsyncCreditLedgerClient])
def test_methods_show_their_keywords_and_response(client: type) -> None:
    signature = inspect.signature(client.deduct)  # type: ignore[attr-defined]
    assert list(signature.parameters) == [
        "self", "account_id", "operation", "quantity", "usage", "request_id", "account_level", "timeout",
    ]  # fmt: skip
    assert signature.return_annotation == "DeductResponse"
    assert "Charge an account" in client.deduct.__doc__  # type: ignore[attr-defined]


OTHERS = {"close", "reserve", "watch_usage"}
"""Methods that are no unary call."""


def methods() -> list[str]:
    return [
        name
        for name, value in inspect.getmembers(CreditLedgerClient, inspect.isfunction)
        if not name.startswith("_") and name not in OTHERS
    ]


@pytest.mark.parametrize("name", methods())
def test_every_method_takes_a_timeout_and_is_documented(name: str) -> None:
    method = getattr(CreditLedgerClient, name)
    timeout = inspect.signature(method).parameters["timeout"]
    assert (timeout.kind, timeout.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    for parameter in list(inspect.signature(method).parameters)[1:]:
        assert f"{parameter}: " in method.__doc__


@pytest.mark.parametrize("name", methods())
def test_exactly_the_async_methods_are_coroutine_functions(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(AsyncCreditLedgerClient, name))
    assert not inspect.iscoroutinefunction(getattr(CreditLedgerClient, name))


@pytest.mark.parametrize("name", ["reserve", "watch_usage"])
def test_both_clients_take_the_same_for_what_is_more_than_a_call(name: str) -> None:
    sync, async_ = getattr(CreditLedgerClient, name), getattr(AsyncCreditLedgerClient, name)
    assert inspect.signature(sync).parameters == inspect.signature(async_).parameters
    for parameter in list(inspect.signature(sync).parameters)[1:]:
        assert f"{parameter}: " in sync.__doc__
        assert f"{parameter}: " in async_.__doc__


def test_both_blocks_offer_the_same() -> None:
    def offered(block: type) -> dict[str, Any]:
        return {
            name: inspect.signature(value).parameters if inspect.isfunction(value) else type(value)
            for name, value in inspect.getmembers(block)
            if not name.startswith("_")
        }

    assert offered(ReservationBlock) == offered(AsyncReservationBlock)
