"""BatchDeduct: many deductions in one call, none of which touches another."""

from __future__ import annotations

from typing import cast

import grpc
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.error_reason_pb2 import ErrorReason
from ledger_calls import FAILED, Failure, Ledger, code_of, deduction, large_usage, unique, without_replayed


def batch(ledger: Ledger, *requests: pb.DeductRequest) -> list[pb.BatchDeductResult]:
    """The results of a batch."""
    response = ledger.call(pb.BatchDeductRequest(requests=requests), timeout=10)
    return list(cast(pb.BatchDeductResponse, response).results)


def outcomes(results: list[pb.BatchDeductResult]) -> list[str]:
    """OK, replayed, or the reason of each."""
    return [outcome(result) for result in results]


def outcome(result: pb.BatchDeductResult) -> str:
    if result.HasField("status"):
        return ErrorReason.Name(result.status.reason).removeprefix("ERROR_REASON_")
    return "replayed" if result.response.replayed else "OK"


def assert_same(result: pb.BatchDeductResult, single: Failure) -> None:
    """Asserts that an item's status says what the status of the single call says."""
    status = result.status
    assert (status.code, status.message) == (single.code.value[0], single.message)
    assert ErrorReason.Name(status.reason) == f"ERROR_REASON_{single.reason}"
    told, expected = dict(status.metadata), dict(single.metadata)
    assert told.pop("decideTime", "") <= expected.pop("decideTime", "")
    assert told == expected
    assert {item.field: item.description for item in status.field_violations} == single.fields
    retry = single.detail("RetryInfo")
    assert status.HasField("retry_delay") is (retry is not None)


def test_an_item_is_answered_as_the_single_call_would_be(ledger: Ledger, account: str) -> None:
    request = deduction(account, "voice_creation", quantity=2)

    [result] = batch(ledger, request)

    assert (result.response.cost, result.response.balance.available) == (10, 90)
    assert result.response == pb.DeductResponse(
        entry=ledger.entries(account)[-1], cost=10, balance=result.response.entry.balance,
        limits=ledger.can_perform(account, "voice_creation").limits,
    )  # fmt: skip
    replay = ledger.call(request)
    assert replay.replayed
    assert without_replayed(replay) == result.response


def test_bad_refused_unknown_replayed_and_good_items_do_not_touch_each_other(
    ledger: Ledger, nobody: str
) -> None:
    rich, poor, free = (
        ledger.open(credits_=100),
        ledger.open(credits_=1),
        ledger.open(level="free", credits_=9),
    )
    earlier = deduction(rich, "video_processing")
    ledger.call(earlier)

    results = batch(
        ledger,
        deduction(rich, quantity=0),
        deduction(rich),
        deduction(poor, "voice_creation"),
        deduction(poor),
        deduction(nobody),
        earlier,
        deduction(rich, request_id=earlier.request_id),
        deduction(free, "voice_creation", quantity=2),
        deduction(free, "no_such_operation"),
        deduction("not a name", "Not A Name", request_id=""),
        deduction(free, "voice_creation"),
        deduction(rich, account_level="no_such_level"),
        deduction(rich, "voice_creation"),
    )

    assert outcomes(results) == [
        "FIELD_INVALID", "OK", "INSUFFICIENT_CREDITS", "OK", "ACCOUNT_NOT_FOUND", "replayed", "REQUEST_ID_REUSED",
        "LIMIT_EXCEEDED", "OPERATION_UNKNOWN", "FIELD_INVALID", "OK", "LEVEL_UNKNOWN", "OK",
    ]  # fmt: skip
    assert [ledger.available(name) for name in (rich, poor, free)] == [100 - 2 - 1 - 5, 0, 4]
    assert [violation.field for violation in results[9].status.field_violations] == [
        "request_id", "account_id", "operation",
    ]  # fmt: skip


