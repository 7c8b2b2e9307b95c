"""Long histories of usage, written by SQL as if months had gone by, and what they add up to, in plain Python."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import psycopg
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from ledger_calls import Ledger

GRANTED, DEDUCTED, COMMITTED, REFUNDED = 3, 4, 6, 10
QUARTER = timedelta(minutes=15)
OPERATIONS = ("chat_refinement", "script_generation", "video_processing", "voice_creation")

_Key = Callable[[datetime], Any]

_BUCKETS: dict[int, _Key] = {
    pb.USAGE_BUCKET_DAY: lambda local: local.date(),
    pb.USAGE_BUCKET_WEEK: lambda local: local.isocalendar()[:2],
    pb.USAGE_BUCKET_MONTH: lambda local: (local.year, local.month),
}


@dataclass(frozen=True)
class Use:
    """What of an entry matters to a summary; ``credits`` is negative for a refund."""

    time: datetime
    kind: int
    operation: str
    quantity: int
    credits: int
    usage: dict[str, Any] = field(default_factory=dict)


class Row(NamedTuple):
    """A row of a summary; ``response_time`` in microseconds."""

    bucket_start: datetime | None
    operation: str
    uses: int
    failures: int
    credits: int
    average_credits: str
    metrics: dict[str, int]
    response_time: int | None


def random_uses(
    seed: int, count: int, start: datetime, end: datetime, kinds: Sequence[int] = (DEDUCTED, GRANTED)
) -> list[Use]:
    """Uses at random times, many of them at the same one or on a quarter of an hour."""
    rng = random.Random(seed)
    span = end - start
    times = [start + span * rng.random() for _ in range(count)]
    times += [
        time.replace(minute=15 * rng.randrange(4), second=0, microsecond=0) for time in times[: count // 5]
    ]
    times += rng.sample(times, count // 5)
    chosen = sorted(time for time in rng.sample(times, count) if start <= time < end)
    return [_random_use(rng, time, rng.choice(kinds)) for time in chosen]


def _random_use(rng: random.Random, time: datetime, kind: int) -> Use:
    if kind == GRANTED:
        return Use(time, kind, "", 0, 0)
    operation = rng.choice(OPERATIONS)
    if kind == REFUNDED:
        return Use(time, kind, operation, rng.randint(1, 3), -rng.randint(1, 40))
    usage: dict[str, Any] = {}
    if rng.random() < 0.5:
        usage["metrics"] = {
            name: rng.choice([0, 7, 10**15]) for name in rng.sample(["tokens", "pages", "x"], 2)
        }
    if rng.random() < 0.5:
        usage["response_time_us"] = rng.randrange(10**7)
    if rng.random() < 0.2:
        usage["outcome"] = "failed"
    return Use(
        time, kind, operation, rng.randint(1, 3), 0 if "outcome" in usage else rng.randint(0, 50), usage
    )


def write_history(conn: psycopg.Connection, account_id: str, uses: Sequence[Use]) -> None:
    """Makes an account whose entries are these uses. Its balance and its hashes are made up."""
    first, last = uses[0].time, uses[-1].time
    conn.execute(
        "INSERT INTO account (account_id, revision, available, reserved, granted, spent, forfeited, commit_position,"
        " last_time, create_time, state, level, head_hash, lots, labels)"
        " VALUES (%s, %s, 0, 0, 0, 0, 0, 1, %s, %s, 1, 'pro', sha256(''), '[]', '{}')",
        [account_id, len(uses), last, first],
    )
    with (
        conn.cursor() as cursor,
        cursor.copy(
            "COPY entry (account_id, revision, create_time, amount, cost, available, reserved, spent, forfeited,"
            " quantity, catalog_version, kind, operation, hash, draws, usage, details) FROM STDIN"
        ) as copy,
    ):
        for revision, use in enumerate(uses, 1):
            copy.write_row(_entry(account_id, revision, use))


def _entry(account_id: str, revision: int, use: Use) -> tuple[Any, ...]:
    refunded = use.kind == REFUNDED
    draws = f"2:{use.credits // 2},9:{use.credits - use.credits // 2}" if refunded else None
    return (
        account_id, revision, use.time, -use.credits, 0 if refunded else use.credits, 0, 0, 0, 0, use.quantity,
        1, use.kind, use.operation or None, bytes(32), draws, json.dumps(use.usage) if use.usage else None,
        '{"refunds":1}' if refunded else None,
    )  # fmt: skip


def listed_uses(ledger: Ledger, account_id: str) -> list[Use]:
    """What ListEntries tells of an account's whole history."""
    uses, token = [], ""
    while True:
        page = ledger.call(
            pb.ListEntriesRequest(
                account_id=account_id, page_size=1_000, order=pb.ENTRY_ORDER_OLDEST_FIRST, page_token=token
            )
        )
        uses += [_listed(entry) for entry in page.entries]
        token = page.next_page_token
        if not token:
            return uses


