"""What `batching=True` changes on the wire, and that it changes nothing for a call, whatever befalls its neighbours."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from batching_callers import OPERATION, TIMEOUT, Callers
from batching_script import UNAVAILABLE, Accounts, Busy, Code, error_of, status, together
from creditledger import (
    AsyncCreditLedgerClient,
    BatchDeductResult,
    CreditLedgerClient,
    CreditLedgerError,
    DeadlineExceeded,
    DeductRequest,
    DeductResponse,
    InsufficientCredits,
    InvalidRequest,
    ItemStatus,
    ServerOverloaded,
    Unauthenticated,
    Unavailable,
    Usage,
    _batches,
)
from creditledger.v1.credit_ledger_pb2 import BatchDeductResponse
from google.protobuf.duration_pb2 import Duration

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer


# --- What travels


def test_calls_that_come_while_batches_are_under_way_travel_together(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    calls = together(callers, accounts, "a", "b", "a", "c")
    assert [call.result(TIMEOUT).entry.account_id for call in calls] == ["a", "b", "a", "c"]
    batch = accounts.batches()[-1]
    assert [item.account_id for item in batch] == ["a", "b", "a", "c"]
    assert [call.result().entry.request_id for call in calls] == [item.request_id for item in batch]
    assert len({uuid.UUID(item.request_id).version for item in batch}) == 1
    assert len({item.request_id for item in batch}) == 4


def test_an_idle_client_sends_at_once(callers: Callers, accounts: Accounts, patient: None) -> None:
    for number in range(5):
        assert callers.submit(f"user-{number}").result(TIMEOUT).cost == 1
    assert len(accounts.sent()) == 5


def test_a_call_is_the_same_message_as_without_batching(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    options: dict[str, Any] = {"quantity": 3, "account_level": "pro", "request_id": "job-7"}
    options["usage"] = Usage(service="openai", metrics={"tokens": 5})
    together(callers, accounts, "a", "b", **options)[0].result(TIMEOUT)
    with CreditLedgerClient(server.target) as single:
        single.deduct("a", OPERATION, **options)
    assert accounts.batches()[-1][0] == server.requests["Deduct"][-1]


def test_without_batching_every_call_travels_alone(server: FakeServer, accounts: Accounts) -> None:
    with CreditLedgerClient(server.target) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.deduct("user-1", OPERATION), range(32)))
    assert (len(server.requests["Deduct"]), accounts.batches()) == (32, [])


async def test_a_channel_of_the_caller_s_own_can_batch(server: FakeServer, accounts: Accounts) -> None:
    channel = grpc.aio.insecure_channel(server.target)
    async with (
        AsyncCreditLedgerClient.from_channel(channel, batching=True) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(9):
            tasks.create_task(client.deduct("user-1", OPERATION))
    assert [len(batch) for batch in accounts.batches()] == [9]


def test_a_channel_of_the_caller_s_own_can_batch_for_threads(server: FakeServer) -> None:
    with CreditLedgerClient.from_channel(grpc.insecure_channel(server.target), batching=True) as client:
        assert client._batcher is not None


def test_a_batch_has_at_most_so_many_items(
    callers: Callers, accounts: Accounts, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "MAX_ITEMS", 4)
    calls = together(callers, accounts, *[f"user-{number}" for number in range(10)])
    assert not wait(calls, TIMEOUT).not_done
    assert sorted(len(batch) for batch in accounts.batches()[-3:]) == [2, 4, 4]


def test_a_batch_has_at_most_so_many_bytes(
    callers: Callers, accounts: Accounts, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "MAX_BYTES", 9_000)
    calls = together(callers, accounts, *"abcdefg", usage=Usage(service="x" * 2_000))
    assert not wait(calls, TIMEOUT).not_done
    last = accounts.batches()[-4:]
    assert sorted("".join(item.account_id for item in batch) for batch in last) == ["ab", "cd", "ef", "g"]


def test_a_very_large_request_travels_alone(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    busy = Busy(callers, accounts)
    large = callers.submit("large", usage=Usage(service="x" * 100_000))
    assert large.result(TIMEOUT).cost == 1
    assert [item.account_id for item in server.requests["Deduct"]][-1] == "large"
    busy.end()


# --- Errors of items


def test_a_refused_item_raises_what_the_single_call_raises_and_touches_no_other(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    told = {"required": "5", "available": "2", "shortfall": "3"}
    accounts.refusals["poor"] = [status(Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", metadata=told)]
    violation = ItemStatus.FieldViolation(field="quantity", description="must be 1 or more")
    accounts.refusals["bad"] = [status(Code.INVALID_ARGUMENT, "FIELD_INVALID", field_violations=[violation])]
    delay = Duration(seconds=1, nanos=500_000_000)
    accounts.refusals["full"] = [status(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", retry_delay=delay)]
    poor, good, bad, full = together(callers, accounts, "poor", "good", "bad", "full")
    error = error_of(poor)
    assert isinstance(error, InsufficientCredits)
    assert (error.shortfall, error.outcome_unknown) == (3, False)
    assert error.request_id == accounts.batches()[-1][0].request_id
    assert good.result(TIMEOUT).cost == 1
    assert isinstance(error_of(bad), InvalidRequest)
    assert error_of(bad).field_violations == (("quantity", "must be 1 or more"),)
    assert error_of(full).retry_delay is not None
    assert error_of(full).retry_delay.total_seconds() == 1.5  # type: ignore[union-attr]
    assert len(accounts.batch_of("poor")) == 4


def test_an_unavailable_item_is_sent_again_by_itself_with_the_same_id(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    accounts.refusals["broken"] = [UNAVAILABLE, UNAVAILABLE]
    calls = together(callers, accounts, "a", "broken", "b")
    assert [call.result(TIMEOUT).cost for call in calls] == [1, 1, 1]
    ids = [item.request_id for item in accounts.sent() if item.account_id == "broken"]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert [item.account_id for item in accounts.sent() if item.account_id in "ab"] == ["a", "b"]


def test_an_item_is_given_up_after_five_attempts(callers: Callers, accounts: Accounts, patient: None) -> None:
    accounts.refusals["broken"] = [UNAVAILABLE] * 99
    accounts.refusals["broken too"] = [UNAVAILABLE] * 99
    calls = together(callers, accounts, "broken", "broken too")
    for call in calls:
        error = error_of(call)
        assert isinstance(error, Unavailable)
        assert (error.reason, error.message) == ("STORAGE_UNAVAILABLE", "for a developer")
        assert error.outcome_unknown
        assert [item.request_id for item in accounts.sent()].count(str(error.request_id)) == 5


def test_the_attempts_of_an_item_end_with_its_timeout(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    accounts.refusals["broken"] = [UNAVAILABLE] * 99
    (call,) = together(callers, accounts, "broken", timeout=0.3)
    error = error_of(call)
    assert isinstance(error, (DeadlineExceeded, Unavailable))
    assert error.outcome_unknown
    assert accounts.times_sent("broken") < 5


@pytest.mark.parametrize(
    "code", [Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.DEADLINE_EXCEEDED]
)
def test_no_other_item_is_sent_again(callers: Callers, accounts: Accounts, patient: None, code: Code) -> None:
    accounts.refusals["broken"] = [ItemStatus(code=code.value[0])] * 99
    broken, good = together(callers, accounts, "broken", "good")
    assert error_of(broken).code is code
    assert good.result(TIMEOUT).cost == 1
    assert accounts.times_sent("broken") == 1


# --- Errors of whole batches


def fail_batches(server: FakeServer, code: Code, reason: str = "", times: int = 1) -> None:
    server.answer("BatchDeduct", *[server.error(code, reason) for _ in range(times)])


def failing_together(
    callers: Callers, accounts: Accounts, server: FakeServer, code: Code, reason: str = "", times: int = 1
) -> list[Future[DeductResponse]]:
    """Three calls whose batch ends so."""
    busy = Busy(callers, accounts)
    fail_batches(server, code, reason, times)
    calls = [callers.submit(account_id) for account_id in "abc"]
    busy.wait_for(3)
    busy.end()
    return calls


def test_a_batch_that_is_unavailable_is_sent_again(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    calls = failing_together(callers, accounts, server, Code.UNAVAILABLE, "SHUTTING_DOWN", 2)
    assert [call.result(TIMEOUT).cost for call in calls] == [1, 1, 1]
    first, second, third = accounts.batches()[-3:]
    assert first == second == third


def test_a_batch_that_stays_unavailable_raises_in_each_call(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    calls = failing_together(callers, accounts, server, Code.UNAVAILABLE, "STORAGE_UNAVAILABLE", 9)
    errors = [error_of(call) for call in calls]
    batch = accounts.batches()[-1]
    assert {error.request_id for error in errors} == {item.request_id for item in batch}
    for error in errors:
        assert isinstance(error, Unavailable)
        assert (error.reason, error.outcome_unknown) == ("STORAGE_UNAVAILABLE", True)
        assert isinstance(error.__cause__, grpc.RpcError)
    assert len([item for item in accounts.sent() if item.request_id == errors[0].request_id]) == 5


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.INVALID_ARGUMENT, "FIELD_INVALID"),
        (Code.RESOURCE_EXHAUSTED, ""),
        (Code.INTERNAL, "INTERNAL"),
        (Code.UNKNOWN, ""),
        (Code.UNIMPLEMENTED, ""),
        (Code.PERMISSION_DENIED, "NOT_ALLOWED"),
        (Code.DEADLINE_EXCEEDED, ""),
    ],
)
def test_calls_whose_batch_is_refused_as_a_whole_are_sent_alone(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None, code: Code, reason: str
) -> None:
    calls = failing_together(callers, accounts, server, code, reason)
    assert [call.result(TIMEOUT).cost for call in calls] == [1, 1, 1]
    alone = [item for item in server.requests["Deduct"] if item.account_id in "abc"]
    assert {item.request_id for item in alone} == {item.request_id for item in accounts.batches()[-1]}


def test_a_bad_item_that_spoils_its_batch_fails_alone(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    def deduct(request: DeductRequest, context: grpc.ServicerContext) -> DeductResponse:
        if request.account_id == "bad":
            context.abort_with_status(server.error(Code.INVALID_ARGUMENT, "FIELD_INVALID"))
        return DeductResponse(cost=1)

    busy = Busy(callers, accounts)
    server.always("Deduct", deduct)
    server.always("BatchDeduct", server.error(Code.INVALID_ARGUMENT, "FIELD_INVALID"))
    bad, *good = [callers.submit(account_id) for account_id in ("bad", *"abcde")]
    busy.wait_for(6)
    busy.end()
    assert isinstance(error_of(bad), InvalidRequest)
    assert [call.result(TIMEOUT).cost for call in good] == [1] * 5


def test_a_batch_with_too_few_results_is_not_trusted(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    busy = Busy(callers, accounts)
    server.answer("BatchDeduct", BatchDeductResponse(results=[BatchDeductResult()]))
    calls = [callers.submit(account_id) for account_id in "ab"]
    busy.wait_for(2)
    busy.end()
    assert [call.result(TIMEOUT).entry.account_id for call in calls] == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (Code.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", ServerOverloaded),
        (Code.UNAUTHENTICATED, "TOKEN_INVALID", Unauthenticated),
    ],
)
def test_an_error_that_every_call_would_get_is_not_asked_for_again(
    callers: Callers,
    accounts: Accounts,
    server: FakeServer,
    patient: None,
    code: Code,
    reason: str,
    expected: type[CreditLedgerError],
) -> None:
    calls = failing_together(callers, accounts, server, code, reason)
    for call in calls:
        assert type(error_of(call)) is expected
    assert len([item for item in accounts.sent() if item.account_id in "abc"]) == 3
