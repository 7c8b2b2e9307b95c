"""The rules: what each command does to an account, or why it is refused. The one place where that is decided.

Every function takes the account as it stands under its lock, settled up to now, and either changes it by posting
entries or raises ``Refused`` and has changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from . import lots
from .account import Account
from .book import CatalogBook
from .commands import (
    AdjustBalance,
    Command,
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
from .entry import Entry, EntryKind, LimitState
from .evaluate import check_level, check_open, evaluate, find_operation, limit_states, state_denials
from .grant_rules import adjust_balance, credited_before, grant_credits, purchase_package, void_grant
from .levels import apply_level, at_level, welcome
from .refund_rules import refund
from .refusal import Reason, Refused
from .reservation_rules import commit, extend, release, reserve
from .usage import canonical_json


class Accepted(NamedTuple):
    """A command that was carried out, now or (``replayed``) before."""

    entry: Entry
    replayed: bool


def decide(command: Command, account: Account, book: CatalogBook, now: int) -> Accepted:
    """Carries a command out, or answers what it did before: a request id is looked up before any state is."""
    if account.revision == 0 and not _may_open(command):
        raise Refused(
            Reason.ACCOUNT_NOT_FOUND, f"no account {command.account_id!r}", accountId=command.account_id
        )
    if earlier := account.remembered.get(command.request_id):
        return _replay(command, earlier)
    if isinstance(command, PurchasePackage) and (earlier := credited_before(command, account)):
        return Accepted(earlier, replayed=True)
    return Accepted(_RULES[type(command)](command, account, book, now), replayed=False)


def _deduct(command: Deduct, account: Account, book: CatalogBook, now: int) -> Entry:
    """A deduction that does not fit is refused; one that does is charged whole. A failed use is recorded for free."""
    level = command.account_level or account.level
    catalog, usage = book.current, command.usage
    check_level(catalog, level)
    trial = at_level(account, level, book, now)
    failed = usage is not None and usage.failed
    if failed:
        find_operation(catalog, command.operation)
        limits = limit_states(trial, level, catalog, command.operation, now)
        cost, denials = 0, tuple(state_denials(trial))
    else:
        metrics = usage.metrics if usage else {}
        cost, limits, denials = evaluate(
            trial, level, catalog, command.operation, command.quantity, metrics, now
        )
    if denials:
        raise denials[0]
    apply_level(account, level, book, now)
    if not failed:
        limits = _count(account, command, book, limits, now)
    return account.post(
        EntryKind.DEDUCTED, now,
        amount=-cost, cost=cost, quantity=command.quantity, catalog_version=book.version,
        operation=command.operation, request_id=command.request_id, fingerprint=command.fingerprint(),
        draws=lots.take(account.lots, cost), limits=limits, usage=usage.to_json() if usage else None,
    )  # fmt: skip


def _open_account(command: OpenAccount, account: Account, book: CatalogBook, now: int) -> Entry:
    if account.revision:
        raise Refused(
            Reason.ACCOUNT_EXISTS, f"account {account.account_id!r} is open", accountId=account.account_id
        )
    level = command.level or book.current.default_level
    check_level(book.current, level, "level")
    account.level = level
    account.labels = canonical_json(dict(command.labels))
    entry = account.post(
        EntryKind.OPENED, now, catalog_version=book.version,
        request_id=command.request_id, fingerprint=command.fingerprint(),
        details=canonical_json({"level": level, "labels": dict(command.labels)}),
    )  # fmt: skip
    welcome(account, book, now)
    return entry


def _update_account(command: UpdateAccount, account: Account, book: CatalogBook, now: int) -> Entry:
    """Changes level, labels or state with one entry. Closing is final: a closed account refuses this as well."""
    if command.level is not None:
        check_level(book.current, command.level, "level")
    check_open(account)
    moved = command.level is not None and command.level != account.level
    account.level = command.level or account.level
    if command.labels is not None:
        account.labels = canonical_json(dict(command.labels))
    account.state = command.state or account.state
    restated = command.labels is not None or command.state is not None
    account.touched_terms |= restated
    # Everything that the answer tells, changed or not: a replay has nothing but the entry.
    details = {
        "level": account.level, "labels": json.loads(account.labels), "state": account.state.name,
        "create_time_us": account.create_time,
    }  # fmt: skip
    entry = account.post(
        EntryKind.STATE_CHANGED if restated else EntryKind.LEVEL_CHANGED, now,
        catalog_version=book.version, request_id=command.request_id, fingerprint=command.fingerprint(),
        details=canonical_json(details),
    )  # fmt: skip
    if moved:
        welcome(account, book, now)
    return entry


_RULES: dict[type, Callable[[Any, Account, CatalogBook, int], Entry]] = {
    Deduct: _deduct,
    OpenAccount: _open_account,
    UpdateAccount: _update_account,
    GrantCredits: grant_credits,
    VoidGrant: void_grant,
    AdjustBalance: adjust_balance,
    PurchasePackage: purchase_package,
    Reserve: reserve,
    CommitReservation: commit,
    ReleaseReservation: release,
    ExtendReservation: extend,
    Refund: refund,
}


def _may_open(command: Command) -> bool:
    return isinstance(command, OpenAccount) or (
        isinstance(command, Deduct | Reserve) and command.account_level is not None
    )


def _replay(command: Command, earlier: Entry) -> Accepted:
    if earlier.fingerprint != command.fingerprint():
        raise Refused(
            Reason.REQUEST_ID_REUSED,
            f"request id {command.request_id!r} was accepted before with other content",
            requestId=command.request_id,
        )
    return Accepted(earlier, replayed=True)


def _count(
    account: Account, command: Deduct, book: CatalogBook, limits: tuple[LimitState, ...], now: int
) -> tuple[LimitState, ...]:
    """Counts the uses for every period that any level limits, so that counters are right after a level change."""
    periods = book.current.counted_periods(command.operation)
    if not periods:  # nor is there a limit then
        return limits
    for period in periods:
        account.count_uses(command.operation, period, command.quantity, now)
    return tuple([
        LimitState(operation, period, limit, used + command.quantity, reset_time)
        for operation, period, limit, used, reset_time in limits
    ])  # fmt: skip
