"""Which level an account is on, and the allowance that comes with it."""

from __future__ import annotations

from .account import Account, AccountState, Grant, GrantSource
from .book import CatalogBook
from .catalog import Allowance
from .entry import EntryKind
from .lots import NEVER
from .names import MAX_BALANCE
from .periods import period_end, period_start
from .usage import canonical_json


def apply_level(account: Account, level: str, book: CatalogBook, now: int) -> None:
    """Opens the account at ``level``, or moves it there, with an entry of its own and the allowance that it brings."""
    if account.revision == 0:
        account.level = level
        details = canonical_json({"level": level, "labels": {}})
        account.post(EntryKind.OPENED, now, catalog_version=book.version, details=details)
    elif account.level != level:
        account.level = level
        details = canonical_json({"level": level})
        account.post(EntryKind.LEVEL_CHANGED, now, catalog_version=book.version, details=details)
    else:
        return
    welcome(account, book, now)


def at_level(account: Account, level: str, book: CatalogBook, now: int) -> Account:
    """The account as ``apply_level`` would make it; a copy if that changes anything."""
    if account.revision and account.level == level:
        return account
    trial = account.trial()
    apply_level(trial, level, book, now)
    return trial


def welcome(account: Account, book: CatalogBook, now: int) -> None:
    """Gives the allowance of the present period of the account's level, unless it had one of that kind in it."""
    allowance = book.current.levels[account.level].allowance
    if allowance and account.state is not AccountState.CLOSED:
        give_allowance(account, allowance, book.version, now)


def give_allowance(account: Account, allowance: Allowance, version: int, now: int) -> None:
    """Gives an allowance for the period that ``now`` lies in, once."""
    start = period_start(allowance.period, now)
    promised = sum(grant.amount for grant in account.pending)
    if account.allowances.get(allowance.period) == start or (
        account.granted + promised + allowance.credits > MAX_BALANCE
    ):
        return
    account.allowances[allowance.period] = start
    account.touched_terms = True
    end = period_end(allowance.period, now)
    terms = {
        "priority": 0, "source": GrantSource.ALLOWANCE, "reason": "", "labels": {},
        "period": allowance.period, "period_start_us": start,
    }  # fmt: skip
    if end is not None:
        terms["expire_time_us"] = end
    entry = account.post(
        EntryKind.GRANTED,
        now,
        amount=allowance.credits,
        catalog_version=version,
        details=canonical_json(terms),
    )
    add_grant(
        account,
        Grant(account.account_id, entry.revision, allowance.credits, 0, GrantSource.ALLOWANCE, now, "", "{}",
              expire_time=NEVER if end is None else end),
    )  # fmt: skip


def add_grant(account: Account, grant: Grant) -> None:
    """Makes a grant's credits spendable."""
    account.new_grants.append(grant)
    account.add_lot(grant.lot(grant.amount))
