"""Deduct and GetBalance: what is charged, counted, opened and recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import FAILED, Ledger, deduction, kind_name, unique

COSTS = {"script_generation": 1, "voice_creation": 5, "video_processing": 2, "chat_refinement": 1}
LIMITS = {
    "free": {"script_generation": 3, "voice_creation": 1, "video_processing": 2},
    "pro": {"script_generation": 100, "voice_creation": 20, "video_processing": 50},
}
LIMITED = [
    (level, operation, limit) for level, limits in LIMITS.items() for operation, limit in limits.items()
]


def usage(**fields: Any) -> resources_pb2.Usage:
    """A use that succeeded."""
    fields.setdefault("outcome", resources_pb2.Usage.OUTCOME_SUCCEEDED)
    metadata = fields.pop("metadata", None)
    message = resources_pb2.Usage(**fields)
    if metadata is not None:
        message.metadata.SetInParent()
        message.metadata.update(metadata)
    return message


def next_month() -> datetime:
    now = datetime.now(UTC)
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("operation", "cost"), COSTS.items())
def test_an_operation_costs_what_the_catalog_says(ledger: Ledger, operation: str, cost: int) -> None:
    account = ledger.open(level="free", credits_=100)

    response = ledger.deduct(account, operation)

    assert response.cost == cost
    assert response.balance == resources_pb2.Balance(available=100 - cost, granted=100, spent=cost)
    assert response.replayed is False


def test_the_entry_records_the_deduction(ledger: Ledger, account: str) -> None:
    request = deduction(account, "voice_creation", quantity=2)

    response = ledger.call(request)

    entry = response.entry
    assert (entry.account_id, entry.revision, kind_name(entry)) == (account, 3, "DEDUCTED")
    assert (entry.operation, entry.quantity, entry.amount, entry.cost) == ("voice_creation", 2, -10, 10)
    assert entry.request_id == request.request_id
    assert entry.catalog_version == 1
    assert entry.balance == response.balance
    assert len(entry.hash) == 32
    assert not entry.HasField("usage")
    assert (entry.reservation_id, entry.refunds_revision, entry.level, entry.grant_id, entry.reason) == (
        "", 0, "", "", "",
    )  # fmt: skip
    assert ledger.entries(account)[-1] == entry
    assert ledger.call(pb.GetEntryRequest(account_id=account, revision=3)).entry == entry


@pytest.mark.parametrize(("level", "operation", "limit"), LIMITED)
def test_exactly_as_many_uses_as_the_level_allows_are_accepted(
    ledger: Ledger, level: str, operation: str, limit: int
) -> None:
    account = ledger.open(level=level, credits_=1_000)
    used_up = ledger.deduct(account, operation, quantity=limit)

    refusal = ledger.refused_deduct(account, operation)

    [state] = used_up.limits
    assert (state.operation, state.limit, state.used) == (operation, limit, limit)
    assert refusal.word == "RESOURCE_EXHAUSTED / LIMIT_EXCEEDED"
    assert (refusal.metadata["limit"], refusal.metadata["used"]) == (str(limit), str(limit))
    assert ledger.available(account) == 1_000 - limit * COSTS[operation]


def test_more_uses_at_once_than_are_left_are_refused_whole(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=100)
    ledger.deduct(account, "script_generation")

    refusal = ledger.refused_deduct(account, "script_generation", quantity=3)

    assert refusal.reason == "LIMIT_EXCEEDED"
    assert ledger.deduct(account, "script_generation", quantity=2).limits[0].used == 3


def test_a_limit_resets_with_the_next_month(ledger: Ledger, account: str) -> None:
    before = next_month()
    [state] = ledger.deduct(account, "video_processing").limits
    after = next_month()

    assert resources_pb2.Period.Name(state.period) == "PERIOD_MONTH"
    assert state.reset_time.ToDatetime(UTC) in {before, after}


def test_an_operation_without_a_limit_is_bounded_by_the_credits_only(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=500)

    response = ledger.deduct(account, "chat_refinement", quantity=500)

    assert (response.cost, list(response.limits)) == (500, [])
    assert ledger.refused_deduct(account).reason == "INSUFFICIENT_CREDITS"


def test_quantity_multiplies_the_cost_and_counts_as_uses(ledger: Ledger, account: str) -> None:
    response = ledger.deduct(account, "voice_creation", quantity=3)

    assert (response.cost, response.entry.quantity, response.limits[0].used) == (15, 3, 3)


def test_an_absent_quantity_is_one(ledger: Ledger, account: str) -> None:
    assert ledger.deduct(account, "voice_creation").entry.quantity == 1


def test_the_last_credit_can_be_spent_and_not_one_more(ledger: Ledger) -> None:
    account = ledger.open(credits_=5)

    assert ledger.deduct(account, "voice_creation").balance.available == 0
    assert ledger.refused_deduct(account).word == "FAILED_PRECONDITION / INSUFFICIENT_CREDITS"


def test_a_cost_beyond_the_balance_is_refused_whole(ledger: Ledger) -> None:
    account = ledger.open(credits_=4)

    refusal = ledger.refused_deduct(account, "voice_creation")

    assert refusal.metadata.items() >= {"required": "5", "available": "4", "shortfall": "1"}.items()
    assert ledger.available(account) == 4


def test_an_account_level_opens_an_unknown_account_with_an_entry_of_its_own(
    ledger: Ledger, nobody: str
) -> None:
    response = ledger.deduct(nobody, "voice_creation", account_level="pro", usage=FAILED)

    opened, deducted = ledger.entries(nobody)
    assert (kind_name(opened), opened.level, opened.request_id) == ("OPENED", "pro", "")
    assert (deducted, deducted.revision) == (response.entry, 2)
    assert opened.create_time == deducted.create_time
    state = ledger.call(admin_pb.GetAccountRequest(account_id=nobody)).account
    assert (state.level, state.revision) == ("pro", 2)
    assert state.state == resources_pb2.ACCOUNT_STATE_ACTIVE


def test_a_refused_deduction_does_not_open_an_unknown_account(ledger: Ledger, nobody: str) -> None:
    refusal = ledger.refused_deduct(nobody, account_level="pro")

    assert refusal.reason == "INSUFFICIENT_CREDITS"
    assert refusal.decided[0] == 0
    missing = ledger.refusal(admin_pb.GetAccountRequest(account_id=nobody))
    assert missing.word == "NOT_FOUND / ACCOUNT_NOT_FOUND"


def test_without_an_account_level_an_unknown_account_is_not_opened(ledger: Ledger, nobody: str) -> None:
    assert ledger.refused_deduct(nobody, usage=FAILED).word == "NOT_FOUND / ACCOUNT_NOT_FOUND"
    assert ledger.revision(nobody) == 0


def test_another_account_level_changes_the_level_with_an_entry_of_its_own(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=100)

    response = ledger.deduct(account, "voice_creation", account_level="pro")

    changed, deducted = ledger.entries(account)[2:]
    assert (kind_name(changed), changed.level, changed.amount) == ("LEVEL_CHANGED", "pro", 0)
    assert (changed.revision, changed.request_id) == (3, "")
    assert (deducted, deducted.revision) == (response.entry, 4)
    assert response.limits[0].limit == LIMITS["pro"]["voice_creation"]
    assert ledger.balance(account).account.level == "pro"


def test_the_same_account_level_writes_no_entry(ledger: Ledger, account: str) -> None:
    ledger.deduct(account, account_level="pro")

    assert ledger.kinds(account) == ["OPENED", "GRANTED", "DEDUCTED"]


def test_a_refused_deduction_does_not_change_the_level(ledger: Ledger) -> None:
    account = ledger.open(level="free")

    assert ledger.refused_deduct(account, account_level="pro").reason == "INSUFFICIENT_CREDITS"
    assert ledger.balance(account).account.level == "free"
    assert ledger.kinds(account) == ["OPENED"]


def test_uses_before_a_change_of_level_count_after_it(ledger: Ledger) -> None:
    account = ledger.open(level="pro", credits_=100)
    ledger.deduct(account, "script_generation", quantity=3)

    refusal = ledger.refused_deduct(account, "script_generation", account_level="free")

    assert refusal.metadata.items() >= {"limit": "3", "used": "3"}.items()
    assert ledger.deduct(account, "script_generation").limits[0].used == 4


def test_a_refused_deduction_writes_nothing(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=6)
    ledger.deduct(account, "voice_creation")
    before = ledger.balance(account)

    ledger.refused_deduct(account, "voice_creation")
    ledger.refused_deduct(account, "video_processing")
    ledger.refused_deduct(account, "no_such_operation")

    after = ledger.balance(account)
    after.read_time.CopyFrom(before.read_time)
    assert after == before
    assert ledger.kinds(account) == ["OPENED", "GRANTED", "DEDUCTED"]


def test_a_failed_use_is_recorded_charges_nothing_and_counts_no_use(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=7)

    response = ledger.deduct(account, "voice_creation", quantity=2, usage=FAILED)

    entry = response.entry
    assert (entry.cost, entry.amount, entry.quantity, list(entry.draws)) == (0, 0, 2, [])
    assert entry.usage.outcome == resources_pb2.Usage.OUTCOME_FAILED
    assert (response.cost, response.balance.available) == (0, 7)
    assert [(state.used, state.limit) for state in response.limits] == [(0, 1)]
    assert ledger.deduct(account, "voice_creation").limits[0].used == 1


def test_a_failed_use_is_recorded_without_credits_and_beyond_the_limit(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=5)
    ledger.deduct(account, "voice_creation")

    assert ledger.deduct(account, "voice_creation", usage=FAILED).entry.revision == 4


USAGES = {
    "service": usage(service="openai"),
    "service in any script": usage(service="Ünïcødé 漢字 😀 ‏"),
    "metrics": usage(metrics={"tokens": 1834, "audio_seconds": 0, "bytes": 10**15}),
    "response time": usage(response_time=Duration(seconds=12, nanos=345_678_000)),
    "no response time": usage(response_time=Duration()),
    "longest response time": usage(response_time=Duration(seconds=366 * 86_400)),
    "occur time": usage(occur_time=Timestamp(seconds=1_700_000_000, nanos=123_456_000)),
    "occur time at the epoch": usage(occur_time=Timestamp()),
    "occur time before the epoch": usage(occur_time=Timestamp(seconds=-1, nanos=999_999_000)),
    "first occur time": usage(occur_time=Timestamp(seconds=-62_135_596_800)),
    "last occur time": usage(occur_time=Timestamp(seconds=253_402_300_799, nanos=999_999_000)),
    "failed": usage(outcome=resources_pb2.Usage.OUTCOME_FAILED, service="openai"),
    "no metadata": usage(metadata={}),
    "flat metadata": usage(metadata={"text": "x", "yes": True, "no": False, "nothing": None, "": ""}),
    "nested metadata": usage(metadata={"a": {"b": {"c": [1, [2, {"d": []}], {}]}}}),
    "numbers": usage(
        metadata={"n": [0, -0.0, 1, -1, 0.1, 1 / 3, 1e308, 5e-324, 2**53, 123456789012345680000.0]}
    ),
    "unicode": usage(metadata={"漢字": "ÄÖÜ 😀 \u202e \u200b \ufeff", "é": "e\u0301", "line": "a\n\t\x01\x7f\u2028"}),
    "quoting": usage(metadata={'"': "'\\'\"\\\\", "{}": "{0}", "%s": "$1 %s; --", "NULL": "null"}),
    "largest metadata": usage(metadata={"k": "x" * (4_096 - len('{"k":""}'))}),
    "everything": usage(
        service="s", metrics={"m": 1}, response_time=Duration(seconds=1), occur_time=Timestamp(seconds=2),
        metadata={"k": [1.5]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", USAGES.values(), ids=USAGES.keys())
def test_the_usage_is_kept_exactly_as_told(ledger: Ledger, told: resources_pb2.Usage) -> None:
    account = ledger.open(credits_=1)

    response = ledger.deduct(account, usage=told)

    assert response.entry.usage == told
    assert ledger.entries(account)[-1].usage == told


def test_an_outcome_that_is_not_told_is_success(ledger: Ledger, account: str) -> None:
    response = ledger.deduct(account, usage=resources_pb2.Usage(service="s"))

    assert response.cost == 1
    assert response.entry.usage == usage(service="s")


def test_metrics_do_not_change_a_flat_price(ledger: Ledger, account: str) -> None:
    assert ledger.deduct(account, usage=usage(metrics={"tokens": 10**15})).cost == 1


def test_grants_burn_by_priority_and_then_by_age(ledger: Ledger) -> None:
    account = ledger.open()
    late = ledger.grant(account, 10, priority=5).grant.grant_id
    older = ledger.grant(account, 10, priority=0).grant.grant_id
    younger = ledger.grant(account, 10).grant.grant_id
    first = ledger.grant(account, 10, priority=-1_000).grant.grant_id
    order = [first, older, younger, late]
    assert [grant.grant_id for grant in ledger.balance(account).grants] == order

    draws = [ledger.deduct(account, quantity=quantity).entry.draws for quantity in (4, 17, 19)]

    assert [[(draw.grant_id, draw.amount) for draw in each] for each in draws] == [
        [(first, 4)],
        [(first, 6), (older, 10), (younger, 1)],
        [(younger, 9), (late, 10)],
    ]
    assert list(ledger.balance(account).grants) == []


def test_a_grant_that_comes_later_burns_first_if_its_priority_says_so(ledger: Ledger) -> None:
    account = ledger.open(credits_=10)
    ledger.deduct(account, quantity=3)
    urgent = ledger.grant(account, 2, priority=-1).grant.grant_id

    draws = ledger.deduct(account, quantity=5).entry.draws

    assert [(draw.grant_id, draw.amount) for draw in draws] == [(urgent, 2), ("g2", 3)]


def test_the_balance_tells_what_is_left_of_each_grant(ledger: Ledger) -> None:
    account = ledger.open()
    granted = ledger.grant(account, 10, reason="welcome", labels={"campaign": "spring"}).grant
    ledger.grant(account, 20, priority=7)
    ledger.deduct(account, quantity=4)

    first, second = ledger.balance(account).grants

    assert (first.remaining, second.remaining) == (6, 20)
    first.remaining = granted.remaining
    assert first == granted
    assert (second.amount, second.priority, second.account_id) == (20, 7, account)
    assert first.source == second.source == resources_pb2.GRANT_SOURCE_ADMIN


def test_a_grant_tells_what_was_granted(ledger: Ledger) -> None:
    account = ledger.open(credits_=1)
    labels = {"invoice": "4711", "é": "😀"}

    response = ledger.grant(account, 10**15, priority=-3, reason="thanks, {name}\n<b>", labels=labels)

    grant, entry = response.grant, response.entry
    assert (grant.amount, grant.remaining, grant.priority) == (10**15, 10**15, -3)
    assert (grant.reason, dict(grant.labels)) == ("thanks, {name}\n<b>", labels)
    assert (kind_name(entry), entry.amount, entry.grant_id) == ("GRANTED", 10**15, grant.grant_id)
    assert entry.reason == grant.reason
    assert response.balance == entry.balance == resources_pb2.Balance(
        available=10**15 + 1, granted=10**15 + 1
    )  # fmt: skip
    assert grant.create_time == entry.create_time


def test_the_balance_tells_all_limits_of_the_level(ledger: Ledger, account: str) -> None:
    ledger.deduct(account, "voice_creation", quantity=2)

    answer = ledger.balance(account)

    states = {state.operation: (state.limit, state.used) for state in answer.limits}
    assert states == {"script_generation": (100, 0), "video_processing": (50, 0), "voice_creation": (20, 2)}
    assert answer.revision == answer.account.revision == 3
    assert answer.read_time.ToDatetime(UTC) >= answer.account.update_time.ToDatetime(UTC)


def test_every_entry_adds_up_and_continues_the_one_before(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=50)
    for number in range(12):
        level = "pro" if number % 4 == 2 else ""
        ledger.deduct(account, "voice_creation" if number % 3 else "chat_refinement",
                      account_level=level or "pro", usage=FAILED if number % 5 == 4 else None)  # fmt: skip
        if number % 6 == 5:
            ledger.grant(account, number)

    entries = ledger.entries(account)

    available = 0
    for revision, entry in enumerate(entries, start=1):
        balance = entry.balance
        assert entry.revision == revision
        assert balance.available == available + entry.amount
        assert balance.granted == sum((balance.available, balance.reserved, balance.spent, balance.forfeited))
        assert sum(draw.amount for draw in entry.draws) == entry.cost
        available = balance.available
    times = [entry.create_time.ToNanoseconds() for entry in entries]
    assert times == sorted(times)
    assert len({entry.hash for entry in entries}) == len(entries)
    assert entries[-1].balance == ledger.balance(account).balance
    assert sum(entry.cost for entry in entries) == entries[-1].balance.spent


def test_verification_finds_nothing_and_tells_the_newest_hash(ledger: Ledger, account: str) -> None:
    last = ledger.deduct(account, "voice_creation", usage=USAGES["everything"]).entry

    answer = ledger.call(admin_pb.VerifyAccountRequest(account_id=account))

    assert (answer.valid, answer.entries, answer.first_bad_revision, answer.problem) == (True, 3, 0, "")
    assert answer.head_hash == last.hash


def test_an_account_opened_without_a_level_gets_the_default_one(ledger: Ledger, nobody: str) -> None:
    response = ledger.call(admin_pb.OpenAccountRequest(request_id=unique(), account_id=nobody))

    assert (response.account.level, response.entry.level) == ("free", "free")


def test_opening_tells_the_account_and_its_first_entry(ledger: Ledger, nobody: str) -> None:
    labels = {"plan": "yearly", "ü": "ö"}
    request = admin_pb.OpenAccountRequest(request_id=unique(), account_id=nobody, level="pro", labels=labels)

    response = ledger.call(request)

    assert response.account == ledger.balance(nobody).account
    assert (response.account.revision, dict(response.account.labels)) == (1, labels)
    assert response.account.create_time == response.account.update_time == response.entry.create_time
    assert [response.entry] == ledger.entries(nobody)
    assert response.entry.request_id == request.request_id


def test_account_ids_are_case_sensitive(ledger: Ledger) -> None:
    lower, upper = ledger.open(unique("case"), credits_=5), ledger.open(unique("case").upper())

    assert (ledger.available(lower), ledger.available(upper)) == (5, 0)


@pytest.mark.parametrize("name", ["a", "A.b_c:d@e/f+g=h-i", "../../etc/passwd", "-", "0" * 128])
def test_every_allowed_name_is_an_account(ledger: Ledger, name: str) -> None:
    ledger.open(name, credits_=1)

    assert ledger.deduct(name).entry.account_id == name


def test_the_server_tells_what_it_is(ledger: Ledger) -> None:
    info = ledger.call(admin_pb.GetServerInfoRequest())

    assert (info.decimals, info.catalog_version) == (0, 1)
    assert info.ledger_id and info.server_version and info.schema_version
    assert abs(info.server_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 3_600
