"""What is counted, to the number: bounds belong to the bucket below them, and every answer has its place."""

from __future__ import annotations

from bisect import bisect_left
from typing import cast

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.decide import Accepted
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.ledger.counts import SECONDS, SIZES, Distribution
from creditledger_server.rpc.counts import AnswerCounts
from creditledger_server.watch.message import Message, Signal, Summary
from hypothesis import given
from hypothesis import strategies as st


def test_a_value_counts_up_to_its_bound() -> None:
    distribution = Distribution((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 5.1, 100):
        distribution.add(value)
    assert distribution.counts == [2, 2, 1, 2]
    assert distribution.total == pytest.approx(114.6)


@given(st.lists(st.floats(0, 100)))
def test_every_value_is_counted_once(values: list[float]) -> None:
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    assert sum(distribution.counts) == len(values)
    for place, bound in enumerate(SECONDS):
        assert sum(distribution.counts[: place + 1]) == sum(value <= bound for value in values)


@pytest.mark.parametrize("bounds", [SECONDS, SIZES])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert [bisect_left(bounds, bound) for bound in bounds] == list(range(len(bounds)))


def test_deductions_are_counted_by_their_end() -> None:
    counts, entry = AnswerCounts(), cast(Entry, None)
    short = Refused(Reason.INSUFFICIENT_CREDITS, "short")
    first, again = Accepted(entry, replayed=False), Accepted(entry, replayed=True)
    counts.deducted([first, short, first, again, Refused(Reason.FIELD_INVALID, "no"), short])
    assert counts.deductions == {
        False: 2,
        True: 1,
        Reason.INSUFFICIENT_CREDITS: 2,
        Reason.FIELD_INVALID: 1,
    }


@pytest.mark.parametrize("live", [True, False])
def test_a_stream_lags_only_while_it_is_live(live: bool) -> None:
    counts = AnswerCounts()
    entry = posted()
    assert counts.delivers(Message("cursor", entry), live) is live
    assert sum(counts.lag.counts) == live
    assert counts.delivers(Message("cursor", Signal.HEARTBEAT), live) is live
    assert counts.delivers(Message("cursor", Signal.CAUGHT_UP), live)


def test_an_entry_of_the_future_lags_not_at_all() -> None:
    # The clocks of Postgres and the server need not agree.
    counts = AnswerCounts()
    counts.delivers(Message("cursor", posted()._replace(create_time=2**60)), live=True)
    assert (counts.lag.counts[0], counts.lag.total) == (1, 0)


def test_a_summary_counts_the_entries_that_it_tells() -> None:
    counts = AnswerCounts()
    counts.delivers(Message("cursor", Summary(3, 7, 70, posted())), live=True)
    assert (counts.summarized, sum(counts.lag.counts)) == (7, 0)


def posted() -> Entry:
    """Some entry, of 1970."""
    return Account("ann").post(EntryKind.OPENED, 0)
