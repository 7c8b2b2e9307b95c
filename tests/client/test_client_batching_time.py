"""Calls that travel together, when batches are slow, tasks are cancelled, clients are closed and programs end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import grpc
import pytest
from batching_callers import OPERATION, TIMEOUT, Callers
from batching_script import UNAVAILABLE, Accounts, Busy, Code, error_of, together, until
from creditledger import (
    AsyncCreditLedgerClient,
    BatchDeductResult,
    Cancelled,
    CreditLedgerClient,
    DeadlineExceeded,
    DeductResponse,
    _batches,
)
from creditledger.v1.credit_ledger_pb2 import BatchDeductRequest, BatchDeductResponse

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer


# --- Slow batches


def test_a_short_timeout_ends_its_call_and_no_other_of_the_batch(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    busy = Busy(callers, accounts)
    held = accounts.hold("slow")
    slow = callers.submit("slow")
    busy.wait_for(1)
    short = []
    for waiting, seconds in enumerate((1.0, 0.5), 2):
        short.append(callers.submit("short", timeout=seconds))
        busy.wait_for(waiting)
    busy.end()
    for call in short:
        error = error_of(call)
        assert isinstance(error, DeadlineExceeded)
        assert (error.code, error.reason, error.outcome_unknown) == (Code.DEADLINE_EXCEEDED, "", True)
        assert error.request_id == accounts.batches()[-1][short.index(call) + 1].request_id
    assert not slow.done()
    held.set()
    assert slow.result(TIMEOUT).cost == 1
    assert accounts.batch_of("slow") == ["slow", "short", "short"]


def test_a_batch_may_take_as_long_as_its_most_patient_call(
    callers: Callers, accounts: Accounts, server: FakeServer, patient: None
) -> None:
    remaining: list[float] = []

    def answer(request: BatchDeductRequest, context: grpc.ServicerContext) -> BatchDeductResponse:
        remaining.append(context.time_remaining())
        return BatchDeductResponse(results=[BatchDeductResult(response=DeductResponse())] * 3)

    busy = Busy(callers, accounts)
    server.answer("BatchDeduct", answer)
    calls = [callers.submit("a", timeout=seconds) for seconds in (5, 25, 10)]
    busy.wait_for(3)
    busy.end()
    assert not wait(calls, TIMEOUT).not_done
    assert remaining[0] == pytest.approx(25, abs=4)


def test_a_call_whose_timeout_passes_while_it_waits_is_not_sent(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    busy = Busy(callers, accounts)
    late = callers.submit("late", timeout=0.1)
    assert isinstance(error_of(late), DeadlineExceeded)
    good = callers.submit("good")
    busy.wait_for(2)
    busy.end()
    assert good.result(TIMEOUT).cost == 1
    assert accounts.times_sent("late") == 0


def test_a_timeout_without_end_harms_no_neighbour(
    callers: Callers, accounts: Accounts, patient: None
) -> None:
    busy = Busy(callers, accounts)
    calls = [callers.submit("a", timeout=float("inf")), callers.submit("b"), callers.submit("c")]
    busy.wait_for(3)
    busy.end()
    assert [call.result(TIMEOUT).cost for call in calls[1:]] == [1, 1]
    assert calls[0].exception(TIMEOUT) is None or isinstance(calls[0].exception(), DeadlineExceeded)


def test_slow_batches_hold_up_no_call_behind_them(callers: Callers, accounts: Accounts) -> None:
    busy = Busy(callers, accounts)
    for account_id in "abcde":
        assert callers.submit(account_id).result(TIMEOUT).cost == 1
    assert not any(call.done() for call in busy.calls)
    busy.end()
    assert [call.result(TIMEOUT).cost for call in busy.calls] == [1, 1]


async def test_a_cancelled_task_takes_nobody_with_it_and_is_not_sent(
    server: FakeServer, accounts: Accounts, patient: None
) -> None:
    gate = accounts.hold("held")
    async with AsyncCreditLedgerClient(server.target, batching=True, timeout=TIMEOUT) as client:
        async with asyncio.TaskGroup() as tasks:
            early, cancelled = [
                tasks.create_task(client.deduct(name, OPERATION)) for name in ("held", "cancelled")
            ]
            await asyncio.to_thread(until, accounts.batches)
            cancelled.cancel()
            held = [tasks.create_task(client.deduct("held", OPERATION))]
            await asyncio.to_thread(until, lambda: len(accounts.batches()) == 2)
            waiting, never = [
                tasks.create_task(client.deduct(name, OPERATION)) for name in ("waiting", "never")
            ]
            await asyncio.sleep(0)
            never.cancel()
            gate.set()
        assert [task.result().cost for task in (early, *held, waiting)] == [1, 1, 1]
        assert cancelled.cancelled()
        assert never.cancelled()
    assert accounts.times_sent("never") == 0


# --- The end


def test_a_closed_client_answers_all_it_holds(
    callers: Callers, accounts: Accounts, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "BACKOFFS", (TIMEOUT,))
    accounts.refusals["resting"] = [UNAVAILABLE]
    resting, other = together(callers, accounts, "resting", "other")
    other.result(TIMEOUT)
    slow = accounts.hold("slow")
    under_way = together(callers, accounts, "slow", "slow")
    until(lambda: len(accounts.batch_of("slow")) == 2)
    alone = callers.submit("slow")
    until(lambda: accounts.times_sent("slow") == 3)
    waiting = [callers.submit("waiting") for _ in range(3)]
    until(lambda: len(callers.client._batcher._queue) == 3)
    callers.close().result(TIMEOUT)
    calls = (resting, *under_way, alone, *waiting)
    assert not wait(calls, TIMEOUT / 2).not_done
    slow.set()
    for call in calls:
        error = error_of(call)
        assert isinstance(error, Cancelled)
        assert error.outcome_unknown
        assert error.request_id
    assert accounts.times_sent("waiting") == 0


def test_a_closed_client_says_so(callers: Callers, accounts: Accounts) -> None:
    assert callers.submit("a").result(TIMEOUT).cost == 1
    callers.close().result(TIMEOUT)
    error = callers.submit("a").exception(TIMEOUT)
    assert isinstance(error, (ValueError, grpc.aio.UsageError))
    assert "closed" in str(error)


PROGRAM = """
import asyncio, sys, threading
from creditledger import AsyncCreditLedgerClient, CreditLedgerClient

