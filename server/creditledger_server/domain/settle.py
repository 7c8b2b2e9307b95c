"""What time does to an account (docs/decisions/0009): a pure function, whoever asks for it and when.

Each entry has the instant at which it fell due as its time, so that the history does not depend on when it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from . import lots
from .account import Account, AccountState
from .book import CatalogBook
from .entry import Draw, EntryKind
from .evaluate import known_limit_states
from .holds import end_reservation, give_back
from .levels import give_allowance
from .lots import NEVER
from .names import MAX_BALANCE
from .reservation import ReservationState
from .usage import canonical_json


class _Due(NamedTuple):
    """Something that falls due; tuples compare in the order in which they happen. ``number`` is a revision."""

    time: int
    rank: int
    number: int


_RUN_OUT, _EXPIRE, _BEGIN, _ALLOWANCE = range(4)


def is_due(account: Account, book: CatalogBook, now: int) -> bool:
    """Whether the account may have to be settled; cheap, because every request asks it."""
    due = account.next_due_time
    if due is not None and due <= now:
        return True
    return book.last_start(account.level, now) > account.last_time and _takes_allowance(account, book, now)


def settle(account: Account, book: CatalogBook, now: int) -> None:
    """Posts an entry for everything that has fallen due, up to and including ``now``, in order.

    Its active reservations that have run out must be among its records.
    """
    before = len(account.written)
    queue = _due(account, book, now)
    heapify(queue)
    while queue:
        due = heappop(queue)
        known = len(account.new_grants)
        _HAPPENINGS[due.rank](account, book, due)
        if due.rank == _BEGIN:
            _expect_end(account, due.number, now, queue)
        for grant in account.new_grants[known:]:
            _expect_end(account, grant.revision, now, queue)
    if account.next_due_time is not None and account.next_due_time <= now:
        _look_ahead(account, now)
    assert all(entry.create_time <= now for entry in account.written[before:]), account.account_id


def _takes_allowance(account: Account, book: CatalogBook, now: int) -> bool:
    """Whether one that has begun comes to the account: if none does, there is nothing that a reader could wait for."""
    if account.state is AccountState.CLOSED:
        return False
    room = MAX_BALANCE - account.granted - sum(grant.amount for grant in account.pending)
    starts = book.starts(account.level, account.last_time, now)
    return any(start.allowance.credits <= room for start in starts)


def _due(account: Account, book: CatalogBook, now: int) -> list[_Due]:
    records = account.loaded_records
    reservations = records.reservations.values() if records else ()
    found = [
        _Due(each.expire_time, _RUN_OUT, each.revision)
        for each in reservations
        if each.state is ReservationState.ACTIVE and each.expire_time <= now
    ]
    found += [
        _Due(lot.expire_time, _EXPIRE, lot.grant_revision)
        for lot in account.lots
        if account.last_time < lot.expire_time <= now
    ]
    found += [
        _Due(grant.effective_time, _BEGIN, grant.grant_revision)
        for grant in account.pending
        if grant.effective_time <= now
    ]
    if account.state is not AccountState.CLOSED:
        starts = book.starts(account.level, account.last_time, now)
        found += [_Due(start.time, _ALLOWANCE, 0) for start in starts]
    return found


def _expect_end(account: Account, revision: int, now: int, queue: list[_Due]) -> None:
    """Something has begun that may itself be over by now."""
    for lot in account.lots:
        if lot.grant_revision == revision and lot.expire_time <= now:
            heappush(queue, _Due(lot.expire_time, _EXPIRE, revision))


def _look_ahead(account: Account, now: int) -> None:
    """Finds what falls due next, which until now was only known not to be earlier."""
    times = [lot.expire_time for lot in account.lots if now < lot.expire_time != NEVER]
    times += [grant.effective_time for grant in account.pending]
    records = account.loaded_records
    if records and records.next_expiry is not None:
        times.append(records.next_expiry)
    account.next_due_time = min(times, default=None)
    account.touched_terms = True


def _run_out(account: Account, book: CatalogBook, due: _Due) -> None:
    reservation = account.records.reservations[due.number]
    end_reservation(account, book, due.number, ReservationState.EXPIRED)
    version, catalog, _ = book.at(due.time)
    give_back(
        account, EntryKind.RESERVATION_EXPIRED, due.number, due.time,
        details=canonical_json({"reservation": due.number}),
        limits=known_limit_states(account, catalog, reservation.operation, due.time), catalog_version=version,
    )  # fmt: skip


def _expire(account: Account, book: CatalogBook, due: _Due) -> None:
    remaining = lots.end(account.lots, due.number, due.time)
    if remaining:
        account.post(
            EntryKind.GRANT_EXPIRED, due.time, amount=-remaining, forfeited=remaining,
            draws=(Draw(due.number, remaining),), details=canonical_json({"grant": due.number}),
        )  # fmt: skip


def _begin(account: Account, book: CatalogBook, due: _Due) -> None:
    [grant] = [each for each in account.pending if each.grant_revision == due.number]
    account.pending.remove(grant)
    account.touched_terms = True
    account.post(
        EntryKind.GRANT_STARTED, due.time, amount=grant.amount, details=canonical_json({"grant": due.number})
    )
    account.add_lot(grant.lot())


def _bring(account: Account, book: CatalogBook, due: _Due) -> None:
    version, catalog, _ = book.at(due.time)
    if allowance := catalog.levels[account.level].allowance:
        give_allowance(account, allowance, version, due.time)


_HAPPENINGS: tuple[Callable[[Account, CatalogBook, _Due], None], ...] = (_run_out, _expire, _begin, _bring)