def _listed(entry: resources_pb2.Entry) -> Use:
    usage: dict[str, Any] = {"metrics": dict(entry.usage.metrics)}
    if entry.usage.HasField("response_time"):
        usage["response_time_us"] = entry.usage.response_time.ToMicroseconds()
    if entry.usage.outcome == resources_pb2.Usage.OUTCOME_FAILED:
        usage["outcome"] = "failed"
    refunded = entry.kind == resources_pb2.ENTRY_KIND_REFUNDED
    credits = sum(draw.amount for draw in entry.draws) if refunded else entry.cost
    time = entry.create_time.ToDatetime(UTC)
    return Use(time, entry.kind, entry.operation, entry.quantity, credits, usage)


def expected(
    uses: Iterable[Use], bucket: int = 0, zone: tzinfo = UTC, operations: Sequence[str] = (),
    start: datetime | None = None, end: datetime | None = None,
) -> list[Row]:  # fmt: skip
    """What a summary of these uses should be."""
    groups: dict[tuple[datetime | None, str], list[Use]] = {}
    begin = _bucket_begin(bucket, zone)
    for use in uses:
        counts = use.kind in (DEDUCTED, COMMITTED, REFUNDED) and (
            not operations or use.operation in operations
        )
        if counts and (start is None or start <= use.time) and (end is None or use.time < end):
            groups.setdefault((begin(use.time), use.operation), []).append(use)
    order = sorted(groups, key=lambda key: (key[0] or datetime.min.replace(tzinfo=UTC), key[1]))
    return [_row(*key, groups[key]) for key in order]


def _row(bucket_start: datetime | None, operation: str, group: list[Use]) -> Row:
    attempts = [use for use in group if use.kind != REFUNDED]
    failed = [use for use in attempts if use.usage.get("outcome") == "failed"]
    times = [use.usage["response_time_us"] for use in attempts if "response_time_us" in use.usage]
    metrics: Counter[str] = Counter()
    for use in attempts:
        for name, value in use.usage.get("metrics", {}).items():
            metrics[name] += value
    failures = sum(use.quantity for use in failed)
    uses = sum(use.quantity for use in attempts) - failures
    credits = sum(use.credits for use in group)
    return Row(
        bucket_start, operation, uses, failures, credits, _average(credits, uses), dict(metrics),
        sum(times) // len(times) if times else None,
    )  # fmt: skip


def _average(credits: int, uses: int) -> str:
    average = (Decimal(credits) / (uses or 1)).quantize(Decimal("0.000001"), ROUND_HALF_UP)
    return str(average) if uses and average else "0.000000"


def _bucket_begin(bucket: int, zone: tzinfo) -> Callable[[datetime], datetime | None]:
    """When the bucket of a time begins: steps back by quarters of an hour for as long as the local date stays in it."""
    key = _BUCKETS.get(bucket)
    known: dict[Any, datetime] = {}

    def begin(time: datetime) -> datetime | None:
        if key is None:
            return None
        this = key(time.astimezone(zone))
        if this not in known:
            quarter = datetime.fromtimestamp(time.timestamp() // 900 * 900, UTC)
            while key((quarter - QUARTER).astimezone(zone)) == this:
                quarter -= QUARTER
            known[this] = quarter
        return known[this]

    return begin


def told_rows(answer: pb.SummarizeUsageResponse) -> list[Row]:
    """The rows of an answer."""
    return list(_told(answer))


def _told(answer: pb.SummarizeUsageResponse) -> Iterator[Row]:
    for row in answer.rows:
        yield Row(
            row.bucket_start.ToDatetime(UTC) if row.HasField("bucket_start") else None,
            row.operation, row.uses, row.failures, row.credits, row.average_credits, dict(row.metrics),
            row.response_time.ToMicroseconds() if row.HasField("response_time") else None,
        )  # fmt: skip