REFUSED = {
    "field": {"quantity": 0},
    "account": {"account_id": "nobody-at-all"},
    "operation": {"operation": "no_such_operation"},
    "level": {"account_level": "no_such_level"},
    "credits": {"quantity": 1_000},
    "limit": {"operation": "voice_creation", "quantity": 21},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_item_tells_what_the_single_call_tells(
    ledger: Ledger, account: str, fields: dict[str, object]
) -> None:
    request = deduction(**{"account_id": account, **fields})  # type: ignore[arg-type]

    result, _ = batch(ledger, request, deduction(account))

    assert ledger.revision(account) == 3
    single = ledger.refusal(request)
    if "revision" in single.metadata and single.metadata["revision"] != "0":
        single.metadata["revision"] = "2"  # the item was decided before the other one
    if single.reason == "INSUFFICIENT_CREDITS":
        assert result.status.metadata["available"] == "100"
        return
    assert_same(result, single)


def test_a_batch_of_bad_items_only_is_answered(ledger: Ledger, account: str) -> None:
    results = batch(ledger, deduction(account, quantity=0), pb.DeductRequest())

    assert outcomes(results) == ["FIELD_INVALID"] * 2
    assert ledger.revision(account) == 2


def test_items_on_one_account_are_decided_in_their_order(ledger: Ledger) -> None:
    account = ledger.open(credits_=8)

    results = batch(
        ledger,
        deduction(account, "voice_creation"),
        deduction(account, "voice_creation"),
        deduction(account, "video_processing"),
        deduction(account, "video_processing"),
        deduction(account, "voice_creation", usage=FAILED),
        deduction(account),
        deduction(account),
    )

    assert outcomes(results) == [
        "OK", "INSUFFICIENT_CREDITS", "OK", "INSUFFICIENT_CREDITS", "OK", "OK", "INSUFFICIENT_CREDITS",
    ]  # fmt: skip
    accepted = [result.response.entry for result in results if result.HasField("response")]
    assert [entry.revision for entry in accepted] == [3, 4, 5, 6]
    assert [entry.balance.available for entry in accepted] == [3, 1, 1, 0]
    assert [result.status.metadata["revision"] for result in results if result.HasField("status")] == [
        "3", "4", "6",
    ]  # fmt: skip


def test_uses_of_earlier_items_count_for_later_ones(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=100)

    results = batch(ledger, *[deduction(account, "script_generation") for _ in range(5)])

    assert outcomes(results) == ["OK"] * 3 + ["LIMIT_EXCEEDED"] * 2
    assert [result.response.limits[0].used for result in results[:3]] == [1, 2, 3]


def test_the_second_of_two_equal_items_is_a_replay(ledger: Ledger, account: str) -> None:
    request = deduction(account, "voice_creation")

    results = batch(ledger, request, deduction(account), request)

    assert outcomes(results) == ["OK", "OK", "replayed"]
    assert without_replayed(results[2].response) == results[0].response
    assert ledger.available(account) == 94


def test_of_two_contents_under_one_request_id_the_first_is_carried_out(ledger: Ledger, account: str) -> None:
    request = deduction(account, "voice_creation")

    results = batch(
        ledger, request, deduction(account, "voice_creation", quantity=2, request_id=request.request_id)
    )

    assert outcomes(results) == ["OK", "REQUEST_ID_REUSED"]
    assert ledger.available(account) == 95


def test_one_request_id_on_two_accounts_is_two_requests(ledger: Ledger) -> None:
    request_id, accounts = unique(), [ledger.open(credits_=5) for _ in range(2)]

    results = batch(ledger, *[deduction(account, request_id=request_id) for account in accounts])

    assert outcomes(results) == ["OK", "OK"]


def test_a_refused_item_frees_its_request_id_for_the_next_item(ledger: Ledger) -> None:
    account, request_id = ledger.open(credits_=1), unique()

    results = batch(
        ledger,
        deduction(account, "voice_creation", request_id=request_id),
        deduction(account, request_id=request_id),
    )

    assert outcomes(results) == ["INSUFFICIENT_CREDITS", "OK"]


def test_an_item_that_opens_its_account_does_so_for_later_items(ledger: Ledger, nobody: str) -> None:
    results = batch(
        ledger,
        deduction(nobody, usage=FAILED),
        deduction(nobody, usage=FAILED, account_level="free"),
        deduction(nobody, usage=FAILED),
        deduction(nobody, usage=FAILED, account_level="pro"),
    )

    assert outcomes(results) == ["ACCOUNT_NOT_FOUND", "OK", "OK", "OK"]
    assert ledger.kinds(nobody) == ["OPENED", "DEDUCTED", "DEDUCTED", "LEVEL_CHANGED", "DEDUCTED"]


def test_a_batch_sent_again_is_replayed_item_by_item(ledger: Ledger) -> None:
    accounts = [ledger.open(credits_=20) for _ in range(3)]
    requests = [deduction(account, "voice_creation") for account in accounts * 5]
    first = batch(ledger, *requests)

    second = batch(ledger, *requests)

    assert outcomes(first) == ["OK"] * 12 + ["INSUFFICIENT_CREDITS"] * 3
    assert outcomes(second) == ["replayed"] * 12 + ["INSUFFICIENT_CREDITS"] * 3
    assert [without_replayed(result.response) for result in second] == [result.response for result in first]


def test_a_thousand_items_on_ten_accounts_are_all_answered_in_their_places(ledger: Ledger) -> None:
    accounts = [ledger.open(credits_=60) for _ in range(10)]
    requests = [deduction(accounts[number % 10]) for number in range(1_000)]

    results = batch(ledger, *requests)

    assert outcomes(results) == ["OK"] * 600 + ["INSUFFICIENT_CREDITS"] * 400
    for request, result in zip(requests[:600], results, strict=False):
        assert result.response.entry.request_id == request.request_id
        assert result.response.entry.account_id == request.account_id
    assert [ledger.available(account) for account in accounts] == [0] * 10


@pytest.mark.parametrize("size", [0, 1_001])
def test_a_batch_is_of_1_to_1000_items(ledger: Ledger, account: str, size: int) -> None:
    request = pb.BatchDeductRequest(requests=[deduction(account) for _ in range(size)])

    refusal = ledger.refusal(request)

    assert refusal.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert list(refusal.fields) == ["requests"]
    assert ledger.revision(account) == 2


def test_a_batch_whose_answer_would_be_too_large_to_arrive_charges_nothing(ledger: Ledger) -> None:
    account = ledger.open(credits_=2_000)
    request = pb.BatchDeductRequest(requests=[deduction(account, usage=large_usage()) for _ in range(990)])

    code = code_of(lambda: ledger.call(request))

    assert code in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT}
    assert ledger.available(account) == (1_010 if code is grpc.StatusCode.OK else 2_000)
