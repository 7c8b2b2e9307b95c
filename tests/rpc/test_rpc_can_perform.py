"""CanPerform: the answer that Deduct would give, without doing anything."""

from __future__ import annotations

import random
from datetime import UTC

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from creditledger.v1.error_reason_pb2 import ErrorReason
from ledger_calls import FAILED, Ledger, example_catalog, failure_of, serving, unique
from ledger_load import rows

OPERATIONS = ("script_generation", "voice_creation", "video_processing", "chat_refinement")


def denials(answer: pb.CanPerformResponse) -> list[tuple[str, int]]:
    """Reason and shortfall of every denial."""
    return [
        (ErrorReason.Name(denial.reason).removeprefix("ERROR_REASON_"), denial.shortfall)
        for denial in answer.denials
    ]


def test_what_is_allowed_is_priced_and_told_with_balance_and_limits(ledger: Ledger, account: str) -> None:
    answer = ledger.can_perform(account, "voice_creation", quantity=3)

    assert (answer.allowed, list(answer.denials), answer.cost) == (True, [], 15)
    assert answer.balance == ledger.balance(account).balance
    assert [(state.operation, state.limit, state.used) for state in answer.limits] == [
        ("voice_creation", 20, 0)
    ]
    assert (answer.catalog_version, answer.revision) == (1, 2)
    now = ledger.call(admin_pb.GetServerInfoRequest()).server_time
    assert answer.decide_time.ToDatetime(UTC) <= now.ToDatetime(UTC)


def test_missing_credits_are_told_with_their_number(ledger: Ledger) -> None:
    account = ledger.open(credits_=3)

    answer = ledger.can_perform(account, "voice_creation", quantity=2)

    assert (answer.allowed, answer.cost) == (False, 10)
    assert denials(answer) == [("INSUFFICIENT_CREDITS", 7)]
    assert all(denial.message for denial in answer.denials)


def test_missing_uses_are_told_with_their_number(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=100)
    ledger.deduct(account, "script_generation", quantity=2)

    assert denials(ledger.can_perform(account, "script_generation", quantity=5)) == [("LIMIT_EXCEEDED", 4)]


def test_every_failing_rule_is_told_in_the_order_in_which_deduct_names_them(
    ledger: Ledger, shared_dsn: str
) -> None:
    account = ledger.open(level="free", credits_=3)
    rows(shared_dsn, "UPDATE account SET state = 2 WHERE account_id = %s", account)

    answer = ledger.can_perform(account, "voice_creation", quantity=2)

    assert answer.allowed is False
    assert denials(answer) == [("ACCOUNT_FROZEN", 0), ("LIMIT_EXCEEDED", 1), ("INSUFFICIENT_CREDITS", 7)]


def test_every_limit_that_is_used_up_is_told(dsn: str) -> None:
    catalog = example_catalog()
    for period, limit in (("DAY", 1), ("MONTH", 5), ("LIFETIME", 2)):
        catalog.levels[0].limits.add(
            operation="chat_refinement", period=resources_pb2.Period.Value(f"PERIOD_{period}"), limit=limit
        )
    with serving(dsn) as (_, ledger):
        ledger.call(admin_pb.UpdateCatalogRequest(request_id="u", catalog=catalog))
        account = ledger.open(level="free", credits_=100)
        ledger.deduct(account)

        answer = ledger.can_perform(account, quantity=3)

        assert denials(answer) == [("LIMIT_EXCEEDED", 3), ("LIMIT_EXCEEDED", 2)]
        assert [state.used for state in answer.limits] == [1, 1, 1]
        assert not answer.limits[2].HasField("reset_time")


def test_it_changes_nothing(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=3)
    before = ledger.balance(account)

    for operation in OPERATIONS:
        ledger.can_perform(account, operation, quantity=2, account_level="pro")

    after = ledger.balance(account)
    after.read_time.CopyFrom(before.read_time)
    assert after == before


def test_an_unknown_account_is_evaluated_as_if_opened_and_not_opened(ledger: Ledger, nobody: str) -> None:
    answer = ledger.can_perform(nobody, "voice_creation", quantity=2, account_level="free")

    assert denials(answer) == [("LIMIT_EXCEEDED", 1), ("INSUFFICIENT_CREDITS", 10)]
    assert answer.balance == resources_pb2.Balance()
    assert (answer.revision, answer.limits[0].limit) == (0, 1)
    assert ledger.revision(nobody) == 0


