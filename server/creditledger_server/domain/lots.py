"""What is left of grants, and how it is taken and given back. Lists of lots are kept in burn order."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Final, NamedTuple

from .entry import Draw

NEVER: Final = 2**63 - 1
"""The expire time of what does not expire: later than every time."""


class Lot(NamedTuple):
    """What remains of a grant and what reservations hold of it.

    Tuples compare in burn order: priority, then the earlier expiry, then the older grant. A lot whose ``expire_time``
    has come has nothing remaining, and is kept only for what is still held.
    """

    priority: int
    expire_time: int
    grant_revision: int
    remaining: int
    held: int = 0


class Pending(NamedTuple):
    """A grant whose credits can be spent from ``effective_time`` on, and until then are no credits."""

    grant_revision: int
    priority: int
    amount: int
    effective_time: int
    expire_time: int

    def lot(self) -> Lot:
        """What it is once it has begun."""
        return Lot(self.priority, self.expire_time, self.grant_revision, self.amount)


def take(lots: list[Lot], amount: int, *, hold: bool = False) -> tuple[Draw, ...]:
    """Takes ``amount`` in burn order, to be spent or held; the caller has checked that so much remains."""
    draws = []
    place = 0
    while amount:
        priority, expire_time, revision, remaining, held = lots[place]
        taken = min(amount, remaining)
        if taken:
            draws.append(Draw(revision, taken))
            amount -= taken
            remaining -= taken
            held += taken if hold else 0
        if remaining or held:
            lots[place] = Lot(priority, expire_time, revision, remaining, held)
            place += 1
        else:
            del lots[place]
    return tuple(draws)


def put_back(lots: list[Lot], revision: int, now: int, *, spent: int, returned: int) -> int:
    """Ends a hold on a lot: part of it is spent, the rest returns. Tells how much of that can be spent again."""
    place, lot = _find(lots, revision)
    alive = returned if lot.expire_time > now else 0
    left = lot._replace(remaining=lot.remaining + alive, held=lot.held - spent - returned)
    if left.remaining or left.held:
        lots[place] = left
    else:
        del lots[place]
    return alive


def revive(lots: list[Lot], lot: Lot, now: int) -> int:
    """Gives back ``lot.remaining`` to a grant, in the list or not. Tells how much of that can be spent again."""
    for place, present in enumerate(lots):
        if present.grant_revision == lot.grant_revision:
            alive = lot.remaining if present.expire_time > now else 0
            lots[place] = present._replace(remaining=present.remaining + alive)
            return alive
    if lot.expire_time <= now:
        return 0
    insort(lots, lot)
    return lot.remaining


def end(lots: list[Lot], revision: int, now: int) -> int:
    """Ends a lot now, before its time or at it; what is held stays. Tells what remained, 0 also for an unknown one."""
    for place, lot in enumerate(lots):
        if lot.grant_revision == revision:
            del lots[place]
            if lot.held:
                insort(lots, lot._replace(expire_time=min(lot.expire_time, now), remaining=0))
            return lot.remaining
    return 0


def divide(draws: Iterable[Draw], amount: int) -> tuple[list[Draw], list[Draw]]:
    """Splits draws, in their order, into the first ``amount`` and the rest."""
    first, rest = [], []
    for revision, drawn in draws:
        taken = min(drawn, amount)
        amount -= taken
        if taken:
            first.append(Draw(revision, taken))
        if drawn > taken:
            rest.append(Draw(revision, drawn - taken))
    return first, rest


def _find(lots: list[Lot], revision: int) -> tuple[int, Lot]:
    for place, lot in enumerate(lots):
        if lot.grant_revision == revision:
            return place, lot
    raise AssertionError(f"no lot of grant {revision}, of which something is held")
