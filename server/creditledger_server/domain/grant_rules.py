"""The rules of grants: given, sold, corrected and taken back."""

from __future__ import annotations

from collections.abc import Mapping

from . import lots
from .account import Account, Grant, GrantSource, Payment
from .book import CatalogBook
from .commands import AdjustBalance, GrantCredits, PurchasePackage, VoidGrant
from .entry import Draw, Entry, EntryKind
from .evaluate import check_open, credit_denial
from .levels import add_grant
from .lots import NEVER, Pending
from .names import MAX_BALANCE
from .refusal import Reason, Refused
from .usage import canonical_json

MAX_LIVE_GRANTS = 100
"""How many grants with something left, held or to come an account may have: bounds the work of a deduction."""


def grant_credits(command: GrantCredits, account: Account, book: CatalogBook, now: int) -> Entry:
    """Gives credits, now or from a later time on."""
    expire_time = NEVER if command.expire_time is None else command.expire_time
    if expire_time <= now:
        rule = "must be later than now"
        raise Refused(Reason.FIELD_INVALID, f"expire_time {rule}", violations=(("expire_time", rule),))
    check_open(account)
    _check_room(account, command.amount)
    later = command.effective_time is not None and command.effective_time > now
    grant = Grant(
        account.account_id, account.revision + 1, command.amount, command.priority, GrantSource.ADMIN, now,
        command.reason, canonical_json(dict(command.labels)), command.effective_time if later else None, expire_time,
    )  # fmt: skip
    entry = account.post(
        EntryKind.GRANTED, now, amount=0 if later else grant.amount,
        details=canonical_json({**terms_of(grant), "labels": dict(command.labels)}),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip
    if grant.effective_time is None:
        add_grant(account, grant)
    else:
        _promise(account, grant, grant.effective_time)
    return entry


def purchase_package(command: PurchasePackage, account: Account, book: CatalogBook, now: int) -> Entry:
    """Grants what a package brings; that the payment is new has been looked up."""
    package = book.current.packages.get(command.package_id)
    if package is None:
        raise Refused(
            Reason.PACKAGE_UNKNOWN, f"the catalog has no package {command.package_id!r}",
            violations=(("package_id", "not a package of the catalog"),), packageId=command.package_id,
        )  # fmt: skip
    check_open(account)
    _check_room(account, package.credits)
    entry = _grant_now(
        account, GrantSource.PACKAGE, EntryKind.GRANTED, package.credits, now, command, "", book.version,
        {"package_id": package.package_id, "payment_reference": command.payment_reference},
    )  # fmt: skip
    records = account.records
    records.new_payments[command.payment_reference] = entry.revision
    records.payments[command.payment_reference] = Payment(account.account_id, package.package_id, entry)
    return entry


def credited_before(command: PurchasePackage, account: Account) -> Entry | None:
    """The entry of the same purchase under another request id. Raises Refused if the payment was for something else."""
    payment = account.records.payments.get(command.payment_reference)
    if payment is None:
        return None
    if payment.entry is None or payment.package_id != command.package_id:
        raise Refused(
            Reason.PAYMENT_REFERENCE_REUSED,
            f"payment {command.payment_reference!r} was credited to another account or as another package",
            paymentReference=command.payment_reference,
        )
    return payment.entry


def adjust_balance(command: AdjustBalance, account: Account, book: CatalogBook, now: int) -> Entry:
    """Corrects upwards by a grant, downwards by forfeiting."""
    check_open(account)
    if command.amount > 0:
        _check_room(account, command.amount)
        return _grant_now(
            account, GrantSource.ADJUSTMENT, EntryKind.ADJUSTED, command.amount, now, command, command.reason
        )
    taken = -command.amount
    if taken > account.available:
        raise credit_denial(taken, account.available)
    return account.post(
        EntryKind.ADJUSTED, now, amount=-taken, forfeited=taken, draws=lots.take(account.lots, taken),
        details=canonical_json({"reason": command.reason}),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip


def void_grant(command: VoidGrant, account: Account, book: CatalogBook, now: int) -> Entry:
    """Forfeits what is left of a grant; what reservations hold of it stays, but does not come back."""
    check_open(account)
    grant = _find(account, command.grant_revision)
    account.pending = [each for each in account.pending if each.grant_revision != grant.revision]
    remaining = lots.end(account.lots, grant.revision, now)
    if grant.void_time is None:
        account.records.grants[grant.revision] = voided = grant._replace(void_time=now)
        account.records.voided.append(voided)
    account.touched_terms = True
    return account.post(
        EntryKind.GRANT_VOIDED, now, amount=-remaining, forfeited=remaining,
        draws=(Draw(grant.revision, remaining),) if remaining else (),
        details=canonical_json(
            {"grant": grant.revision, "reason": command.reason, "terms": _told_terms(grant)}
        ),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip


def terms_of(grant: Grant) -> dict[str, object]:
    """What the entry of a grant tells of it, besides what it tells as every entry."""
    terms: dict[str, object] = {"priority": grant.priority, "source": grant.source, "reason": grant.reason}
    if grant.expire_time != NEVER:
        terms["expire_time_us"] = grant.expire_time
    if grant.effective_time is not None:
        terms["effective_time_us"] = grant.effective_time
        terms["amount"] = grant.amount
    return terms


def _told_terms(grant: Grant) -> dict[str, object]:
    """All that an answer tells of a grant, for entries of another time than its own."""
    return {
        **terms_of(grant), "amount": grant.amount, "create_time_us": grant.create_time, "labels": grant.labels,
    }  # fmt: skip


def _grant_now(
    account: Account,
    source: GrantSource,
    kind: EntryKind,
    amount: int,
    now: int,
    command: PurchasePackage | AdjustBalance,
    reason: str,
    version: int = 0,
    told: Mapping[str, object] | None = None,
) -> Entry:
    grant = Grant(account.account_id, account.revision + 1, amount, 0, source, now, reason, "{}")
    entry = account.post(
        kind, now, amount=amount, catalog_version=version,
        details=canonical_json({**terms_of(grant), "labels": {}, **(told or {})}),
        request_id=command.request_id, fingerprint=command.fingerprint(),
    )  # fmt: skip
    add_grant(account, grant)
    return entry


def _promise(account: Account, grant: Grant, effective_time: int) -> None:
    account.new_grants.append(grant)
    account.pending.append(
        Pending(grant.revision, grant.priority, grant.amount, effective_time, grant.expire_time)
    )
    account.touched_terms = True
    account.falls_due(effective_time)


def _find(account: Account, revision: int) -> Grant:
    for grant in account.new_grants:
        account.records.grants.setdefault(grant.revision, grant)
    grant_ = account.records.grants.get(revision)
    if grant_ is None:
        raise Refused(
            Reason.GRANT_NOT_FOUND, f"account {account.account_id!r} has no grant 'g{revision}'",
            accountId=account.account_id, grantId=f"g{revision}",
        )  # fmt: skip
    return grant_


def _check_room(account: Account, amount: int) -> None:
    promised = sum(grant.amount for grant in account.pending)
    if account.granted + promised + amount > MAX_BALANCE:
        rule = f"makes what was ever granted exceed {MAX_BALANCE}"
        raise Refused(Reason.FIELD_INVALID, f"amount {rule}", violations=(("amount", rule),))
    if len(account.lots) + len(account.pending) >= MAX_LIVE_GRANTS:
        rule = f"the account has {MAX_LIVE_GRANTS} grants with credits left, which is the most"
        raise Refused(Reason.FIELD_INVALID, rule, violations=(("account_id", rule),))