def test_another_level_is_evaluated_as_if_changed_and_not_changed(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=100)
    ledger.deduct(account, "voice_creation")

    assert ledger.can_perform(account, "voice_creation").allowed is False
    answer = ledger.can_perform(account, "voice_creation", account_level="pro")

    assert (answer.allowed, answer.limits[0].limit, answer.limits[0].used) == (True, 20, 1)
    assert ledger.balance(account).account.level == "free"


def test_a_metered_price_follows_the_metrics(dsn: str) -> None:
    catalog = example_catalog()
    price = resources_pb2.MeteredPrice(
        rates=[
            resources_pb2.MetricRate(metric="tokens", amount=1, per=1_000),
            resources_pb2.MetricRate(metric="seconds", amount=3, per=60),
        ],
        minimum=2,
    )
    catalog.operations.add(operation="summarization", metered=price)
    with serving(dsn) as (_, ledger):
        ledger.call(admin_pb.UpdateCatalogRequest(request_id="u", catalog=catalog))
        account = ledger.open(credits_=1_000)

        for metrics, quantity, cost in (
            ({}, 1, 2),
            ({"tokens": 1_999}, 1, 2),
            ({"tokens": 2_001}, 1, 3),
            ({"tokens": 500, "seconds": 10}, 1, 2),
            ({"tokens": 500, "seconds": 31}, 1, 3),
            ({"tokens": 2_500}, 3, 8),
            ({"unknown": 10**15}, 4, 8),
        ):
            told = ledger.can_perform(account, "summarization", metrics=metrics, quantity=quantity).cost
            usage = resources_pb2.Usage(metrics=metrics)
            charged = ledger.deduct(account, "summarization", quantity=quantity, usage=usage).cost
            assert (told, charged) == (cost, cost)


def test_it_agrees_with_deduct_on_anything(ledger: Ledger) -> None:
    draw = random.Random(7)
    accounts = [ledger.open(level=level, credits_=credits_) for level, credits_ in (("free", 9), ("pro", 60))]
    allowed = 0
    for _ in range(200):
        account, operation = draw.choice(accounts), draw.choice(OPERATIONS)
        level, quantity = draw.choice(["", "", "free", "pro"]), draw.choice([1, 1, 1, 2, 3, 7])
        if draw.random() < 0.1:
            ledger.grant(account, draw.randint(1, 12))

        check = ledger.can_perform(account, operation, account_level=level, quantity=quantity)

        try:
            response = ledger.deduct(account, operation, account_level=level, quantity=quantity)
        except grpc.RpcError as error:
            refusal = failure_of(error)
            assert check.allowed is False
            reason, shortfall = denials(check)[0]
            assert (refusal.reason, refusal.metadata["shortfall"]) == (reason, str(shortfall))
            assert refusal.message == check.denials[0].message
            assert refusal.decided[0] == check.revision
        else:
            allowed += 1
            assert (check.allowed, list(check.denials)) == (True, [])
            assert check.cost == response.cost
            assert check.balance.available - check.cost == response.balance.available
            assert [(s.operation, s.limit, s.used + quantity) for s in check.limits] == [
                (s.operation, s.limit, s.used) for s in response.limits
            ]
    assert 20 < allowed < 180


def test_it_answers_for_frozen_accounts_and_deduct_agrees(ledger: Ledger, shared_dsn: str) -> None:
    for state, reason in ((2, "ACCOUNT_FROZEN"), (3, "ACCOUNT_CLOSED")):
        account = ledger.open(credits_=10)
        rows(shared_dsn, "UPDATE account SET state = %s WHERE account_id = %s", state, account)

        assert denials(ledger.can_perform(account)) == [(reason, 0)]
        assert ledger.refused_deduct(account).reason == reason
        assert ledger.refused_deduct(account, usage=FAILED).reason == reason


def test_what_is_not_in_the_catalog_is_an_error_and_no_denial(ledger: Ledger, account: str) -> None:
    for field, reason in (("operation", "OPERATION_UNKNOWN"), ("account_level", "LEVEL_UNKNOWN")):
        for kind in (pb.CanPerformRequest, pb.DeductRequest):
            request = kind(account_id=account, operation="chat_refinement")
            setattr(request, field, "no_such")
            if isinstance(request, pb.DeductRequest):
                request.request_id = unique()

            assert ledger.refusal(request).word == f"INVALID_ARGUMENT / {reason}"


def test_an_unknown_account_without_a_level_is_not_found(ledger: Ledger) -> None:
    request = pb.CanPerformRequest(account_id=unique("nobody"), operation="chat_refinement")

    assert ledger.refusal(request).word == "NOT_FOUND / ACCOUNT_NOT_FOUND"
