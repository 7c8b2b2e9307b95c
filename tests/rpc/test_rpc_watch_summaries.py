"""min_interval: at most one message per account and interval, and nothing left out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator

import grpc
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from ledger_calls import TIMEOUT, Ledger, serving

INTERVAL = 0.4
DEDUCTED = resources_pb2.ENTRY_KIND_DEDUCTED


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    """Calls to a server on a ledger of its own, so that nobody else changes accounts."""
    with serving(dsn) as (_, calls):
        yield calls


def watching(
    ledger: Ledger, *names: str, cursor: str = "", interval: float = INTERVAL, kinds: tuple[int, ...] = ()
) -> Iterator[pb.WatchUsageResponse]:
    """The messages of a stream that are no heartbeats."""
    seconds, micros = divmod(round(interval * 1_000_000), 1_000_000)
    request = pb.WatchUsageRequest(
        account_ids=names, cursor=cursor, min_interval=Duration(seconds=seconds, nanos=micros * 1_000),
        kinds=list(map(resources_pb2.EntryKind.ValueType, kinds)),
    )  # fmt: skip
    stream = ledger.call(request, timeout=TIMEOUT)
    try:
        for message in stream:
            if message.WhichOneof("event") != "heartbeat":
                yield message
    finally:
        stream.cancel()


def summaries_until(
    messages: Iterator[pb.WatchUsageResponse], last: dict[str, int]
) -> list[pb.WatchUsageResponse]:
    """The messages until every account's revision has been covered; all are summaries."""
    found = []
    covered: dict[str, int] = {}
    while any(covered.get(name, 0) < revision for name, revision in last.items()):
        message = next(messages)
        assert message.WhichOneof("event") == "summary", message
        covered[message.summary.account_id] = message.summary.to_revision
        found.append(message)
    return found


def ranges(messages: list[pb.WatchUsageResponse]) -> dict[str, list[tuple[int, int]]]:
    by_account = defaultdict(list)
    for message in messages:
        by_account[message.summary.account_id].append(
            (message.summary.from_revision, message.summary.to_revision)
        )
    return dict(by_account)


def contiguous(parts: list[tuple[int, int]], first: int, last: int) -> bool:
    ends = [first - 1, *(end for _, end in parts)]
    return [start for start, _ in parts] == [end + 1 for end in ends[:-1]] and ends[-1] == last


def test_summaries_touch_and_add_up_and_come_no_more_often_than_asked(ledger: Ledger) -> None:
    account = ledger.open(credits_=100)
    stream = watching(ledger, account)
    assert next(stream).WhichOneof("event") == "snapshot"
    began = time.monotonic()
    for _ in range(12):
        ledger.deduct(account, "voice_creation")
        time.sleep(INTERVAL / 5)
    messages = summaries_until(stream, {account: 14})
    took = time.monotonic() - began

    assert contiguous(ranges(messages)[account], 3, 14)
    assert len(messages) <= took / INTERVAL + 1
    assert [each.summary.changes for each in messages] == [
        each.summary.to_revision - each.summary.from_revision + 1 for each in messages
    ]
    assert sum(each.summary.credits for each in messages) == 60
    assert [each.summary.balance.available for each in messages] == [
        100 - 5 * (each.summary.to_revision - 2) for each in messages
    ]
    assert messages[-1].summary.balance == ledger.balance(account).balance


def test_of_a_filter_by_kind_only_what_passes_counts_and_refunds_are_taken_off(ledger: Ledger) -> None:
    account = ledger.open(credits_=100)
    charge = ledger.deduct(account, "voice_creation")
    watched = next(watching(ledger, account)).cursor
    ledger.deduct(account, "voice_creation")
    ledger.call(
        pb.RefundRequest(request_id="r", account_id=account, revision=charge.entry.revision, amount=2)
    )
    ledger.deduct(account)

    [both] = summaries_until(watching(ledger, account, cursor=watched), {account: 6})
    [deducted] = summaries_until(watching(ledger, account, cursor=watched, kinds=(DEDUCTED,)), {account: 6})

    assert (both.summary.from_revision, both.summary.to_revision) == (4, 6)
    assert (both.summary.changes, both.summary.credits) == (3, 5 - 2 + 1)
    assert (deducted.summary.changes, deducted.summary.credits) == (2, 6)
    assert both.summary.balance == deducted.summary.balance


