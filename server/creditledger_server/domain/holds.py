"""How what a reservation holds comes back to the grants it came from."""

from __future__ import annotations

from . import lots
from .account import Account
from .book import CatalogBook
from .catalog import Catalog
from .entry import Draw, Entry, EntryKind, LimitState
from .reservation import Reservation, ReservationState


def end_reservation(account: Account, book: CatalogBook, revision: int, state: ReservationState) -> None:
    """Ends an active reservation and takes back the uses that it counted."""
    reservation = account.records.reservations[revision]
    set_reservation(account, reservation._replace(state=state))
    account.active_reservations -= 1
    account.touched_terms = True
    return_uses(account, book.of_version(reservation.catalog_version), reservation, reservation.quantity)


def return_uses(account: Account, catalog: Catalog, reservation: Reservation, quantity: int) -> None:
    """Takes back uses that a reservation counted; ``catalog`` is the one at which it was made."""
    for period in catalog.counted_periods(reservation.operation):
        account.return_uses(reservation.operation, period, quantity, reservation.create_time)


def set_reservation(account: Account, reservation: Reservation) -> None:
    """Makes or changes a reservation."""
    account.records.reservations[reservation.revision] = reservation
    account.records.touched_reservations.add(reservation.revision)


def give_back(
    account: Account,
    kind: EntryKind,
    revision: int,
    now: int,
    *,
    details: str,
    limits: tuple[LimitState, ...],
    catalog_version: int,
    request_id: str | None = None,
    fingerprint: bytes | None = None,
) -> Entry:
    """Returns all that a reservation holds, with the entry that says so. What comes back too late is forfeited."""
    reservation = account.records.reservations[revision]
    alive = sum(
        lots.put_back(account.lots, draw.grant_revision, now, spent=0, returned=draw.amount)
        for draw in reservation.draws
    )
    return account.post(
        kind, now,
        amount=alive, reserved=-reservation.amount, forfeited=reservation.amount - alive,
        quantity=reservation.quantity, operation=reservation.operation,
        draws=tuple(Draw(draw.grant_revision, -draw.amount) for draw in reservation.draws),
        limits=limits, details=details, catalog_version=catalog_version,
        request_id=request_id, fingerprint=fingerprint,
    )  # fmt: skip
