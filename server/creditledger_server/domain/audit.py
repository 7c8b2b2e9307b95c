"""Recomputes an account from its entries alone and tells the first thing that does not fit."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from . import lots
from .account import Account, AccountState, Grant, GrantSource
from .book import CatalogBook
from .entry import Draw, Entry, EntryKind, chain_hash
from .evaluate import limit_states
from .lots import NEVER, Pending
from .periods import Period
from .refund_rules import return_uses
from .reservation import Reservation, ReservationState
from .usage import Usage, canonical_json


class Finding(NamedTuple):
    """What does not fit, and at which revision."""

    revision: int
    problem: str


class Kept(NamedTuple):
    """What the tables keep of an account besides its row: what the entries must explain as well."""

    grants: dict[int, Grant]
    reservations: dict[int, Reservation]
    refunded: dict[int, int]
    payments: dict[str, tuple[int, str]]


class _Move(NamedTuple):
    """How an entry must have changed the balance; ``amount`` is the change of what is available."""

    amount: int = 0
    reserved: int = 0
    spent: int = 0
    forfeited: int = 0


class _Misfit(Exception):
    """What an entry says is not possible after those before it."""


_IMPOSSIBLE = (AssertionError, IndexError, KeyError, TypeError, ValueError)


class Audit:
    """The account as its entries say, one by one; hold it against what the tables keep at the end."""

    def __init__(self, account_id: str, book: CatalogBook) -> None:
        self.account = Account(account_id)
        self.kept = Kept({}, {}, {}, {})
        self._book = book
        self._costs = array("q", [0])  # by revision: what can still be refunded

    def add(self, entry: Entry) -> Finding | None:
        """Takes the next entry; tells what does not fit in it."""
        problem = self._problem_of(entry)
        return Finding(entry.revision, problem) if problem else None

    def compare(self, row: Account, kept: Kept) -> Finding | None:
        """Holds what the tables keep against what the entries say."""
        computed = self.account
        wrong = [name for name in _COMPARED if getattr(row, name) != getattr(computed, name)]
        if row.present_uses() != computed.present_uses():
            wrong.append("uses")
        if wrong:
            return Finding(
                computed.revision, f"the account row does not match its entries in {', '.join(wrong)}"
            )
        wrong = [name for name in Kept._fields if getattr(kept, name) != getattr(self.kept, name)]
        if wrong:
            return Finding(computed.revision, f"the tables do not match the entries in {', '.join(wrong)}")
        due = self._next_due()
        if due is not None and (row.next_due_time is None or row.next_due_time > due):
            return Finding(computed.revision, "the next due time is later than what falls due")
        return self._compare_sums()

    def _compare_sums(self) -> Finding | None:
        account = self.account
        if sum(lot.remaining for lot in account.lots) != account.available:
            return Finding(account.revision, "what is left of the grants is not what is available")
        if sum(lot.held for lot in account.lots) != account.reserved:
            return Finding(account.revision, "what is held of the grants is not what is reserved")
        return None

    def _problem_of(self, entry: Entry) -> str | None:
        account = self.account
        if entry.revision != account.revision + 1:
            return f"revision {account.revision + 1} is missing"
        if entry.hash != chain_hash(account.head_hash, entry):
            return "the hash does not match the entry and its predecessor"
        if entry.create_time < account.last_time:
            return "the entry is older than its predecessor"
        problem = self._missed(entry) or self._follow(entry)
        account.revision, account.head_hash, account.last_time = entry.revision, entry.hash, entry.create_time
        self._costs.append(entry.cost)
        return problem

    def _missed(self, entry: Entry) -> str | None:
        """What fell due before the entry and has none of its own."""
        due = self.account.next_due_time
        if due is None or due >= entry.create_time:
            return None
        self.account.next_due_time = due = self._next_due()
        if due is not None and due < entry.create_time:
            return "something fell due before it and has no entry"
        return None

    def _next_due(self) -> int | None:
        account = self.account
        times = [lot.expire_time for lot in account.lots if lot.remaining and lot.expire_time != NEVER]
        times += [grant.effective_time for grant in account.pending]
        times += [
            each.expire_time
            for each in self.kept.reservations.values()
            if each.state is ReservationState.ACTIVE
        ]
        return min(times, default=None)

    def _follow(self, entry: Entry) -> str | None:
        """Applies the entry; its own words about the balance are taken over in any case, to go on from there."""
        account = self.account
        before = account.available, account.reserved, account.spent, account.forfeited
        account.available, account.reserved = entry.available, entry.reserved
        account.spent, account.forfeited = entry.spent, entry.forfeited
        try:
            move = _FOLLOW[entry.kind](self, entry, entry.told())
            self._check_limits(entry)
        except _Misfit as error:
            return str(error)
        except _IMPOSSIBLE:
            return "the entry does not fit those before it"
        after = [value + change for value, change in zip(before, move, strict=True)]
        if (
            after != [entry.available, entry.reserved, entry.spent, entry.forfeited]
            or move.amount != entry.amount
        ):
            return "the balance does not follow from its predecessor"
        return None

    def _check_limits(self, entry: Entry) -> None:
        if entry.kind not in (EntryKind.DEDUCTED, EntryKind.RESERVED) or entry.operation is None:
            return
        catalog = self._book.of_version(entry.catalog_version)
        told = limit_states(self.account, self.account.level, catalog, entry.operation, entry.create_time)
        if entry.limits != told:
            raise _Misfit("the limits that it tells are not those of its account")

    # How each kind of entry follows from those before it.

    def _opened(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        self.account.create_time = entry.create_time
        return self._restated(entry, told)

    def _restated(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        account = self.account
        account.level = told.get("level", account.level)
        account.state = AccountState[told.get("state", account.state.name)]
        if "labels" in told:
            account.labels = canonical_json(told["labels"])
        return _Move()

    def _granted(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        if entry.kind is EntryKind.ADJUSTED and entry.amount < 0:
            self._take(entry, -entry.amount)
            return _Move(amount=entry.amount, forfeited=-entry.amount)
        grant = Grant(
            entry.account_id, entry.revision, told.get("amount", entry.amount), told["priority"],
            GrantSource(told["source"]), entry.create_time, told["reason"], canonical_json(told["labels"]),
            told.get("effective_time_us"), told.get("expire_time_us", NEVER),
        )  # fmt: skip
        self.kept.grants[grant.revision] = grant
        if "period" in told:
            self.account.allowances[Period(told["period"])] = told["period_start_us"]
        if "payment_reference" in told:
            self.kept.payments[told["payment_reference"]] = (grant.revision, told["package_id"])
        if grant.effective_time is None:
            self.account.add_lot(grant.lot(grant.amount))
            return _Move(amount=grant.amount)
        self.account.pending.append(
            Pending(grant.revision, grant.priority, grant.amount, grant.effective_time, grant.expire_time)
        )
        self.account.falls_due(grant.effective_time)
        return _Move()

    def _started(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        grant = self._withdraw_pending(told["grant"])
        if grant is None or grant.effective_time != entry.create_time:
            raise _Misfit("the grant that it starts does not start then")
        self.account.add_lot(grant.lot())
        return _Move(amount=grant.amount)

    def _ended(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        revision = told["grant"]
        grant = self.kept.grants[revision]
        if entry.kind is EntryKind.GRANT_EXPIRED and grant.expire_time != entry.create_time:
            raise _Misfit("the grant that it ends does not expire then")
        if entry.kind is EntryKind.GRANT_VOIDED:
            self._withdraw_pending(revision)
            if grant.void_time is None:
                self.kept.grants[revision] = grant._replace(void_time=entry.create_time)
        remaining = lots.end(self.account.lots, revision, entry.create_time)
        if entry.draws != ((Draw(revision, remaining),) if remaining else ()):
            raise _Misfit("it does not take what is left of the grant")
        return _Move(amount=-remaining, forfeited=remaining)

    def _deducted(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        self._take(entry, entry.cost)
        self._count(entry, _uses_of(entry))
        return _Move(amount=-entry.cost, spent=entry.cost)

    def _reserved(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        amount = -entry.amount
        self._take(entry, amount, hold=True)
        self._count(entry, entry.quantity)
        metrics = canonical_json(told["metrics"]) if "metrics" in told else None
        assert entry.operation is not None
        self.kept.reservations[entry.revision] = Reservation(
            entry.account_id, entry.revision, entry.operation, entry.quantity, amount, ReservationState.ACTIVE,
            entry.create_time, told["expire_time_us"], entry.catalog_version, entry.draws, metrics,
        )  # fmt: skip
        self.account.active_reservations += 1
        self.account.falls_due(told["expire_time_us"])
        return _Move(amount=-amount, reserved=amount)

    def _committed(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        uses = _uses_of(entry)
        if told.get("late"):
            self._end_reservation(told, ReservationState.COMMITTED, ReservationState.EXPIRED)
            self._take(entry, entry.cost)
            self._count(entry, uses, told["uses_version"])
            return _Move(amount=-entry.cost, spent=entry.cost)
        reservation = self._end_reservation(told, ReservationState.COMMITTED)
        self._return(reservation, max(0, reservation.quantity - uses))
        self._count(entry, max(0, uses - reservation.quantity), told["uses_version"])
        consumed, returned = lots.divide(reservation.draws, entry.cost)
        for revision, amount in consumed:
            lots.put_back(self.account.lots, revision, entry.create_time, spent=amount, returned=0)
        alive = self._put_back(entry, returned)
        more = max(0, entry.cost - reservation.amount)
        taken = lots.take(self.account.lots, more)
        if entry.draws != tuple(Draw(revision, -amount) for revision, amount in returned) + taken:
            raise _Misfit("the draws do not fit the reservation and its cost")
        released = sum(draw.amount for draw in returned)
        return _Move(alive - more, -reservation.amount, entry.cost, released - alive)

    def _released(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        expired = entry.kind is EntryKind.RESERVATION_EXPIRED
        reservation = self._end_reservation(
            told, ReservationState.EXPIRED if expired else ReservationState.RELEASED
        )
        if expired and reservation.expire_time != entry.create_time:
            raise _Misfit("the reservation does not run out then")
        self._return(reservation, reservation.quantity)
        if entry.draws != tuple(Draw(revision, -amount) for revision, amount in reservation.draws):
            raise _Misfit("it does not give back what the reservation held")
        alive = self._put_back(entry, reservation.draws)
        return _Move(alive, -reservation.amount, 0, reservation.amount - alive)

    def _extended(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        reservation = self.kept.reservations[told["reservation"]]
        if reservation.state is not ReservationState.ACTIVE:
            raise _Misfit("the reservation had ended before")
        self.kept.reservations[reservation.revision] = reservation._replace(
            expire_time=told["expire_time_us"]
        )
        self.account.falls_due(told["expire_time_us"])
        return _Move()

    def _refunded(self, entry: Entry, told: Mapping[str, Any]) -> _Move:
        revision, amount = told["refunds"], -sum(draw.amount for draw in entry.draws)
        self.kept.refunded[revision] = self.kept.refunded.get(revision, 0) + amount
        if amount <= 0 or self.kept.refunded[revision] + told["refundable"] != self._costs[revision]:
            raise _Misfit("it does not fit the cost of the entry that it refunds")
        alive = 0
        for draw in entry.draws:
            grant = self.kept.grants[draw.grant_revision]
            alive += lots.revive(self.account.lots, grant.lot(-draw.amount), entry.create_time)
            self.account.falls_due(grant.expire_time)
        if "uses" in told:
            return_uses(self.account, entry.operation, told["uses"], self._book)
        return _Move(alive, 0, -amount, amount - alive)

    def _take(self, entry: Entry, amount: int, *, hold: bool = False) -> None:
        if entry.draws != lots.take(self.account.lots, amount, hold=hold):
            raise _Misfit("the draws are not in burn order, or do not add up")

    def _put_back(self, entry: Entry, draws: Iterable[Draw]) -> int:
        alive = 0
        for revision, amount in draws:
            alive += lots.put_back(self.account.lots, revision, entry.create_time, spent=0, returned=amount)
            self.account.falls_due(self.kept.grants[revision].expire_time)
        return alive

    def _withdraw_pending(self, revision: int) -> Pending | None:
        for grant in self.account.pending:
            if grant.grant_revision == revision:
                self.account.pending.remove(grant)
                return grant
        return None

    def _end_reservation(
        self,
        told: Mapping[str, Any],
        state: ReservationState,
        before: ReservationState = ReservationState.ACTIVE,
    ) -> Reservation:
        reservation = self.kept.reservations[told["reservation"]]
        if reservation.state is not before:
            raise _Misfit("the reservation had ended before")
        self.kept.reservations[reservation.revision] = reservation._replace(state=state)
        self.account.active_reservations -= before is ReservationState.ACTIVE
        return reservation

    def _count(self, entry: Entry, uses: int, version: int | None = None) -> None:
        catalog = self._book.of_version(entry.catalog_version if version is None else version)
        if uses and entry.operation is not None:
            for period in catalog.counted_periods(entry.operation):
                self.account.count_uses(entry.operation, period, uses, entry.create_time)

    def _return(self, reservation: Reservation, uses: int) -> None:
        for period in self._book.of_version(reservation.catalog_version).counted_periods(
            reservation.operation
        ):
            self.account.return_uses(reservation.operation, period, uses, reservation.create_time)


def _uses_of(entry: Entry) -> int:
    return 0 if entry.usage and Usage.from_json(entry.usage).failed else entry.quantity


_COMPARED = (
    "revision", "available", "reserved", "spent", "forfeited", "level", "state", "labels", "create_time", "last_time",
    "head_hash", "lots", "pending", "allowances", "active_reservations",
)  # fmt: skip

_FOLLOW: dict[EntryKind, Callable[[Audit, Entry, Mapping[str, Any]], _Move]] = {
    EntryKind.OPENED: Audit._opened,
    EntryKind.LEVEL_CHANGED: Audit._restated,
    EntryKind.STATE_CHANGED: Audit._restated,
    EntryKind.GRANTED: Audit._granted,
    EntryKind.ADJUSTED: Audit._granted,
    EntryKind.GRANT_STARTED: Audit._started,
    EntryKind.GRANT_EXPIRED: Audit._ended,
    EntryKind.GRANT_VOIDED: Audit._ended,
    EntryKind.DEDUCTED: Audit._deducted,
    EntryKind.RESERVED: Audit._reserved,
    EntryKind.COMMITTED: Audit._committed,
    EntryKind.RELEASED: Audit._released,
    EntryKind.RESERVATION_EXPIRED: Audit._released,
    EntryKind.EXTENDED: Audit._extended,
    EntryKind.REFUNDED: Audit._refunded,
}
