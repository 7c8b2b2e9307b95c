"""An account of the model: its grants, uses, reservations and entries, and what time does to it (decision 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from model_catalog import DAY, Catalog, Catalogs, Plain, period_end, period_start

MOST_LOTS = 100
"""Grants with something remaining, to come or held; more are not taken."""
FOREVER = 1 << 62

Draws = tuple[tuple[int, int], ...]
"""(revision of the grant, amount), in the order in which they were taken."""


@dataclass(frozen=True)
class Grant:
    """A lot. ``state`` is PENDING before it begins, LIVE, and ENDED once it has expired or was voided."""

    revision: int
    amount: int
    remaining: int
    create_time: int
    source: str
    priority: int = 0
    effective_time: int | None = None
    expire_time: int | None = None
    reason: str = ""
    labels: Plain = field(default_factory=dict)
    held: int = 0
    state: str = "LIVE"

    @property
    def burn_key(self) -> tuple[int, int, int]:
        """Lower burns first."""
        return (self.priority, FOREVER if self.expire_time is None else self.expire_time, self.revision)

    @property
    def counts(self) -> bool:
        """Whether it is one of the lots of which there are at most 100."""
        return self.state == "PENDING" or self.remaining > 0 or self.held > 0


class Counted(NamedTuple):
    """Uses that counted in the window of a limit which began at ``start``."""

    period: str
    start: int
    uses: int


@dataclass(frozen=True)
class Reservation:
    """Credits set aside."""

    revision: int
    operation: str
    quantity: int
    amount: int
    state: str
    create_time: int
    expire_time: int
    catalog_version: int
    draws: Draws
    metrics: dict[str, int]
    counted: tuple[Counted, ...]


@dataclass(frozen=True)
class Charge:
    """What a deduction or commit charged, for its refunds."""

    cost: int
    operation: str
    quantity: int
    draws: Draws
    counted: tuple[Counted, ...]
    refunded: int = 0


class Snapshot(NamedTuple):
    """An account as it stood after an entry."""

    time: int
    account: Plain
    balance: dict[str, int]
    level: str
    grants: dict[int, Grant]
    uses: dict[tuple[str, str], tuple[int, int]]


class Due(NamedTuple):
    """Something that time does. Sorts in the order of decision 9."""

    time: int
    order: int
    revision: int


class Account:
    """One account. Mutations work on a copy, which replaces the account if they are accepted."""

    def __init__(self, account_id: str, level: str, time: int, labels: Plain) -> None:
        self.account_id = account_id
        self.level = level
        self.state = "ACTIVE"
        self.labels = labels
        self.create_time = self.time = time
        self.revision = 0
        self.balance = {"available": 0, "reserved": 0, "granted": 0, "spent": 0, "forfeited": 0}
        self.grants: dict[int, Grant] = {}
        self.reservations: dict[int, Reservation] = {}
        self.charges: dict[int, Charge] = {}
        self.uses: dict[tuple[str, str], tuple[int, int]] = {}
        self.allowances: dict[str, int] = {}
        self.entries: list[Plain] = []
        self.snapshots: list[Snapshot] = []
        self.requests: dict[str, tuple[Any, Plain]] = {}

    def copy(self) -> Account:
        """A copy that shares what never changes."""
        other = Account.__new__(Account)
        for name, value in vars(self).items():
            other.__dict__[name] = value.copy() if isinstance(value, (dict, list)) else value
        return other

    # What responses tell

    def plain(self) -> Plain:
        """The account."""
        return {
            "account_id": self.account_id, "level": self.level, "state": self.state, "labels": self.labels,
            "revision": self.revision, "create_time": self.create_time, "update_time": self.time,
        }  # fmt: skip

    def limits(self, catalog: Catalog, time: int, operation: str | None = None) -> list[Plain]:
        """How it stands against its level's limits."""
        return limit_states(catalog, self.level, self.uses, time, operation)

    # Entries

    def post(self, kind: str, time: int, draws: Iterable[tuple[int, int]] = (), **fields: Any) -> Plain:
        """Appends an entry for what has just been changed; returns it."""
        self.revision += 1
        self.time = time
        balance = dict(self.balance)
        told = sorted(draws, key=lambda draw: self.grants[draw[0]].burn_key)
        entry = {
            "account_id": self.account_id, "revision": self.revision, "kind": kind, "balance": balance,
            "create_time": time, "draws": [{"grant_id": f"g{key}", "amount": amount} for key, amount in told],
            **fields,
        }  # fmt: skip
        self.check()
        self.entries.append(entry)
        self.snapshots.append(
            Snapshot(time, self.plain(), balance, self.level, dict(self.grants), dict(self.uses))
        )
        return entry

    def check(self) -> None:
        """What holds at every revision (contract §3.2)."""
        sums = self.balance
        assert all(amount >= 0 for amount in sums.values()), sums
        assert sums["granted"] == sums["available"] + sums["reserved"] + sums["spent"] + sums["forfeited"]
        live = [grant for grant in self.grants.values() if grant.state == "LIVE"]
        assert sums["available"] == sum(grant.remaining for grant in live)
        assert sums["reserved"] == sum(grant.held for grant in self.grants.values())

    def move(self, **changes: int) -> None:
        """Changes the balance."""
        for name, amount in changes.items():
            self.balance[name] += amount

    # Grants

    def add_grant(self, grant: Grant) -> None:
        """A new grant, named by the entry that comes next."""
        assert grant.revision == self.revision + 1
        self.grants[grant.revision] = grant
        if grant.state == "LIVE":
            self.move(available=grant.amount, granted=grant.amount)

    def change_grant(self, revision: int, **changes: Any) -> None:
        """Replaces fields of a grant."""
        self.grants[revision] = replace(self.grants[revision], **changes)

    def lots(self) -> int:
        """How many lots it has."""
        return sum(grant.counts for grant in self.grants.values())

    def burn_order(self) -> list[Grant]:
        """The grants that can be spent from."""
        spendable = [grant for grant in self.grants.values() if grant.state == "LIVE" and grant.remaining]
        return sorted(spendable, key=lambda grant: grant.burn_key)

    def draw(self, cost: int, held: bool = False) -> Draws:
        """Takes ``cost`` from what remains; ``held`` moves it to what reservations hold."""
        draws = []
        for grant in self.burn_order():
            if cost == 0:
                break
            amount = min(cost, grant.remaining)
            kept = grant.held + (amount if held else 0)
            self.change_grant(grant.revision, remaining=grant.remaining - amount, held=kept)
            draws.append((grant.revision, amount))
            cost -= amount
        assert cost == 0
        return tuple(draws)

    def give_back(self, draws: Iterable[tuple[int, int]], time: int) -> int:
        """Returns credits to their grants, unless those have ended; returns how much came back alive."""
        alive = 0
        for revision, amount in draws:
            grant = self.grants[revision]
            if grant.state == "LIVE" and time < grant.burn_key[1]:
                self.change_grant(revision, remaining=grant.remaining + amount)
                alive += amount
        return alive

    def unhold(self, draws: Iterable[tuple[int, int]]) -> None:
        """What reservations no longer hold."""
        for revision, amount in draws:
            self.change_grant(revision, held=self.grants[revision].held - amount)

    # Limits

    def count(self, catalog: Catalog, operation: str, uses: int, time: int) -> tuple[Counted, ...]:
        """Counts uses in every window that any level limits (decision 5); returns where."""
        counted = []
        for period in catalog.counted_periods(operation):
            start = period_start(period, time)
            used = used_in(self.uses, operation, period, time)
            self.uses[operation, period] = (start, used + uses)
            counted.append(Counted(period, start, uses))
        return tuple(counted)

    def uncount(self, operation: str, counted: Iterable[Counted]) -> None:
        """Returns uses to the windows in which they counted, where those are still the present ones."""
        for period, start, uses in counted:
            present, used = self.uses[operation, period]
            if present == start:
                self.uses[operation, period] = (start, used - uses)

    # Time

    def settle(self, catalogs: Catalogs, now: int, notes: Counter[str]) -> None:
        """Everything that has fallen due, in order, each at its instant. Time never goes back within an account."""
        notes["clock behind the account"] += now < self.time
        now = self.now(now)
        times: Counter[int] = Counter()
        seen = self.time  # whoever wrote the newest entry saw every period that had begun by then
        while due := self._next_due(catalogs, now, seen):
            self._pass(due, catalogs, notes)
            seen = due.time if due.order == 3 else seen
            times[due.time] += 1
        notes["several due at one instant"] += sum(number > 1 for number in times.values())
        notes["due at once"] += len(times) > 1

    def now(self, told: int) -> int:
        """The time for the account when the ledger's clock tells ``told``, which may have been set back."""
        return max(told, self.time)

    def instants(self) -> list[int]:
        """When something of its grants or reservations falls due."""
        return [due.time for due in self._dues()]

    def _dues(self) -> list[Due]:
        dues = [
            Due(each.expire_time, 0, each.revision)
            for each in self.reservations.values()
            if each.state == "ACTIVE"
        ]
        for grant in self.grants.values():
            if grant.state == "LIVE" and grant.expire_time is not None:
                dues.append(Due(grant.expire_time, 1, grant.revision))
            elif grant.state == "PENDING":
                assert grant.effective_time is not None
                dues.append(Due(grant.effective_time, 2, grant.revision))
        return dues

    def _next_due(self, catalogs: Catalogs, now: int, seen: int) -> Due | None:
        dues = [due for due in self._dues() if due.time <= now]
        before = min(dues).time if dues else now
        if (allowance := self._next_allowance(catalogs, seen, before)) is not None:
            dues.append(Due(allowance, 3, 0))
        return min(dues, default=None)

    def _next_allowance(self, catalogs: Catalogs, seen: int, until: int) -> int | None:
        """The next start of a period that brings an allowance, later than ``seen`` and up to ``until``."""
        if self.state == "CLOSED":
            return None
        midnight = (seen // DAY + 1) * DAY
        while midnight <= until:
            allowance = catalogs.at(midnight).allowance(self.level)
            if allowance and self._recurs(allowance["period"], midnight):
                return midnight
            midnight += DAY
        return None

    def _recurs(self, period: str, midnight: int) -> bool:
        return period != "LIFETIME" and period_start(period, midnight) == midnight

    def _pass(self, due: Due, catalogs: Catalogs, notes: Counter[str]) -> None:
        if due.order == 0:
            self._run_out(due, catalogs.at(due.time), notes)
        elif due.order == 1:
            self._expire(due, notes)
        elif due.order == 2:
            self._begin(due, notes)
        else:
            self.take_allowance(catalogs.at(due.time), due.time, notes)

    def _run_out(self, due: Due, catalog: Catalog, notes: Counter[str]) -> None:
        notes["reservation ran out"] += 1
        self.end_reservation(
            due.revision, "EXPIRED", due.time, "RESERVATION_EXPIRED", catalog_version=catalog.version
        )

    def end_reservation(self, revision: int, state: str, time: int, kind: str, **fields: Any) -> Plain:
        """Gives all of a reservation back."""
        held = self.reservations[revision]
        self.reservations[revision] = replace(held, state=state)
        self.unhold(held.draws)
        alive = self.give_back(held.draws, time)
        self.uncount(held.operation, held.counted)
        self.move(reserved=-held.amount, available=alive, forfeited=held.amount - alive)
        return self.post(
            kind, time, [(key, -amount) for key, amount in held.draws], amount=alive,
            operation=held.operation, quantity=held.quantity, reservation_id=f"r{revision}", **fields,
        )  # fmt: skip

    def _expire(self, due: Due, notes: Counter[str]) -> None:
        grant = self.grants[due.revision]
        notes["grant expired while held"] += grant.held > 0
        self.change_grant(due.revision, state="ENDED", remaining=0)
        if grant.remaining:
            notes["grant expired"] += 1
            self.move(available=-grant.remaining, forfeited=grant.remaining)
            taken = [(due.revision, grant.remaining)]
            self.post("GRANT_EXPIRED", due.time, taken, amount=-grant.remaining, grant_id=f"g{due.revision}")

    def _begin(self, due: Due, notes: Counter[str]) -> None:
        notes["grant began"] += 1
        amount = self.grants[due.revision].amount
        self.change_grant(due.revision, state="LIVE")
        self.move(available=amount, granted=amount)
        self.post("GRANT_STARTED", due.time, amount=amount, grant_id=f"g{due.revision}")

    def take_allowance(self, catalog: Catalog, time: int, notes: Counter[str]) -> None:
        """The allowance of the level, unless the account had one for the present period of that kind."""
        allowance = catalog.allowance(self.level)
        if allowance is None or self.state == "CLOSED":
            return
        period, credits_ = allowance["period"], allowance["credits"]
        start = period_start(period, time)
        if self.allowances.get(period) == start:
            notes["second allowance avoided"] += 1
            return
        notes[f"allowance {period}"] += 1
        self.allowances[period] = start
        grant = Grant(
            self.revision + 1, credits_, credits_, time, "ALLOWANCE", expire_time=period_end(period, time)
        )
        self.add_grant(grant)
        self.post(
            "GRANTED", time, amount=credits_, grant_id=f"g{grant.revision}", catalog_version=catalog.version
        )


def used_in(uses: dict[tuple[str, str], tuple[int, int]], operation: str, period: str, time: int) -> int:
    """How many uses have counted in the window that contains ``time``."""
    start, used = uses.get((operation, period), (0, 0))
    return used if start == period_start(period, time) else 0


def limit_states(
    catalog: Catalog,
    level: str,
    uses: dict[tuple[str, str], tuple[int, int]],
    time: int,
    operation: str | None = None,
) -> list[Plain]:
    """Limits as responses tell them."""
    return [
        {
            "operation": limit["operation"],
            "period": limit["period"],
            "limit": limit["limit"],
            "used": used_in(uses, limit["operation"], limit["period"], time),
            "reset_time": period_end(limit["period"], time),
        }
        for limit in catalog.limits(level, operation)
    ]
