"""Resume positions of WatchUsage: opaque, signed, good on every server of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from ..domain.refusal import Reason, Refused
from ..domain.seal import seal, unseal

SNAPSHOT_OWED = -1
"""Stands for the revision of an account whose snapshot has not been sent yet."""


_ALL = "watch-all"


class AllPosition(NamedTuple):
    """A place in the order in which entries are delivered to watchers of all accounts.

    The empty account comes before every other.
    """

    position: int
    account_id: str = ""
    revision: int = 0


class AllSeen(NamedTuple):
    """What a watcher of all accounts has: everything up to ``reached``; of accounts up to ``account_id`` up to ``end``.

    The latter is for cursors between summaries, which go by account.
    """

    reached: AllPosition
    end: AllPosition = AllPosition(0)
    account_id: str = ""

    def has(self, place: AllPosition) -> bool:
        """Whether what is there has been delivered."""
        return place <= self.reached or (place <= self.end and place.account_id <= self.account_id)

    def moved_to(self, place: AllPosition) -> AllSeen:
        """The same with everything up to a later place."""
        return self._replace(reached=place) if place < self.end else AllSeen(place)


class AccountCursors:
    """The cursors of streams of certain accounts (sorted): how far each has been delivered."""

    def __init__(self, key: bytes, account_ids: Sequence[str]) -> None:
        self._key = key
        self._account_ids = account_ids
        self._purpose = "watch:" + sha256("\n".join(account_ids).encode()).hexdigest()

    def of(self, revisions: dict[str, int]) -> str:
        """The cursor after these revisions, one for each account in order."""
        return seal(self._key, self._purpose, list(revisions.values()))

    def read(self, cursor: str) -> dict[str, int]:
        """The revisions of a cursor of the same accounts. Raises Refused CURSOR_INVALID."""
        return dict(zip(self._account_ids, _open(self._key, self._purpose, cursor), strict=True))


class Cursors:
    """Writes and reads the cursors of one ledger."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def for_accounts(self, account_ids: Sequence[str]) -> AccountCursors:
        """The cursors of streams of these accounts, sorted."""
        return AccountCursors(self._key, account_ids)

    def of_all(self, seen: AllSeen) -> str:
        """The cursor of a stream of all accounts."""
        between = [*seen.end, seen.account_id] if seen.account_id else []
        return seal(self._key, _ALL, [*seen.reached, *between])

    def to_all(self, cursor: str) -> AllSeen:
        """Reads what ``of_all`` wrote. Raises Refused CURSOR_INVALID."""
        value = _open(self._key, _ALL, cursor)
        reached = AllPosition(*value[:3])
        return AllSeen(reached, AllPosition(*value[3:6]), value[6]) if len(value) > 3 else AllSeen(reached)


def ahead() -> Refused:
    """The refusal of a cursor that the ledger has not reached."""
    return Refused(Reason.CURSOR_AHEAD, "the cursor is ahead of the ledger: history was lost")


def expired() -> Refused:
    """The refusal of a cursor of all accounts that the commit log does not reach back to."""
    return Refused(
        Reason.CURSOR_EXPIRED, "the cursor is older than what the ledger keeps for watchers of all accounts"
    )


def _open(key: bytes, purpose: str, cursor: str) -> list[Any]:
    try:
        value: list[Any] = unseal(key, purpose, cursor)
    except ValueError as error:
        raise Refused(
            Reason.CURSOR_INVALID, "the cursor is not one of this ledger for these account_ids",
            violations=(("cursor", "not a cursor of this ledger for these account_ids"),),
        ) from error  # fmt: skip
    return value
