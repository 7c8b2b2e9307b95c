"""The rules: what each command does to an account, or why it is refused. The one place where that is decided.

Every function takes the account as it stands under its lock, and either changes it by posting entries or raises
``Refused`` and has changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .account import Account, AccountState, Grant, Lot
from .catalog import Catalog, Operation
from .commands import Command, Deduct, GrantCredits, OpenAccount, UpdateAccount
from .entry import Entry, EntryKind, LimitState
from .names import MAX_AMOUNT, MAX_BALANCE
from .periods import period_end
from .pricing import cost_of
from .refusal import Reason, Refused
from .times import iso_time
from .usage import canonical_json

MAX_LIVE_GRANTS = 100
"""How many grants with something left an account may have: bounds the work of a deduction."""

GRANT_SOURCE_ADMIN = 1


class Accepted(NamedTuple):
    """A command that was carried out, now or (``replayed``) before."""

    entry: Entry
    replayed: bool


class Evaluation(NamedTuple):
    """What an operation would cost and every rule that denies it, in the order of contract §7."""

    cost: int
    limits: tuple[LimitState, ...]
    denials: tuple[Refused, ...]


def decide(command: Command, account: Account, catalog: Catalog, version: int, now: int) -> Accepted:
    """Carries a command out, or answers what it did before: a request id is looked up before any state is."""
    if account.revision == 0 and not _may_open(command):
        raise Refused(
            Reason.ACCOUNT_NOT_FOUND, f"no account {command.account_id!r}", accountId=command.account_id
        )
    if earlier := account.remembered.get(command.request_id):
        return _replay(command, earlier)
    return Accepted(_RULES[type(command)](command, account, catalog, version, now), replayed=False)


def evaluate(
    account: Account,
    level: str,
    catalog: Catalog,
    operation: str,
    quantity: int,
    metrics: Mapping[str, int],
    now: int,
) -> Evaluation:
    """Prices an operation and tests it against account state, limits and balance: what CanPerform and Deduct share."""
    cost = _price(catalog, operation, quantity, metrics)
    limits = limit_states(account, level, catalog, operation, now)
    denials = [*_state_denials(account)]
    denials += [
        _limit_denial(state, quantity, now) for state in limits if 0 <= state.limit < state.used + quantity
    ]
    if cost > account.available:
        denials.append(_credit_denial(cost, account.available))
    return Evaluation(cost, limits, tuple(denials))


def limit_states(
    account: Account, level: str, catalog: Catalog, operation: str, now: int
) -> tuple[LimitState, ...]:
    """Where the account stands against the limits that ``level`` sets for ``operation``."""
    return tuple(
        LimitState(operation, limit.period, limit.limit, account.used(operation, limit.period, now),
                   period_end(limit.period, now))
        for limit in catalog.limits_of(level, operation)
    )  # fmt: skip


def check_level(catalog: Catalog, level: str, field: str = "account_level") -> None:
    """Refuses a level that the catalog does not have; ``field`` is where the request names it."""
    if level not in catalog.levels:
        raise Refused(
            Reason.LEVEL_UNKNOWN, f"the catalog has no level {level!r}",
            violations=((field, "not a level of the catalog"),), level=level,
        )  # fmt: skip


def _deduct(command: Deduct, account: Account, catalog: Catalog, version: int, now: int) -> Entry:
    """A deduction that does not fit is refused; one that does is charged whole. A failed use is recorded for free."""
    level = command.account_level or account.level
    check_level(catalog, level)
    usage = command.usage
    metrics = usage.metrics if usage else {}
    failed = usage is not None and usage.failed
    if failed:
        _operation(catalog, command.operation)
        limits = limit_states(account, level, catalog, command.operation, now)
        cost, denials = 0, tuple(_state_denials(account))
    else:
        cost, limits, denials = evaluate(
            account, level, catalog, command.operation, command.quantity, metrics, now
        )
    if denials:
        raise denials[0]
    _apply_level(account, level, version, now)
    if not failed:
        limits = _count(account, catalog, command, limits, now)
    return account.post(
        EntryKind.DEDUCTED, now,
        amount=-cost, cost=cost, quantity=command.quantity, catalog_version=version,
        operation=command.operation, request_id=command.request_id, fingerprint=command.fingerprint(),
        draws=account.burn(cost), limits=limits, usage=usage.to_json() if usage else None,
    )  # fmt: skip


def _open_account(command: OpenAccount, account: Account, catalog: Catalog, version: int, now: int) -> Entry:
    if account.revision:
        raise Refused(
            Reason.ACCOUNT_EXISTS, f"account {account.account_id!r} is open", accountId=account.account_id
        )
    level = command.level or catalog.default_level
    check_level(catalog, level, "level")
    account.level = level
    account.labels = canonical_json(dict(command.labels))
    return account.post(
        EntryKind.OPENED, now, catalog_version=version,
        request_id=command.request_id, fingerprint=command.fingerprint(),
        details=canonical_json({"level": level, "labels": dict(command.labels)}),
    )  # fmt: skip


def _update_account(
    command: UpdateAccount, account: Account, catalog: Catalog, version: int, now: int
) -> Entry:
    """Changes level, labels or state with one entry. Closing is final: a closed account refuses this as well."""
    if account.state is AccountState.CLOSED:
        raise _closed(account)
    if command.level is not None:
        check_level(catalog, command.level, "level")
        account.level = command.level
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
    return account.post(
        EntryKind.STATE_CHANGED if restated else EntryKind.LEVEL_CHANGED, now,
        catalog_version=version, request_id=command.request_id, fingerprint=command.fingerprint(),
        details=canonical_json(details),
    )  # fmt: skip


def _grant_credits(
    command: GrantCredits, account: Account, catalog: Catalog, version: int, now: int
) -> Entry:
    if account.state is AccountState.CLOSED:
        raise _closed(account)
    _check_room(account, command.amount)
    labels = dict(command.labels)
    terms = {
        "priority": command.priority, "source": GRANT_SOURCE_ADMIN, "reason": command.reason, "labels": labels,
    }  # fmt: skip
    entry = account.post(
        EntryKind.GRANTED, now, amount=command.amount,
        request_id=command.request_id, fingerprint=command.fingerprint(), details=canonical_json(terms),
    )  # fmt: skip
    account.lots.append(Lot(command.priority, entry.revision, command.amount))
    account.lots.sort()
    account.new_grants.append(
        Grant(account.account_id, entry.revision, command.amount, command.priority, GRANT_SOURCE_ADMIN, now,
              command.reason, canonical_json(labels))
    )  # fmt: skip
    return entry


_RULES: dict[type, Callable[[Any, Account, Catalog, int, int], Entry]] = {
    Deduct: _deduct,
    OpenAccount: _open_account,
    UpdateAccount: _update_account,
    GrantCredits: _grant_credits,
}


def _may_open(command: Command) -> bool:
    return isinstance(command, OpenAccount) or (
        isinstance(command, Deduct) and command.account_level is not None
    )


def _replay(command: Command, earlier: Entry) -> Accepted:
    if earlier.fingerprint != command.fingerprint():
        raise Refused(
            Reason.REQUEST_ID_REUSED,
            f"request id {command.request_id!r} was accepted before with other content",
            requestId=command.request_id,
        )
    return Accepted(earlier, replayed=True)


def _apply_level(account: Account, level: str, version: int, now: int) -> None:
    """Opens the account at ``level``, or moves it there, with an entry of its own."""
    if account.revision == 0:
        account.level = level
        details = canonical_json({"level": level, "labels": {}})
        account.post(EntryKind.OPENED, now, catalog_version=version, details=details)
    elif account.level != level:
        account.level = level
        details = canonical_json({"level": level})
        account.post(EntryKind.LEVEL_CHANGED, now, catalog_version=version, details=details)


def _count(
    account: Account, catalog: Catalog, command: Deduct, limits: tuple[LimitState, ...], now: int
) -> tuple[LimitState, ...]:
    """Counts the uses for every period that any level limits, so that counters are right after a level change."""
    for period in catalog.counted_periods(command.operation):
        account.count_uses(command.operation, period, command.quantity, now)
    return tuple(state._replace(used=state.used + command.quantity) for state in limits)


def _operation(catalog: Catalog, operation: str) -> Operation:
    definition = catalog.operations.get(operation)
    if definition is None:
        raise Refused(
            Reason.OPERATION_UNKNOWN, f"the catalog has no operation {operation!r}",
            violations=(("operation", "not an operation of the catalog"),), operation=operation,
        )  # fmt: skip
    return definition


def _price(catalog: Catalog, operation: str, quantity: int, metrics: Mapping[str, int]) -> int:
    cost = cost_of(_operation(catalog, operation).price, quantity, metrics)
    if cost > MAX_AMOUNT:
        rule = f"makes the cost exceed {MAX_AMOUNT}"
        raise Refused(Reason.FIELD_INVALID, f"quantity {rule}", violations=(("quantity", rule),))
    return cost


def _state_denials(account: Account) -> list[Refused]:
    if account.state is AccountState.ACTIVE:
        return []
    if account.state is AccountState.CLOSED:
        return [_closed(account)]
    return [
        Refused(
            Reason.ACCOUNT_FROZEN, f"account {account.account_id!r} is frozen", accountId=account.account_id
        )
    ]


def _closed(account: Account) -> Refused:
    return Refused(
        Reason.ACCOUNT_CLOSED, f"account {account.account_id!r} is closed", accountId=account.account_id
    )


def _limit_denial(state: LimitState, quantity: int, now: int) -> Refused:
    period = state.period.name.lower()
    return Refused(
        Reason.LIMIT_EXCEEDED,
        f"{state.operation}: {state.used} of {state.limit} uses per {period} are used up",
        retry_after=state.reset_time - now if state.reset_time is not None else None,
        shortfall=state.used + quantity - state.limit,
        operation=state.operation, period=state.period.name, limit=state.limit, used=state.used,
        resetTime=None if state.reset_time is None else iso_time(state.reset_time),
    )  # fmt: skip


def _credit_denial(cost: int, available: int) -> Refused:
    return Refused(
        Reason.INSUFFICIENT_CREDITS,
        f"{cost} credits are required and {available} available",
        shortfall=cost - available,
        required=cost, available=available,
    )  # fmt: skip


def _check_room(account: Account, amount: int) -> None:
    if account.granted + amount > MAX_BALANCE:
        rule = f"makes what was ever granted exceed {MAX_BALANCE}"
        raise Refused(Reason.FIELD_INVALID, f"amount {rule}", violations=(("amount", rule),))
    if len(account.lots) >= MAX_LIVE_GRANTS:
        rule = f"the account has {MAX_LIVE_GRANTS} grants with credits left, which is the most"
        raise Refused(Reason.FIELD_INVALID, rule, violations=(("account_id", rule),))
