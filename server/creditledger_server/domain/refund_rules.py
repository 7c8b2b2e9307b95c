"""The rule of refunds: what one entry charged goes back to the grants that paid it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import lots
from .account import Account, NotLoaded
from .book import CatalogBook
from .commands import Refund
from .entry import Draw, Entry, EntryKind, parse_draws
from .evaluate import check_open
from .refusal import Reason, Refused
from .usage import canonical_json


def refund(command: Refund, account: Account, book: CatalogBook, now: int) -> Entry:
    """Gives back part or all of what is left of an entry's cost."""
    check_open(account)
    charged = _find(account, command.revision)
    before = account.records.refunded.get(charged.revision, 0)
    left = charged.cost - before
    amount = command.amount or left
    if not 0 < amount <= left:
        raise Refused(
            Reason.REFUND_EXCEEDS_COST, f"{left} credits of revision {charged.revision} can be refunded",
            accountId=account.account_id, refundable=left, requested=amount,
        )  # fmt: skip
    returned = _returned(charged, before, amount)
    alive = sum(_revive(account, draw, now) for draw in returned)
    account.records.refunded[charged.revision] = before + amount
    account.records.touched_refunds.add(charged.revision)
    details: dict[str, object] = {
        "refunds": charged.revision, "reason": command.reason, "refundable": left - amount, "forfeited": amount - alive,
    }  # fmt: skip
    if amount == left:
        details["uses"] = counted = _counted(charged)
        return_uses(account, charged, counted, book)
    return account.post(
        EntryKind.REFUNDED, now, amount=alive, refunded=amount, forfeited=amount - alive,
        quantity=charged.quantity, operation=charged.operation, catalog_version=charged.catalog_version,
        draws=tuple(Draw(revision, -amount) for revision, amount in returned), details=canonical_json(details),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip


def return_uses(account: Account, entry: Entry, counted: Iterable[Sequence[int]], book: CatalogBook) -> None:
    """Takes back the uses that were ``counted`` for the operation of an entry, under the catalog that it names."""
    assert entry.operation is not None
    for period in book.of_version(entry.catalog_version).counted_periods(entry.operation):
        for quantity, time in counted:
            account.return_uses(entry.operation, period, quantity, time)


def paid_by(entry: Entry) -> tuple[Draw, ...]:
    """The grants that paid what an entry charged, in burn order."""
    if entry.kind is EntryKind.COMMITTED and "reserved_time_us" in (told := entry.told()):
        return parse_draws(told.get("paid"))
    return entry.draws


def _returned(charged: Entry, before: int, amount: int) -> list[Draw]:
    """Which draws go back, in burn order: from the last to the first, beyond what earlier refunds gave back."""
    left, _ = lots.divide(paid_by(charged), charged.cost - before)
    _, returned = lots.divide(left, charged.cost - before - amount)
    return returned


def _revive(account: Account, draw: Draw, now: int) -> int:
    grant = account.records.grants[draw.grant_revision]
    alive = lots.revive(account.lots, grant.lot(draw.amount), now)
    if alive:
        account.falls_due(grant.expire_time)
    return alive


def _counted(charged: Entry) -> list[tuple[int, int]]:
    """The uses that an entry counted, with the time of each; of a commit in time, its reservation counted some."""
    told = charged.told()
    early = min(charged.quantity, told.get("reserved_quantity", 0))
    counted = [(early, told.get("reserved_time_us", 0)), (charged.quantity - early, charged.create_time)]
    return [(quantity, time) for quantity, time in counted if quantity]


def _find(account: Account, revision: int) -> Entry:
    entry = account.records.entries.get(revision)
    if entry is None and any(each.revision == revision for each in account.written):
        raise NotLoaded(f"revision {revision}")  # nor are the grants that paid for it
    if entry is None:
        raise Refused(
            Reason.ENTRY_NOT_FOUND, f"account {account.account_id!r} has no entry of revision {revision}",
            accountId=account.account_id, revision=revision,
        )  # fmt: skip
    if entry.kind not in (EntryKind.DEDUCTED, EntryKind.COMMITTED):
        rule = "must be that of a deduction or commit"
        raise Refused(Reason.FIELD_INVALID, f"revision {rule}", violations=(("revision", rule),))
    return entry
