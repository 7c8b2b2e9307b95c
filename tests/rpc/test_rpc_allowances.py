"""Allowances over gRPC: once per account and period, exactly at its beginning, whatever becomes of the level meanwhile.

The levels daily, weekly, monthly and once bring 10, 20, 30 and 40 credits; the stories begin on Sunday, 22 November.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from ledger_calls import unique
from timed_story import (
    DAY,
    MIDNIGHT,
    MINUTE,
    NOON,
    TICK,
    Story,
    TimedLedger,
    draws,
    parts,
    timed_catalog,
    timed_ledger,
    when,
)

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


def given(story: Story) -> list[tuple[int, datetime, datetime | None]]:
    """Every allowance that the account had: how much, from when, and until when."""
    grants = story.send(admin_pb.ListGrantsRequest).grants
    return [
        (
            grant.amount,
            when(grant.create_time),
            when(grant.expire_time) if grant.HasField("expire_time") else None,
        )
        for grant in reversed(grants)
        if grant.source == resources_pb2.GRANT_SOURCE_ALLOWANCE
    ]


# ── When they come and go ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("level", "credits", "starts"),
    [
        ("daily", 10, [MIDNIGHT, MIDNIGHT + DAY, MIDNIGHT + 2 * DAY]),
        ("weekly", 20, [MIDNIGHT, MIDNIGHT + 7 * DAY, MIDNIGHT + 14 * DAY]),  # a Monday
        ("monthly", 30, [DECEMBER, JANUARY, datetime(2027, 2, 1, tzinfo=UTC)]),
    ],
)
def test_an_allowance_comes_at_once_and_whole_and_with_every_period_which_it_ends_with(
    timed: TimedLedger, level: str, credits: int, starts: list[datetime]
) -> None:
    story = timed.story(level)
    assert story.balance == (credits, 0, 0, 0)
    story.deduct()

    story.at(starts[0] - TICK)
    assert story.balance == (credits - 5, 0, 5, 0)
    story.at(starts[0])
    assert story.balance == (credits, 0, 5, credits - 5)
    story.at(starts[1])
    assert story.balance == (credits, 0, 5, 2 * credits - 5)

    assert given(story) == [
        (credits, NOON, starts[0]), (credits, starts[0], starts[1]), (credits, starts[1], starts[2]),
    ]  # fmt: skip
    assert [kind for kind, _ in story.history(3)] == ["DEDUCTED", *["GRANT_EXPIRED", "GRANTED"] * 2]
    assert story.verified()


def test_an_allowance_for_life_comes_once_and_stays(timed: TimedLedger) -> None:
    story = timed.story("once")
    story.at(NOON + 800 * DAY)

    assert story.balance == (40, 0, 0, 0)
    assert given(story) == [(40, NOON, None)]


def test_periods_that_went_by_unseen_leave_their_entries_all_the_same(timed: TimedLedger) -> None:
    story = timed.story("daily")
    story.at(MIDNIGHT + 6 * DAY + MINUTE)

    assert story.balance == (10, 0, 0, 70)
    starts = [MIDNIGHT + days * DAY for days in range(7)]
    assert [begin for _, begin, _ in given(story)] == [NOON, *starts]
    assert story.history(3)[::2] == [("GRANT_EXPIRED", start - NOON) for start in starts]
    assert story.verified()


@pytest.mark.parametrize("look", [pb.CanPerformRequest, pb.DeductRequest, pb.ReserveRequest])
def test_the_first_call_of_a_period_is_decided_with_its_allowance(
    timed: TimedLedger, look: type[pb.CanPerformRequest | pb.DeductRequest | pb.ReserveRequest]
) -> None:
    story = timed.story("daily")
    story.deduct(2)
    story.at(MIDNIGHT - TICK)
    assert not story.send(pb.CanPerformRequest, operation="voice").allowed
    story.at(MIDNIGHT)

    answer = story.send(look, operation="voice", quantity=2)

    assert parts(answer.balance) == {
        pb.CanPerformRequest: (10, 0, 10, 0), pb.DeductRequest: (0, 0, 20, 0), pb.ReserveRequest: (0, 10, 10, 0),
    }[look]  # fmt: skip


def test_a_clock_that_falls_back_over_midnight_brings_no_second_one(timed: TimedLedger) -> None:
    story = timed.story("daily")
    story.at(MIDNIGHT)
    assert story.balance == (10, 0, 0, 10)

    story.at(NOON)
    assert when(story.deduct().entry.create_time) == MIDNIGHT  # time never goes back within an account
    story.at(MIDNIGHT)

    assert story.balance == (5, 0, 5, 10)
    assert len(given(story)) == 2


# ── Changes of level ──────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_changes_levels_back_and_forth_has_one_of_each_kind_per_period(timed: TimedLedger) -> None:
    story = timed.story("free")
    for level in (
        "daily",
        "free",
        "daily",
        "monthly",
        "daily",
        "weekly",
        "monthly",
        "once",
        "weekly",
        "once",
    ):
        story.update(level=level)

    assert [amount for amount, _, _ in given(story)] == [10, 30, 20, 40]
    assert story.balance == (100, 0, 0, 0)
    assert story.verified()


@pytest.mark.parametrize("how", ["UpdateAccount", "Deduct", "Reserve"])
def test_a_new_level_brings_its_allowance_with_whichever_call_changes_it(
    timed: TimedLedger, how: str
) -> None:
    story = timed.story("free")
    if how == "UpdateAccount":
        story.update(level="daily")
    elif how == "Deduct":
        assert story.deduct(2, account_level="daily").balance.available == 0
    else:
        story.reserve(2, account_level="daily")

    assert [kind for kind, _ in story.history()][1:3] == ["LEVEL_CHANGED", "GRANTED"]
    assert given(story) == [(10, NOON, MIDNIGHT)]


def test_what_a_level_brought_is_not_taken_back_and_not_renewed_after_it(timed: TimedLedger) -> None:
    story = timed.story("daily")
    story.update(level="pro")
    assert story.balance == (10, 0, 0, 0)

    story.at(MIDNIGHT)
    assert story.balance == (0, 0, 0, 10)
    story.at(MIDNIGHT + DAY)
    story.update(level="daily")
    assert story.balance == (10, 0, 0, 10)
    assert given(story) == [(10, NOON, MIDNIGHT), (10, MIDNIGHT + DAY, MIDNIGHT + 2 * DAY)]


def test_a_level_of_another_period_begins_its_own(timed: TimedLedger) -> None:
    story = timed.story("daily")
    story.at(NOON + 3 * DAY)
    story.update(level="monthly")
    story.at(DECEMBER)

    allowances = given(story)

    assert [amount for amount, _, _ in allowances] == [10, 10, 10, 10, 30, 30]
    assert allowances[-2:] == [(30, NOON + 3 * DAY, DECEMBER), (30, DECEMBER, JANUARY)]
    assert story.balance == (30, 0, 0, 70)


def test_a_level_change_that_is_refused_with_its_call_brings_nothing(timed: TimedLedger) -> None:
    story = timed.story("free")

    story.refused(pb.DeductRequest, operation="voice", quantity=3, account_level="daily")

    assert (given(story), len(story.entries())) == ([], 1)


# ── First calls, states, catalogs ─────────────────────────────────────────────────────────────────────────────────


def test_a_check_counts_on_the_allowance_that_a_first_call_would_bring_and_opens_nothing(
    timed: TimedLedger,
) -> None:
    timed.clock.set(NOON)
    account = unique("new")

    def check(quantity: int) -> pb.CanPerformResponse:
        answer: pb.CanPerformResponse = timed.calls.call(
            pb.CanPerformRequest(
                account_id=account, operation="voice", quantity=quantity, account_level="daily"
            )
        )
        return answer

    assert (check(2).allowed, check(3).allowed) == (True, False)
    assert (check(3).denials[0].shortfall, check(3).revision) == (5, 0)
    assert timed.calls.revision(account) == 0


@pytest.mark.parametrize(
    ("state", "balance"),
    [
        (resources_pb2.ACCOUNT_STATE_FROZEN, (10, 0, 0, 10)),
        (resources_pb2.ACCOUNT_STATE_CLOSED, (0, 0, 0, 10)),
    ],
)
def test_frozen_accounts_get_their_allowance_and_closed_ones_lose_it(
    timed: TimedLedger, state: resources_pb2.AccountState, balance: tuple[int, ...]
) -> None:
    story = timed.story("daily")
    story.update(state=state)
    story.at(MIDNIGHT)

    assert story.balance == balance


def test_a_closed_account_still_tells_how_it_stands_when_allowances_have_passed_it_by(
    timed: TimedLedger,
) -> None:
    story = timed.story("daily")
    story.update(state=resources_pb2.ACCOUNT_STATE_CLOSED)
    story.at(MIDNIGHT + 9 * DAY)

    assert story.balance == (0, 0, 0, 10)
    assert not story.send(pb.CanPerformRequest, operation="voice").allowed
    assert story.refused(pb.DeductRequest, operation="voice").reason == "ACCOUNT_CLOSED"
    assert story.history(3) == [("STATE_CHANGED", 0 * DAY), ("GRANT_EXPIRED", MIDNIGHT - NOON)]
    assert story.verified()


def test_credits_held_over_midnight_are_there_for_their_commit_and_come_back_to_nobody(
    timed: TimedLedger,
) -> None:
    story = timed.story("daily")
    name = story.reserve(2, ttl=DAY)
    story.at(MIDNIGHT)
    assert story.balance == (10, 10, 0, 0)

    answer = story.commit(name, quantity=1)

    assert draws(answer.entry) == [("g2", -5)]
    assert parts(answer.balance) == (10, 0, 5, 5)


def test_a_catalog_that_comes_within_a_period_changes_nothing_before_the_next(dsn: str) -> None:
    with timed_ledger(dsn) as timed:
        story, other = timed.story("daily"), timed.story("pro")
        timed.clock.set(NOON + MINUTE)
        catalog = timed_catalog()
        for level in catalog.levels:
            if level.level in ("daily", "pro"):
                level.allowance.CopyFrom(resources_pb2.Allowance(credits=99, period=resources_pb2.PERIOD_DAY))
        timed.calls.call(admin_pb.UpdateCatalogRequest(request_id="more", catalog=catalog))

        story.at(MIDNIGHT - TICK)
        assert (story.balance, other.balance) == ((10, 0, 0, 0), (0, 0, 0, 0))
        story.at(MIDNIGHT)
        assert (story.balance, other.balance) == ((99, 0, 0, 10), (99, 0, 0, 0))

        timed.calls.call(admin_pb.UpdateCatalogRequest(request_id="none", catalog=bare_catalog()))
        story.at(MIDNIGHT + DAY)
        assert (story.balance, other.balance) == ((0, 0, 0, 109), (0, 0, 0, 99))
        assert story.verified() and other.verified()


def test_catalogs_follow_each_other_also_when_the_clock_is_set_back_between_them(dsn: str) -> None:
    with timed_ledger(dsn) as timed:
        story = timed.story("pro")
        for number, (time, amount) in enumerate([(MIDNIGHT + MINUTE, 7), (MIDNIGHT - MINUTE, 99)]):
            catalog = timed_catalog()
            catalog.levels[1].allowance.CopyFrom(
                resources_pb2.Allowance(credits=amount, period=resources_pb2.PERIOD_DAY)
            )
            timed.clock.set(time)
            timed.calls.call(admin_pb.UpdateCatalogRequest(request_id=f"catalog-{number}", catalog=catalog))

        story.at(MIDNIGHT)
        assert story.balance == (0, 0, 0, 0)  # as when the clock told that it was midnight before
        story.at(MIDNIGHT + DAY)
        assert story.balance == (99, 0, 0, 0)
        assert story.verified()


def bare_catalog() -> resources_pb2.Catalog:
    """The catalog without an allowance."""
    catalog = timed_catalog()
    for level in catalog.levels:
        level.ClearField("allowance")
    return catalog
