"""What the service asks of the ledger, and how it answers: without Postgres, on a ledger that only takes notes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from creditledger.v1.error_reason_pb2 import ErrorReason
from creditledger_server.domain.account import Account
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
from creditledger_server.domain.decide import Accepted, decide
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.ledger.lane import Lane, LaneGroup, Ticket
from creditledger_server.rpc.context import Context
from creditledger_server.rpc.credit_ledger import CreditLedgerService
from creditledger_server.storage.reads import EntryFilter
from creditledger_server.watch.message import Message, Signal

CATALOG = parse_catalog(
    {"default_level": "free", "operations": {"voice": {"price": {"flat": 5}}}, "levels": {"free": {}}}
)
BOOK = CatalogBook([CatalogVersion(1, CATALOG, 0)])


class Notes:
    """A ledger of one account in memory that notes what it is asked; its lanes are the real ones."""

    class identity:
        cursor_key = bytes(32)

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.history = self  # asked for entries
        self.account = Account("ann")
        decide(OpenAccount("open", "ann"), self.account, BOOK, 0)
        decide(GrantCredits("grant", "ann", 12), self.account, BOOK, 0)
        self.lanes: LaneGroup[Command, Accepted] = LaneGroup(
            [Lane(self.serve, queue_limit=9_999, round_limit=100)], lambda _: 0
        )

    async def serve(self, tickets: Sequence[Ticket[Command, Accepted]]) -> None:
        for ticket in tickets:
            try:
                ticket.answer(decide(ticket.request, self.account, BOOK, 0))
            except Refused as refused:
                ticket.answer(refused)

    async def write(self, commands: Sequence[Command], deadline: float) -> list[Accepted | Refused]:
        self.asked.append(list(commands))
        return await self.lanes.submit(commands, deadline)

    async def entries(self, account_id: str, which: EntryFilter, limit: int) -> list[Entry]:
        self.asked.append(which)
        return self.account.written[:limit]

    async def watch(
        self, account_ids: Sequence[str], cursor: str, kinds: frozenset[EntryKind], interval: float
    ) -> AsyncIterator[Message]:
        self.asked.append(kinds)
        yield Message("cursor", Signal.CAUGHT_UP)


class Call:
    def time_remaining(self) -> None:
        return None


CALL = cast(Context, Call())


def service(notes: Notes) -> CreditLedgerService:
    return CreditLedgerService(cast(Any, notes), cast(Any, notes), default_deadline=10)


def deduct(request_id: str, account_id: str = "ann", operation: str = "voice") -> pb.DeductRequest:
    return pb.DeductRequest(request_id=request_id, account_id=account_id, operation=operation)


async def batch(
    notes: Notes, *requests: pb.DeductRequest, patience: float = 10
) -> list[pb.BatchDeductResult]:
    async with asyncio.timeout(patience), asyncio.TaskGroup() as tasks:
        lanes = tasks.create_task(notes.lanes.run())
        response = await service(notes).BatchDeduct(pb.BatchDeductRequest(requests=requests), CALL)
        lanes.cancel()
    return list(response.results)


# ── Batches ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_item_of_a_batch_has_its_own_result_in_its_place() -> None:
    notes = Notes()
    results = await batch(
        notes,
        deduct("1"),
        deduct(""),
        deduct("2"),
        deduct("3"),
        deduct("4", operation="nothing"),
        deduct("1"),
    )
    told = [
        ErrorReason.Name(result.status.reason)
        if result.HasField("status")
        else result.response.balance.available
        for result in results
    ]
    assert told == [
        7,
        "ERROR_REASON_FIELD_INVALID",
        2,
        "ERROR_REASON_INSUFFICIENT_CREDITS",
        "ERROR_REASON_OPERATION_UNKNOWN",
        7,
    ]
    assert results[5].response.replayed
    assert [command.request_id for command in notes.asked[0]] == ["1", "2", "3", "4", "1"]


@pytest.mark.parametrize("size", [1, 3])
async def test_a_batch_of_bad_items_only_is_answered(size: int) -> None:
    results = await batch(Notes(), *[deduct("")] * size, patience=0.2)
    assert [result.status.code for result in results] == [3] * size


@pytest.mark.parametrize("size", [0, 1_001])
async def test_a_batch_has_1_to_1000_items(size: int) -> None:
    notes = Notes()
    with pytest.raises(Refused) as caught:
        await service(notes).BatchDeduct(pb.BatchDeductRequest(requests=[deduct("1")] * size), CALL)
    assert (caught.value.reason, caught.value.violations[0][0]) == (Reason.FIELD_INVALID, "requests")
    assert notes.asked == []


# ── Filters by kind ───────────────────────────────────────────────────────────────────────────────────────────────

KNOWN, UNWRITTEN = resources_pb2.ENTRY_KIND_GRANTED, resources_pb2.ENTRY_KIND_RESERVED


async def listed(*kinds: int) -> EntryFilter:
    notes = Notes()
    await service(notes).ListEntries(pb.ListEntriesRequest(account_id="ann", kinds=kinds), CALL)  # type: ignore[arg-type]
    which: EntryFilter = notes.asked[0]
    return which


async def watched(*kinds: int) -> frozenset[int]:
    notes = Notes()
    async for _ in service(notes).WatchUsage(pb.WatchUsageRequest(kinds=kinds), CALL):  # type: ignore[arg-type]
        pass
    asked: frozenset[int] = notes.asked[0]
    return asked


async def test_no_kinds_are_all_kinds() -> None:
    assert (await listed()).kinds == ()
    assert await watched() == frozenset()


async def test_kinds_that_are_not_written_yet_may_be_asked_for() -> None:
    assert (await listed(KNOWN, UNWRITTEN)).kinds == (KNOWN, UNWRITTEN)
    assert await watched(KNOWN, UNWRITTEN) == {KNOWN, UNWRITTEN}


async def test_to_list_only_kinds_that_are_not_written_yet_is_not_to_list_all() -> None:
    notes = Notes()
    response = await service(notes).ListEntries(
        pb.ListEntriesRequest(account_id="ann", kinds=[UNWRITTEN]), CALL
    )
    assert not response.entries or (notes.asked and notes.asked[0].kinds)


async def test_to_watch_only_kinds_that_are_not_written_yet_is_not_to_watch_all() -> None:
    assert await watched(UNWRITTEN) != frozenset()


@pytest.mark.parametrize("kind", [0, 99, -1])
async def test_unknown_kinds_are_refused(kind: int) -> None:
    for call in (listed, watched):
        with pytest.raises(Refused) as caught:
            await call(KNOWN, kind)
        assert caught.value.violations[0][0] == "kinds[1]"


# ── Pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("newest_first", "revisions"), [(True, (1, 1)), (False, (3, None))])
async def test_the_next_page_begins_behind_the_last_entry(
    newest_first: bool, revisions: tuple[int, int | None]
) -> None:
    notes = Notes()
    order = pb.ENTRY_ORDER_NEWEST_FIRST if newest_first else pb.ENTRY_ORDER_OLDEST_FIRST
    notes.account.written[:] = [notes.account.written[1]] * 2
    request = pb.ListEntriesRequest(account_id="ann", page_size=1, order=order)
    first = await service(notes).ListEntries(request, CALL)
    assert [entry.revision for entry in first.entries] == [2]
    request.page_token = first.next_page_token
    await service(notes).ListEntries(request, CALL)
    assert (notes.asked[1].from_revision, notes.asked[1].to_revision) == revisions


async def test_the_last_page_has_no_token() -> None:
    notes = Notes()
    response = await service(notes).ListEntries(pb.ListEntriesRequest(account_id="ann", page_size=2), CALL)
    assert (len(response.entries), response.next_page_token) == (2, "")


# ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_deduction_is_asked_for_as_it_was_told() -> None:
    notes = Notes()
    request = deduct("1")
    request.account_level = "free"
    request.quantity = 2
    async with asyncio.TaskGroup() as tasks:
        lanes = tasks.create_task(notes.lanes.run())
        response = await service(notes).Deduct(request, CALL)
        lanes.cancel()
    assert notes.asked == [[Deduct("1", "ann", "voice", 2, None, "free")]]
    assert (response.cost, response.balance.available, response.replayed) == (10, 2, False)


async def test_a_bad_deduction_never_reaches_the_ledger() -> None:
    notes = Notes()
    with pytest.raises(Refused) as caught:
        await service(notes).Deduct(pb.DeductRequest(quantity=0), CALL)
    assert [field for field, _ in caught.value.violations] == [
        "request_id",
        "account_id",
        "operation",
        "quantity",
    ]
    assert notes.asked == []
