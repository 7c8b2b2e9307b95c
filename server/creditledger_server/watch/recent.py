"""The newest entries of watched accounts, in memory: what thousands of streams of one account need is read once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..domain.entry import Entry
from .message import Change


class _Tail:
    """The end of an account's history: what is held of it, without a gap, up to ``head``; None: not known yet."""

    __slots__ = ("changes", "head")

    def __init__(self) -> None:
        self.head: int | None = None
        self.changes: list[Change] = []


class Recent:
    """Entries of the accounts that are followed: at most ``limit`` together, the oldest leave first.

    Revisions have no gap, so a stream sees by their numbers what it has, what it misses, and whether the tables have to
    be read for it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tails: dict[str, _Tail] = {}
        self._arrivals: deque[str] = deque()  # the account of each entry that is held, oldest first

    def follow(self, account_id: str) -> None:
        """Begins to keep entries of an account."""
        self._tails[account_id] = _Tail()

    def forget(self, account_id: str) -> None:
        """Keeps none of an account's entries any more."""
        del self._tails[account_id]

    def head(self, account_id: str) -> int | None:
        """The newest revision that was added or reached."""
        return self._tails[account_id].head

    def reached(self, account_id: str, revision: int) -> bool:
        """Tells that a stream has read the tables up to here; returns whether that is further than was known."""
        tail = self._tails[account_id]
        further = tail.head is None or tail.head < revision
        if further:
            tail.head = revision
            tail.changes.clear()
        return further

    def add(self, account_id: str, entries: Sequence[Entry], *, after_gap: bool = False) -> bool:
        """Adds an account's next entries, in order; those that it has are left out.

        Returns False, and adds nothing, where some are missing between; ``after_gap``: starts anew with these.
        """
        tail = self._tails[account_id]
        if tail.head is None or (after_gap and entries[0].revision > tail.head + 1):
            tail.changes.clear()
        elif entries[0].revision > tail.head + 1:
            return False
        else:
            entries = [entry for entry in entries if entry.revision > tail.head]
        if entries:
            tail.head = entries[-1].revision
            tail.changes += map(Change, entries)
            self._make_room(account_id, len(entries))
        return True

    def after(self, account_id: str, revision: int, limit: int) -> Sequence[Change] | None:
        """The next ``limit`` entries after a revision, as far as they are known; None: only the tables have them."""
        tail = self._tails[account_id]
        if tail.head is None:
            return None
        if revision >= tail.head:
            return ()
        start = revision + 1 - (tail.head + 1 - len(tail.changes))
        return tail.changes[start : start + limit] if start >= 0 else None

    def _make_room(self, account_id: str, size: int) -> None:
        self._arrivals.extend([account_id] * size)
        while len(self._arrivals) > self._limit:
            oldest = self._tails.get(self._arrivals.popleft())
            if oldest and oldest.changes:
                del oldest.changes[0]
