"""A small model of an account, independent of the product: what each entry must say, and what each answer.

It is told what was asked and when it was decided, and knows prices and limits of ``catalog.example.toml`` by heart.
A kind of entry is a rule in ``RULES``: later kinds of calls add theirs.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PRICES = {"script_generation": 1, "voice_creation": 5, "video_processing": 2, "chat_refinement": 1}
LIMITS = {
    "free": {"script_generation": 3, "voice_creation": 1, "video_processing": 2},
    "pro": {"script_generation": 100, "voice_creation": 20, "video_processing": 50},
}
"""Uses per month."""
MONTH = 3
MOST_LOTS = 100
"""Grants with something left, per account."""

AMOUNTS = ("available", "reserved", "granted", "spent", "forfeited")


@dataclass(slots=True)
class Entry:
    """A row of the history as it was read back. ``time`` is ISO 8601 in UTC; ``content`` is as in a call."""

    account_id: str
    revision: int
    kind: str
    request_id: str
    content: dict[str, Any]
    time: str
    facts: dict[str, Any]


@dataclass
class Account:
    """An account as it stands after some revision."""

    revision: int = 0
    level: str = ""
    balance: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AMOUNTS, 0))
    uses: Counter[tuple[str, str]] = field(default_factory=Counter)
    lots: list[list[int]] = field(default_factory=list)
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
        facts = RULES[entry.kind](self, entry)
        self.time = max(self.time, entry.time)
        return {**facts, **self.balance}

    def adopt(self, entry: Entry) -> None:
        """Goes on from what an entry tells, so that one mistake is not told of every entry after it."""
        self.revision = entry.revision
        for name in AMOUNTS:
            self.balance[name] = entry.facts[name]

    def burn(self, cost: int) -> list[list[int]]:
        """Takes credits from the grants: lowest priority first, then oldest. Returns [grant revision, amount]."""
        draws = []
        while cost > 0 and self.lots:
            lot = self.lots[0]
            amount = min(cost, lot[2])
            draws.append([lot[1], amount])
            cost -= amount
            lot[2] -= amount
            if not lot[2]:
                heapq.heappop(self.lots)
        return draws


def _open(account: Account, entry: Entry) -> dict[str, Any]:
    account.level = entry.content["level"]
    return {"amount": 0, "cost": 0, "denials": [] if account.revision == 0 else [["ACCOUNT_EXISTS", 0]]}


def _grant(account: Account, entry: Entry) -> dict[str, Any]:
    amount = entry.content["amount"]
    account.balance["available"] += amount
    account.balance["granted"] += amount
    heapq.heappush(account.lots, [entry.content["priority"], entry.revision, amount])
    return {"amount": amount, "cost": 0, "denials": []}


def _deduct(account: Account, entry: Entry) -> dict[str, Any]:
    operation, quantity = entry.content["operation"], entry.content["quantity"]
    cost = PRICES[operation] * quantity
    denials = account.denials(operation, quantity, entry.time)
    account.balance["available"] -= cost
    account.balance["spent"] += cost
    account.uses[operation, entry.time[:7]] += quantity
    draws = account.burn(cost)
    limits = account.limits(operation, entry.time)
    return {"amount": -cost, "cost": cost, "draws": draws, "limits": limits, "denials": denials}


RULES: dict[str, Callable[[Account, Entry], dict[str, Any]]] = {
    "open": _open,
    "grant": _grant,
    "deduct": _deduct,
}
