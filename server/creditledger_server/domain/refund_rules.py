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

_REFUNDABLE = (EntryKind.DEDUCTED, EntryKind.COMMITTED)


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
    returned = _in_burn_order(account, _returned(charged, before, amount))
    alive = sum(_revive(account, draw, now) for draw in returned)
    account.records.refunded[charged.revision] = before + amount
    account.records.touched_refunds.add(charged.revision)
    details: dict[str, object] = {
        "refunds": charged.revision, "reason": command.reason, "refundable": left - amount, "forfeited": amount - alive,
    }  # fmt: skip
    if amount == left:
        details["uses"] = counted = _counted(charged)
        return_uses(account, charged.operation, counted, book)
    return account.post(
        EntryKind.REFUNDED, now, amount=alive, refunded=amount, forfeited=amount - alive,
        quantity=charged.quantity, operation=charged.operation, catalog_version=charged.catalog_version,
        draws=tuple(Draw(revision, -amount) for revision, amount in returned), details=canonical_json(details),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip


def return_uses(
    account: Account, operation: str | None, counted: Iterable[Sequence[int]], book: CatalogBook
) -> None:
    """Takes back uses: how many, when they were counted, and the version of the catalog that said for which periods."""
    assert operation is not None
    for quantity, time, version in counted:
        for period in book.of_version(version).counted_periods(operation):
            account.return_uses(operation, period, quantity, time)


def paid_by(entry: Entry) -> tuple[Draw, ...]:
    """The grants that paid what an entry charged, in burn order."""
    if entry.kind is EntryKind.COMMITTED and "reserved_time_us" in (told := entry.told()):
        return parse_draws(told.get("paid"))
    return entry.draws


def _returned(charged: Entry, before: int, amount: int) -> list[Draw]:
    """Which draws go back: from the last to the first, beyond what earlier refunds gave back."""
    left, _ = lots.divide(paid_by(charged), charged.cost - before)
    _, returned = lots.divide(left, charged.cost - before - amount)
    return returned


def _in_burn_order(account: Account, draws: Iterable[Draw]) -> list[Draw]:
    """The same with each grant once: a commit may have drawn from one by its reservation and besides."""
    amounts: dict[int, int] = {}
    for revision, amount in draws:
        amounts[revision] = amounts.get(revision, 0) + amount
    grants = sorted((grant.priority, grant.expire_time, grant.revision)
                    for grant in map(account.records.grants.__getitem__, amounts))  # fmt: skip
    return [Draw(revision, amounts[revision]) for _, _, revision in grants]


def _revive(account: Account, draw: Draw, now: int) -> int:
    grant = account.records.grants[draw.grant_revision]
    alive = lots.revive(account.lots, grant.lot(draw.amount), now)
    if alive:
        account.falls_due(grant.expire_time)
    return alive


def _counted(charged: Entry) -> list[tuple[int, int, int]]:
    """The uses that an entry counted, as ``return_uses`` takes them; some of a commit were counted when reserved."""
    told, version = charged.told(), charged.catalog_version
    early = min(charged.quantity, told.get("reserved_quantity", 0))
    counted = [
        (early, told.get("reserved_time_us", 0), version),
        (charged.quantity - early, charged.create_time, told.get("uses_version", version)),
    ]
    return [uses for uses in counted if uses[0]]


def _find(account: Account, revision: int) -> Entry:
    entry = account.records.entries.get(revision)
    written = [each for each in account.written if each.revision == revision]
    if entry is None and written:
        if written[0].kind in _REFUNDABLE:
            raise NotLoaded(f"revision {revision}")  # nor are the grants that paid for it
        entry = written[0]
    if entry is None:
        raise Refused(
            Reason.ENTRY_NOT_FOUND, f"account {account.account_id!r} has no entry of revision {revision}",
            accountId=account.account_id, revision=revision,
        )  # fmt: skip
    if entry.kind not in _REFUNDABLE:
        rule = "must be that of a deduction or commit"
        raise Refused(Reason.FIELD_INVALID, f"revision {rule}", violations=(("revision", rule),))
    return entry
