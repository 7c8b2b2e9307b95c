"""Statements and lists: order, filters, pages, and tokens that fit only their own request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import FAILED, Ledger, alterations, deduction, kind_name, large_usage, serving, unique

OLDEST = pb.ENTRY_ORDER_OLDEST_FIRST
NEWEST = pb.ENTRY_ORDER_NEWEST_FIRST
SIZE = 30
OPERATIONS = ("chat_refinement", "voice_creation", "video_processing")
KINDS = {"OPENED": 1, "LEVEL_CHANGED": 2, "GRANTED": 3, "DEDUCTED": 4, "RESERVED": 5}


def pages_of(ledger: Ledger, request: Any) -> Iterator[Any]:
    """The answers to a list request, page by page, with the token of each."""
    while True:
        answer = ledger.call(request)
        yield answer
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def listed(ledger: Ledger, account_id: str, **fields: Any) -> list[resources_pb2.Entry]:
    """All pages of a list of entries."""
    request = pb.ListEntriesRequest(account_id=account_id, **fields)
    return [entry for page in pages_of(ledger, request) for entry in page.entries]


def revisions(entries: Any) -> list[int]:
    return [entry.revision for entry in entries]


@pytest.fixture(scope="module")
def history(ledger: Ledger) -> list[resources_pb2.Entry]:
    """The entries of an account, oldest first: openings, grants, changes of level and three operations."""
    account = ledger.open("statement", level="free", credits_=100)
    while (last := ledger.revision(account)) < SIZE:
        if last % 7 == 0:
            ledger.grant(account, last)
        else:
            level = "pro" if last == 12 else ""
            ledger.deduct(
                account, OPERATIONS[last % 3], account_level=level, usage=FAILED if last % 4 else None
            )
    return ledger.entries(account)


def test_entries_come_newest_first_or_oldest_first(
    ledger: Ledger, history: list[resources_pb2.Entry]
) -> None:
    account = history[0].account_id

    assert listed(ledger, account, order=OLDEST) == history
    assert listed(ledger, account, order=NEWEST) == history[::-1]
    assert listed(ledger, account) == history[::-1]
    assert revisions(history) == list(range(1, len(history) + 1))


@pytest.mark.parametrize("order", [OLDEST, NEWEST])
@pytest.mark.parametrize("size", [1, 7, SIZE - 1, SIZE, SIZE + 1])
def test_pages_hold_every_entry_once(
    ledger: Ledger, history: list[resources_pb2.Entry], order: Any, size: int
) -> None:
    request = pb.ListEntriesRequest(account_id="statement", order=order, page_size=size)

    pages = list(pages_of(ledger, request))

    sizes = [len(page.entries) for page in pages]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= size
    entries = [entry for page in pages for entry in page.entries]
    assert entries == (history if order == OLDEST else history[::-1])


def test_a_full_last_page_has_no_token(ledger: Ledger, history: list[resources_pb2.Entry]) -> None:
    answer = ledger.call(pb.ListEntriesRequest(account_id="statement", page_size=len(history)))

    assert (len(answer.entries), answer.next_page_token) == (len(history), "")


def test_the_size_of_pages_may_change_on_the_way(ledger: Ledger, history: list[resources_pb2.Entry]) -> None:
    request = pb.ListEntriesRequest(account_id="statement", page_size=3)
    first = ledger.call(request)
    request.page_token, request.page_size = first.next_page_token, 11

    assert revisions(ledger.call(request).entries) == revisions(history[::-1])[3:14]


def test_entries_written_meanwhile_do_not_move_the_pages(ledger: Ledger) -> None:
    account = ledger.open(credits_=100)
    for _ in range(4):
        ledger.deduct(account)
    newest = pb.ListEntriesRequest(account_id=account, page_size=2)
    oldest = pb.ListEntriesRequest(account_id=account, page_size=2, order=OLDEST)
    seen: list[list[int]] = [[], []]
    for pages, request in zip(seen, (newest, oldest), strict=True):
        for page in pages_of(ledger, request):
            pages += revisions(page.entries)
            if len(pages) <= 4:
                ledger.deduct(account)

    assert seen == [[6, 5, 4, 3, 2, 1], list(range(1, 11))]


def test_a_page_is_of_100_entries_if_not_told_and_of_1000_at_most(ledger: Ledger) -> None:
    account = ledger.open(credits_=2_000)
    for _ in range(2):
        ledger.call(pb.BatchDeductRequest(requests=[deduction(account) for _ in range(600)]))

    for size, expected in ((0, 100), (1_000, 1_000), (1_001, 1_000), (2**31 - 1, 1_000)):
        answer = ledger.call(pb.ListEntriesRequest(account_id=account, page_size=size))
        assert revisions(answer.entries) == list(range(1_202, 1_202 - expected, -1))
        assert answer.next_page_token
    assert len(listed(ledger, account)) == 1_202


def test_pages_of_the_largest_entries_are_not_too_large_to_arrive(ledger: Ledger) -> None:
    account = ledger.open(credits_=2_000)
    usage = large_usage()
    for _ in range(2):
        requests = [deduction(account, usage=usage) for _ in range(505)]
        ledger.call(pb.BatchDeductRequest(requests=requests))

    assert revisions(listed(ledger, account, page_size=1_000)) == list(range(1_012, 0, -1))


@pytest.mark.parametrize(
    "kinds", [["OPENED"], ["GRANTED", "LEVEL_CHANGED"], ["DEDUCTED"], ["RESERVED"], list(KINDS)]
)
def test_kinds_filter(ledger: Ledger, history: list[resources_pb2.Entry], kinds: list[str]) -> None:
    expected = [entry for entry in history if kind_name(entry) in kinds]

    found = listed(ledger, "statement", kinds=[KINDS[kind] for kind in kinds], order=OLDEST, page_size=4)

    assert found == expected
    assert bool(expected) is (kinds != ["RESERVED"])


@pytest.mark.parametrize("operation", [*OPERATIONS, "no_such_operation"])
def test_operation_filters(ledger: Ledger, history: list[resources_pb2.Entry], operation: str) -> None:
    expected = [entry for entry in history if entry.operation == operation]

    assert listed(ledger, "statement", operation=operation, order=OLDEST, page_size=3) == expected


@pytest.mark.parametrize(
    ("first", "last"), [(1, 1), (5, 0), (0, 5), (5, 9), (SIZE, SIZE), (9, 5), (SIZE + 9, 0), (3, 10**15)]
)
def test_a_range_of_revisions_holds_both_its_ends(
    ledger: Ledger, history: list[resources_pb2.Entry], first: int, last: int
) -> None:
    expected = [entry for entry in history if (first or 1) <= entry.revision <= (last or 10**18)]

    for size in (2, 100):
        fields = {"from_revision": first, "to_revision": last, "page_size": size}
        assert listed(ledger, "statement", order=OLDEST, **fields) == expected
        assert listed(ledger, "statement", **fields) == expected[::-1]


def test_a_range_of_times_holds_its_beginning_and_not_its_end(
    ledger: Ledger, history: list[resources_pb2.Entry]
) -> None:
    def between(start: Timestamp | None, end: Timestamp | None) -> list[resources_pb2.Entry]:
        return listed(ledger, "statement", order=OLDEST, page_size=4, start_time=start, end_time=end)

    times = [entry.create_time for entry in history]
    nanos = [time.ToNanoseconds() for time in times]
    early, late = nanos[8], nanos[20]

    assert between(times[8], None) == [
        entry for entry, time in zip(history, nanos, strict=True) if time >= early
    ]
    assert between(None, times[20]) == [
        entry for entry, time in zip(history, nanos, strict=True) if time < late
    ]
    within = [entry for entry, time in zip(history, nanos, strict=True) if early <= time < late]
    assert between(times[8], times[20]) == within
    assert between(times[20], times[8]) == between(times[8], times[8]) == []


def test_all_filters_hold_at_once(ledger: Ledger, history: list[resources_pb2.Entry]) -> None:
    found = listed(
        ledger, "statement", order=OLDEST, page_size=1, from_revision=4, to_revision=25,
        kinds=[KINDS["DEDUCTED"], KINDS["GRANTED"]], operation="voice_creation", start_time=history[5].create_time,
        end_time=history[24].create_time,
    )  # fmt: skip

    assert found == [entry for entry in history[5:24] if entry.operation == "voice_creation"]
    assert found


def test_entries_of_one_account_only_are_listed(ledger: Ledger, account: str) -> None:
    ledger.open(account + "x", credits_=1)

    assert {entry.account_id for entry in ledger.entries(account)} == {account}


@pytest.mark.parametrize(
    "change",
    [
        {"account_id": "statement-2"}, {"order": OLDEST}, {"from_revision": 1}, {"to_revision": 9},
        {"operation": "chat_refinement"}, {"kinds": [4]}, {"start_time": Timestamp()},
        {"end_time": Timestamp(seconds=1)},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("history")
def test_a_token_fits_only_its_own_request(ledger: Ledger, change: dict[str, Any]) -> None:
    if ledger.revision("statement-2") == 0:
        ledger.open("statement-2", credits_=1)
    fields: dict[str, Any] = {"account_id": "statement", "page_size": 2}
    token = ledger.call(pb.ListEntriesRequest(**fields)).next_page_token

    failure = ledger.refusal(pb.ListEntriesRequest(page_token=token, **{**fields, **change}))

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert list(failure.fields) == ["page_token"]


@pytest.mark.usefixtures("history")
def test_a_token_that_was_altered_is_refused(ledger: Ledger) -> None:
    request = pb.ListEntriesRequest(account_id="statement", page_size=2)
    token = ledger.call(request).next_page_token

    for altered in alterations(token):
        request.page_token = altered
        assert list(ledger.refusal(request).fields) == ["page_token"], altered


@pytest.mark.usefixtures("history")
def test_a_token_of_another_method_is_refused(ledger: Ledger) -> None:
    ledger.open()
    entries = pb.ListEntriesRequest(account_id="statement", page_size=1)
    accounts = admin_pb.ListAccountsRequest(page_size=1)
    tokens = [ledger.call(request).next_page_token for request in (entries, accounts)]
    entries.page_token, accounts.page_token = tokens[1], tokens[0]

    assert all(tokens)
    assert [list(ledger.refusal(request).fields) for request in (entries, accounts)] == [["page_token"]] * 2


@pytest.mark.usefixtures("history")
def test_tokens_are_good_on_every_server_of_the_ledger_and_on_no_other_ledger(
    ledger: Ledger, shared_dsn: str, dsn: str
) -> None:
    request = pb.ListEntriesRequest(account_id="statement", page_size=2)
    request.page_token = ledger.call(request).next_page_token
    with serving(shared_dsn) as (_, second), serving(dsn) as (_, stranger):
        stranger.open("statement", credits_=9)

        assert second.call(request) == ledger.call(request)
        assert list(stranger.refusal(request).fields) == ["page_token"]


def accounts(ledger: Ledger, **fields: Any) -> list[str]:
    """The names of all pages of a list of accounts."""
    request = admin_pb.ListAccountsRequest(**fields)
    return [account.account_id for page in pages_of(ledger, request) for account in page.accounts]


NAMES = [
    "B",
    "Z_1",
    "a",
    "a-1",
    "a.b",
    "a/b",
    "a1",
    "a:b",
    "a@b.c",
    "a_b",
    "aa",
    "ab",
    "axb",
    "b",
    "b_",
    "b_1",
    "bx1",
]


@pytest.fixture(scope="module")
def named(ledger: Ledger) -> str:
    """Accounts whose names all begin so; every third is pro."""
    for place, name in enumerate(NAMES):
        ledger.open(f"list:{name}", level="pro" if place % 3 == 0 else "free")
    return "list:"


def test_accounts_come_in_the_byte_order_of_their_names(ledger: Ledger, named: str) -> None:
    names = accounts(ledger, prefix=named)

    assert names == sorted(f"{named}{name}" for name in NAMES)
    everything = accounts(ledger)
    assert everything == sorted(everything)
    assert set(names) < set(everything)


@pytest.mark.parametrize("size", [1, 4, len(NAMES), len(NAMES) + 1])
def test_pages_hold_every_account_once(ledger: Ledger, named: str, size: int) -> None:
    assert accounts(ledger, prefix=named, page_size=size) == sorted(f"{named}{name}" for name in NAMES)


@pytest.mark.parametrize("prefix", ["a", "a_", "b_", "a.", "a-1", "A", "a@b.c", "zz"])
def test_a_prefix_is_taken_literally(ledger: Ledger, named: str, prefix: str) -> None:
    expected = sorted(f"{named}{name}" for name in NAMES if name.startswith(prefix))

    assert accounts(ledger, prefix=named + prefix, page_size=2) == expected


def test_a_level_filters_accounts(ledger: Ledger, named: str) -> None:
    pro = sorted(f"{named}{name}" for name in NAMES[::3])

    assert accounts(ledger, prefix=named, level="pro", page_size=2) == pro
    assert accounts(ledger, prefix=named, level="none") == []
    assert set(accounts(ledger, level="pro")) >= set(pro)


def test_a_level_changed_meanwhile_counts(ledger: Ledger) -> None:
    account = ledger.open(unique("moving"), level="free", credits_=1)
    ledger.deduct(account, account_level="pro")

    assert accounts(ledger, prefix=account, level="pro") == [account]
    assert accounts(ledger, prefix=account, level="free") == []


def test_a_listed_account_is_the_account(ledger: Ledger, account: str) -> None:
    [found] = ledger.call(admin_pb.ListAccountsRequest(prefix=account)).accounts

    assert found == ledger.call(admin_pb.GetAccountRequest(account_id=account)).account
    assert found == ledger.balance(account).account


@pytest.mark.parametrize("change", [{"prefix": "list:a"}, {"level": "pro"}, {"prefix": ""}], ids=str)
def test_a_token_of_accounts_fits_only_its_own_request(
    ledger: Ledger, named: str, change: dict[str, str]
) -> None:
    fields: dict[str, Any] = {"prefix": named, "page_size": 2}
    token = ledger.call(admin_pb.ListAccountsRequest(**fields)).next_page_token
    request = admin_pb.ListAccountsRequest(page_token=token, **{**fields, **change})

    assert list(ledger.refusal(request).fields) == ["page_token"]
    assert ledger.call(admin_pb.ListAccountsRequest(page_token=token, prefix=named, page_size=9)).accounts


def test_an_account_opened_meanwhile_is_listed_behind_the_page(ledger: Ledger) -> None:
    for name in ("b", "d", "f"):
        ledger.open(f"later:{name}")
    request = admin_pb.ListAccountsRequest(prefix="later:", page_size=2)
    first = ledger.call(request)
    for name in ("a", "c", "e", "g"):
        ledger.open(f"later:{name}")
    request.page_token, request.page_size = first.next_page_token, 9

    assert [each.account_id for each in ledger.call(request).accounts] == ["later:e", "later:f", "later:g"]


def test_an_entry_is_found_by_its_revision_and_by_its_request(
    ledger: Ledger, history: list[resources_pb2.Entry]
) -> None:
    for entry in history:
        by_revision = pb.GetEntryRequest(account_id="statement", revision=entry.revision)
        assert ledger.call(by_revision).entry == entry
        if entry.request_id:
            by_request = pb.GetEntryRequest(account_id="statement", request_id=entry.request_id)
            assert ledger.call(by_request).entry == entry
    assert [kind_name(entry) for entry in history if not entry.request_id] == ["LEVEL_CHANGED"]


def test_an_entry_of_another_account_is_not_found(ledger: Ledger, account: str) -> None:
    request_id = ledger.deduct(account).entry.request_id
    other = ledger.open()

    for key in ({"revision": 2}, {"request_id": request_id}, {"revision": 2**63 - 1}):
        request = pb.GetEntryRequest(account_id=other, **key)
        assert ledger.refusal(request).word == "NOT_FOUND / ENTRY_NOT_FOUND"


def test_a_refused_request_left_no_entry(ledger: Ledger) -> None:
    account = ledger.open()
    request = deduction(account)
    ledger.refusal(request)

    key = pb.GetEntryRequest(account_id=account, request_id=request.request_id)
    assert ledger.refusal(key).reason == "ENTRY_NOT_FOUND"


def test_the_current_and_earlier_catalogs_are_told(dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        first = ledger.call(admin_pb.GetCatalogRequest()).catalog
        changed = resources_pb2.Catalog()
        changed.CopyFrom(first)
        changed.operations[0].flat.amount = 7
        update = admin_pb.UpdateCatalogRequest(request_id="u", catalog=changed, expected_version=1)
        second = ledger.call(update).catalog

        assert (first.version, second.version) == (1, 2)
        assert [level.level for level in first.levels] == ["free", "pro"]
        assert [package.package_id for package in first.packages] == ["starter", "studio"]
        assert {item.operation: item.flat.amount for item in second.operations} == {
            **{item.operation: item.flat.amount for item in first.operations},
            first.operations[0].operation: 7,
        }
        for version, expected in ((1, first), (2, second), (None, second)):
            assert ledger.call(admin_pb.GetCatalogRequest(version=version)).catalog == expected
