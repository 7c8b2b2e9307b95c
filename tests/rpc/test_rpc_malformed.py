"""Bad input, one row each: the exact status with the field named, nothing written, and the next call works."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bad_input import (
    BAD_IDS,
    BAD_LABELS,
    BAD_NAMES,
    BAD_QUANTITIES,
    BAD_SIZES,
    BAD_TEXTS,
    BAD_TIMES,
    BAD_TOKENS,
    MAX,
    MAX_32,
    MIN,
    MIN_32,
    NOT_POSITIVE,
    Row,
    Table,
    changed_by,
    check_named,
    nested,
    nested_lists,
)
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import KNOWN, Ledger, deduction, example_catalog, serving, unique
from ledger_load import rows


def valid() -> dict[str, Any]:
    """A valid request of every served method that has fields, about the account."""
    return {
        "CanPerform": pb.CanPerformRequest(account_id=KNOWN, operation="chat_refinement"),
        "Deduct": deduction(KNOWN),
        "GetBalance": pb.GetBalanceRequest(account_id=KNOWN),
        "GetEntry": pb.GetEntryRequest(account_id=KNOWN, revision=1),
        "ListEntries": pb.ListEntriesRequest(account_id=KNOWN),
        "WatchUsage": pb.WatchUsageRequest(account_ids=[KNOWN]),
        "OpenAccount": admin_pb.OpenAccountRequest(request_id=unique(), account_id=unique("new")),
        "GetAccount": admin_pb.GetAccountRequest(account_id=KNOWN),
        "ListAccounts": admin_pb.ListAccountsRequest(),
        "GrantCredits": admin_pb.GrantCreditsRequest(request_id=unique(), account_id=KNOWN, amount=1),
        "UpdateCatalog": admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=example_catalog()),
        "VerifyAccount": admin_pb.VerifyAccountRequest(account_id=KNOWN),
    }


TABLE = Table(valid)


def id_rows() -> Iterator[Row]:
    yield from TABLE.ids()
    for name, value in BAD_IDS.items():
        yield Row(f"WatchUsage {name}", pb.WatchUsageRequest(account_ids=[KNOWN, value]), "account_ids[1]")


def name_rows() -> Iterator[Row]:
    optional = {name: value for name, value in BAD_NAMES.items() if value}
    for method in ("CanPerform", "Deduct"):
        yield from TABLE.setting(method, "operation", BAD_NAMES)
        yield from TABLE.setting(method, "account_level", optional)
    yield from TABLE.setting("OpenAccount", "level", optional)
    yield from TABLE.setting("ListAccounts", "level", optional)
    yield from TABLE.setting(
        "ListAccounts", "prefix", {name: value for name, value in BAD_IDS.items() if value}
    )
    yield from TABLE.setting("ListEntries", "operation", optional)


def number_rows() -> Iterator[Row]:
    for method in ("CanPerform", "Deduct"):
        yield from TABLE.setting(method, "quantity", BAD_QUANTITIES)
    yield from TABLE.setting("GrantCredits", "amount", {**NOT_POSITIVE, "10^15+1": 10**15 + 1, "2^63-1": MAX})
    yield TABLE.row("GrantCredits", "missing", "amount", lambda request: request.ClearField("amount"))
    yield from TABLE.setting(
        "GrantCredits", "priority", {"-1001": -1_001, "1001": 1_001, "-2^31": MIN_32, "2^31-1": MAX_32}
    )
    yield from TABLE.setting("GetEntry", "revision", NOT_POSITIVE)
    yield TABLE.row("GetEntry", "neither", "revision", lambda request: request.ClearField("key"))
    for method in ("ListEntries", "ListAccounts"):
        yield from TABLE.setting(method, "page_size", BAD_SIZES)
    for field in ("from_revision", "to_revision"):
        yield from TABLE.setting("ListEntries", field, {"-1": -1, "-2^63": MIN})


def label_rows() -> Iterator[Row]:
    for method in ("OpenAccount", "GrantCredits"):
        for name, (labels, field) in BAD_LABELS.items():
            yield TABLE.row(method, name, field, changed_by("labels", "update", labels))
    yield from TABLE.setting("GrantCredits", "reason", BAD_TEXTS)


def list_rows() -> Iterator[Row]:
    for field in ("start_time", "end_time"):
        for name, time in BAD_TIMES.items():
            yield TABLE.row("ListEntries", name, field, changed_by(field, "CopyFrom", time))
    for number in (3, -1, MAX_32, MIN_32):
        yield from TABLE.setting("ListEntries", "order", {str(number): number})
    for method in ("ListEntries", "WatchUsage"):
        for number in (0, 16, -1, MAX_32, MIN_32):
            yield TABLE.row(method, str(number), "kinds[1]", changed_by("kinds", "extend", [3, number]))
    for method in ("ListEntries", "ListAccounts"):
        yield from TABLE.setting(method, "page_token", BAD_TOKENS)
    too_many = pb.WatchUsageRequest(account_ids=[f"a{number}" for number in range(1_001)])
    yield Row("WatchUsage 1,001 accounts", too_many, "account_ids")
    items = pb.BatchDeductRequest(requests=[deduction(KNOWN) for _ in range(1_001)])
    yield Row("BatchDeduct 1,001 items", items, "requests")
    yield Row("BatchDeduct no item", pb.BatchDeductRequest(), "requests")


ROWS = [
    *id_rows(), *name_rows(), *number_rows(), *label_rows(), *TABLE.usage("Deduct"),
    *TABLE.metrics("CanPerform"), *list_rows(),
]  # fmt: skip


@pytest.mark.parametrize("case", ROWS, ids=[ascii(each.name) for each in ROWS])
@pytest.mark.usefixtures("untouched")
def test_a_bad_field_is_named_and_nothing_is_written(ledger: Ledger, case: Row) -> None:
    check_named(ledger, case)


DEDUCT_ROWS = [case for case in ROWS if isinstance(case.request, pb.DeductRequest)]


@pytest.mark.usefixtures("untouched")
def test_an_item_of_a_batch_is_checked_as_the_single_call(ledger: Ledger) -> None:
    for start in range(0, len(DEDUCT_ROWS), 40):
        cases = DEDUCT_ROWS[start : start + 40]
        good = deduction(KNOWN, request_id="deduct")
        requests = [good, *(case.request for case in cases)]

        [first, *results] = ledger.call(pb.BatchDeductRequest(requests=requests)).results  # type: ignore[arg-type]

        assert first.response.replayed
        for case, result in zip(cases, results, strict=True):
            assert (result.status.code, result.status.reason) == (3, 1), case.name
            fields = {item.field for item in result.status.field_violations}
            assert any(found.startswith(case.field[:100]) for found in fields), case.name


def test_a_quantity_that_makes_the_cost_too_large_is_refused(dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        catalog = example_catalog(gold=10**15, silver=10**7)
        ledger.call(admin_pb.UpdateCatalogRequest(request_id="u", catalog=catalog))
        account = ledger.open(credits_=10**15)
        for operation, quantity in (("gold", 2), ("gold", 10**9), ("silver", 10**8 + 1)):
            requests: list[Message] = [
                deduction(account, operation, quantity=quantity),
                pb.CanPerformRequest(account_id=account, operation=operation, quantity=quantity),
            ]
            for request in requests:
                failure = ledger.refusal(request)
                assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
                assert list(failure.fields) == ["quantity"]
        assert ledger.revision(account) == 2
        assert ledger.deduct(account, "silver", quantity=10**8).cost == 10**15
        assert ledger.refused_deduct(account, "gold").reason == "INSUFFICIENT_CREDITS"


def test_grants_beyond_the_largest_balance_are_refused(ledger: Ledger, shared_dsn: str) -> None:
    account = ledger.open()
    for _ in range(3):
        ledger.grant(account, 10**15)
    most = 9 * 10**18
    rows(
        shared_dsn,
        "UPDATE account SET available = %s, granted = %s, lots = %s WHERE account_id = %s",
        most - 10, most - 10, f"[[2,0,{most - 10}]]", account,
    )  # fmt: skip

    request = admin_pb.GrantCreditsRequest(request_id=unique(), account_id=account, amount=11)
    failure = ledger.refusal(request)

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert list(failure.fields) == ["amount"]
    assert ledger.grant(account, 10).balance.available == most


BORDERS: dict[str, Message] = {
    "128 characters": pb.CanPerformRequest(
        account_id="x" * 128, account_level="pro", operation="chat_refinement", quantity=10**9
    ),
    "32 metrics": pb.CanPerformRequest(
        account_id="x", account_level="pro", operation="chat_refinement",
        metrics={"m" * 64: 10**15, **{f"m{number}": 0 for number in range(31)}},
    ),
    "page_size": pb.ListEntriesRequest(
        account_id=KNOWN, page_size=MAX_32, from_revision=MAX, to_revision=MAX,
    ),
    "first time": pb.ListEntriesRequest(account_id=KNOWN, start_time=Timestamp(seconds=-62_135_596_800)),
    "year 50": pb.ListEntriesRequest(account_id=KNOWN, start_time=Timestamp(seconds=-60_589_296_000)),
    "year 999": pb.ListEntriesRequest(account_id=KNOWN, start_time=Timestamp(seconds=-30_641_760_000)),
    "last time": pb.ListEntriesRequest(
        account_id=KNOWN, end_time=Timestamp(seconds=253_402_300_799, nanos=999_999_999)
    ),
    "1,000 accounts": pb.WatchUsageRequest(account_ids=[KNOWN] * 1_000),
}  # fmt: skip


@pytest.mark.parametrize("request_", BORDERS.values(), ids=BORDERS.keys())
@pytest.mark.usefixtures("untouched")
def test_what_just_keeps_the_rules_is_accepted(ledger: Ledger, request_: Message) -> None:
    answer = ledger.call(request_)
    if isinstance(request_, pb.WatchUsageRequest):
        assert next(answer).WhichOneof("event") == "snapshot"
        answer.cancel()


@pytest.mark.parametrize(("field", "year"), [("end_time", 1), ("end_time", 999), ("start_time", 50)])
@pytest.mark.usefixtures("untouched")
def test_times_long_ago_filter_as_any_others(ledger: Ledger, field: str, year: int) -> None:
    time = Timestamp()
    time.FromDatetime(datetime(year, 1, 2, tzinfo=UTC))
    request = pb.ListEntriesRequest(account_id=KNOWN, to_revision=3)
    getattr(request, field).CopyFrom(time)

    assert len(ledger.call(request).entries) == (0 if field == "end_time" else 3)


DEEPEST: dict[str, Struct] = {"16 deep": nested(16), "16 deep in lists": nested_lists(15)}


@pytest.mark.parametrize("metadata", DEEPEST.values(), ids=DEEPEST.keys())
def test_metadata_may_be_nested_16_deep(ledger: Ledger, account: str, metadata: Struct) -> None:
    response = ledger.deduct(account, usage=resources_pb2.Usage(metadata=metadata))

    assert response.entry.usage.metadata == metadata


def test_the_largest_labels_and_texts_are_kept_verbatim(ledger: Ledger) -> None:
    account = ledger.open()
    labels = {f"{number:02}" + "é" * 31: "<b>{0} %s ${x} =1+1\n\t'\"\\" + "😀" * 50 for number in range(32)}
    reason = "'; DROP TABLE entry; --\n{{7*7}} \\x00 \\\\ \u202e" + "x" * 950

    grant = ledger.grant(account, 1, labels=labels, reason=reason, priority=-1_000).grant

    assert (dict(grant.labels), grant.reason) == (labels, reason)
    assert [grant] == list(ledger.balance(account).grants)
    new = admin_pb.OpenAccountRequest(request_id=unique(), account_id=unique("new"), labels=labels)
    assert dict(ledger.call(new).account.labels) == labels


@pytest.mark.parametrize(
    "cursor",
    ["garbage", "x", "!!!", "é", "\0", "A" * 60_000, "====", "[1]", "   ", "A" * 64],
    ids=lambda text: ascii(text[:12]),
)
@pytest.mark.usefixtures("untouched")
def test_a_cursor_that_is_none_is_refused(ledger: Ledger, cursor: str) -> None:
    for account_ids in ([KNOWN], []):
        failure = ledger.refusal(pb.WatchUsageRequest(account_ids=account_ids, cursor=cursor))

        assert failure.word == "INVALID_ARGUMENT / CURSOR_INVALID"
        assert list(failure.fields) == ["cursor"]


@pytest.mark.usefixtures("known")
def test_the_ledger_still_verifies(ledger: Ledger) -> None:
    answer = ledger.call(admin_pb.VerifyAccountRequest(account_id=KNOWN))

    assert answer.valid