def test_what_was_missed_comes_in_one_summary_then_caught_up(ledger: Ledger) -> None:
    account = ledger.open(credits_=300)
    cursor = next(watching(ledger, account)).cursor
    for _ in range(130):
        ledger.deduct(account)
    stream = watching(ledger, account, cursor=cursor)
    missed, caught_up = next(stream), next(stream)

    assert (missed.summary.from_revision, missed.summary.to_revision) == (3, 132)
    assert caught_up.WhichOneof("event") == "caught_up"
    ledger.deduct(account)
    [live] = summaries_until(stream, {account: 133})
    assert (live.summary.from_revision, live.summary.changes) == (133, 1)


def test_every_cursor_between_summaries_of_all_accounts_resumes_exactly(ledger: Ledger) -> None:
    start = next(watching_all(ledger)).cursor
    accounts = {ledger.open(credits_=50): 0 for _ in range(4)}
    for number, account in enumerate(accounts):
        for _ in range(number + 1):
            accounts[account] = ledger.deduct(account).entry.revision
    messages = summaries_until(watching(ledger, cursor=start), accounts)
    assert ranges(messages) == {name: [(1, last)] for name, last in accounts.items()}
    assert [each.summary.account_id for each in messages] == sorted(accounts)

    for name in accounts:
        accounts[name] = ledger.deduct(name).entry.revision
    for place, message in enumerate(messages):
        told = {each.summary.account_id: each.summary.to_revision for each in messages[: place + 1]}
        expected = {name: (told.get(name, 0) + 1, last) for name, last in accounts.items()}
        again = summaries_until(watching(ledger, cursor=message.cursor), accounts)
        for name, parts in ranges(again).items():
            assert contiguous(parts, *expected[name]), (place, name, parts)
        assert sum(each.summary.changes for each in again) == sum(
            last - first + 1 for first, last in expected.values()
        )
        entries = changes_until_caught_up(ledger, message.cursor)
        assert entries == {name: list(range(first, last + 1)) for name, (first, last) in expected.items()}


def test_all_accounts_are_told_together_and_no_more_often_than_asked(ledger: Ledger) -> None:
    accounts = {ledger.open(credits_=50): 2 for _ in range(3)}
    stream = watching_all(ledger, INTERVAL)
    next(stream)
    began = time.monotonic()
    for _ in range(8):
        for name in accounts:
            accounts[name] = ledger.deduct(name).entry.revision
        time.sleep(INTERVAL / 5)
    messages = summaries_until((each for each in stream if each.HasField("summary")), accounts)
    took = time.monotonic() - began

    for name, parts in ranges(messages).items():
        assert contiguous(parts, 3, 10), (name, parts)
        assert len(parts) <= took / INTERVAL + 1


@pytest.mark.parametrize(
    "interval",
    [Duration(seconds=-1), Duration(seconds=3_600, nanos=1), Duration(nanos=-1), Duration(seconds=4_000)],
)
def test_an_interval_out_of_range_is_named(ledger: Ledger, interval: Duration) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        next(ledger.call(pb.WatchUsageRequest(min_interval=interval), timeout=TIMEOUT))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "min_interval" in str(caught.value.details())


def watching_all(ledger: Ledger, interval: float = 0) -> Iterator[pb.WatchUsageResponse]:
    """The messages of a stream of all accounts; the first is a heartbeat with a cursor."""
    request = pb.WatchUsageRequest(min_interval=Duration(nanos=round(interval * 1e9)))
    stream = ledger.call(request, timeout=TIMEOUT)
    try:
        yield from stream
    finally:
        stream.cancel()


def changes_until_caught_up(ledger: Ledger, cursor: str) -> dict[str, list[int]]:
    """The revisions that a stream of all accounts without an interval resumes with."""
    found = defaultdict(list)
    for message in watching(ledger, cursor=cursor, interval=0):
        if message.HasField("caught_up"):
            break
        found[message.change.entry.account_id].append(message.change.entry.revision)
    return dict(found)
