"""An account in memory: as loaded under its lock, and as the requests of a batch change it one after the other."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

from .entry import GENESIS, Draw, Entry, EntryKind, LimitState, chain_hash
from .lots import NEVER, Lot, Pending
from .names import MAX_BALANCE
from .periods import Period, period_start
from .reservation import Reservation


class NotLoaded(Exception):
    """A command needs what an earlier one of its own batch has just written: a later batch can decide it."""


class AccountState(IntEnum):
    """What an account may do at all; numbers as in the proto enum and the database."""

    ACTIVE = 1
    FROZEN = 2
    CLOSED = 3


class GrantSource(IntEnum):
    """Where a grant's credits came from; numbers as in the proto enum and the database."""

    ADMIN = 1
    ALLOWANCE = 2
    PACKAGE = 3
    ADJUSTMENT = 4


class Use(NamedTuple):
    """Uses of an operation in the period that began at ``period_start``."""

    period_start: int
    uses: int


class Grant(NamedTuple):
    """Terms of a grant; ``revision`` is that of the entry that made it and names it within the account.

    ``effective_time`` is None where it could be spent at once; ``expire_time`` is NEVER where it does not expire.
    """

    account_id: str
    revision: int
    amount: int
    priority: int
    source: GrantSource
    create_time: int
    reason: str
    labels: str
    effective_time: int | None = None
    expire_time: int = NEVER
    void_time: int | None = None

    def lot(self, remaining: int) -> Lot:
        """A lot of it; one that was voided has expired then."""
        end = self.expire_time if self.void_time is None else min(self.void_time, self.expire_time)
        return Lot(self.priority, end, self.revision, remaining)


class Payment(NamedTuple):
    """A payment that was credited; ``entry`` is None where it was to another account."""

    account_id: str
    package_id: str
    entry: Entry | None


@dataclass(slots=True)
class Records:
    """What few commands need of an account beyond its row: loaded where they name it, written where it is new.

    Reservations, grants and refundable entries go by revision, payments by reference. ``refunded`` is how much of an
    entry's cost was given back. ``next_expiry`` is when the next reservation falls due that was not loaded.
    """

    reservations: dict[int, Reservation] = field(default_factory=dict)
    grants: dict[int, Grant] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    refunded: dict[int, int] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)
    next_expiry: int | None = None
    touched_reservations: set[int] = field(default_factory=set)
    touched_refunds: set[int] = field(default_factory=set)
    new_payments: dict[str, int] = field(default_factory=dict)
    voided: list[Grant] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """An account at its newest revision; revision 0 is an account that is not opened yet.

    ``lots`` are its grants in burn order; what remains of them adds up to ``available``, what is held to ``reserved``.
    ``pending`` are grants that begin later, ``allowances`` the start of the last period of each kind whose allowance it
    had. ``next_due_time`` is not later than the next instant at which a grant or reservation falls due.

    ``written`` are the entries of this batch, ``remembered`` the accepted requests that this batch may have to replay,
    by request id. ``touched_terms`` tells that something has changed which a deduction leaves alone.
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
    next_due_time: int | None = None
    pending: list[Pending] = field(default_factory=list)
    allowances: dict[Period, int] = field(default_factory=dict)
    active_reservations: int = 0
    uses: dict[tuple[str, Period], Use] = field(default_factory=dict)
    remembered: dict[str, Entry] = field(default_factory=dict)
    written: list[Entry] = field(default_factory=list)
    new_grants: list[Grant] = field(default_factory=list)
    touched_terms: bool = False
    loaded_records: Records | None = None

    @property
    def records(self) -> Records:
        """What was loaded beyond the account's row; made when it is first asked for, because most batches never do."""
        if self.loaded_records is None:
            self.loaded_records = Records()
        return self.loaded_records

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
        start = period_start(period, now)
        use = self.uses.get((operation, period))
        uses = use.uses if use and use.period_start == start else 0
        self.uses[operation, period] = Use(start, uses + quantity)

    def return_uses(self, operation: str, period: Period, quantity: int, counted_at: int) -> None:
        """Takes back uses that were counted at ``counted_at``, unless that period is over."""
        use = self.uses.get((operation, period))
        if use and use.period_start == period_start(period, counted_at):
            self.uses[operation, period] = use._replace(uses=use.uses - quantity)

    def present_uses(self) -> dict[tuple[str, Period], Use]:
        """The counters that still count at the time of the newest entry."""
        return {
            key: use
            for key, use in self.uses.items()
            if use.uses and use.period_start == period_start(key[1], self.last_time)
        }

    def falls_due(self, time: int) -> None:
        """Notes that something will fall due at ``time``."""
        if time != NEVER and (self.next_due_time is None or time < self.next_due_time):
            self.next_due_time = time
            self.touched_terms = True

    def add_lot(self, lot: Lot) -> None:
        """Adds what a grant brings."""
        insort(self.lots, lot)
        self.falls_due(lot.expire_time)

    def trial(self) -> Account:
        """A copy that can be changed without a trace."""
        return replace(
            self, lots=[*self.lots], pending=[*self.pending], allowances={**self.allowances}, uses={**self.uses},
            remembered={}, written=[], new_grants=[], loaded_records=None,
        )  # fmt: skip

    def post(
        self,
        kind: EntryKind,
        now: int,
        *,
        amount: int = 0,
        cost: int = 0,
        reserved: int = 0,
        refunded: int = 0,
        forfeited: int = 0,
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
        """Moves the balance and writes the entry that says so: the one way to change an account.

        ``amount``, ``reserved`` and ``forfeited`` are signed changes; what is spent grows by ``cost`` and falls by
        ``refunded``.
        """
        self.available += amount
        self.reserved += reserved
        self.spent += cost - refunded
        self.forfeited += forfeited
        assert self.available >= 0 and self.reserved >= 0 and self.spent >= 0, self.account_id
        assert self.forfeited >= 0 and self.granted <= MAX_BALANCE, self.account_id
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
