"""At most one message per account and interval, and none forgotten."""

from __future__ import annotations

from creditledger_server.watch.pace import Pace
from hypothesis import given
from hypothesis import strategies as st


def test_the_first_is_let_through_and_the_next_after_the_interval() -> None:
    pace = Pace(10)
    assert pace.admits("ann", 0)
    pace.told("ann", 0)
    assert not pace.admits("ann", 9.9)
    assert pace.left(9.5) == 0.5
    assert pace.due(9.9) is None
    assert pace.due(10) == "ann"
    assert pace.due(10) is None
    assert pace.admits("ann", 10)


def test_without_an_interval_nobody_waits() -> None:
    pace = Pace(0)
    for now in (1.0, 1.0, 1.1):
        assert pace.admits("ann", now)
        pace.told("ann", now)
    assert pace.left(1.1) == float("inf")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=60))
def test_every_change_is_told_within_the_interval_and_no_account_twice_in_it(
    changes: list[tuple[str, int]],
) -> None:
    pace, now, told, owed = Pace(10), 0, dict[str, int](), dict[str, int]()

    def tell(account_id: str) -> None:
        if pace.admits(account_id, now):
            assert now - told.get(account_id, -10) >= 10
            told[account_id] = now
            owed.pop(account_id, None)
            pace.told(account_id, now)

    for account_id, passed in changes:
        for _ in range(passed):
            now += 1
            while (due := pace.due(now)) is not None:
                tell(due)
        owed.setdefault(account_id, now)
        tell(account_id)
        assert all(now - since < 10 for since in owed.values())
        assert (pace.left(now) == float("inf")) == (not owed)
