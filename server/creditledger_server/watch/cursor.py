"""Resume positions of WatchUsage: opaque, signed, good on every server of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from ..domain.refusal import Reason, Refused
from ..domain.seal import seal, unseal

SNAPSHOT_OWED = -1
"""Stands for the revision of an account whose snapshot has not been sent yet."""


class AllPosition(NamedTuple):
    """The last entry delivered to a watcher of all accounts; the empty account comes before every other."""

    position: int
    account_id: str = ""
    revision: int = 0


class Cursors:
    """Writes and reads the cursors of one ledger."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of_accounts(self, revisions: dict[str, int]) -> str:
        """The cursor of a stream of named accounts (sorted), by the revision delivered of each."""
        return seal(self._key, _purpose(list(revisions)), list(revisions.values()))

    def to_accounts(self, cursor: str, account_ids: Sequence[str]) -> dict[str, int]:
        """Reads what ``of_accounts`` wrote for the same accounts. Raises Refused CURSOR_INVALID."""
        return dict(zip(account_ids, self._open(_purpose(account_ids), cursor), strict=True))

    def of_all(self, position: AllPosition) -> str:
        """The cursor of a stream of all accounts."""
        return seal(self._key, "watch-all", position)

    def to_all(self, cursor: str) -> AllPosition:
        """Reads what ``of_all`` wrote. Raises Refused CURSOR_INVALID."""
        return AllPosition(*self._open("watch-all", cursor))

    def _open(self, purpose: str, cursor: str) -> list[Any]:
        try:
            value: list[Any] = unseal(self._key, purpose, cursor)
        except ValueError as error:
            raise Refused(
                Reason.CURSOR_INVALID, "the cursor is not one of this ledger for these account_ids",
                violations=(("cursor", "not a cursor of this ledger for these account_ids"),),
            ) from error  # fmt: skip
        return value


def _purpose(account_ids: Sequence[str]) -> str:
    return "watch:" + sha256("\n".join(account_ids).encode()).hexdigest()
