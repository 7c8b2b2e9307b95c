"""Refunds over gRPC, of deductions and commits, in part and whole: a voice costs 5, and free has 3 of them a day."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from ledger_calls import FAILED, kind_name
from timed_story import MIDNIGHT, MINUTE, NOON, SECOND, TICK, Story, TimedLedger, draws, parts


def refuse(story: Story, entry: resources_pb2.Entry, amount: int = 0) -> tuple[str, str, str]:
    """How a refund is refused."""
    failure = story.refused(pb.RefundRequest, revision=entry.revision, amount=amount)
    assert failure.code.name == "FAILED_PRECONDITION"
    return failure.reason, failure.metadata["refundable"], failure.metadata["requested"]


def two_grants(timed: TimedLedger, level: str = "free") -> tuple[Story, str, str]:
    """8 credits that burn first, and 8 more."""
    story = timed.story(level)
    return story, story.grant(8), story.grant(8, priority=1)


def test_a_full_refund_gives_back_the_credits_and_the_uses(timed: TimedLedger) -> None:
    story = timed.story("free", credits=20)
    charged = story.deduct(2).entry

    answer = story.send(pb.RefundRequest, revision=charged.revision, reason="no such voice")

    assert (answer.refundable, answer.forfeited) == (0, 0)
    assert parts(answer.balance) == story.balance == (20, 0, 0, 0)
    entry = answer.entry
    assert (kind_name(entry), entry.amount, entry.refunds_revision) == ("REFUNDED", 10, charged.revision)
    assert (entry.operation, entry.quantity, entry.reason) == ("voice", 2, "no such voice")
    assert story.used == 0
    assert story.verified()


def test_partial_refunds_add_up_to_the_whole_and_go_from_the_last_grant_to_the_first(
    timed: TimedLedger,
) -> None:
    story, first, second = two_grants(timed)
    charged = story.deduct(2).entry
    assert draws(charged) == [(first, 8), (second, 2)]

    steps = [
        (1, 9, [(second, -1)]),
        (3, 6, [(first, -2), (second, -1)]),
        (5, 1, [(first, -5)]),
        (0, 0, [(first, -1)]),
    ]
    for amount, left, given in steps:
        answer = story.refund(charged, amount)
        assert (answer.refundable, draws(answer.entry)) == (left, given)
        assert story.used == (2 if left else 0)  # only the last one makes it whole

    assert (story.balance, story.remaining) == ((16, 0, 0, 0), {second: 8, first: 8})
    assert story.verified()


@pytest.mark.parametrize("before", [0, 1, 9])
def test_no_more_than_the_cost_is_given_back(timed: TimedLedger, before: int) -> None:
    story = timed.story(credits=50)
    charged = story.deduct(2).entry
    if before:
        story.refund(charged, before)
    left = 10 - before

    for amount in (left + 1, 10**15):
        assert refuse(story, charged, amount) == ("REFUND_EXCEEDS_COST", str(left), str(amount))
    assert story.refund(charged, left).refundable == 0
    for amount in (0, 1):
        assert refuse(story, charged, amount)[:2] == ("REFUND_EXCEEDS_COST", "0")
    assert story.balance == (50, 0, 0, 0)


def test_what_failed_cost_nothing_and_has_nothing_to_refund(timed: TimedLedger) -> None:
    story = timed.story(credits=20)

    for charged in (story.deduct(usage=FAILED).entry, story.commit(story.reserve(), usage=FAILED).entry):
        assert refuse(story, charged)[:2] == ("REFUND_EXCEEDS_COST", "0")


def test_entries_that_charged_nothing_by_their_nature_are_named_as_a_bad_field(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    story.release(story.reserve())
    story.refund(story.deduct().entry, 1)
    story.update(level="free")

    for entry in story.entries():
        if kind_name(entry) != "DEDUCTED":
            failure = story.refused(pb.RefundRequest, revision=entry.revision)
            assert (failure.word, list(failure.fields)) == ("INVALID_ARGUMENT / FIELD_INVALID", ["revision"])


# ── Of commits ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_commit_of_less_is_refunded_by_what_it_cost(timed: TimedLedger) -> None:
    story, first, second = two_grants(timed)
    committed = story.commit(story.reserve(2), quantity=1).entry
    assert story.remaining == {second: 8, first: 3}

    assert refuse(story, committed, 6) == ("REFUND_EXCEEDS_COST", "5", "6")
    answer = story.refund(committed)

    assert (draws(answer.entry), answer.entry.quantity) == ([(first, -5)], 1)
    assert (story.balance, story.used) == ((16, 0, 0, 0), 0)


def test_a_commit_of_more_goes_back_first_to_what_was_drawn_besides(timed: TimedLedger) -> None:
    story = timed.story()
    held = story.grant(10, priority=1)
    name = story.reserve(2)
    besides = story.grant(10)  # burns earlier, and pays what the commit costs more
    committed = story.commit(name, quantity=3).entry
    assert draws(committed) == [(besides, 5)]

    assert draws(story.refund(committed, 4).entry) == [(besides, -4)]
    assert draws(story.refund(committed, 3).entry) == [(besides, -1), (held, -2)]
    assert draws(story.refund(committed).entry) == [(held, -8)]
    assert (story.balance, story.remaining) == ((20, 0, 0, 0), {besides: 10, held: 10})
    assert story.verified()


def test_a_late_commit_is_refunded_like_a_deduction(timed: TimedLedger) -> None:
    story = timed.story("free", credits=20)
    name = story.reserve(2)
    story.at(NOON + MINUTE)
    committed = story.commit(name).entry

    answer = story.refund(committed)

    assert (answer.refundable, story.balance, story.used) == (0, (20, 0, 0, 0), 0)


# ── Of what time or its owner has ended ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("late", "given", "forfeited", "balance"),
    [(TICK, 10, 0, (16, 0, 0, 0)), (0 * TICK, 2, 8, (8, 0, 0, 8))],
    ids=["just before", "at its end"],
)
def test_what_belongs_to_a_grant_that_has_expired_is_forfeited_and_told(
    timed: TimedLedger, late: Any, given: int, forfeited: int, balance: tuple[int, ...]
) -> None:
    story = timed.story()
    first = story.grant(8, expire_time=NOON + MINUTE)
    second = story.grant(8)
    charged = story.deduct(2).entry
    story.at(NOON + MINUTE - late)

    answer = story.refund(charged)

    assert (answer.forfeited, answer.entry.amount, answer.refundable) == (forfeited, given, 0)
    assert draws(answer.entry) == [(first, -8), (second, -2)]
    assert parts(answer.balance) == story.balance == balance
    assert story.verified()


def test_what_comes_back_to_a_grant_still_ends_with_it(timed: TimedLedger) -> None:
    story = timed.story()
    grant = story.grant(10, expire_time=NOON + MINUTE)
    charged = story.deduct(2).entry
    assert story.remaining == {grant: 0}

    story.refund(charged, 7)
    story.at(NOON + MINUTE - TICK)
    assert (story.balance, story.remaining) == ((7, 0, 3, 0), {grant: 7})
    story.at(NOON + MINUTE)
    assert (story.balance, story.remaining) == ((0, 0, 3, 7), {grant: 0})
    assert story.history(5) == [("GRANT_EXPIRED", MINUTE)]


def test_what_belongs_to_a_grant_that_was_voided_is_forfeited(timed: TimedLedger) -> None:
    story, first, second = two_grants(timed, "pro")
    charged = story.deduct(2).entry
    story.send(admin_pb.VoidGrantRequest, grant_id=first)

    assert story.refund(charged, 5).forfeited == 3
    assert story.refund(charged).forfeited == 5
    assert (story.balance, story.remaining) == ((8, 0, 0, 8), {second: 8, first: 0})
    assert story.verified()


def test_what_is_given_back_can_be_spent_again_in_burn_order(timed: TimedLedger) -> None:
    story, first, second = two_grants(timed, "pro")
    charged = story.deduct(3).entry
    assert draws(charged) == [(first, 8), (second, 7)]
    story.refund(charged)

    assert draws(story.deduct(2).entry) == [(first, 8), (second, 2)]


def test_a_use_of_yesterday_frees_none_of_today(timed: TimedLedger) -> None:
    story = timed.story("free", credits=50)
    charged = story.deduct(3).entry
    story.at(MIDNIGHT)
    story.deduct(2)

    story.refund(charged)

    assert story.used == 2


def test_frozen_accounts_are_refunded_and_closed_ones_are_not(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    charged = story.deduct(2).entry
    story.update(state=resources_pb2.ACCOUNT_STATE_FROZEN)
    assert story.refund(charged, 4).refundable == 6
    story.update(state=resources_pb2.ACCOUNT_STATE_CLOSED)

    assert story.refused(pb.RefundRequest, revision=charged.revision).reason == "ACCOUNT_CLOSED"


def test_a_refund_is_told_again_as_it_was_when_more_was_refunded_since(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    charged = story.deduct(2).entry
    request = {"request_id": "the-refund", "revision": charged.revision, "amount": 4}
    first = story.send(pb.RefundRequest, **request)
    story.refund(charged)
    story.at(NOON + SECOND)

    again = story.send(pb.RefundRequest, **request)

    assert (again.replayed, again.refundable, again.entry, again.balance) == (
        True,
        6,
        first.entry,
        first.balance,
    )
