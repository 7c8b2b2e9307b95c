"""How reservations end: at their instant with no job running, late, released, and put off."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from ledger_calls import FAILED
from timed_story import (
    ACTIVE,
    COMMITTED,
    DAY,
    EXPIRED,
    MINUTE,
    NOON,
    RELEASED,
    SECOND,
    TICK,
    TimedLedger,
    draws,
    parts,
    when,
)

HOUR = 60 * MINUTE


# ── The end of its time ───────────────────────────────────────────────────────────────────────────────────────────


def test_it_runs_out_at_its_instant_and_not_a_microsecond_before(timed: TimedLedger) -> None:
    story = timed.story("free", credits=15)
    name = story.reserve(3)

    story.at(NOON + MINUTE - TICK)
    assert (story.balance, story.reservation(name).state) == ((0, 15, 0, 0), ACTIVE)
    assert story.refused(pb.DeductRequest, operation="voice").reason == "LIMIT_EXCEEDED"

    story.at(NOON + MINUTE)
    assert (story.balance, story.reservation(name).state, story.used) == ((15, 0, 0, 0), EXPIRED, 0)
    assert story.deduct(3).cost == 15


@pytest.mark.parametrize(
    "look",
    [
        lambda story, name: story.balance,
        lambda story, name: story.reservation(name),
        lambda story, name: story.send(pb.CanPerformRequest, operation="voice"),
        lambda story, name: story.send(pb.ListReservationsRequest),
        lambda story, name: story.deduct(),
        lambda story, name: story.refused(pb.ReleaseReservationRequest, reservation_id=name),
    ],
    ids=["GetBalance", "GetReservation", "CanPerform", "ListReservations", "Deduct", "a refusal"],
)
def test_its_end_is_written_with_its_instant_whoever_looks_first_and_when(
    timed: TimedLedger, look: Any
) -> None:
    story = timed.story(credits=20)
    name = story.reserve(2)
    story.at(NOON + HOUR)

    look(story, name)

    ended = story.entries()[3]
    assert story.history(4)[0] == ("RESERVATION_EXPIRED", MINUTE)
    assert (ended.amount, ended.reservation_id, ended.request_id) == (10, name, "")
    assert draws(ended) == [("g2", -10)]
    assert story.verified()


def test_a_late_commit_is_charged_from_what_there_is_then(timed: TimedLedger) -> None:
    story = timed.story("free", credits=20)
    name = story.reserve(2)
    story.at(NOON + MINUTE)

    answer = story.commit(name)

    assert (answer.cost, answer.released, answer.late) == (10, 0, True)
    assert (story.balance, story.used) == ((10, 0, 10, 0), 2)
    assert story.history(4) == [("RESERVATION_EXPIRED", MINUTE), ("COMMITTED", MINUTE)]
    assert (draws(answer.entry), story.reservation(name).state) == ([("g2", 10)], COMMITTED)


@pytest.mark.parametrize("credits", [14, 100], ids=["credits", "limit"])
def test_a_late_commit_that_does_not_fit_any_more_is_refused_as_expired(
    timed: TimedLedger, credits: int
) -> None:
    story = timed.story("free", credits=credits)
    name = story.reserve(2)
    story.at(NOON + MINUTE)
    story.deduct(1 if credits == 14 else 2)

    refused = story.refused(pb.CommitReservationRequest, reservation_id=name)

    assert refused.word == "FAILED_PRECONDITION / RESERVATION_EXPIRED"
    assert story.commit(name, usage=FAILED).cost == 0


def test_of_a_grant_that_ends_with_the_reservation_nothing_comes_back(timed: TimedLedger) -> None:
    story = timed.story()
    story.grant(10, expire_time=NOON + MINUTE)
    story.reserve(2, ttl=MINUTE)
    story.at(NOON + MINUTE)

    assert story.balance == (0, 0, 0, 10)
    assert story.history(4) == [("RESERVATION_EXPIRED", MINUTE)]
    assert story.entries()[-1].amount == 0


# ── Release and extend ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_release_gives_all_of_it_back(timed: TimedLedger) -> None:
    story = timed.story("free", credits=20)
    name = story.reserve(2)

    answer = story.send(pb.ReleaseReservationRequest, reservation_id=name, reason="no such voice")

    assert parts(answer.balance) == story.balance == (20, 0, 0, 0)
    assert (answer.entry.amount, answer.entry.cost, draws(answer.entry)) == (10, 0, [("g2", -10)])
    assert (answer.entry.reason, [limit.used for limit in answer.limits]) == ("no such voice", [0])
    assert story.reservation(name).state == RELEASED


def test_an_extension_counts_from_now_whether_that_is_longer_or_shorter(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    name = story.reserve(2)

    story.at(NOON + MINUTE - TICK)
    longer = story.send(pb.ExtendReservationRequest, reservation_id=name, ttl=MINUTE).reservation
    assert when(longer.expire_time) == NOON + 2 * MINUTE - TICK
    assert story.reservation(name) == longer

    story.at(NOON + MINUTE)
    assert story.balance == (10, 10, 0, 0)
    shorter = story.send(pb.ExtendReservationRequest, reservation_id=name, ttl=SECOND).reservation
    assert when(shorter.expire_time) == NOON + MINUTE + SECOND
    story.at(NOON + MINUTE + SECOND)
    assert story.balance == (20, 0, 0, 0)
    assert story.history(4) == [
        ("EXTENDED", MINUTE - TICK),
        ("EXTENDED", MINUTE),
        ("RESERVATION_EXPIRED", MINUTE + SECOND),
    ]


def test_a_reservation_lives_24_hours_at_most(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    name = story.reserve(ttl=DAY)
    story.at(NOON + HOUR)

    refused = story.refused(pb.ExtendReservationRequest, reservation_id=name, ttl=23 * HOUR + TICK)

    assert (refused.reason, list(refused.fields)) == ("FIELD_INVALID", ["ttl"])
    assert story.send(pb.ExtendReservationRequest, reservation_id=name, ttl=23 * HOUR)
    story.at(NOON + DAY)
    assert story.reservation(name).state == EXPIRED
