"""Reservations over gRPC, to the microsecond, with no job running: a voice costs 5, and free has 3 of them a day."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from ledger_calls import FAILED, example_catalog, unique
from many_calls import accepted, call_all
from timed_story import (
    ACTIVE,
    COMMITTED,
    DAY,
    EXPIRED,
    MIDNIGHT,
    MINUTE,
    NOON,
    RELEASED,
    SECOND,
    TICK,
    TimedLedger,
    draws,
    parts,
    timed_ledger,
    when,
)

HOUR = 60 * MINUTE


def tokens(number: int) -> resources_pb2.Usage:
    return resources_pb2.Usage(metrics={"tokens": number})


# ── While it is active ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cost_moves_from_available_to_reserved_and_the_uses_count(timed: TimedLedger) -> None:
    story = timed.story("free", credits=20)

    answer = story.send(pb.ReserveRequest, operation="voice", quantity=2)

    made = answer.reservation
    assert (made.reservation_id, made.operation, made.quantity, made.amount) == ("r3", "voice", 2, 10)
    assert (made.state, when(made.create_time), when(made.expire_time)) == (ACTIVE, NOON, NOON + MINUTE)
    assert parts(answer.balance) == story.balance == (10, 10, 0, 0)
    assert [(limit.used, limit.limit) for limit in answer.limits] == [(2, 3)]
    entry = story.entries()[-1]
    assert (entry.amount, entry.cost, draws(entry)) == (-10, 0, [("g2", 10)])
    assert story.reservation("r3") == made


def test_what_is_held_is_not_there_for_others(timed: TimedLedger) -> None:
    story = timed.story(credits=12)
    story.reserve(2)

    refused = story.refused(pb.DeductRequest, operation="voice")

    assert (refused.reason, refused.metadata["available"]) == ("INSUFFICIENT_CREDITS", "2")
    assert story.refused(pb.ReserveRequest, operation="voice").reason == "INSUFFICIENT_CREDITS"
    assert not story.send(pb.CanPerformRequest, operation="voice").allowed


def test_uses_that_are_held_count_towards_limits(timed: TimedLedger) -> None:
    story = timed.story("free", credits=100)
    name = story.reserve(3)

    assert story.refused(pb.DeductRequest, operation="voice").reason == "LIMIT_EXCEEDED"
    story.release(name)
    assert story.deduct(3).limits[0].used == 3


def test_a_reservation_is_counted_in_the_time_that_it_was_given(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    for ttl in (SECOND, 90 * SECOND + TICK, DAY):
        assert when(story.reservation(story.reserve(ttl=ttl)).expire_time) == NOON + ttl


def test_reservations_are_listed_newest_first_by_state(timed: TimedLedger) -> None:
    story = timed.story(credits=100)
    committed, released, expired, active = (story.reserve(ttl=ttl * MINUTE) for ttl in (9, 9, 1, 9))
    story.commit(committed)
    story.release(released)
    story.at(NOON + MINUTE)

    def listed(*states: int, **fields: Any) -> list[str]:
        answer = story.send(pb.ListReservationsRequest, states=states, **fields)
        return [each.reservation_id for each in answer.reservations]

    assert listed() == [active, expired, released, committed]
    for state, name in {ACTIVE: active, COMMITTED: committed, RELEASED: released, EXPIRED: expired}.items():
        assert listed(state) == [name]
        assert story.reservation(name).state == state
    assert listed(EXPIRED, ACTIVE) == [active, expired]
    page = story.send(pb.ListReservationsRequest, page_size=3)
    assert listed(page_size=3, page_token=page.next_page_token) == [committed]


# ── Commit ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("quantity", "cost", "released", "given", "balance"),
    [
        (1, 5, 5, [("g2", -5)], (15, 0, 5, 0)),
        (2, 10, 0, [], (10, 0, 10, 0)),
        (3, 15, 0, [("g2", 5)], (5, 0, 15, 0)),
    ],
)
def test_a_commit_charges_what_it_came_to(
    timed: TimedLedger, quantity: int, cost: int, released: int, given: list[Any], balance: tuple[int, ...]
) -> None:
    story = timed.story("free", credits=20)
    name = story.reserve(2)
    story.at(NOON + MINUTE - TICK)

    answer = story.commit(name, quantity=quantity)

    assert (answer.cost, answer.released, answer.late) == (cost, released, False)
    assert parts(answer.balance) == story.balance == balance
    assert draws(answer.entry) == given
    assert (answer.entry.quantity, answer.entry.cost, answer.entry.reservation_id) == (quantity, cost, name)
    assert [limit.used for limit in answer.limits] == [quantity]
    assert (story.reservation(name).state, story.reservation(name).amount) == (COMMITTED, 10)


def test_a_commit_that_does_not_say_how_much_is_of_what_was_reserved(timed: TimedLedger) -> None:
    story = timed.story(credits=20)

    assert story.commit(story.reserve(3)).cost == 15


def test_a_commit_of_more_than_there_is_is_refused_whole_and_may_be_tried_for_less(
    timed: TimedLedger,
) -> None:
    story = timed.story(credits=12)
    name = story.reserve(2)

    refused = story.refused(pb.CommitReservationRequest, reservation_id=name, quantity=3)

    assert refused.reason == "INSUFFICIENT_CREDITS"
    told = [refused.metadata[key] for key in ("required", "available", "shortfall")]
    assert told == ["5", "2", "3"]
    assert (story.balance, story.reservation(name).state) == ((2, 10, 0, 0), ACTIVE)
    assert story.commit(name, quantity=2).cost == 10


def test_uses_beyond_those_reserved_have_to_fit_the_limit(timed: TimedLedger) -> None:
    story = timed.story("free", credits=100)
    name = story.reserve(2)

    refused = story.refused(pb.CommitReservationRequest, reservation_id=name, quantity=4)

    assert (refused.reason, refused.metadata["used"]) == ("LIMIT_EXCEEDED", "2")
    assert story.commit(name, quantity=3).limits[0].used == 3


def test_work_that_failed_costs_nothing_and_gives_credits_and_uses_back(timed: TimedLedger) -> None:
    story = timed.story("free", credits=20)

    answer = story.commit(story.reserve(2), usage=FAILED)

    assert (answer.cost, answer.released, story.balance, story.used) == (0, 10, (20, 0, 0, 0), 0)
    assert answer.entry.usage == FAILED


@pytest.mark.parametrize(
    ("usage", "cost"),
    [(None, 10), (tokens(350), 4), (tokens(351), 4), (tokens(1_500), 15), (resources_pb2.Usage(), 2)],
)
def test_a_metered_price_is_that_of_what_was_measured_in_the_end(
    timed: TimedLedger, usage: resources_pb2.Usage | None, cost: int
) -> None:
    story = timed.story(credits=20)
    name = story.reserve(operation="text", metrics={"tokens": 1_000})
    assert story.balance == (10, 10, 0, 0)

    assert story.commit(name, **({"usage": usage} if usage else {})).cost == cost
    assert story.balance == (20 - cost, 0, cost, 0)


def test_prices_are_those_that_held_when_it_was_reserved(dsn: str) -> None:
    with timed_ledger(dsn) as timed:
        story = timed.story(credits=100)
        names = [story.reserve(2) for _ in range(2)]
        version = story.reservation(names[0]).catalog_version
        dearer = admin_pb.UpdateCatalogRequest(request_id="dearer", catalog=example_catalog(voice=9))
        timed.calls.call(dearer)

        in_time = story.commit(names[0], quantity=3)
        story.at(NOON + MINUTE)
        late = story.commit(names[1], quantity=3)

        assert (in_time.cost, late.cost, late.late) == (15, 15, True)
        assert in_time.entry.catalog_version == late.entry.catalog_version == version
        assert story.deduct().cost == 9
        assert story.verified()


def test_whatever_comes_after_the_end_is_told_how_it_ended(timed: TimedLedger) -> None:
    story = timed.story(credits=100)
    committed, released, expired = story.reserve(), story.reserve(), story.reserve(ttl=SECOND)
    story.commit(committed)
    story.release(released)
    story.at(NOON + SECOND)
    late = story.reserve(ttl=SECOND)
    story.at(NOON + 2 * SECOND)
    story.commit(late)
    ends = {
        committed: "RESERVATION_COMMITTED",
        released: "RESERVATION_RELEASED",
        expired: "RESERVATION_EXPIRED",
        late: "RESERVATION_COMMITTED",
    }

    for name, reason in ends.items():
        for kind, fields in {
            pb.CommitReservationRequest: {},
            pb.ReleaseReservationRequest: {},
            pb.ExtendReservationRequest: {"ttl": MINUTE},
        }.items():
            if name == expired and kind is pb.CommitReservationRequest:
                continue  # may come late
            failure = story.refused(kind, reservation_id=name, **fields)
            assert failure.word == f"FAILED_PRECONDITION / {reason}"
            assert failure.metadata["reservationId"] == name


# ── Whose credits they are ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("quantity", "given", "first", "second"),
    [
        (0, [("first", -8), ("second", -2)], 8, 8),  # released
        (1, [("first", -3), ("second", -2)], 3, 8),
        (2, [], 0, 6),
        (3, [("second", 5)], 0, 1),
    ],
)
def test_credits_return_to_the_grants_that_they_came_from(
    timed: TimedLedger, quantity: int, given: list[Any], first: int, second: int
) -> None:
    story = timed.story()
    names = {"first": story.grant(8), "second": story.grant(8, priority=1)}
    reserved = story.reserve(2)
    assert draws(story.entries()[-1]) == [(names["first"], 8), (names["second"], 2)]
    assert story.remaining == {names["second"]: 6, names["first"]: 0}

    answer = story.commit(reserved, quantity=quantity) if quantity else story.release(reserved)

    assert draws(answer.entry) == [(names[name], amount) for name, amount in given]
    assert story.remaining == {names["second"]: second, names["first"]: first}
    assert story.verified()


@pytest.mark.parametrize("how", ["expires", "is voided"])
def test_held_credits_of_a_grant_that_ends_are_there_for_the_commit_and_for_nothing_else(
    timed: TimedLedger, how: str
) -> None:
    story = timed.story()
    grant = story.grant(20, **({"expire_time": NOON + SECOND} if how == "expires" else {}))
    committed, released = story.reserve(2), story.reserve(1)
    story.at(NOON + SECOND)
    if how == "is voided":
        story.send(admin_pb.VoidGrantRequest, grant_id=grant)
    assert story.balance == (0, 15, 0, 5)

    answer = story.commit(committed, quantity=1)
    assert (answer.cost, answer.released, parts(answer.balance)) == (5, 5, (0, 5, 5, 10))
    assert parts(story.release(released).balance) == (0, 0, 5, 15)
    assert story.remaining == {grant: 0}
    assert story.verified()


@pytest.mark.parametrize("end", ["release", "commit of less"])
def test_uses_go_back_to_the_day_on_which_they_counted(timed: TimedLedger, end: str) -> None:
    story = timed.story("free", credits=100)
    name = story.reserve(3, ttl=DAY)
    story.at(MIDNIGHT)
    story.deduct(2)

    if end == "release":
        story.release(name)
    else:
        story.commit(name, quantity=1)

    assert story.used == 2
    assert story.verified()


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_account_has_1000_active_reservations_at_most(timed: TimedLedger) -> None:
    story = timed.story(credits=2_000)
    calls = [story.request(pb.ReserveRequest, operation="chat") for _ in range(1_000)]
    assert len(accepted(call_all([timed.calls.target], calls))) == 1_000

    refused = timed.calls.refusal(story.request(pb.ReserveRequest, operation="chat"))
    assert refused.word == "RESOURCE_EXHAUSTED / TOO_MANY_RESERVATIONS"

    story.at(NOON + MINUTE)
    assert story.balance == (2_000, 0, 0, 0)
    story.reserve(operation="chat")
    assert story.verified()


def test_a_frozen_account_takes_back_and_keeps_but_does_not_spend(timed: TimedLedger) -> None:
    story = timed.story(credits=20)
    name, other = story.reserve(), story.reserve()
    story.update(state=resources_pb2.ACCOUNT_STATE_FROZEN)

    for kind, fields in (
        (pb.ReserveRequest, {"operation": "voice"}),
        (pb.CommitReservationRequest, {"reservation_id": name}),
    ):
        assert story.refused(kind, **fields).reason == "ACCOUNT_FROZEN"
    story.send(pb.ExtendReservationRequest, reservation_id=name, ttl=HOUR)
    story.release(other)
    story.at(NOON + HOUR)
    assert story.balance == (20, 0, 0, 0)


def test_a_first_reservation_opens_the_account_at_its_level(timed: TimedLedger) -> None:
    timed.clock.set(NOON)
    account = unique("new")
    request = pb.ReserveRequest(
        request_id=unique(), account_id=account, operation="voice", quantity=2, account_level="daily"
    )

    answer = timed.calls.call(request)

    assert parts(answer.balance) == (0, 10, 0, 0)
    assert timed.calls.kinds(account) == ["OPENED", "GRANTED", "RESERVED"]
