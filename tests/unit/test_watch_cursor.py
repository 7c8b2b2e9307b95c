"""Cursors: they resume the stream that they came from, on any server of the ledger, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.watch.cursor import SNAPSHOT_OWED, AllPosition, AllSeen, Cursors
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = bytes(range(32))
CURSORS = Cursors(KEY)
SEEN = {"ann": 12, "bob": SNAPSHOT_OWED, "eve": 2**62}
ALL = AllSeen(AllPosition(2**61, "user@example.com", 3))

ids = st.text("abcXYZ019._:@/+=-", min_size=1, max_size=12)
seen = st.dictionaries(ids, st.integers(SNAPSHOT_OWED, 2**63 - 1), min_size=1, max_size=8)
positions = st.builds(AllPosition, st.integers(0, 2**63 - 1), st.just("") | ids, st.integers(0, 2**63 - 1))


def invalid(read: Callable[..., object], *arguments: object) -> bool:
    try:
        read(*arguments)
    except Refused as refused:
        assert refused.reason is Reason.CURSOR_INVALID
        assert [field for field, _ in refused.violations] == ["cursor"]
        return True
    return False


@settings(deadline=None)
@given(seen)
def test_a_cursor_of_accounts_tells_the_revision_delivered_of_each(revisions: dict[str, int]) -> None:
    revisions = dict(sorted(revisions.items()))
    cursor = CURSORS.for_accounts(list(revisions)).of(revisions)
    assert Cursors(KEY).for_accounts(list(revisions)).read(cursor) == revisions


@settings(deadline=None)
@given(positions)
def test_a_cursor_of_all_tells_the_last_entry_delivered(position: AllPosition) -> None:
    assert Cursors(KEY).to_all(CURSORS.of_all(AllSeen(position))) == AllSeen(position)


@given(start=positions, end=positions, account_id=ids)
def test_a_cursor_between_summaries_tells_which_accounts_were_told(
    start: AllPosition, end: AllPosition, account_id: str
) -> None:
    seen = AllSeen(start, end, account_id)
    assert Cursors(KEY).to_all(CURSORS.of_all(seen)) == seen


def test_between_summaries_the_first_accounts_are_ahead_of_the_others() -> None:
    seen = AllSeen(AllPosition(5, "m", 1), AllPosition(9, "b", 7), "k")

    assert seen.has(AllPosition(5, "m", 1))
    assert seen.has(AllPosition(6, "k", 3))
    assert not seen.has(AllPosition(6, "l", 3))
    assert not seen.has(AllPosition(10, "a", 3))
    assert seen.moved_to(AllPosition(7, "z", 1)) == AllSeen(
        AllPosition(7, "z", 1), AllPosition(9, "b", 7), "k"
    )
    assert seen.moved_to(AllPosition(9, "b", 7)) == AllSeen(AllPosition(9, "b", 7))


def test_an_owed_snapshot_survives() -> None:
    assert (
        CURSORS.for_accounts(list(SEEN)).read(CURSORS.for_accounts(list(SEEN)).of(SEEN))["bob"]
        == SNAPSHOT_OWED
    )


def test_positions_are_in_the_order_of_delivery() -> None:
    order = [
        AllPosition(1),
        AllPosition(1, "A", 9),
        AllPosition(1, "a", 1),
        AllPosition(1, "a", 2),
        AllPosition(2),
        AllPosition(2, "A", 10),
    ]
    assert all(earlier < later for earlier, later in pairwise(order))


@pytest.mark.parametrize(
    "account_ids",
    [
        [],
        ["ann"],
        ["ann", "bob"],
        ["ann", "bob", "eva"],
        ["ann", "bob", "eve", "joe"],
        ["bob", "ann", "eve"],
        ["annbob", "eve"],
        ["ann", "bobeve"],
        ["Ann", "bob", "eve"],
    ],
)
def test_the_cursor_of_other_accounts_is_invalid(account_ids: list[str]) -> None:
    cursor = CURSORS.for_accounts(list(SEEN)).of(SEEN)
    assert invalid(CURSORS.for_accounts(account_ids).read, cursor)


@settings(deadline=None)
@given(seen, st.lists(ids, min_size=1, max_size=8, unique=True))
def test_a_cursor_serves_the_accounts_it_was_made_for_and_no_others(
    revisions: dict[str, int], asked: list[str]
) -> None:
    made_for, asked = sorted(revisions), sorted(asked)
    cursor = CURSORS.for_accounts(made_for).of({account_id: revisions[account_id] for account_id in made_for})
    assert invalid(CURSORS.for_accounts(asked).read, cursor) == (asked != made_for)


def test_a_cursor_of_accounts_is_none_of_all_and_the_other_way_round() -> None:
    assert invalid(CURSORS.to_all, CURSORS.for_accounts(["", "a", "b"]).of({"": 1, "a": 2, "b": 3}))
    assert invalid(CURSORS.for_accounts(["a", "b", "c"]).read, CURSORS.of_all(ALL))


def test_the_cursor_of_another_ledger_is_invalid() -> None:
    foreign = Cursors(bytes(32))
    assert invalid(CURSORS.to_all, foreign.of_all(ALL))
    assert invalid(CURSORS.for_accounts(list(SEEN)).read, foreign.for_accounts(list(SEEN)).of(SEEN))


def test_an_altered_cursor_is_invalid() -> None:
    accounts, position = CURSORS.for_accounts(list(SEEN)).of(SEEN), CURSORS.of_all(ALL)
    # The last character may hold bits that mean nothing: see test_domain_seal.
    for place in range(len(accounts) - 1):
        assert invalid(CURSORS.for_accounts(list(SEEN)).read, changed(accounts, place))
    for place in range(len(position) - 1):
        assert invalid(CURSORS.to_all, changed(position, place))


def changed(cursor: str, place: int) -> str:
    return cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]


@pytest.mark.parametrize("cursor", ["", "A", "cursor", "\0", "é", "\ud800", "=", "W10", "A" * 10_000])
def test_what_is_no_cursor_is_invalid(cursor: str) -> None:
    assert invalid(CURSORS.to_all, cursor)
    assert invalid(CURSORS.for_accounts(["ann"]).read, cursor)


def test_the_refusal_tells_nothing_of_the_cursor() -> None:
    with pytest.raises(Refused) as caught:
        CURSORS.to_all("secret")
    assert "secret" not in f"{caught.value.message}{caught.value.metadata}{caught.value.violations}"
