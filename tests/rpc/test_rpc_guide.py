"""What the implementation guide says of a product's credits, with catalog.example.toml and the Python client.

Its words: operations cost 1, 5, 2 and 1 credits; free and pro have 3/100, 1/20 and 2/50 uses a month; check, work,
then charge, and only what succeeded; 402 when credits are short; usage statistics; credit packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from creditledger import CreditLedgerClient, InsufficientCredits, LimitExceeded, Usage
from creditledger.v1.credit_ledger_pb2 import SummarizeUsageRequest
from creditledger.v1.error_reason_pb2 import ErrorReason
from creditledger.v1.ledger_admin_pb2 import ListPackagesRequest, PurchasePackageRequest
from ledger_calls import Ledger, serving
from ledger_clock import LedgerClock

CREDIT_COSTS = {"script_generation": 1, "voice_creation": 5, "video_processing": 2, "chat_refinement": 1}
FEATURE_LIMITS = {
    "script_generation": {"free": 3, "pro": 100},
    "voice_creation": {"free": 1, "pro": 20},
    "video_processing": {"free": 2, "pro": 50},
}
NOVEMBER = datetime(2026, 11, 22, 18, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def clock(dsn: str) -> LedgerClock:
    """It is November, until a test says otherwise."""
    return LedgerClock(dsn, NOVEMBER)


@pytest.fixture
def calls(dsn: str, clock: LedgerClock) -> Iterator[Ledger]:
    """A server with the example catalog."""
    with serving(dsn) as (_, ledger):
        yield ledger


@pytest.fixture
def credits_service(calls: Ledger) -> Iterator[CreditLedgerClient]:
    """The client that a backend would use."""
    with CreditLedgerClient(calls.target, timeout=60) as client:
        yield client


def user(service: CreditLedgerClient, level: str, credits: int = 1_000) -> str:
    """A user of a level with credits."""
    service.open_account(f"user-{level}", level=level)
    service.grant_credits(f"user-{level}", credits)
    return f"user-{level}"


@pytest.mark.parametrize(("operation", "cost"), CREDIT_COSTS.items())
def test_operations_cost_what_the_guide_says(
    credits_service: CreditLedgerClient, operation: str, cost: int
) -> None:
    user_id = user(credits_service, "free")

    assert credits_service.can_perform(user_id, operation).cost == cost
    assert credits_service.deduct(user_id, operation).cost == cost
    assert credits_service.get_balance(user_id).balance.available == 1_000 - cost


@pytest.mark.parametrize("level", ["free", "pro"])
@pytest.mark.parametrize("operation", FEATURE_LIMITS)
def test_a_level_may_use_an_operation_so_often_a_month(
    credits_service: CreditLedgerClient, clock: LedgerClock, operation: str, level: str
) -> None:
    user_id, limit = user(credits_service, level), FEATURE_LIMITS[operation][level]
    for _ in range(limit):
        assert credits_service.can_perform(user_id, operation).allowed
        credits_service.deduct(user_id, operation)

    check = credits_service.can_perform(user_id, operation)
    assert not check.allowed
    assert [denial.reason for denial in check.denials] == [ErrorReason.ERROR_REASON_LIMIT_EXCEEDED]
    with pytest.raises(LimitExceeded) as refused:
        credits_service.deduct(user_id, operation)
    assert (refused.value.used, refused.value.limit, refused.value.reset_time) == (limit, limit, DECEMBER)

    clock.set(DECEMBER - timedelta(microseconds=1))
    assert not credits_service.can_perform(user_id, operation).allowed
    clock.set(DECEMBER)
    assert credits_service.deduct(user_id, operation).limits[0].used == 1


def test_chat_refinement_is_limited_by_credits_alone(credits_service: CreditLedgerClient) -> None:
    user_id = user(credits_service, "free", credits=12)

    for _ in range(12):
        credits_service.deduct(user_id, "chat_refinement")
    with pytest.raises(InsufficientCredits) as refused:
        credits_service.deduct(user_id, "chat_refinement")

    assert (refused.value.required, refused.value.available, refused.value.shortfall) == (1, 0, 1)


def test_an_upgrade_lifts_the_limits_at_once_and_forgets_no_use(credits_service: CreditLedgerClient) -> None:
    user_id = user(credits_service, "free")
    credits_service.deduct(user_id, "voice_creation")

    upgraded = credits_service.deduct(user_id, "voice_creation", account_level="pro")

    assert [(state.used, state.limit) for state in upgraded.limits] == [(2, 20)]
    assert credits_service.get_account(user_id).account.level == "pro"


def test_an_operation_that_failed_costs_nothing_and_counts_nothing(
    credits_service: CreditLedgerClient,
) -> None:
    user_id = user(credits_service, "free")

    failed = credits_service.deduct(user_id, "voice_creation", usage=Usage(outcome=Usage.OUTCOME_FAILED))

    assert (failed.cost, failed.balance.available, failed.limits[0].used) == (0, 1_000, 0)


def test_several_attempts_of_one_action_are_charged_once(credits_service: CreditLedgerClient) -> None:
    user_id = user(credits_service, "pro")

    answers = [
        credits_service.deduct(user_id, "voice_creation", request_id="create-voice-7") for _ in range(3)
    ]

    assert [answer.replayed for answer in answers] == [False, True, True]
    assert credits_service.get_balance(user_id).balance.spent == 5


def test_usage_statistics_tell_uses_credits_and_the_average_per_action(
    calls: Ledger, credits_service: CreditLedgerClient
) -> None:
    user_id = user(credits_service, "pro")
    credits_service.deduct(user_id, "voice_creation", quantity=3)
    credits_service.deduct(user_id, "voice_creation", usage=Usage(outcome=Usage.OUTCOME_FAILED))
    credits_service.deduct(user_id, "chat_refinement")

    rows = calls.call(SummarizeUsageRequest(account_id=user_id)).rows

    assert [(row.operation, row.uses, row.failures, row.credits, row.average_credits) for row in rows] == [
        ("chat_refinement", 1, 0, 1, "1.000000"),
        ("voice_creation", 3, 1, 15, "5.000000"),
    ]


def test_packages_are_sold_once_per_payment(calls: Ledger, credits_service: CreditLedgerClient) -> None:
    user_id = user(credits_service, "free", credits=1)
    starter, _ = calls.call(ListPackagesRequest()).packages
    assert (starter.package_id, starter.credits, starter.price.amount) == ("starter", 100, "9.90")

    def buy(request_id: str) -> bool:
        request = PurchasePackageRequest(
            request_id=request_id, account_id=user_id, package_id="starter", payment_reference="pi_1"
        )
        return bool(calls.call(request).replayed)

    assert [buy("webhook-1"), buy("webhook-2")] == [False, True]
    assert credits_service.get_balance(user_id).balance.available == 101
