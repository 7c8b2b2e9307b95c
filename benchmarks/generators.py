"""Load from Python, in a process of its own: call these by ``in_process``. They return only once all is answered.

Whatever can be made before the first call or looked at after the last one is not timed. A deduction is counted when its
answer says OK.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any, NamedTuple

import grpc
import grpc.aio
from creditledger import AsyncCreditLedgerClient
from creditledger.v1.credit_ledger_pb2 import (
    BatchDeductRequest,
    BatchDeductResponse,
    DeductRequest,
    DeductResponse,
)

from .sample import Sample, random_account
from .site import OPERATION, BenchError

BATCH = 100
CALLERS = 8
_SERVICE = "/creditledger.v1.CreditLedger"
# A channel is a connection of its own: several server processes share them out.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
_SECONDS = 60.0


def process_pool(processes: int = 1) -> ProcessPoolExecutor:
    """Processes for load, which live as long as the pool and start fresh: gRPC does not survive a fork."""
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def batches(target: str, accounts: range, deductions: int) -> Sample:
    """BatchDeduct of 100, 8 in flight; messages are bytes while the clock runs."""
    return asyncio.run(_batches(target, accounts, deductions))


def client_calls(target: str, accounts: range, callers: int, deductions: int, **options: Any) -> Sample:
    """``deduct`` of the asyncio client with its ``options``, from that many tasks at once."""
    return asyncio.run(_client_calls(target, accounts, callers, deductions, options))


def lone_calls(target: str, accounts: range, calls: int) -> Sample:
    """Deduct, one after the other, by the bare stub."""
    with grpc.insecure_channel(target, _OPTIONS) as channel:
        deduct = channel.unary_unary(
            f"{_SERVICE}/Deduct", DeductRequest.SerializeToString, DeductResponse.FromString
        )
        requests = [_deduction(accounts) for _ in range(calls)]
        return timed_one_by_one(requests, lambda request: deduct(request, timeout=_SECONDS))


class Paced(NamedTuple):
    """Deductions made at a given pace: of each its account, its revision, and when OK arrived, in time.monotonic()."""

    acknowledged: list[tuple[str, int, float]]
    seconds: float
    cpu_seconds: float


def paced_calls(target: str, accounts: range, calls: int, per_second: float) -> Paced:
    """Deduct, so many per second however long each takes. Times compare with those of other processes here."""
    return asyncio.run(_paced_calls(target, accounts, calls, per_second))


def one_each(target: str, accounts: range) -> int:
    """A deduction from each account, in batches; returns how many there were."""
    with grpc.insecure_channel(target, _OPTIONS) as channel:
        call: Any = channel.unary_unary(f"{_SERVICE}/BatchDeduct")
        places = range(0, len(accounts), BATCH)
        answers = [call(_batch(accounts[place : place + BATCH]), timeout=_SECONDS) for place in places]
    _check_oks(answers, len(accounts))
    return len(accounts)


def timed_one_by_one(items: list[Any], call: Callable[[Any], object]) -> Sample:
    """Calls with each item in turn and takes the time of each."""
    spans = []
    begin, cpu = time.perf_counter(), time.process_time()
    for item in items:
        start = time.perf_counter()
        call(item)
        spans.append(time.perf_counter() - start)
    seconds = time.perf_counter() - begin
    return Sample(len(items), seconds, time.process_time() - cpu, 1_000 * median(spans))


async def _batches(target: str, accounts: range, deductions: int) -> Sample:
    messages = [
        BatchDeductRequest(requests=[_deduction(accounts) for _ in range(BATCH)]).SerializeToString()
        for _ in range(deductions // BATCH)
    ]
    answers: list[bytes] = []
    waiting = iter(messages)

    async def caller(channel: grpc.aio.Channel) -> None:
        call: Any = channel.unary_unary(f"{_SERVICE}/BatchDeduct")
        for message in waiting:
            answer = await call(message, timeout=_SECONDS)
            answers.append(answer)

    channels = [grpc.aio.insecure_channel(target, _OPTIONS) for _ in range(CALLERS)]
    for channel in channels:
        await channel.channel_ready()
    sample = await _together([caller(channel) for channel in channels], len(messages) * BATCH)
    for channel in channels:
        await channel.close()
    _check_oks(answers, sample.operations)
    return sample


def _batch(accounts: range) -> bytes:
    requests = [_deduction(range(number, number + 1)) for number in accounts]
    return BatchDeductRequest(requests=requests).SerializeToString()


async def _paced_calls(target: str, accounts: range, calls: int, per_second: float) -> Paced:
    messages = [_deduction(accounts).SerializeToString() for _ in range(calls)]
    answers: list[tuple[float, bytes]] = []
    async with grpc.aio.insecure_channel(target, _OPTIONS) as channel:
        deduct: Any = channel.unary_unary(f"{_SERVICE}/Deduct")
        await channel.channel_ready()

        async def call(message: bytes) -> None:
            answer = await deduct(message, timeout=_SECONDS)
            answers.append((time.monotonic(), answer))

        begin, cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for number, message in enumerate(messages):
                await asyncio.sleep(begin + number / per_second - time.monotonic())
                tasks.create_task(call(message))
        seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
    entries = ((at, DeductResponse.FromString(answer).entry) for at, answer in answers)
    return Paced([(entry.account_id, entry.revision, at) for at, entry in entries], seconds, cpu)


async def _client_calls(
    target: str, accounts: range, callers: int, deductions: int, options: dict[str, Any]
) -> Sample:
    names = iter([random_account(accounts) for _ in range(deductions)])
    async with AsyncCreditLedgerClient(target, timeout=_SECONDS, **options) as client:
        await client.can_perform(random_account(accounts), OPERATION)  # connects

        async def caller(own: Iterator[str]) -> None:
            for name in own:
                await client.deduct(name, OPERATION)

        return await _together([caller(names) for _ in range(callers)], deductions)


async def _together(callers: list[Any], operations: int) -> Sample:
    begin, cpu = time.perf_counter(), time.process_time()
    await _gathered(callers)
    return Sample(operations, time.perf_counter() - begin, time.process_time() - cpu)


async def _gathered(callers: list[Awaitable[None]]) -> None:
    await asyncio.gather(*callers)


def _deduction(accounts: range) -> DeductRequest:
    return DeductRequest(
        request_id=uuid.uuid4().hex, account_id=random_account(accounts), operation=OPERATION
    )


def _check_oks(answers: list[bytes], expected: int) -> None:
    oks = sum(
        result.HasField("response") and not result.response.replayed
        for answer in answers
        for result in BatchDeductResponse.FromString(answer).results
    )
    if oks != expected:
        raise BenchError(f"{expected} deductions were sent in batches, {oks} of them answered OK")
