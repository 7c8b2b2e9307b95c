"""Watchers whose process is killed, reading or not, leave nothing behind in the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from fault_site import Client
from ledger_calls import Ledger, deduction, serving
from ledger_harness import ServerProcess
from ledger_load import await_true, rows
from scraped import scrape
from slow_streams import SlowPlan

HEARTBEAT = {"CREDITLEDGER_HEARTBEAT_SECONDS": "0.2"}
STREAMS = 100
ROUNDS = 6
MOST_PER_STREAM = 8 << 10
"""Bytes that a vanished stream may leave in memory that is not given back: less than any stream needs."""

Served = tuple[ServerProcess, Ledger]


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    """A server that tells metrics, and has been used a little."""
    with serving(dsn, "--metrics-listen", "127.0.0.1:0", env=HEARTBEAT) as (process, ledger):
        ledger.open("hot", credits_=10**6)
        ledger.deduct("hot")
        ledger.can_perform("hot")
        yield process, ledger


def _watch_and_be_killed(served: Served, folder: Path) -> None:
    """Opens streams that stop reading, fills them, and kills the process that has them."""
    process, ledger = served
    plan = SlowPlan(str(folder), process.target, "hot", STREAMS // 2, STREAMS // 2)
    client = Client(plan, "slow_streams.py")
    try:
        client.ask({"open": "vanishing"})
        assert _streams(process) == STREAMS
        for _ in range(3):
            ledger.call(pb.BatchDeductRequest(requests=[deduction("hot") for _ in range(100)]))
    finally:
        client.kill()
    await_true(lambda: _streams(process) == 0)


def _streams(process: ServerProcess) -> float:
    return scrape(process).value("streams", method="creditledger.v1.CreditLedger/WatchUsage")


def _standing(process: ServerProcess, dsn: str) -> tuple[int, int, int]:
    """Open files, TCP connections of callers, and connections to Postgres."""
    running = psutil.Process(process.process.pid)
    [(backends,)] = rows(
        dsn, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'creditledger')"
    )
    callers = [each for each in running.net_connections("tcp") if each.status == "ESTABLISHED"]
    return running.num_fds(), len(callers), int(backends)


def test_watchers_whose_process_is_killed_leave_nothing_behind(
    dsn: str, served: Served, tmp_path: Path
) -> None:
    process, ledger = served
    for _ in range(2):
        _watch_and_be_killed(served, tmp_path)
    before, memory = _standing(process, dsn), psutil.Process(process.process.pid).memory_info().rss
    for _ in range(ROUNDS):
        _watch_and_be_killed(served, tmp_path)

    await_true(lambda: all(now <= then for now, then in zip(_standing(process, dsn), before, strict=True)))
    grown = psutil.Process(process.process.pid).memory_info().rss - memory
    assert grown < MOST_PER_STREAM * STREAMS * ROUNDS, f"{grown} bytes stay of {STREAMS * ROUNDS} streams"
    ledger.deduct("hot")
    assert process.stop() == 0
    assert not re.search("incident|Traceback", process.log()), process.log()
