"""The rules of reservations: set aside, then charge, give back or keep longer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import lots
from .account import Account
from .book import CatalogBook
from .catalog import Catalog
from .commands import CommitReservation, ExtendReservation, ReleaseReservation, Reserve
from .entry import Draw, Entry, EntryKind, draws_text
from .evaluate import (
    check_level,
    check_open,
    credit_denial,
    evaluate,
    known_limit_states,
    limit_denials,
    price_of,
    state_denials,
)
from .holds import end_reservation, give_back, return_uses, set_reservation
from .levels import apply_level, at_level
from .refusal import Reason, Refused
from .reservation import MAX_ACTIVE, MAX_LIFE, Reservation, ReservationState
from .usage import canonical_json


def reserve(command: Reserve, account: Account, book: CatalogBook, now: int) -> Entry:
    """Sets the cost aside, by the same rules as a deduction."""
    level = command.account_level or account.level
    check_level(book.current, level)
    operation, quantity = command.operation, command.quantity
    trial = at_level(account, level, book, now)
    cost, limits, denials = evaluate(trial, level, book.current, operation, quantity, command.metrics, now)
    if denials:
        raise denials[0]
    if account.active_reservations >= MAX_ACTIVE:
        raise _too_many(account)
    apply_level(account, level, book, now)
    for period in book.current.counted_periods(operation):
        account.count_uses(operation, period, quantity, now)
    metrics = canonical_json(dict(command.metrics)) if command.metrics else None
    draws = lots.take(account.lots, cost, hold=True)
    entry = account.post(
        EntryKind.RESERVED, now, amount=-cost, reserved=cost, quantity=quantity, operation=operation,
        draws=draws, limits=tuple(state._replace(used=state.used + quantity) for state in limits),
        details=_reserved_details(now + command.ttl, command.metrics), catalog_version=book.version,
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip
    account.active_reservations += 1
    account.touched_terms = True
    account.falls_due(now + command.ttl)
    made = Reservation(
        account.account_id, entry.revision, operation, quantity, cost, ReservationState.ACTIVE, now, now + command.ttl,
        book.version, draws, metrics,
    )  # fmt: skip
    set_reservation(account, made)
    return entry


def commit(command: CommitReservation, account: Account, book: CatalogBook, now: int) -> Entry:
    """Charges the real cost, at the prices that held when it was reserved."""
    for denial in state_denials(account):
        raise denial
    reservation = _find(account, command.reservation)
    if reservation.state in (ReservationState.COMMITTED, ReservationState.RELEASED):
        raise _ended(reservation)
    charge = _charge(command, reservation, book)
    if reservation.state is ReservationState.EXPIRED:
        return _commit_late(command, account, reservation, charge, book, now)
    return _commit_in_time(command, account, reservation, charge, book, now)


def release(command: ReleaseReservation, account: Account, book: CatalogBook, now: int) -> Entry:
    """Gives all of it back."""
    check_open(account)
    reservation = _find_active(account, command.reservation)
    end_reservation(account, book, reservation.revision, ReservationState.RELEASED)
    return give_back(
        account, EntryKind.RELEASED, reservation.revision, now,
        details=_details(reservation, reason=command.reason or None),
        limits=known_limit_states(account, book.current, reservation.operation, now),
        catalog_version=book.version, request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip


def extend(command: ExtendReservation, account: Account, book: CatalogBook, now: int) -> Entry:
    """Moves its expiry."""
    check_open(account)
    reservation = _find_active(account, command.reservation)
    expire_time = now + command.ttl
    if expire_time > reservation.create_time + MAX_LIFE:
        rule = "makes the whole life of the reservation exceed 24 h"
        raise Refused(Reason.FIELD_INVALID, f"ttl {rule}", violations=(("ttl", rule),))
    set_reservation(account, reservation._replace(expire_time=expire_time))
    account.falls_due(expire_time)
    return account.post(
        EntryKind.EXTENDED, now, quantity=reservation.quantity, operation=reservation.operation,
        catalog_version=reservation.catalog_version,
        details=_details(
            reservation, expire_time_us=expire_time, amount=reservation.amount, create_time_us=reservation.create_time
        ),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip


class _Charge(NamedTuple):
    """What a commit really costs, and how often it really used the operation; both 0 where it failed."""

    cost: int
    quantity: int
    uses: int
    usage: str | None
    pinned: Catalog


def _charge(command: CommitReservation, reservation: Reservation, book: CatalogBook) -> _Charge:
    usage, quantity = command.usage, command.quantity or reservation.quantity
    pinned = book.of_version(reservation.catalog_version)
    text = usage.to_json() if usage else None
    if usage and usage.failed:
        return _Charge(0, quantity, 0, text, pinned)
    metrics = usage.metrics if usage else json.loads(reservation.metrics or "{}")
    cost = price_of(pinned, reservation.operation, quantity, metrics)
    return _Charge(cost, quantity, quantity, text, pinned)


def _commit_in_time(
    command: CommitReservation,
    account: Account,
    reservation: Reservation,
    charge: _Charge,
    book: CatalogBook,
    now: int,
) -> Entry:
    more = max(0, charge.cost - reservation.amount)
    more_uses = max(0, charge.uses - reservation.quantity)
    _check_more(account, book.current, reservation, more, more_uses, now)
    set_reservation(account, reservation._replace(state=ReservationState.COMMITTED))
    account.active_reservations -= 1
    account.touched_terms = True
    return_uses(account, charge.pinned, reservation, max(0, reservation.quantity - charge.uses))
    _count(account, book.current, reservation, more_uses, now)
    consumed, returned = lots.divide(reservation.draws, charge.cost)
    alive = _settle_hold(account, consumed, returned, now)
    taken = lots.take(account.lots, more)
    released = sum(draw.amount for draw in returned)
    draws = tuple(Draw(draw.grant_revision, -draw.amount) for draw in returned) + taken
    details = _details(
        reservation, released=released or None, paid=draws_text((*consumed, *taken)),
        reserved_time_us=reservation.create_time, reserved_quantity=reservation.quantity, uses_version=book.version,
    )  # fmt: skip
    return account.post(
        EntryKind.COMMITTED, now, amount=alive - more, cost=charge.cost, reserved=-reservation.amount,
        forfeited=released - alive, draws=draws,
        **_committed(command, account, reservation, charge, book, now, details),
    )  # fmt: skip


def _commit_late(
    command: CommitReservation,
    account: Account,
    reservation: Reservation,
    charge: _Charge,
    book: CatalogBook,
    now: int,
) -> Entry:
    try:
        _check_more(account, book.current, reservation, charge.cost, charge.uses, now)
    except Refused as denial:
        raise _ended(reservation, f", and {denial.message}") from None
    set_reservation(account, reservation._replace(state=ReservationState.COMMITTED))
    _count(account, book.current, reservation, charge.uses, now)
    draws = lots.take(account.lots, charge.cost)
    details = _details(reservation, late=True, uses_version=book.version)
    return account.post(
        EntryKind.COMMITTED, now, amount=-charge.cost, cost=charge.cost, draws=draws,
        **_committed(command, account, reservation, charge, book, now, details),
    )  # fmt: skip


def _committed(
    command: CommitReservation,
    account: Account,
    reservation: Reservation,
    charge: _Charge,
    book: CatalogBook,
    now: int,
    details: str,
) -> dict[str, Any]:
    """What the entry of every commit has."""
    return {
        "quantity": charge.quantity, "operation": reservation.operation, "usage": charge.usage, "details": details,
        "limits": known_limit_states(account, book.current, reservation.operation, now),
        "catalog_version": reservation.catalog_version,
        "request_id": command.request_id, "fingerprint": command.fingerprint(),
    }  # fmt: skip


def _check_more(
    account: Account, catalog: Catalog, reservation: Reservation, cost: int, uses: int, now: int
) -> None:
    """Refuses what does not fit besides what was reserved."""
    states = known_limit_states(account, catalog, reservation.operation, now)
    for denial in limit_denials(states, uses, now) if uses else ():
        raise denial
    if cost > account.available:
        raise credit_denial(cost, account.available)


def _settle_hold(account: Account, consumed: list[Draw], returned: list[Draw], now: int) -> int:
    """Ends the hold; tells how much of what returned can be spent again."""
    for revision, amount in consumed:
        lots.put_back(account.lots, revision, now, spent=amount, returned=0)
    return sum(
        lots.put_back(account.lots, revision, now, spent=0, returned=amount) for revision, amount in returned
    )


def _count(account: Account, catalog: Catalog, reservation: Reservation, uses: int, now: int) -> None:
    if uses:
        for period in catalog.counted_periods(reservation.operation):
            account.count_uses(reservation.operation, period, uses, now)


def _find(account: Account, revision: int) -> Reservation:
    reservation = account.records.reservations.get(revision)
    if reservation is None:
        raise Refused(
            Reason.RESERVATION_NOT_FOUND, f"account {account.account_id!r} has no reservation 'r{revision}'",
            accountId=account.account_id, reservationId=f"r{revision}",
        )  # fmt: skip
    return reservation


def _find_active(account: Account, revision: int) -> Reservation:
    reservation = _find(account, revision)
    if reservation.state is not ReservationState.ACTIVE:
        raise _ended(reservation)
    return reservation


_ENDINGS = {
    ReservationState.COMMITTED: (Reason.RESERVATION_COMMITTED, "was committed"),
    ReservationState.RELEASED: (Reason.RESERVATION_RELEASED, "was released"),
    ReservationState.EXPIRED: (Reason.RESERVATION_EXPIRED, "has expired"),
}


def _ended(reservation: Reservation, besides: str = "") -> Refused:
    reason, words = _ENDINGS[reservation.state]
    name = f"r{reservation.revision}"
    return Refused(
        reason, f"reservation {name!r} {words}{besides}", accountId=reservation.account_id, reservationId=name
    )


def _too_many(account: Account) -> Refused:
    return Refused(
        Reason.TOO_MANY_RESERVATIONS, f"account {account.account_id!r} has {MAX_ACTIVE} active reservations",
        accountId=account.account_id, active=MAX_ACTIVE,
    )  # fmt: skip


def _reserved_details(expire_time: int, metrics: Mapping[str, int]) -> str:
    told = {"expire_time_us": expire_time, "metrics": dict(metrics) or None}
    return canonical_json({key: value for key, value in told.items() if value is not None})


def _details(reservation: Reservation, **told: object) -> str:
    told["reservation"] = reservation.revision
    return canonical_json({key: value for key, value in told.items() if value is not None})