def threads():
    client = CreditLedgerClient(sys.argv[1], batching=True, timeout=600)
    for _ in range(8):
        threading.Thread(target=client.deduct, args=("held", "o"), daemon=True).start()

async def tasks():
    client = AsyncCreditLedgerClient(sys.argv[1], batching=True, timeout=600)
    calls = [asyncio.get_running_loop().create_task(client.deduct("held", "o")) for _ in range(8)]
    await asyncio.wait(calls, timeout=0.5)

if sys.argv[2] == "sync":
    threads()
    threading.Event().wait(0.5)
else:
    asyncio.run(tasks())
print("the end")
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_program_ends_although_batches_are_under_way(
    server: FakeServer, accounts: Accounts, kind: str
) -> None:
    held = accounts.hold("held")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.target, kind], capture_output=True, text=True, timeout=TIMEOUT
    )
    held.set()
    assert (ended.returncode, ended.stdout) == (0, "the end\n")
    assert accounts.sent()


# --- Many


def test_many_threads_get_each_their_own_answer(server: FakeServer, accounts: Accounts) -> None:
    with CreditLedgerClient(server.target, batching=True, timeout=TIMEOUT) as client:

        def work(number: int) -> list[bool]:
            names = [f"user-{number}-{turn}" for turn in range(25)]
            responses = [client.deduct(name, OPERATION, request_id=name) for name in names]
            return [
                response.entry.request_id == name for name, response in zip(names, responses, strict=True)
            ]

        with ThreadPoolExecutor(48) as pool:
            own = [flag for flags in pool.map(work, range(48)) for flag in flags]
    assert own == [True] * 48 * 25
    assert len({item.request_id for item in accounts.sent()}) == len(accounts.sent()) == 48 * 25
    assert len(accounts.batches()) < 48 * 25 / 2


@pytest.mark.usefixtures("patient")
async def test_many_calls_are_spread_over_the_batches_that_may_go(
    server: FakeServer, accounts: Accounts
) -> None:
    async with AsyncCreditLedgerClient(server.target, batching=True, timeout=TIMEOUT) as client:
        await asyncio.gather(*[client.deduct(f"user-{number}", OPERATION) for number in range(201)])
    assert sorted(len(batch) for batch in accounts.batches()) == [100, 101]


@pytest.mark.usefixtures("patient")
async def test_many_tasks_get_each_their_own_answer(server: FakeServer, accounts: Accounts) -> None:
    async with AsyncCreditLedgerClient(server.target, batching=True, timeout=TIMEOUT) as client:
        names = [f"user-{number}" for number in range(3_000)]
        responses = await asyncio.gather(*[client.deduct(name, OPERATION, request_id=name) for name in names])
    assert [response.entry.request_id for response in responses] == names
    assert [len(batch) for batch in accounts.batches()] == [500] * 6
