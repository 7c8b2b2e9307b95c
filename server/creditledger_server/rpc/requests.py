"""From requests to the commands and filters of the domain; every field is checked here, and nowhere else."""

from __future__ import annotations

from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2

from ..domain.account import AccountState
from ..domain.commands import (
    AdjustBalance,
    CommitReservation,
    Deduct,
    ExtendReservation,
    GrantCredits,
    OpenAccount,
    PurchasePackage,
    Refund,
    ReleaseReservation,
    Reserve,
    UpdateAccount,
    VoidGrant,
)
from ..domain.names import MAX_AMOUNT
from ..domain.reservation import DEFAULT_TTL
from ..ledger.reader import Check
from ..storage.reads import EntryFilter
from .validate import Fields

MAX_PRIORITY = 1_000
MAX_REVISION = 2**63 - 1
_STATES = frozenset(int(state) for state in AccountState)


def check(request: pb.CanPerformRequest) -> Check:
    """What CanPerform asks."""
    fields = Fields()
    asked = Check(
        account_id=fields.identifier("account_id", request.account_id),
        operation=fields.name("operation", request.operation),
        quantity=fields.quantity(request),
        metrics=fields.metrics("metrics", request.metrics),
        account_level=fields.optional_name("account_level", request.account_level),
    )
    fields.check()
    return asked


def deduct(request: pb.DeductRequest) -> Deduct:
    """Deduct."""
    fields = Fields()
    command = Deduct(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        operation=fields.name("operation", request.operation),
        quantity=fields.quantity(request),
        usage=fields.usage(request.usage) if request.HasField("usage") else None,
        account_level=fields.optional_name("account_level", request.account_level),
    )
    fields.check()
    return command


def reserve(request: pb.ReserveRequest) -> Reserve:
    """Reserve."""
    fields = Fields()
    command = Reserve(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        operation=fields.name("operation", request.operation),
        quantity=fields.quantity(request),
        metrics=fields.metrics("metrics", request.metrics),
        ttl=fields.ttl("ttl", request.ttl) if request.HasField("ttl") else DEFAULT_TTL,
        account_level=fields.optional_name("account_level", request.account_level),
    )
    fields.check()
    return command


def commit(request: pb.CommitReservationRequest) -> CommitReservation:
    """CommitReservation."""
    fields = Fields()
    command = CommitReservation(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        reservation=fields.numbered("reservation_id", request.reservation_id, "r"),
        quantity=fields.quantity(request) if request.HasField("quantity") else None,
        usage=fields.usage(request.usage) if request.HasField("usage") else None,
    )
    fields.check()
    return command


def release(request: pb.ReleaseReservationRequest) -> ReleaseReservation:
    """ReleaseReservation."""
    fields = Fields()
    command = ReleaseReservation(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        reservation=fields.numbered("reservation_id", request.reservation_id, "r"),
        reason=fields.text("reason", request.reason),
    )
    fields.check()
    return command


def extend(request: pb.ExtendReservationRequest) -> ExtendReservation:
    """ExtendReservation."""
    fields = Fields()
    command = ExtendReservation(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        reservation=fields.numbered("reservation_id", request.reservation_id, "r"),
        ttl=fields.ttl("ttl", request.ttl),
    )
    fields.check()
    return command


def refund(request: pb.RefundRequest) -> Refund:
    """Refund."""
    fields = Fields()
    command = Refund(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        revision=fields.between("revision", request.revision, 1, MAX_REVISION),
        amount=fields.between("amount", request.amount, 0, MAX_AMOUNT),
        reason=fields.text("reason", request.reason),
    )
    fields.check()
    return command


def open_account(request: admin_pb.OpenAccountRequest) -> OpenAccount:
    """OpenAccount."""
    fields = Fields()
    command = OpenAccount(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        level=fields.optional_name("level", request.level),
        labels=fields.labels("labels", request.labels),
    )
    fields.check()
    return command


def update_account(request: admin_pb.UpdateAccountRequest) -> UpdateAccount:
    """UpdateAccount."""
    fields = Fields()
    request_id = fields.identifier("request_id", request.request_id)
    account_id = fields.identifier("account_id", request.account_id)
    paths = fields.mask("update_mask", request.update_mask, ("level", "labels", "state"))
    level = fields.name("level", request.level) if "level" in paths else None
    labels = fields.labels("labels", request.labels) if "labels" in paths else None
    if "state" in paths and request.state not in _STATES:
        fields.wrong("state", "must be a known value other than unspecified")
    fields.check()
    state = AccountState(request.state) if "state" in paths else None
    return UpdateAccount(request_id, account_id, level, labels, state)


def grant_credits(request: admin_pb.GrantCreditsRequest) -> GrantCredits:
    """GrantCredits."""
    fields = Fields()
    command = GrantCredits(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        amount=fields.amount("amount", request.amount),
        priority=fields.between("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY),
        reason=fields.text("reason", request.reason),
        labels=fields.labels("labels", request.labels),
        effective_time=fields.optional_time("effective_time", request),
        expire_time=fields.optional_time("expire_time", request),
    )
    begin, end = command.effective_time, command.expire_time
    if begin is not None and end is not None and end <= begin and not fields.violations:
        fields.wrong("expire_time", "must be later than effective_time")
    fields.check()
    return command


def void_grant(request: admin_pb.VoidGrantRequest) -> VoidGrant:
    """VoidGrant."""
    fields = Fields()
    command = VoidGrant(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        grant_revision=fields.numbered("grant_id", request.grant_id, "g"),
        reason=fields.text("reason", request.reason),
    )
    fields.check()
    return command


def adjust_balance(request: admin_pb.AdjustBalanceRequest) -> AdjustBalance:
    """AdjustBalance."""
    fields = Fields()
    command = AdjustBalance(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        amount=fields.between("amount", request.amount, -MAX_AMOUNT, MAX_AMOUNT),
        reason=fields.text("reason", request.reason),
    )
    if request.amount == 0:
        fields.wrong("amount", "must not be 0")
    if not request.reason:
        fields.wrong("reason", "is required")
    fields.check()
    return command


def purchase_package(request: admin_pb.PurchasePackageRequest) -> PurchasePackage:
    """PurchasePackage."""
    fields = Fields()
    command = PurchasePackage(
        request_id=fields.identifier("request_id", request.request_id),
        account_id=fields.identifier("account_id", request.account_id),
        package_id=fields.name("package_id", request.package_id),
        payment_reference=fields.identifier("payment_reference", request.payment_reference),
    )
    fields.check()
    return command


def entry_filter(fields: Fields, request: pb.ListEntriesRequest, after: int | None) -> EntryFilter:
    """The filter of a page that continues after the revision ``after``."""
    fields.between("from_revision", request.from_revision, 0, MAX_REVISION)
    fields.between("to_revision", request.to_revision, 0, MAX_REVISION)
    fields.enums("kinds", request.kinds, resources_pb2.EntryKind.values())
    if request.order not in pb.EntryOrder.values():
        fields.wrong("order", "must be a known value")
    newest_first = request.order != pb.ENTRY_ORDER_OLDEST_FIRST
    first, last = request.from_revision or 1, request.to_revision or None
    if after is not None:
        first, last = (first, after - 1) if newest_first else (after + 1, last)
    return EntryFilter(
        from_revision=first,
        to_revision=last,
        start_time=fields.optional_time("start_time", request),
        end_time=fields.optional_time("end_time", request),
        kinds=tuple(map(int, request.kinds)),
        operation=fields.optional_name("operation", request.operation),
        newest_first=newest_first,
    )
