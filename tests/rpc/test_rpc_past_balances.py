"""GetBalance of the past: what was answered then, at every revision and to the microsecond."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from ledger_calls import FAILED
from timed_story import DAY, MIDNIGHT, MINUTE, NOON, SECOND, TICK, Story, TimedLedger, parts, when

Answer = pb.GetBalanceResponse


def at_time(story: Story, time: datetime) -> Answer:
    answer: Answer = story.send(pb.GetBalanceRequest, at_time=time)
    return answer


def at_revision(story: Story, revision: int) -> Answer:
    answer: Answer = story.send(pb.GetBalanceRequest, at_revision=revision)
    return answer


def without_time(answer: Answer) -> Answer:
    copy = Answer()
    copy.CopyFrom(answer)
    copy.ClearField("read_time")
    return copy


def labelled(story: Story) -> None:
    mask = {"paths": ["labels"]}
    story.send(admin_pb.UpdateAccountRequest, update_mask=mask, labels={"team": "blue"})


def corrected(story: Story) -> None:
    story.send(admin_pb.AdjustBalanceRequest, amount=-3, reason="too much")


# What happens to the account, when, and by how many entries its history is longer then.
LIFE: list[tuple[datetime, int, Callable[[Story], object]]] = [
    (NOON, 1, lambda story: story.grant(8, expire_time=MIDNIGHT + MINUTE)),
    (NOON, 1, lambda story: story.grant(30, priority=5)),
    (NOON, 1, lambda story: story.grant(6, effective_time=NOON + 3 * SECOND)),
    (NOON + SECOND, 1, lambda story: story.deduct(2)),  # r5 of the grants g2 and g3
    (NOON + SECOND, 1, lambda story: story.deduct(usage=FAILED)),
    (NOON + 2 * SECOND, 1, lambda story: story.reserve(ttl=MINUTE)),  # r7
    (NOON + 3 * SECOND, 1, lambda story: None),  # g4 begins
    (NOON + 3 * SECOND, 1, lambda story: story.refund(story.entries()[4], 4)),
    (NOON + 4 * SECOND, 1, lambda story: story.reserve(operation="chat", ttl=DAY)),  # r10, of g2
    (NOON + 5 * SECOND, 1, lambda story: story.commit("r7")),
    (NOON + 6 * SECOND, 1, labelled),
    (NOON + 7 * SECOND, 2, lambda story: story.update(level="daily")),
    (NOON + 8 * SECOND, 1, corrected),
    (MIDNIGHT, 2, lambda story: None),  # what is left of the day's allowance goes, the next day's comes
    (MIDNIGHT + MINUTE, 1, lambda story: None),  # g2 ends
    (MIDNIGHT + MINUTE + TICK, 1, lambda story: story.release("r10")),
    (MIDNIGHT + 2 * MINUTE, 1, lambda story: story.update(level="free")),
    (MIDNIGHT + 2 * MINUTE, 1, lambda story: story.deduct()),
    (MIDNIGHT + 3 * MINUTE, 1, lambda story: story.send(admin_pb.VoidGrantRequest, grant_id="g3")),
    (MIDNIGHT + 4 * MINUTE, 1, lambda story: story.update(state=resources_pb2.ACCOUNT_STATE_CLOSED)),
    (MIDNIGHT + DAY, 1, lambda story: None),  # no allowance: what free has left of the day's goes
]  # fmt: skip


@pytest.fixture(scope="module")
def remembered(timed: TimedLedger) -> tuple[Story, list[Answer]]:
    """An account, and what GetBalance answered after each thing that happened to it."""
    story = timed.story("free")
    answers: list[Answer] = [story.send(pb.GetBalanceRequest)]
    for time, entries, happens in LIFE:
        story.at(time)
        happens(story)
        answers.append(story.send(pb.GetBalanceRequest))
        assert answers[-1].revision == answers[-2].revision + entries, time
    return story, answers


def test_a_revision_is_told_as_it_was_told_then(remembered: tuple[Story, list[Answer]]) -> None:
    story, answers = remembered

    for then in answers:
        told = at_revision(story, then.revision)
        assert told == then  # each was read at the instant of its newest entry


def test_a_time_is_told_as_it_was_told_then(remembered: tuple[Story, list[Answer]]) -> None:
    story, answers = remembered
    last_of_instant = {when(answer.read_time): answer for answer in answers}

    for time, then in last_of_instant.items():
        assert at_time(story, time) == then


def test_between_two_entries_all_is_as_after_the_first(remembered: tuple[Story, list[Answer]]) -> None:
    story, answers = remembered
    last_of_instant = {when(answer.read_time): answer for answer in answers}
    instants = list(last_of_instant)

    for before, instant in pairwise(instants):
        told = at_time(story, instant - TICK)
        assert when(told.read_time) == instant - TICK
        then = last_of_instant[before]
        if (instant - TICK).date() == before.date():
            assert without_time(told) == without_time(then)
        else:  # the limits are those of the day
            assert (told.balance, told.grants, told.account) == (then.balance, then.grants, then.account)


def test_every_revision_adds_up_also_those_between_the_answers(
    remembered: tuple[Story, list[Answer]],
) -> None:
    story, _ = remembered

    for entry in story.entries():
        told = at_revision(story, entry.revision)
        assert (told.balance, told.revision) == (entry.balance, entry.revision)
        assert (told.read_time, told.account.update_time) == (entry.create_time, entry.create_time)
        assert sum(grant.remaining for grant in told.grants) == parts(told.balance)[0]


def test_the_account_itself_is_told_as_it_was(remembered: tuple[Story, list[Answer]]) -> None:
    story, _ = remembered

    seen = [at_time(story, NOON + step * SECOND).account for step in (5, 6, 7)]
    closed = at_time(story, MIDNIGHT + 4 * MINUTE).account

    assert [(account.level, dict(account.labels)) for account in seen] == [
        ("free", {}), ("free", {"team": "blue"}), ("daily", {"team": "blue"}),
    ]  # fmt: skip
    assert (closed.level, closed.state) == ("free", resources_pb2.ACCOUNT_STATE_CLOSED)


def test_limits_are_those_of_the_day_that_is_asked_for(timed: TimedLedger) -> None:
    story = timed.story("free", credits=100)
    story.deduct(2)
    story.at(MIDNIGHT)
    story.deduct(1)
    story.at(MIDNIGHT + 5 * DAY)

    asked = (NOON, MIDNIGHT - TICK, MIDNIGHT, MIDNIGHT + DAY - TICK, MIDNIGHT + DAY)
    limits = [at_time(story, time).limits[0] for time in asked]

    assert [limit.used for limit in limits] == [2, 2, 1, 1, 0]
    resets = [when(limit.reset_time) for limit in limits]
    assert resets == [MIDNIGHT, MIDNIGHT, *[MIDNIGHT + DAY] * 2, MIDNIGHT + 2 * DAY]


def test_what_time_did_while_nobody_looked_is_told_too(timed: TimedLedger) -> None:
    story = timed.story("daily")
    story.grant(7, effective_time=NOON + SECOND, expire_time=NOON + MINUTE)
    story.reserve(2, ttl=30 * SECOND)
    story.at(NOON + 3 * DAY)

    told = {
        time: parts(at_time(story, NOON + time).balance)
        for time in (0 * TICK, SECOND, 30 * SECOND - TICK, 30 * SECOND, MINUTE, 12 * 60 * MINUTE, DAY)
    }

    assert list(told.values()) == [
        (0, 10, 0, 0),  # the grant is to come
        (7, 10, 0, 0),
        (7, 10, 0, 0),
        (17, 0, 0, 0),  # the reservation has run out
        (10, 0, 0, 7),  # the grant has ended
        (10, 0, 0, 17),  # the next day's allowance
        (10, 0, 0, 17),
    ]


def test_before_its_opening_there_was_no_account(timed: TimedLedger) -> None:
    story = timed.story()

    assert at_time(story, NOON).revision == 1
    failure = story.refused(pb.GetBalanceRequest, at_time=NOON - TICK)
    assert failure.word == "NOT_FOUND / ACCOUNT_NOT_FOUND"


def test_the_future_is_not_told(timed: TimedLedger) -> None:
    story = timed.story()
    story.at(NOON + SECOND)

    assert at_time(story, NOON + SECOND).revision == 1
    failure = story.refused(pb.GetBalanceRequest, at_time=NOON + SECOND + TICK)
    assert (failure.word, list(failure.fields)) == ("INVALID_ARGUMENT / FIELD_INVALID", ["at_time"])
    assert story.refused(pb.GetBalanceRequest, at_revision=2).word == "NOT_FOUND / ENTRY_NOT_FOUND"
