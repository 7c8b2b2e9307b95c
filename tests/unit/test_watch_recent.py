"""Recent entries against a plain model: what is held never has a gap and never too much."""

from __future__ import annotations

from dataclasses import dataclass, field

from creditledger_server.domain.account import Account
from creditledger_server.domain.entry import Entry, EntryKind
from creditledger_server.watch.recent import Recent
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 12
NAMES = ("ann", "bob")


def history(account_id: str, length: int) -> list[Entry]:
    account = Account(account_id)
    return [account.post(EntryKind.ADJUSTED, number) for number in range(1, length + 1)]


HISTORIES = {name: history(name, 60) for name in NAMES}


@dataclass
class Model:
    """The head of each account, which nothing but what was added or reached may move."""

    heads: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(NAMES))


Step = tuple[str, str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add after gap", "reached", "look", "anew"]),
        st.sampled_from(NAMES),
        st.integers(0, 50),
        st.integers(1, 9),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_told_after_a_revision_is_what_follows_it_and_no_more_is_held_than_allowed(
    taken: list[Step],
) -> None:
    recent, model = Recent(LIMIT), Model()
    for name in NAMES:
        recent.follow(name)
    for what, name, revision, size in taken:
        take(recent, model, what, name, revision, size)
        assert recent.head(name) == model.heads[name]
        assert sum(len(tail.changes) for tail in recent._tails.values()) <= LIMIT
        assert len(recent._arrivals) <= LIMIT


def take(recent: Recent, model: Model, what: str, name: str, revision: int, size: int) -> None:
    head = model.heads[name]
    match what:
        case "add" | "add after gap":
            added = HISTORIES[name][revision : revision + size]
            gap = head is not None and revision > head
            taken = recent.add(name, added, after_gap=what == "add after gap")
            assert taken == (not gap or what == "add after gap")
            if taken:
                model.heads[name] = max(head or 0, revision + size)
        case "reached":
            further = head is None or revision > head
            assert recent.reached(name, revision) == further
            model.heads[name] = revision if further else head
        case "look":
            check(recent, head, name, revision, size)
        case "anew":
            recent.forget(name)
            recent.follow(name)
            model.heads[name] = None


def check(recent: Recent, head: int | None, name: str, revision: int, size: int) -> None:
    changes = recent.after(name, revision, size)
    if head is None:
        assert changes is None
    elif revision >= head:
        assert changes == ()
    elif changes is not None:
        expected = HISTORIES[name][revision : min(revision + size, head)]
        assert [change.entry for change in changes] == expected != []


def test_one_account_that_is_busy_leaves_what_it_just_wrote() -> None:
    recent = Recent(LIMIT)
    recent.follow("ann")
    for entry in HISTORIES["ann"]:
        assert recent.add("ann", [entry])
    held = recent.after("ann", 60 - LIMIT, 100)
    assert held is not None
    assert [change.entry.revision for change in held] == list(range(61 - LIMIT, 61))
    assert recent.after("ann", 59 - LIMIT, 100) is None


def test_streams_of_one_account_get_the_same_change() -> None:
    recent = Recent(LIMIT)
    recent.follow("ann")
    recent.add("ann", HISTORIES["ann"][:3])
    assert [*(recent.after("ann", 0, 3) or ())] == [*(recent.after("ann", 0, 3) or ())]
