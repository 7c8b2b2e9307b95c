"""A ledger whose accounts use what the others leave alone: limits, an allowance, grants that expire, reservations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import grpc.aio
from creditledger.v1.credit_ledger_pb2 import ReserveRequest
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.ledger_admin_pb2 import GrantCreditsRequest, OpenAccountRequest
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminStub
from google.protobuf.message import Message

from .sample import account_name
from .site import OPERATION, ROOT

CATALOG = ROOT / "benchmarks" / "features.toml"
GRANTS = 3
LIVE_GRANTS = 100
RESERVATIONS = 1_000
_AT_ONCE = 128
_YEAR = 365 * 86_400


def fill(target: str, plain: range, loaded: int) -> None:
    """Opens accounts with three grants besides the allowance, and one with 100 grants and 1,000 reservations."""
    asyncio.run(_fill(target, plain, account_name(loaded)))


async def _fill(target: str, plain: range, loaded: str) -> None:
    names = [account_name(number) for number in plain]
    async with grpc.aio.insecure_channel(target) as channel:
        await _send(channel, (_opened(name) for name in (*names, loaded)))
        for number in range(GRANTS):
            await _send(channel, (_grant(name, number) for name in names))
        await _send(channel, (_grant(loaded, number) for number in range(LIVE_GRANTS - 1)))
        await _send(channel, (_reservation(loaded, number) for number in range(RESERVATIONS)))


def _opened(name: str) -> Message:
    return OpenAccountRequest(request_id="open", account_id=name)


def _grant(name: str, number: int) -> Message:
    request = GrantCreditsRequest(
        request_id=f"grant-{number}", account_id=name, amount=10**9, priority=number % 5 - 2
    )
    request.expire_time.FromSeconds(int(time.time()) + _YEAR + number)
    return request


def _reservation(name: str, number: int) -> Message:
    request = ReserveRequest(request_id=f"reserve-{number}", account_id=name, operation=OPERATION)
    request.ttl.FromSeconds(86_400)
    return request


async def _send(channel: grpc.aio.Channel, requests: Iterator[Message]) -> None:
    """Sends requests, so many at once; raises for one that is refused."""
    stubs = CreditLedgerStub(channel), LedgerAdminStub(channel)

    async def caller() -> None:
        for request in requests:
            method = type(request).__name__.removesuffix("Request")
            await getattr(stubs[not hasattr(stubs[0], method)], method)(request, timeout=60)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(caller())
