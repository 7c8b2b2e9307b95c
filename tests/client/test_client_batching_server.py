"""`batching=True` against a real server: every call ends as it would have ended by itself."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from batching_callers import OPERATION, TIMEOUT, Callers, Tasks, Threads
from creditledger import (
    AsyncCreditLedgerClient,
    CreditLedgerClient,
    CreditLedgerError,
    DeductResponse,
    InsufficientCredits,
    Usage,
)
from ledger_calls import Ledger, unique, without_replayed
from ledger_harness import ServerProcess, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = pytest.mark.parametrize("kind", [Threads, Tasks], ids=["sync", "async"])


@pytest.fixture(scope="module")
def ledger(shared_server: ServerProcess) -> Iterator[Ledger]:
    with Ledger(shared_server.target) as calls:
        yield calls


@pytest.fixture(params=[Threads, Tasks], ids=["sync", "async"])
def callers(request: pytest.FixtureRequest, shared_server: ServerProcess) -> Iterator[Callers]:
    running: Threads | Tasks = request.param(shared_server.target)
    yield running
    running.end()


def in_company(callers: Callers, account_id: str, *arguments: Any, **options: Any) -> Future[DeductResponse]:
    """A call among others, of which some are refused."""
    others = [callers.submit(unique("nobody")) for _ in range(10)]
    call = callers.submit(account_id, *arguments, **options)
    others += [callers.submit(account_id, quantity=0) for _ in range(10)]
    assert all(isinstance(other.exception(TIMEOUT), CreditLedgerError) for other in others)
    return call


def deep(levels: int, lists: int = 0) -> Usage:
    """A use whose metadata is nested so deep. More than 100 messages within each other cannot be read."""
    usage = Usage()
    inner = usage.metadata
    for _ in range(levels):
        inner = inner.get_or_create_struct("a")
    if lists:
        value = inner.get_or_create_list("a")
        for _ in range(1, lists):
            value = value.add_list()
    return usage


def text_of(size: int) -> Usage:
    usage = Usage()
    usage.metadata["text"] = "x" * size
    return usage


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "credits": ((), {"quantity": 1_000}),
    "limit": (("voice_creation",), {"quantity": 21}),
    "operation": (("no_such_operation",), {}),
    "level": ((), {"account_level": "no_such_level"}),
    "fields": (("Not A Name",), {"quantity": 0, "request_id": ""}),
    "metadata too deep": ((), {"usage": deep(20)}),
    "too deep for a server to read its batch": ((), {"usage": deep(31, lists=2)}),
    "too deep to be put in a batch": ((), {"usage": deep(32, lists=1)}),
    "metadata too large": ((), {"usage": text_of(5_000)}),
    "larger than a server takes": ((), {"usage": Usage(service="x" * (5 << 20))}),
}


@pytest.mark.parametrize(("arguments", "options"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_tells_what_that_of_the_single_call_tells(
    ledger: Ledger, callers: Callers, arguments: tuple[str, ...], options: dict[str, Any]
) -> None:
    account = ledger.open(credits_=100)
    options = {"request_id": unique(), **options}
    error = in_company(callers, account, *arguments, **options).exception(TIMEOUT)
    with CreditLedgerClient(ledger.target) as client, pytest.raises(CreditLedgerError) as single:
        client.deduct(account, *(arguments or (OPERATION,)), **options)
    assert type(error) is type(single.value)
    told, expected = dict(vars(error)), dict(vars(single.value))
    for fields in (told, expected):
        fields["metadata"].pop("decideTime", None)
        if fields["retry_delay"] is not None:  # until the end of the month
            fields["retry_delay"] = fields["retry_delay"].days
    assert told == expected


def test_a_charge_answers_what_the_single_call_answers(ledger: Ledger, callers: Callers) -> None:
    account = ledger.open(credits_=100)
    request_id = unique()
    usage = Usage(service="openai", metrics={"tokens": 5})
    response = in_company(callers, account, request_id=request_id, usage=usage).result(TIMEOUT)
    with CreditLedgerClient(ledger.target) as client:
        replay = client.deduct(account, OPERATION, request_id=request_id, usage=usage)
    assert (response.replayed, replay.replayed) == (False, True)
    assert without_replayed(replay) == response


def test_one_id_in_many_calls_at_once_charges_once(ledger: Ledger, callers: Callers) -> None:
    account = ledger.open(credits_=100)
    calls = [callers.submit(account, request_id="job-7") for _ in range(40)]
    responses = [call.result(TIMEOUT) for call in calls]
    assert sorted(response.replayed for response in responses) == [False] + [True] * 39
    assert all(without_replayed(response) == without_replayed(responses[0]) for response in responses)
    assert ledger.available(account) == 99


def test_exactly_as_many_calls_succeed_as_the_balance_covers(ledger: Ledger, callers: Callers) -> None:
    accounts = [ledger.open(credits_=30) for _ in range(3)]
    calls = [callers.submit(accounts[number % 3]) for number in range(300)]
    errors = [call.exception(TIMEOUT) for call in calls]
    assert errors.count(None) == 90
    assert {type(error) for error in errors} == {type(None), InsufficientCredits}
    assert [ledger.available(account) for account in accounts] == [0, 0, 0]


class Counting(grpc.aio.UnaryUnaryClientInterceptor):
    """Notes which methods are called."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.methods.append(client_call_details.method.rpartition(b"/")[2].decode())
        return await continuation(client_call_details, request)


@pytest.mark.parametrize("text", [0, 4_000])
async def test_batches_are_never_larger_than_a_server_takes(ledger: Ledger, text: int) -> None:
    account = ledger.open(credits_=2_000)
    counting = Counting()
    channel = grpc.aio.insecure_channel(ledger.target, interceptors=[counting])
    usage = text_of(text)
    async with AsyncCreditLedgerClient.from_channel(channel, timeout=TIMEOUT, batching=True) as client:
        calls = [client.deduct(account, OPERATION, usage=usage) for _ in range(2_000)]
        responses = await asyncio.gather(*calls)
    assert len({response.entry.revision for response in responses}) == 2_000
    assert set(counting.methods) == {"BatchDeduct"}
    assert 4 <= len(counting.methods) <= 10


@BOTH
def test_a_server_that_restarts_under_load_charges_each_id_once(
    kind: type[Threads | Tasks], dsn: str, free_port: int
) -> None:
    listen = ("--listen", f"127.0.0.1:{free_port}")
    with running_server(dsn, *listen) as process:
        with Ledger(process.target) as ledger:
            account = ledger.open(credits_=10_000)
        callers = kind(process.target)
        calls = {
            f"job-{number}": callers.submit(account, request_id=f"job-{number}") for number in range(200)
        }
        time.sleep(0.05)
        process.kill()
        calls |= {
            f"job-{number}": callers.submit(account, request_id=f"job-{number}") for number in range(200, 600)
        }
        with running_server(dsn, *listen) as restarted, Ledger(restarted.target) as ledger:
            unknown = 0
            for request_id, call in calls.items():
                error = call.exception(TIMEOUT)
                assert error is None or (isinstance(error, CreditLedgerError) and error.outcome_unknown), (
                    error
                )
                unknown += error is not None
                response = ledger.deduct(account, OPERATION, request_id=request_id)
                assert error or (response.replayed and response.entry == call.result().entry)
            assert unknown < 600
            assert ledger.available(account) == 10_000 - 600
            callers.end()
