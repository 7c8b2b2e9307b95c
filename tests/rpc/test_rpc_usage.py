"""SummarizeUsage: what the entries say, to the last unit, in every zone, at every bound, whoever writes meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from creditledger_server.ledger.usage import rebuild_usage
from creditledger_server.ledger.verify import verify_ledger
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import FAILED, KNOWN, Failure, Ledger, deduction, serving, unique
from usage_histories import DEDUCTED, Row, Use, expected, listed_uses, random_uses, told_rows, write_history

NONE, DAY, WEEK, MONTH = pb.UsageBucket.values()[1:]
MICROSECOND = timedelta(microseconds=1)

# Each around a moment at which its clocks do what others do not.
ZONES = {
    "Europe/Berlin": datetime(2026, 3, 29, 1, tzinfo=UTC),
    "Europe/Berlin ": datetime(2026, 10, 25, 1, tzinfo=UTC),
    "Asia/Kolkata": datetime(2026, 1, 1, tzinfo=UTC),
    "Asia/Kathmandu": datetime(2026, 6, 1, tzinfo=UTC),
    "Pacific/Apia": datetime(2011, 12, 30, 10, tzinfo=UTC),  # there was no 30 December
    "Australia/Lord_Howe": datetime(2026, 4, 4, 15, tzinfo=UTC),  # half an hour
    "America/Havana": datetime(2025, 11, 2, 5, tzinfo=UTC),  # midnight happened twice
    "": datetime(2026, 5, 1, tzinfo=UTC),
}


@pytest.fixture(scope="module")
def histories(database: psycopg.Connection, ledger: Ledger) -> dict[str, list[Use]]:
    """Accounts named by a zone, with 2,400 entries around its moment, half of them close to it."""
    for number, (zone, moment) in enumerate(ZONES.items()):
        far = random_uses(number, 1_200, moment - timedelta(days=20), moment + timedelta(days=20), _KINDS)
        near = random_uses(-number, 1_200, moment - timedelta(hours=2), moment + timedelta(hours=2), _KINDS)
        write_history(database, account_of(zone), sorted(far + near, key=lambda use: use.time))
    return {zone: listed_uses(ledger, account_of(zone)) for zone in ZONES}


_KINDS = (DEDUCTED, DEDUCTED, DEDUCTED, 3)


@pytest.mark.parametrize("bucket", [NONE, DAY, WEEK, MONTH])
@pytest.mark.parametrize("zone", ZONES)
def test_a_summary_is_what_the_entries_add_up_to(
    ledger: Ledger, histories: dict[str, list[Use]], zone: str, bucket: int
) -> None:
    uses, name = histories[zone], zone.strip()
    info = ZoneInfo(name or "UTC")

    for start, end in [(None, None), *random_spans(ZONES[zone], uses)]:
        rows = summarize(ledger, account_of(zone), bucket=bucket, time_zone=name, **span(start, end))
        assert rows == expected(uses, bucket, info, start=start, end=end), (start, end)


def test_a_bound_counts_to_the_microsecond(ledger: Ledger, histories: dict[str, list[Use]]) -> None:
    zone = "Asia/Kolkata"
    uses = histories[zone]
    for time in [use.time for use in random.Random(1).sample(uses, 20)]:
        for start in (time - MICROSECOND, time, time + MICROSECOND):
            assert summarize(ledger, account_of(zone), **span(start, None)) == expected(uses, start=start)
            assert summarize(ledger, account_of(zone), **span(None, start)) == expected(uses, end=start)
        assert summarize(ledger, account_of(zone), **span(time, time)) == []
        assert summarize(ledger, account_of(zone), **span(time, time + MICROSECOND)) == expected(
            uses, start=time, end=time + MICROSECOND
        )


def test_operations_are_filtered(ledger: Ledger, histories: dict[str, list[Use]]) -> None:
    for operations in (
        ["voice_creation"],
        ["video_processing", "chat_refinement", "video_processing"],
        ["unheard_of"],
    ):
        rows = summarize(ledger, account_of(""), operations=operations, bucket=DAY)
        assert rows == expected(histories[""], DAY, operations=operations)
    assert summarize(ledger, account_of(""), operations=["unheard_of"]) == []


def test_a_span_without_entries_has_no_rows(ledger: Ledger, histories: dict[str, list[Use]]) -> None:
    first, last = histories[""][0].time, histories[""][-1].time
    early, late = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    for start, end in ((early, first), (last + MICROSECOND, late), (early, early), (late, late)):
        assert summarize(ledger, account_of(""), bucket=DAY, **span(start, end)) == []
    assert summarize(ledger, account_of(""), bucket=DAY, **span(early, late)) == expected(histories[""], DAY)


def test_deductions_are_summed_as_they_were_told(ledger: Ledger) -> None:
    account = ledger.open(credits_=100)
    assert summarize(ledger, account) == []
    for tokens, seconds in ((10, 1), (5, 2)):
        usage = resources_pb2.Usage(metrics={"tokens": tokens}, response_time=Duration(seconds=seconds))
        ledger.deduct(account, "voice_creation", usage=usage)
    ledger.deduct(account, "voice_creation", usage=FAILED, quantity=3)
    ledger.deduct(account, "chat_refinement", quantity=7)
    ledger.refused_deduct(account, "voice_creation", quantity=90)

    assert summarize(ledger, account) == [
        Row(None, "chat_refinement", 7, 0, 7, "1.000000", {}, None),
        Row(None, "voice_creation", 2, 3, 10, "5.000000", {"tokens": 15}, 1_500_000),
    ]


def test_a_commit_counts_and_a_refund_takes_its_credits_back(ledger: Ledger) -> None:
    account = ledger.open(credits_=100)
    reserved = ledger.call(reserve(account, quantity=3)).reservation
    committed = ledger.call(
        pb.CommitReservationRequest(
            request_id=unique(), account_id=account, reservation_id=reserved.reservation_id, quantity=2,
            usage=resources_pb2.Usage(metrics={"tokens": 9}),
        )
    )  # fmt: skip
    dropped = ledger.call(reserve(account, quantity=5)).reservation
    ledger.call(
        pb.ReleaseReservationRequest(
            request_id=unique(), account_id=account, reservation_id=dropped.reservation_id
        )
    )
    assert summarize(ledger, account) == [
        Row(None, "voice_creation", 2, 0, 10, "5.000000", {"tokens": 9}, None)
    ]
    for amount, left, average in ((3, 7, "3.500000"), (0, 0, "0.000000")):
        ledger.call(
            pb.RefundRequest(
                request_id=unique(), account_id=account, revision=committed.entry.revision, amount=amount
            )
        )
        assert summarize(ledger, account) == [
            Row(None, "voice_creation", 2, 0, left, average, {"tokens": 9}, None)
        ]
    assert summarize(ledger, account) == expected(listed_uses(ledger, account))


def test_what_is_written_meanwhile_is_summed_as_of_one_moment(ledger: Ledger) -> None:
    account = ledger.open(credits_=10**6)
    usage = resources_pb2.Usage(metrics={"one": 1})
    sent: list[int] = []
    acknowledged: list[int] = []

    def deduct(batches: int) -> None:
        for _ in range(batches):
            batch = [deduction(account, usage=usage) for _ in range(100)]
            sent.append(100)
            ledger.call(pb.BatchDeductRequest(requests=batch))
            acknowledged.append(100)

    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(deduct, 15) for _ in range(3)]
        seen = 0
        while not all(writer.done() for writer in writers):
            at_least = max(seen, sum(acknowledged))
            rows = summarize(ledger, account)
            seen = rows[0].uses if rows else 0
            assert at_least <= seen <= sum(sent)
            assert rows in (
                [],
                [Row(None, "chat_refinement", seen, 0, seen, "1.000000", {"one": seen}, None)],
            )
        for writer in writers:
            writer.result()
    assert summarize(ledger, account)[0].uses == 4_500
    assert summarize(ledger, account, bucket=DAY) == expected(listed_uses(ledger, account), DAY)


def test_servers_that_sum_the_same_account_at_once_agree(dsn: str) -> None:
    start = datetime(2026, 2, 1, tzinfo=UTC)
    uses = random_uses(7, 23_456, start, start + timedelta(days=9), _KINDS)
    with psycopg.connect(dsn) as conn:
        write_history(conn, "busy", uses)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(dsn))[1] for _ in range(2)]
        with ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(lambda number: summarize(servers[number % 2], "busy", bucket=DAY), range(8))
            )
    assert all(rows == expected(uses, DAY) for rows in answers)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT revision FROM usage_rollup_head").fetchall() == [(23_000,)]


async def test_verification_compares_the_sums_too(dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        account = ledger.open(credits_=2_000)
        ledger.call(pb.BatchDeductRequest(requests=[deduction(account) for _ in range(1_000)]))
        assert summarize(ledger, account) == expected(listed_uses(ledger, account))
    assert (await verify_ledger(dsn, lambda _done, _total: None)).mismatches == []
    with psycopg.connect(dsn) as conn:
        assert conn.execute("UPDATE usage_rollup SET credits = credits + 1").rowcount

    report = await verify_ledger(dsn, lambda _done, _total: None)

    [mismatch] = report.mismatches
    assert mismatch.startswith(f"{account}: ")
    assert "sums of usage do not match the entries, first that of chat_refinement from" in mismatch
    assert (await rebuild_usage(dsn, lambda _accounts: None)).differences
    assert (await verify_ledger(dsn, lambda _done, _total: None)).mismatches == []


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no account": ({"account_id": ""}, ["account_id"]),
    "operation": ({"operations": ["voice_creation", "Voice", ""]}, ["operations[1]", "operations[2]"]),
    "1,001 operations": ({"operations": ["x"] * 1_001}, ["operations"]),
    "start": ({"start_time": Timestamp(nanos=-1)}, ["start_time"]),
    "end": ({"end_time": Timestamp(seconds=2**60)}, ["end_time"]),
    "end before start": (
        {"start_time": Timestamp(seconds=2), "end_time": Timestamp(seconds=1)},
        ["end_time"],
    ),
    "bucket": ({"bucket": 9}, ["bucket"]),
    "everything": (
        {
            "account_id": "a b",
            "operations": ["-"],
            "start_time": Timestamp(nanos=-1),
            "bucket": -1,
            "time_zone": "x",
        },
        ["account_id", "operations[0]", "start_time", "bucket", "time_zone"],
    ),
}
NO_ZONES = [
    "x", "europe/berlin", "Europe/Nowhere", "Europe", "Europe/", "/Europe/Berlin", "Europe//Berlin", "../UTC", "UTC\0",
    "Europe/../Europe/Berlin", "/etc/passwd", "localtime", "posixrules", "zone.tab", "tzdata.zi", "+01:00", " ", "ä",
    "Europe/" + "B" * 5_000, "A/" * 2_000 + "A", "UTC\n",
]  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named_all_at_once(ledger: Ledger, case: str) -> None:
    fields, names = BAD[case]
    failure = refused(ledger, **fields)
    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert [*failure.fields] == names


@pytest.mark.parametrize("zone", NO_ZONES, ids=lambda zone: repr(zone[:20]))
def test_what_is_no_time_zone_is_refused(ledger: Ledger, zone: str) -> None:
    failure = refused(ledger, time_zone=zone)
    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert failure.fields == {"time_zone": "must be the name of an IANA time zone, for example Europe/Berlin"}


@pytest.mark.parametrize(
    "zone", ["UTC", "Etc/GMT+5", "GMT0", "America/Argentina/Buenos_Aires", "America/Port-au-Prince"]
)
def test_every_name_of_iana_is_taken(ledger: Ledger, account: str, zone: str) -> None:
    assert summarize(ledger, account, time_zone=zone, bucket=MONTH) == []


def test_an_unknown_account_is_not_found(ledger: Ledger, nobody: str) -> None:
    failure = refused(ledger, account_id=nobody)
    assert failure.word == "NOT_FOUND / ACCOUNT_NOT_FOUND"
    assert failure.metadata["accountId"] == nobody
    assert failure.decided[0] == 0


def test_a_zone_off_the_quarters_of_an_hour_is_refused_where_it_matters(
    ledger: Ledger, database: psycopg.Connection
) -> None:
    uses = random_uses(1, 50, datetime(1971, 12, 1, tzinfo=UTC), datetime(1972, 3, 1, tzinfo=UTC))
    write_history(database, "monrovia", uses)
    zone = "Africa/Monrovia"  # 44 minutes and 30 seconds behind UTC until 7 January 1972

    failure = refused(ledger, account_id="monrovia", time_zone=zone, bucket=DAY)

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert [*failure.fields] == ["time_zone"]
    assert summarize(ledger, "monrovia", time_zone=zone) == expected(uses)
    later = datetime(1972, 2, 1, tzinfo=UTC)
    assert summarize(ledger, "monrovia", time_zone=zone, bucket=DAY, **span(later, None)) == expected(
        uses, DAY, start=later
    )


def test_more_rows_than_an_answer_may_have_are_refused(ledger: Ledger, database: psycopg.Connection) -> None:
    start = datetime(1990, 1, 1, tzinfo=UTC)
    uses = [Use(start + timedelta(days=day), DEDUCTED, "voice_creation", 1, 5) for day in range(10_001)]
    write_history(database, "old", uses)

    assert [*refused(ledger, account_id="old", bucket=DAY).fields] == ["bucket"]
    assert len(summarize(ledger, "old", bucket=DAY, **span(uses[1].time, None))) == 10_000
    assert summarize(ledger, "old") == expected(uses)


def test_an_answer_beyond_4_mib_is_refused(ledger: Ledger, database: psycopg.Connection) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    uses = [
        Use(
            start,
            DEDUCTED,
            "voice_creation",
            1,
            5,
            {"metrics": {f"{'m' * 55}_{number}_{each}": 1 for each in range(32)}},
        )
        for number in range(2_000)
    ]
    write_history(database, "chatty", uses)

    assert [*refused(ledger, account_id="chatty").fields] == ["bucket"]


def test_a_sum_beyond_64_bits_is_refused(ledger: Ledger, database: psycopg.Connection) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    usage = {"metrics": {"tokens": 10**15}}
    uses = [
        Use(start + timedelta(hours=hour), DEDUCTED, "voice_creation", 1, 5, usage) for hour in range(9_224)
    ]
    write_history(database, "huge", uses)

    failure = refused(ledger, account_id="huge")

    assert failure.fields == {"bucket": "must be finer, or the span shorter: a sum exceeds 64 bits"}
    assert summarize(ledger, "huge", bucket=MONTH) == expected(uses, MONTH)
    assert summarize(ledger, "huge", **span(uses[1].time, None))[0].metrics == {"tokens": 9_223 * 10**15}


def account_of(zone: str) -> str:
    """The account of a zone's history."""
    return f"zone:{zone.replace(' ', '-')}"


