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
    """The last entry delivered to a watcher of all accounts; the empty account comes before every other."""

    position: int
    account_id: str = ""
    revision: int = 0


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

    def of_all(self, position: AllPosition) -> str:
        """The cursor of a stream of all accounts."""
        return seal(self._key, _ALL, position)

    def to_all(self, cursor: str) -> AllPosition:
        """Reads what ``of_all`` wrote. Raises Refused CURSOR_INVALID."""
        return AllPosition(*_open(self._key, _ALL, cursor))


def _open(key: bytes, purpose: str, cursor: str) -> list[Any]:
    try:
        value: list[Any] = unseal(key, purpose, cursor)
    except ValueError as error:
        raise Refused(
            Reason.CURSOR_INVALID, "the cursor is not one of this ledger for these account_ids",
            violations=(("cursor", "not a cursor of this ledger for these account_ids"),),
        ) from error  # fmt: skip
    return value
