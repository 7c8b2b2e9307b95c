"""What a round of requests has to load, as far as the requests themselves tell."""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.commands import (
    Command,
    CommitReservation,
    ExtendReservation,
    PurchasePackage,
    Refund,
    ReleaseReservation,
    Settle,
    VoidGrant,
)
from ..storage.batch import Wanted
from ..storage.records import Key, WantedRecords

_WITH_RECORDS = (CommitReservation, ReleaseReservation, ExtendReservation, Refund, VoidGrant, PurchasePackage)


def wanted(requests: Sequence[Command | Settle]) -> Wanted:
    """The accounts to lock and the rows to load with them."""
    kinds = set(map(type, requests))  # nearly always Deduct alone
    with_records = (
        [] if kinds.isdisjoint(_WITH_RECORDS) else [r for r in requests if isinstance(r, _WITH_RECORDS)]
    )
    return Wanted(
        sorted({request.account_id for request in requests}),
        [(request.account_id, request.request_id) for request in requests if not isinstance(request, Settle)],
        _records(with_records) if with_records else None,
    )


def _records(requests: Sequence[Command]) -> WantedRecords:
    reservations: set[Key] = set()
    refunds: set[Key] = set()
    grants: set[Key] = set()
    payments: set[tuple[str, str]] = set()
    for request in requests:
        account_id = request.account_id
        match request:
            case CommitReservation() | ReleaseReservation() | ExtendReservation():
                reservations.add((account_id, request.reservation))
            case Refund():
                refunds.add((account_id, request.revision))
            case VoidGrant():
                grants.add((account_id, request.grant_revision))
            case PurchasePackage():
                payments.add((account_id, request.payment_reference))
    return WantedRecords(sorted(reservations), sorted(refunds), sorted(grants), sorted(payments))