def random_spans(moment: datetime, uses: Sequence[Use]) -> Iterator[tuple[datetime, datetime]]:
    """Spans that begin and end anywhere: at entries, on quarters of an hour, near the moment and far from it."""
    rng = random.Random(moment.isoformat())
    times = [use.time for use in rng.sample(uses, 6)]
    times += [moment + timedelta(minutes=15 * rng.randint(-200, 200)) for _ in range(4)]
    times += [moment + timedelta(seconds=rng.uniform(-9_000, 9_000)) for _ in range(6)]
    for _ in range(15):
        start, end = sorted(rng.sample(times, 2))
        yield start, end


def span(start: datetime | None, end: datetime | None) -> dict[str, Timestamp]:
    """The fields of a span."""
    return {
        name: stamp(time) for name, time in (("start_time", start), ("end_time", end)) if time is not None
    }


def stamp(time: datetime) -> Timestamp:
    """A time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def summarize(ledger: Ledger, account_id: str, **fields: Any) -> list[Row]:
    """The rows of a summary."""
    return told_rows(ledger.call(pb.SummarizeUsageRequest(account_id=account_id, **fields)))


def refused(ledger: Ledger, **fields: Any) -> Failure:
    """How a summary fails."""
    return ledger.refusal(pb.SummarizeUsageRequest(**{"account_id": KNOWN, **fields}))


def reserve(account_id: str, quantity: int) -> pb.ReserveRequest:
    """A reservation of voices."""
    return pb.ReserveRequest(
        request_id=unique("reserve"), account_id=account_id, operation="voice_creation", quantity=quantity
    )
