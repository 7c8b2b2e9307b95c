"""Deductions per second of one server process, over gRPC from this one: python benchmarks/rates.py

Server, Postgres (the embedded one, fsync on) and this client share the machine. Every row ends with an audit.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import grpc
from creditledger.v1.credit_ledger_pb2 import BatchDeductRequest, DeductRequest
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.ledger_admin_pb2 import GrantCreditsRequest
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminStub
from creditledger_server.embedded import embedded_postgres
from creditledger_server.ledger.verify import verify_ledger

CATALOG = Path(__file__).parent.parent / "catalog.example.toml"
OPERATION = "chat_refinement"
ROUNDS = 3


def request(account: int) -> DeductRequest:
    return DeductRequest(request_id=uuid.uuid4().hex, account_id=f"account-{account}", operation=OPERATION)


async def in_flight(width: int, calls: int, call: Callable[[int], Awaitable[object]]) -> None:
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await call(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(width):
            tasks.create_task(work())


async def seed(channel: grpc.aio.Channel, accounts: int) -> None:
    ledger, admin = CreditLedgerStub(channel), LedgerAdminStub(channel)
    opening = {"operation": OPERATION, "account_level": "pro", "usage": {"outcome": "OUTCOME_FAILED"}}

    async def one(number: int) -> None:
        name = f"account-{number}"
        await ledger.Deduct(DeductRequest(request_id="open", account_id=name, **opening))
        await admin.GrantCredits(GrantCreditsRequest(request_id="grant", account_id=name, amount=10**9))

    await in_flight(64, accounts, one)


async def unary(channel: grpc.aio.Channel, accounts: int, deductions: int) -> None:
    ledger = CreditLedgerStub(channel)
    await in_flight(64, deductions, lambda number: ledger.Deduct(request(number % accounts)))


async def batches(channel: grpc.aio.Channel, accounts: int, deductions: int) -> None:
    ledger = CreditLedgerStub(channel)

    async def one(number: int) -> None:
        items = [request((number * 100 + place) % accounts) for place in range(100)]
        answer = await ledger.BatchDeduct(BatchDeductRequest(requests=items))
        assert all(result.HasField("response") for result in answer.results)

    await in_flight(8, deductions // 100, one)


async def measure(target: str, dsn: str) -> None:
    cases = [("unary, 64 in flight", unary, 6_000), ("BatchDeduct of 100, 8 in flight", batches, 60_000)]
    async with grpc.aio.insecure_channel(target) as channel:
        await seed(channel, 10_000)
        for name, case, deductions in cases:
            for accounts in (10_000, 1):
                rates = []
                for _ in range(ROUNDS):
                    begin = time.perf_counter()
                    await case(channel, accounts, deductions)
                    rates.append(deductions / (time.perf_counter() - begin))
                report = await verify_ledger(dsn, lambda _done, _total: None)
                spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
                print(
                    f"{name:32} {accounts:6} accounts: {median(rates):7,.0f}/s ({spread})"
                    f"  mismatches={len(report.mismatches)}",
                    flush=True,
                )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder), print) as dsn:
        command = [
            sys.executable,
            "-m",
            "creditledger_server.cli",
            "serve",
            "--database-url",
            dsn,
            "--migrate",
        ]
        command += ["--listen", "127.0.0.1:0", "--catalog", str(CATALOG)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            target = server.stdout.readline().split()[1]
            asyncio.run(measure(target, dsn))
            server.terminate()


if __name__ == "__main__":
    main()
