"""A small model of an account, independent of the product: what each entry must say, and what each answer.

It is told what was asked and when it was decided, and knows prices and limits of ``catalog.example.toml`` by heart.
A kind of entry is a rule in ``RULES``: later kinds of calls add theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fault_reservations import commit, extend, grant_expired, refund, release, reserve
from fault_terms import AMOUNTS, LIMITS, MONTH, NEVER, PRICES, Charge, Entry, Lot, Reservation


@dataclass
class Account:
    """An account as it stands after some revision."""

    revision: int = 0
    level: str = ""
    balance: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AMOUNTS, 0))
    uses: Counter[tuple[str, str]] = field(default_factory=Counter)
    lots: dict[int, Lot] = field(default_factory=dict)
    reservations: dict[int, Reservation] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    charges: dict[int, Charge] = field(default_factory=dict)
    time: str = ""

    def limits(self, operation: str, time: str) -> list[list[int]]:
        """[period, limit, used] of each limit of an operation in the month of ``time``."""
        limit = LIMITS[self.level].get(operation)
        return [] if limit is None else [[MONTH, limit, self.uses[operation, time[:7]]]]

    def denials(self, operation: str, quantity: int, time: str) -> list[list[Any]]:
        """[reason, shortfall] of every rule that denies a use, in the order in which they are named."""
        cost = PRICES[operation] * quantity
        found: list[list[Any]] = [
            ["LIMIT_EXCEEDED", used + quantity - limit]
            for _, limit, used in self.limits(operation, time)
            if used + quantity > limit
        ]
        if cost > self.balance["available"]:
            found.append(["INSUFFICIENT_CREDITS", cost - self.balance["available"]])
        return found

    def expected(self, entry: Entry) -> dict[str, Any]:
        """Carries out what an entry records; returns what it must tell, or why it must not be there."""
        overdue = self.overdue(entry.time)
        facts = RULES[entry.kind](self, entry)
        self.time = max(self.time, entry.time)
        return {**facts, **self.balance, "denials": [*facts["denials"], *overdue]}

    def overdue(self, time: str) -> list[list[Any]]:
        """What fell due before ``time`` and has no entry, as a denial; at ``time`` itself it may be about to."""
        late = [lot.revision for lot in self.lots.values() if lot.left and lot.expire < time]
        late += [name for name in self.active if self.reservations[name].expire < time]
        return [["OVERDUE", revision] for revision in late]

    def adopt(self, entry: Entry) -> None:
        """Goes on from what an entry tells, so that one mistake is not told of every entry after it."""
        self.revision = entry.revision
        for name in AMOUNTS:
            self.balance[name] = entry.facts[name]

    def burn(self, cost: int, hold: bool = False) -> list[list[int]]:
        """Takes credits from the grants in burn order, to be spent or held. Returns [grant revision, amount]."""
        draws = []
        for lot in sorted(lot for lot in self.lots.values() if lot.left):
            amount = min(cost, lot.left)
            if amount:
                draws.append([lot.revision, amount])
                cost -= amount
                lot.left -= amount
                lot.held += amount if hold else 0
        return draws

    def give_back(self, revision: int, amount: int, time: str, held: bool) -> int:
        """Returns credits to a grant; tells how many of them can be spent again."""
        lot = self.lots[revision]
        lot.held -= amount if held else 0
        alive = amount if lot.expire > time else 0
        lot.left += alive
        self.balance["available"] += alive
        self.balance["forfeited"] += amount - alive
        return alive


def _open(account: Account, entry: Entry) -> dict[str, Any]:
    account.level = entry.content["level"]
    return {"amount": 0, "cost": 0, "denials": [] if account.revision == 0 else [["ACCOUNT_EXISTS", 0]]}


def _grant(account: Account, entry: Entry) -> dict[str, Any]:
    amount = entry.content["amount"]
    account.balance["available"] += amount
    account.balance["granted"] += amount
    expire = entry.content.get("expire") or NEVER
    account.lots[entry.revision] = Lot(entry.content["priority"], expire, entry.revision, amount)
    return {"amount": amount, "cost": 0, "denials": []}


def _deduct(account: Account, entry: Entry) -> dict[str, Any]:
    operation, quantity = entry.content["operation"], entry.content["quantity"]
    cost = PRICES[operation] * quantity
    denials = account.denials(operation, quantity, entry.time)
    account.balance["available"] -= cost
    account.balance["spent"] += cost
    account.uses[operation, entry.time[:7]] += quantity
    draws = account.burn(cost)
    account.charges[entry.revision] = Charge(operation, quantity, cost, [[*draw] for draw in draws])
    limits = account.limits(operation, entry.time)
    return {"amount": -cost, "cost": cost, "draws": draws, "limits": limits, "denials": denials}


RULES: dict[str, Callable[[Account, Entry], dict[str, Any]]] = {
    "open": _open,
    "grant": _grant,
    "deduct": _deduct,
    "reserve": reserve,
    "commit": commit,
    "release": release,
    "reservation_expired": release,
    "extend": extend,
    "refund": refund,
    "grant_expired": grant_expired,
}

TIME_KINDS = frozenset({"reservation_expired", "grant_expired"})
"""Entries that nobody asked for."""
