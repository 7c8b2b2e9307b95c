"""An account in memory: as loaded under its lock, and as the requests of a batch change it one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from .entry import GENESIS, Draw, Entry, EntryKind, LimitState, chain_hash
from .names import MAX_BALANCE
from .periods import Period, period_start


class AccountState(IntEnum):
    """What an account may do at all; numbers as in the proto enum and the database."""

    ACTIVE = 1
    FROZEN = 2
    CLOSED = 3


class Lot(NamedTuple):
    """What is left of a live grant. Tuples compare in burn order: priority, then the older grant."""

    priority: int
    grant_revision: int
    remaining: int


class Use(NamedTuple):
    """Uses of an operation in the period that began at ``period_start``."""

    period_start: int
    uses: int


class Grant(NamedTuple):
    """Terms of a grant; ``revision`` is that of the entry that made it and names it within the account."""

    account_id: str
    revision: int
    amount: int
    priority: int
    source: int
    create_time: int
    reason: str
    labels: str


@dataclass(slots=True)
class Account:
    """An account at its newest revision; revision 0 is an account that is not opened yet.

    ``lots`` are its live grants in burn order and add up to ``available``. ``written`` are the entries of this batch,
    ``remembered`` the accepted requests that this batch may have to replay, by request id. ``touched_terms`` tells that
    state or labels have changed.
    """

    account_id: str
    revision: int = 0
    level: str = ""
    state: AccountState = AccountState.ACTIVE
    labels: str = "{}"
    available: int = 0
    reserved: int = 0
    spent: int = 0
    forfeited: int = 0
    create_time: int = 0
    last_time: int = 0
    commit_position: int = 0
    head_hash: bytes = GENESIS
    lots: list[Lot] = field(default_factory=list)
    uses: dict[tuple[str, Period], Use] = field(default_factory=dict)
    remembered: dict[str, Entry] = field(default_factory=dict)
    written: list[Entry] = field(default_factory=list)
    new_grants: list[Grant] = field(default_factory=list)
    touched_uses: set[tuple[str, Period]] = field(default_factory=set)
    touched_terms: bool = False

    @property
    def granted(self) -> int:
        """All that was ever granted, which is the sum of where it went (contract §3, promise 2)."""
        return self.available + self.reserved + self.spent + self.forfeited

    def used(self, operation: str, period: Period, now: int) -> int:
        """How many uses have counted in the period that ``now`` lies in; an earlier period's count is over."""
        use = self.uses.get((operation, period))
        return use.uses if use and use.period_start == period_start(period, now) else 0

    def count_uses(self, operation: str, period: Period, quantity: int, now: int) -> None:
        """Counts uses in the period that ``now`` lies in."""
        uses = self.used(operation, period, now) + quantity
        self.uses[operation, period] = Use(period_start(period, now), uses)
        self.touched_uses.add((operation, period))

    def burn(self, amount: int) -> tuple[Draw, ...]:
        """Takes ``amount`` from the lots in burn order; the caller has checked that it is there."""
        draws = []
        while amount:
            lot = self.lots[0]
            taken = min(amount, lot.remaining)
            draws.append(Draw(lot.grant_revision, taken))
            amount -= taken
            if taken == lot.remaining:
                del self.lots[0]
            else:
                self.lots[0] = Lot(lot.priority, lot.grant_revision, lot.remaining - taken)
        return tuple(draws)

    def post(
        self,
        kind: EntryKind,
        now: int,
        *,
        amount: int = 0,
        cost: int = 0,
        quantity: int = 0,
        catalog_version: int = 0,
        operation: str | None = None,
        request_id: str | None = None,
        fingerprint: bytes | None = None,
        draws: tuple[Draw, ...] = (),
        limits: tuple[LimitState, ...] = (),
        usage: str | None = None,
        details: str | None = None,
    ) -> Entry:
        """Moves the balance and writes the entry that says so: the one way to change an account."""
        self.available += amount
        self.spent += cost
        assert self.available >= 0 and self.spent >= 0 and self.granted <= MAX_BALANCE, self.account_id
        assert now >= self.last_time, self.account_id
        fields = (
            self.account_id, self.revision + 1, kind, now, amount, cost,
            self.available, self.reserved, self.spent, self.forfeited, quantity, catalog_version,
            operation, request_id, fingerprint, draws, limits, usage, details,
        )  # fmt: skip
        return self._append(Entry._make((*fields, chain_hash(self.head_hash, fields))))

    def _append(self, entry: Entry) -> Entry:
        self.revision = entry.revision
        self.last_time = entry.create_time
        self.create_time = self.create_time or entry.create_time
        self.head_hash = entry.hash
        self.written.append(entry)
        if entry.request_id is not None:
            self.remembered[entry.request_id] = entry
        return entry
