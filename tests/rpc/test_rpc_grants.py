"""Grants over gRPC: they begin and end to the microsecond with no job running, burn in order, and can be taken back."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from ledger_calls import kind_name
from timed_story import DAY, MINUTE, NOON, SECOND, TICK, Story, TimedLedger, draws, parts, when

LATER = NOON + MINUTE


def tell(story: Story) -> list[resources_pb2.Grant]:
    return list(story.send(admin_pb.ListGrantsRequest).grants)


# ── When they count ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grant_is_no_credit_until_it_begins(timed: TimedLedger) -> None:
    story = timed.story()
    answer = story.send(admin_pb.GrantCreditsRequest, amount=10, effective_time=LATER)
    assert (answer.entry.amount, parts(answer.balance), answer.grant.remaining) == (0, (0, 0, 0, 0), 10)

    story.at(LATER - TICK)
    assert (story.balance, story.remaining) == ((0, 0, 0, 0), {"g2": 10})
    assert story.refused(pb.DeductRequest, operation="voice").metadata["available"] == "0"

    story.at(LATER)
    assert (story.balance, story.remaining) == ((10, 0, 0, 0), {"g2": 10})
    assert story.deduct(2).cost == 10
    started = story.entries()[2]
    assert (kind_name(started), started.amount, started.grant_id) == ("GRANT_STARTED", 10, "g2")
    assert when(started.create_time) == LATER


def test_a_grant_can_be_spent_until_the_microsecond_before_it_ends(timed: TimedLedger) -> None:
    story = timed.story()
    story.grant(10, expire_time=LATER)

    story.at(LATER - TICK)
    assert story.deduct().balance.available == 5

    story.at(LATER)
    assert story.refused(pb.DeductRequest, operation="voice").metadata["available"] == "0"
    assert (story.balance, story.remaining) == ((0, 0, 5, 5), {"g2": 0})
    ended = story.entries()[-1]
    assert (kind_name(ended), ended.amount, draws(ended)) == ("GRANT_EXPIRED", -5, [("g2", 5)])
    assert when(ended.create_time) == LATER


def test_a_grant_that_came_and_went_while_nobody_looked_leaves_both_instants(timed: TimedLedger) -> None:
    story = timed.story()
    story.grant(10, effective_time=NOON + SECOND, expire_time=NOON + SECOND + TICK)
    story.at(NOON + 9 * DAY)

    assert story.balance == (0, 0, 0, 10)
    assert story.history(3) == [("GRANT_STARTED", SECOND), ("GRANT_EXPIRED", SECOND + TICK)]
    assert story.verified()


def test_a_grant_that_is_used_up_ends_without_an_entry(timed: TimedLedger) -> None:
    story = timed.story()
    story.grant(10, expire_time=LATER)
    story.deduct(2)
    story.at(LATER)

    assert (story.balance, len(story.entries())) == ((0, 0, 10, 0), 3)


def test_where_one_ends_as_the_next_begins_the_end_comes_first(timed: TimedLedger) -> None:
    story = timed.story()
    story.grant(10, effective_time=LATER)
    story.grant(10, expire_time=LATER)
    story.at(LATER - TICK)
    assert story.balance == (10, 0, 0, 0)
    story.at(LATER)

    assert story.balance == (10, 0, 0, 10)
    assert story.history(4) == [("GRANT_EXPIRED", MINUTE), ("GRANT_STARTED", MINUTE)]


def test_a_beginning_that_has_passed_is_now(timed: TimedLedger) -> None:
    story = timed.story()

    for begin in (NOON - DAY, NOON):
        answer = story.send(admin_pb.GrantCreditsRequest, amount=1, effective_time=begin)
        assert (answer.entry.amount, answer.grant.HasField("effective_time")) == (1, False)


@pytest.mark.parametrize("expire_time", [NOON, NOON - TICK])
def test_a_grant_that_has_ended_already_is_refused(timed: TimedLedger, expire_time: Any) -> None:
    failure = timed.story().refused(admin_pb.GrantCreditsRequest, amount=1, expire_time=expire_time)

    assert (failure.word, list(failure.fields)) == ("INVALID_ARGUMENT / FIELD_INVALID", ["expire_time"])


# ── What burns first ──────────────────────────────────────────────────────────────────────────────────────────────


def test_lower_priorities_burn_first_then_what_ends_first_then_what_is_older(timed: TimedLedger) -> None:
    story = timed.story()
    last = story.grant(2, priority=1, expire_time=NOON + SECOND)
    fourth, fifth = story.grant(2), story.grant(2)
    third = story.grant(2, expire_time=LATER + TICK)
    second = story.grant(2, expire_time=LATER)
    first = story.grant(2, priority=-1_000)
    order = [first, second, third, fourth, fifth, last]
    assert [grant.grant_id for grant in story.send(pb.GetBalanceRequest).grants] == order

    drawn = [draws(story.deduct(operation="chat", quantity=3).entry) for _ in range(4)]

    assert drawn == [
        [(first, 2), (second, 1)], [(second, 1), (third, 2)], [(fourth, 2), (fifth, 1)], [(fifth, 1), (last, 2)],
    ]  # fmt: skip


def test_credits_that_are_to_come_do_not_burn(timed: TimedLedger) -> None:
    story = timed.story()
    to_come = story.grant(5, priority=-5, effective_time=LATER)
    present = story.grant(10)

    assert draws(story.deduct().entry) == [(present, 5)]
    story.at(LATER)
    assert draws(story.deduct().entry) == [(to_come, 5)]


# ── Taken back ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_left_of_a_voided_grant_is_forfeited(timed: TimedLedger) -> None:
    story = timed.story(credits=10)
    story.deduct()

    answer = story.send(admin_pb.VoidGrantRequest, grant_id="g2", reason="charged back")

    assert (answer.grant.amount, answer.grant.remaining) == (10, 0)
    entry = answer.entry
    assert (entry.amount, draws(entry), entry.grant_id, entry.reason) == (
        -5,
        [("g2", 5)],
        "g2",
        "charged back",
    )
    assert parts(answer.balance) == story.balance == (0, 0, 5, 5)


@pytest.mark.parametrize("ended", ["voided", "used up", "expired"])
def test_nothing_is_left_to_void_of_a_grant_that_has_ended(timed: TimedLedger, ended: str) -> None:
    story = timed.story()
    grant = story.grant(10, expire_time=LATER)
    if ended == "voided":
        story.send(admin_pb.VoidGrantRequest, grant_id=grant)
    elif ended == "used up":
        story.deduct(2)
    story.at(LATER)
    balance = story.balance

    answer = story.send(admin_pb.VoidGrantRequest, grant_id=grant)

    assert (answer.entry.amount, draws(answer.entry), parts(answer.balance)) == (0, [], balance)
    assert story.verified()


def test_a_grant_to_come_is_voided_without_a_trace_in_the_balance(timed: TimedLedger) -> None:
    story = timed.story()
    grant = story.grant(10, effective_time=LATER, expire_time=LATER + SECOND)

    story.send(admin_pb.VoidGrantRequest, grant_id=grant)
    story.at(NOON + DAY)

    assert (story.balance, story.remaining) == ((0, 0, 0, 0), {grant: 0})
    assert [kind for kind, _ in story.history()] == ["OPENED", "GRANTED", "GRANT_VOIDED"]
    assert story.verified()


# ── Listed ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grants_are_listed_newest_first_with_what_remains_also_those_that_have_ended(
    timed: TimedLedger,
) -> None:
    story = timed.story()
    expired = story.grant(1, expire_time=NOON + SECOND)
    voided, spent, part, full = (
        story.grant(2),
        story.grant(5, priority=-2),
        story.grant(9, priority=-1),
        story.grant(4),
    )
    to_come = story.grant(6, effective_time=NOON + DAY)
    story.at(NOON + SECOND)
    story.send(admin_pb.VoidGrantRequest, grant_id=voided)
    story.deduct(2)
    story.reserve(operation="chat")

    assert story.remaining == {to_come: 6, full: 4, part: 3, spent: 0, voided: 0, expired: 0}
    assert list(story.remaining) == [to_come, full, part, spent, voided, expired]
    assert [grant.amount for grant in tell(story)] == [6, 4, 9, 5, 2, 1]
    alive = [(grant.grant_id, grant.remaining) for grant in story.send(pb.GetBalanceRequest).grants]
    assert alive == [(part, 3), (full, 4)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_pages_hold_every_grant_once(timed: TimedLedger, size: int) -> None:
    story = timed.story()
    names = [story.grant(1) for _ in range(7)]

    found, token = [], "first"
    while token:
        page = story.send(
            admin_pb.ListGrantsRequest, page_size=size, page_token="" if token == "first" else token
        )
        assert 1 <= len(page.grants) <= size
        found += [grant.grant_id for grant in page.grants]
        token = page.next_page_token

    assert found == names[::-1]


def test_a_grant_is_told_as_it_was_given(timed: TimedLedger) -> None:
    story = timed.story()

    given = story.send(
        admin_pb.GrantCreditsRequest, amount=7, priority=-3, effective_time=LATER, expire_time=LATER + TICK,
        reason="why", labels={"a": "1"},
    ).grant  # fmt: skip

    assert tell(story) == [given]
    assert (given.amount, given.priority, given.reason, dict(given.labels)) == (7, -3, "why", {"a": "1"})
    assert given.source == resources_pb2.GRANT_SOURCE_ADMIN
    assert (given.effective_time.nanos, given.expire_time.nanos) == (0, 1_000)


# ── Bounds, corrections, purchases ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["spent", "voided", "expired"])
def test_an_account_has_100_grants_with_credits_left_at_most(timed: TimedLedger, way: str) -> None:
    story = timed.story()
    first = story.grant(5, priority=-1, expire_time=LATER)
    for _ in range(98):
        story.grant(1)
    story.grant(1, effective_time=NOON + DAY)  # counts too

    for kind, fields in (
        (admin_pb.GrantCreditsRequest, {"amount": 1}),
        (admin_pb.AdjustBalanceRequest, {"amount": 1, "reason": "why"}),
        (admin_pb.PurchasePackageRequest, {"package_id": "starter", "payment_reference": story.account}),
    ):
        failure = story.refused(kind, **fields)
        assert (failure.word, list(failure.fields)) == ("INVALID_ARGUMENT / FIELD_INVALID", ["account_id"])
        assert "100" in failure.fields["account_id"]
    if way == "spent":
        story.deduct()
    elif way == "voided":
        story.send(admin_pb.VoidGrantRequest, grant_id=first)
    else:
        story.at(LATER)
    story.grant(1)
    assert story.refused(admin_pb.GrantCreditsRequest, amount=1).reason == "FIELD_INVALID"


def test_a_correction_up_is_a_grant_and_one_down_burns_and_is_forfeited(timed: TimedLedger) -> None:
    story = timed.story()
    soon = story.grant(4, expire_time=LATER)

    up = story.send(admin_pb.AdjustBalanceRequest, amount=8, reason="sorry").entry
    down = story.send(admin_pb.AdjustBalanceRequest, amount=-6, reason="too much").entry

    assert (up.amount, up.grant_id, up.reason) == (8, "g3", "sorry")
    assert (down.amount, draws(down)) == (-6, [(soon, 4), ("g3", 2)])
    assert story.balance == (6, 0, 0, 6)
    [grant, _] = tell(story)
    assert (grant.source, grant.remaining) == (resources_pb2.GRANT_SOURCE_ADJUSTMENT, 6)
    assert not grant.HasField("expire_time")
    refused = story.refused(admin_pb.AdjustBalanceRequest, amount=-7, reason="more")
    assert (refused.reason, refused.metadata["shortfall"]) == ("INSUFFICIENT_CREDITS", "1")
    assert story.verified()


def test_a_payment_is_credited_once_and_to_one_account(timed: TimedLedger) -> None:
    story = timed.story()
    bought: dict[str, Any] = {"package_id": "starter", "payment_reference": f"paid-by-{story.account}"}

    first = story.send(admin_pb.PurchasePackageRequest, **bought)
    again = story.send(admin_pb.PurchasePackageRequest, **bought)

    assert (first.replayed, again.replayed, again.grant) == (False, True, first.grant)
    assert (first.grant.source, first.grant.amount) == (resources_pb2.GRANT_SOURCE_PACKAGE, 100)
    assert story.balance == (100, 0, 0, 0)
    other = timed.story()
    assert other.refused(admin_pb.PurchasePackageRequest, **bought).reason == "PAYMENT_REFERENCE_REUSED"
    assert other.balance == (0, 0, 0, 0)


def test_packages_are_told_page_by_page(timed: TimedLedger) -> None:
    first = timed.calls.call(admin_pb.ListPackagesRequest(page_size=1))
    second = timed.calls.call(admin_pb.ListPackagesRequest(page_size=1, page_token=first.next_page_token))

    names = [package.package_id for page in (first, second) for package in page.packages]
    assert (names, second.next_page_token) == (["starter", "studio"], "")
