"""Blocks of reserved work on a real server: where the credits are before, within and after them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from creditledger import (
    AsyncCreditLedgerClient,
    Balance,
    CreditLedgerClient,
    CreditLedgerError,
    EntryKind,
    EntryOrder,
    InsufficientCredits,
    LimitExceeded,
    ReservationBlock,
    ReservationCommitted,
    ReservationReleased,
    ReservationState,
    Usage,
)
from ledger_calls import unique
from ledger_harness import ServerProcess, running_server
from reservation_blocks import AsyncBlocks, Blocks, SyncBlocks
from reservation_script import fail, nothing, wait_for

TTL = timedelta(seconds=1)


@pytest.fixture
def client(shared_server: ServerProcess) -> Iterator[CreditLedgerClient]:
    with CreditLedgerClient(shared_server.target) as client:
        yield client


@pytest.fixture
def account(client: CreditLedgerClient) -> str:
    """An account with 100 credits and room for 50 videos of 2 credits each."""
    account_id = unique("user")
    client.open_account(account_id, level="pro")
    client.grant_credits(account_id, 100)
    return account_id


@pytest.fixture(params=[SyncBlocks, AsyncBlocks], ids=["sync", "async"])
def blocks(request: pytest.FixtureRequest, shared_server: ServerProcess) -> Iterator[Blocks]:
    running: Blocks = request.param(shared_server.target)
    yield running
    running.close()


def amounts(balance: Balance) -> tuple[int, int, int]:
    return balance.available, balance.reserved, balance.spent


def kinds(client: CreditLedgerClient, account: str) -> list[str]:
    entries = client.list_entries(account, order=EntryOrder.ENTRY_ORDER_OLDEST_FIRST, page_size=1000).entries
    return [EntryKind.Name(entry.kind).removeprefix("ENTRY_KIND_") for entry in entries][2:]


def test_credits_are_held_within_the_block_and_spent_after_it(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    def work(block: Any) -> None:
        assert amounts(client.get_balance(account).balance) == (94, 6, 0)
        block.quantity = 2
        block.usage(service="openai", metrics={"tokens": 1834})

    block = blocks.run(work, account_id=account, quantity=3)
    assert (block.cost, block.response.released, block.late) == (4, 2, False)
    assert amounts(block.balance) == amounts(client.get_balance(account).balance) == (96, 0, 4)
    entry = client.get_entry(account, revision=block.entry.revision).entry
    assert entry == block.entry
    assert (entry.quantity, dict(entry.usage.metrics)) == (2, {"tokens": 1834})


def test_credits_are_back_after_work_that_failed(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    with pytest.raises(KeyError):
        blocks.run(fail, account_id=account)
    assert amounts(client.get_balance(account).balance) == (100, 0, 0)
    assert kinds(client, account) == ["RESERVED", "RELEASED"]
    state = client.get_reservation(account, blocks.last.reservation.reservation_id).reservation.state
    assert state == ReservationState.RESERVATION_STATE_RELEASED


def test_a_failed_attempt_can_be_recorded_for_nothing(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    block = blocks.run(lambda block: block.usage(outcome=Usage.OUTCOME_FAILED), account_id=account)
    assert (block.cost, amounts(block.balance)) == (0, (100, 0, 0))


def test_more_than_was_reserved_is_charged_whole_or_not_at_all(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    def need(uses: int) -> Any:
        return lambda block: setattr(block, "quantity", uses)

    block = blocks.run(need(10), account_id=account)
    assert (block.cost, amounts(block.balance)) == (20, (80, 0, 20))
    client.adjust_balance(account, -70, reason="for this test")
    with pytest.raises(InsufficientCredits):
        blocks.run(need(20), account_id=account)
    assert amounts(client.get_balance(account).balance) == (8, 2, 20)
    blocks.last.quantity = 5
    blocks.call("commit")
    assert amounts(client.get_balance(account).balance) == (0, 0, 30)


def test_a_block_that_cannot_be_paid_is_not_begun(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    worked: list[Any] = []
    client.adjust_balance(account, -99, reason="for this test")
    with pytest.raises(InsufficientCredits) as caught:
        blocks.run(worked.append, account_id=account)
    assert caught.value.shortfall == 1
    with pytest.raises(LimitExceeded):
        blocks.run(worked.append, account_id=account, quantity=51)
    assert not worked
    assert kinds(client, account) == ["ADJUSTED"]


def test_work_longer_than_the_ttl_is_committed_in_time(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    block = blocks.run(lambda block: time.sleep(2.5), account_id=account, ttl=TTL)
    assert not block.late
    *extensions, last = kinds(client, account)[1:]
    assert set(extensions) == {"EXTENDED"}
    assert last == "COMMITTED"


def test_a_block_is_run_once_per_request_id(client: CreditLedgerClient, account: str, blocks: Blocks) -> None:
    worked: list[Any] = []
    blocks.run(nothing, account_id=account, request_id="job-7")
    with pytest.raises(ReservationCommitted):
        blocks.run(worked.append, account_id=account, request_id="job-7")
    with pytest.raises(KeyError):
        blocks.run(fail, account_id=account, request_id="job-8")
    with pytest.raises(ReservationReleased):
        blocks.run(worked.append, account_id=account, request_id="job-8")
    assert not worked
    assert amounts(client.get_balance(account).balance) == (98, 0, 2)


def test_a_block_goes_on_where_a_process_that_died_left_it(
    client: CreditLedgerClient, account: str, blocks: Blocks
) -> None:
    left = client.create_reservation(
        account, "video_processing", ttl=timedelta(seconds=3), request_id="job-7"
    ).reservation
    block = blocks.run(
        lambda block: time.sleep(3.2), account_id=account, ttl=timedelta(seconds=3), request_id="job-7"
    )
    assert block.response.entry.reservation_id == left.reservation_id
    assert not block.late
    assert amounts(block.balance) == (98, 0, 2)


def test_as_many_blocks_of_many_threads_succeed_as_credits_allow(
    client: CreditLedgerClient, account: str
) -> None:
    client.adjust_balance(account, -60, reason="for this test")
    # No block ends, and gives credits back, before each has been let in or refused.
    decided = threading.Barrier(32)

    def work(number: int) -> str:
        try:
            with client.reserve(account, "video_processing", request_id=f"job-{number}", timeout=30):
                decided.wait(30)
                if number % 2:
                    raise KeyError(number)
        except InsufficientCredits:
            decided.wait(30)
            return "refused"
        except KeyError:
            return "failed"
        return "charged"

    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(work, range(32)))
    assert outcomes.count("refused") == 12
    balance = client.get_balance(account).balance
    spent = 2 * outcomes.count("charged")
    assert amounts(balance) == (40 - spent, 0, spent)
    assert client.verify_account(account).valid


async def test_tasks_that_are_cancelled_leave_nothing_held(
    client: CreditLedgerClient, account: str, shared_server: ServerProcess
) -> None:
    begun = 0

    async def work(ledger: AsyncCreditLedgerClient) -> None:
        nonlocal begun
        async with ledger.reserve(account, "video_processing"):
            begun += 1
            await asyncio.sleep(30)

    async with AsyncCreditLedgerClient(shared_server.target) as ledger:
        tasks = [asyncio.get_running_loop().create_task(work(ledger)) for _ in range(16)]
        await asyncio.to_thread(wait_for, lambda: begun == len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert amounts(client.get_balance(account).balance) == (100, 0, 0)


def restarting(dsn: str, port: int, after: float) -> tuple[threading.Thread, list[ServerProcess]]:
    """Starts a server on the port when so many seconds have passed."""
    started: list[ServerProcess] = []

    def start() -> None:
        time.sleep(after)
        started.append(ServerProcess(dsn, "--listen", f"127.0.0.1:{port}"))

    thread = threading.Thread(target=start)
    thread.start()
    return thread, started


@pytest.mark.parametrize("kind", [SyncBlocks, AsyncBlocks], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("ttl", "late"), [(timedelta(seconds=60), False), (TTL, True)], ids=["within its ttl", "after its ttl"]
)
def test_a_server_that_dies_within_the_block_is_waited_for_and_the_work_charged_once(
    dsn: str, free_port: int, kind: Any, ttl: timedelta, late: bool
) -> None:
    with running_server(dsn, "--listen", f"127.0.0.1:{free_port}") as server:
        blocks: Blocks = kind(server.target)
        restarts: list[tuple[threading.Thread, list[ServerProcess]]] = []

        def work(block: Any) -> None:
            server.kill()
            restarts.append(restarting(dsn, free_port, after=1.2))

        with CreditLedgerClient(server.target) as client:
            client.open_account("user-1", level="pro")
            client.grant_credits("user-1", 100)
            try:
                block = blocks.run(work, ttl=ttl)
                balance = client.get_balance("user-1").balance
            finally:
                blocks.close()
                for thread, started in restarts:
                    thread.join()
                    for again in started:
                        again.kill()
    assert block.late is late
    assert amounts(balance) == (98, 0, 2)


def has_committed(block: ReservationBlock) -> bool:
    """Whether it has, now that it is called once more."""
    try:
        block.commit()
    except CreditLedgerError as error:
        assert error.outcome_unknown
        return False
    return True


def test_a_commit_that_was_cut_off_is_resolved_by_the_block_later(dsn: str, free_port: int) -> None:
    listen = ("--listen", f"127.0.0.1:{free_port}")
    with running_server(dsn, *listen) as server, CreditLedgerClient(server.target) as client:
        client.open_account("user-1", level="pro")
        client.grant_credits("user-1", 100)
        block = client.reserve("user-1", "video_processing", commit_timeout=0.5)
        with pytest.raises(CreditLedgerError) as caught, block:
            server.kill()
        assert caught.value.outcome_unknown
        with running_server(dsn, *listen):
            wait_for(lambda: has_committed(block))
            assert amounts(block.balance) == (98, 0, 2)
            assert client.get_entry("user-1", request_id=caught.value.request_id).entry == block.entry
