"""Recomputes an account from its entries alone and tells the first thing that does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

from .account import Account, AccountState, Lot
from .entry import GENESIS, Entry, EntryKind, chain_hash
from .usage import canonical_json

_RESTATING = (EntryKind.OPENED, EntryKind.LEVEL_CHANGED, EntryKind.STATE_CHANGED)


class Finding(NamedTuple):
    """What does not fit, and at which revision."""

    revision: int
    problem: str


@dataclass(slots=True)
class Audit:
    """The account as its entries say, one by one; hold it against the account row at the end."""

    account_id: str
    revision: int = 0
    available: int = 0
    reserved: int = 0
    spent: int = 0
    forfeited: int = 0
    level: str = ""
    state: AccountState = AccountState.ACTIVE
    labels: str = "{}"
    create_time: int = 0
    last_time: int = 0
    head_hash: bytes = GENESIS
    lots: dict[int, Lot] = field(default_factory=dict)

    def add(self, entry: Entry) -> Finding | None:
        """Takes the next entry; tells what does not fit in it."""
        problem = self._problem_of(entry)
        return Finding(entry.revision, problem) if problem else None

    def compare(self, account: Account) -> Finding | None:
        """Holds the account row against what its entries say."""
        computed = {
            "revision": self.revision,
            "available": self.available,
            "reserved": self.reserved,
            "spent": self.spent,
            "forfeited": self.forfeited,
            "level": self.level,
            "state": self.state,
            "labels": self.labels,
            "create_time": self.create_time,
            "last_time": self.last_time,
            "head_hash": self.head_hash,
            "lots": sorted(self.lots.values()),
        }
        wrong = [name for name, value in computed.items() if getattr(account, name) != value]
        if wrong:
            return Finding(self.revision, f"the account row does not match its entries in {', '.join(wrong)}")
        if sum(lot.remaining for lot in self.lots.values()) != self.available:
            return Finding(self.revision, "what is left of the grants is not what is available")
        return None

    def _problem_of(self, entry: Entry) -> str | None:
        if entry.revision != self.revision + 1:
            return f"revision {self.revision + 1} is missing"
        if entry.hash != chain_hash(self.head_hash, entry):
            return "the hash does not match the entry and its predecessor"
        if entry.create_time < self.last_time:
            return "the entry is older than its predecessor"
        problem = self._move_balance(entry) or self._move_lots(entry)
        self.revision, self.head_hash, self.last_time = entry.revision, entry.hash, entry.create_time
        if entry.kind in _RESTATING:
            self._restate(entry)
        return problem

    def _restate(self, entry: Entry) -> None:
        """Takes over what the entry says of the account itself."""
        told = json.loads(entry.details or "{}")
        if entry.kind is EntryKind.OPENED:
            self.create_time = entry.create_time
        self.level = told.get("level", self.level)
        self.state = AccountState[told.get("state", self.state.name)]
        if "labels" in told:
            self.labels = canonical_json(told["labels"])

    def _move_balance(self, entry: Entry) -> str | None:
        self.available += entry.amount
        self.spent += entry.cost
        told = (entry.available, entry.reserved, entry.spent, entry.forfeited)
        if told != (self.available, self.reserved, self.spent, self.forfeited):
            return "the balance does not follow from its predecessor"
        if entry.kind is EntryKind.DEDUCTED and entry.amount != -entry.cost:
            return "the amount is not the cost"
        return None

    def _move_lots(self, entry: Entry) -> str | None:
        if entry.kind is EntryKind.GRANTED:
            priority = json.loads(entry.details or "{}").get("priority", 0)
            self.lots[entry.revision] = Lot(priority, entry.revision, entry.amount)
        drawn = 0
        for draw in entry.draws:
            lot = min(self.lots.values(), default=None)
            if (
                lot is None
                or lot.grant_revision != draw.grant_revision
                or not 0 < draw.amount <= lot.remaining
            ):
                return f"the draw from grant {draw.grant_revision} is not in burn order or exceeds it"
            drawn += draw.amount
            self._take(lot, draw.amount)
        return None if drawn == entry.cost else "the draws do not add up to the cost"

    def _take(self, lot: Lot, amount: int) -> None:
        if amount == lot.remaining:
            del self.lots[lot.grant_revision]
        else:
            self.lots[lot.grant_revision] = lot._replace(remaining=lot.remaining - amount)
