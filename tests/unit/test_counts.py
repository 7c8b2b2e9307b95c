"""What is counted, to the number: bounds belong to the bucket below them, and every outcome has its word."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import cast

import pytest
from creditledger_server.domain.commands import Deduct, Reserve, Settle
from creditledger_server.domain.decide import Accepted
from creditledger_server.domain.entry import Entry
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.ledger.counts import SECONDS, SIZES, Distribution, WriteCounts
from creditledger_server.ledger.lane import Call, Ticket
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


async def test_outcomes_are_counted_by_request_and_end_and_those_of_time_are_not() -> None:
    counts, entry = WriteCounts(), cast(Entry, None)
    call: Call[object] = Call(9, 0, asyncio.get_running_loop().create_future())
    deduct = Deduct("1", "ann", "voice")
    reserve = Reserve("2", "ann", "voice")
    short = Refused(Reason.INSUFFICIENT_CREDITS, "short")
    round_: list[tuple[object, Accepted | Refused | None]] = [
        (deduct, Accepted(entry, replayed=False)),
        (deduct, Accepted(entry, replayed=False)),
        (deduct, Accepted(entry, replayed=True)),
        (deduct, short),
        (reserve, short),
        (Settle("ann"), None),
    ]
    counts.answered([Ticket(request, call, 0) for request, _ in round_], [outcome for _, outcome in round_])
    assert counts.outcomes == {
        (Deduct, False): 2,
        (Deduct, True): 1,
        (Deduct, Reason.INSUFFICIENT_CREDITS): 1,
        (Reserve, Reason.INSUFFICIENT_CREDITS): 1,
    }
    assert counts.sizes.total == 6
