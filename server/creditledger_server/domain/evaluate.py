"""The one evaluator that CanPerform, Deduct and Reserve share: what an operation costs, and what denies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .account import Account, AccountState
from .catalog import Catalog, Operation
from .entry import LimitState
from .names import MAX_AMOUNT
from .periods import period_end
from .pricing import cost_of
from .refusal import Reason, Refused
from .times import iso_time


class Evaluation(NamedTuple):
    """What an operation would cost and every rule that denies it, in the order of contract §7."""

    cost: int
    limits: tuple[LimitState, ...]
    denials: tuple[Refused, ...]


def evaluate(
    account: Account,
    level: str,
    catalog: Catalog,
    operation: str,
    quantity: int,
    metrics: Mapping[str, int],
    now: int,
) -> Evaluation:
    """Prices an operation and tests it against account state, limits and balance."""
    cost = price_of(catalog, operation, quantity, metrics)
    limits = limit_states(account, level, catalog, operation, now)
    denials = state_denials(account)
    if limits:
        denials += limit_denials(limits, quantity, now)
    if cost > account.available:
        denials.append(credit_denial(cost, account.available))
    return Evaluation(cost, limits, tuple(denials))


def limit_states(
    account: Account, level: str, catalog: Catalog, operation: str, now: int
) -> tuple[LimitState, ...]:
    """Where the account stands against the limits that ``level`` sets for ``operation``."""
    limits = catalog.limits_of(level, operation)
    if not limits:
        return ()
    return tuple([
        LimitState(operation, limit.period, limit.limit, account.used(operation, limit.period, now),
                   period_end(limit.period, now))
        for limit in limits
    ])  # fmt: skip


def known_limit_states(
    account: Account, catalog: Catalog, operation: str, now: int
) -> tuple[LimitState, ...]:
    """The same at the account's own level; none if a newer catalog lacks it, for what must not fail because of that."""
    if account.level not in catalog.levels:
        return ()
    return limit_states(account, account.level, catalog, operation, now)


def price_of(catalog: Catalog, operation: str, quantity: int, metrics: Mapping[str, int]) -> int:
    """The cost of an operation. Raises Refused for an unknown one, and for a cost that no amount can be."""
    cost = cost_of(find_operation(catalog, operation).price, quantity, metrics)
    if cost > MAX_AMOUNT:
        rule = f"makes the cost exceed {MAX_AMOUNT}"
        raise Refused(Reason.FIELD_INVALID, f"quantity {rule}", violations=(("quantity", rule),))
    return cost


def find_operation(catalog: Catalog, operation: str) -> Operation:
    """An operation of the catalog. Raises Refused for an unknown one."""
    definition = catalog.operations.get(operation)
    if definition is None:
        raise Refused(
            Reason.OPERATION_UNKNOWN, f"the catalog has no operation {operation!r}",
            violations=(("operation", "not an operation of the catalog"),), operation=operation,
        )  # fmt: skip
    return definition


def check_level(catalog: Catalog, level: str, field: str = "account_level") -> None:
    """Refuses a level that the catalog does not have; ``field`` is where the request names it."""
    if level not in catalog.levels:
        raise Refused(
            Reason.LEVEL_UNKNOWN, f"the catalog has no level {level!r}",
            violations=((field, "not a level of the catalog"),), level=level,
        )  # fmt: skip


def state_denials(account: Account) -> list[Refused]:
    """Why an account may not spend because of its state."""
    if account.state is AccountState.ACTIVE:
        return []
    if account.state is AccountState.CLOSED:
        return [closed(account)]
    return [
        Refused(
            Reason.ACCOUNT_FROZEN, f"account {account.account_id!r} is frozen", accountId=account.account_id
        )
    ]


def check_open(account: Account) -> None:
    """Refuses whatever would change a closed account."""
    if account.state is AccountState.CLOSED:
        raise closed(account)


def closed(account: Account) -> Refused:
    """The refusal of a closed account."""
    return Refused(
        Reason.ACCOUNT_CLOSED, f"account {account.account_id!r} is closed", accountId=account.account_id
    )


def limit_denials(limits: tuple[LimitState, ...], quantity: int, now: int) -> list[Refused]:
    """Why so many more uses do not fit the limits."""
    return [
        _limit_denial(state, quantity, now) for state in limits if 0 <= state.limit < state.used + quantity
    ]


def credit_denial(cost: int, available: int) -> Refused:
    """The refusal of what costs more than there is."""
    return Refused(
        Reason.INSUFFICIENT_CREDITS,
        f"{cost} credits are required and {available} available",
        shortfall=cost - available,
        required=cost, available=available,
    )  # fmt: skip


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
