"""Between rows of the tables and objects of the domain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..domain.account import Account, AccountState, Grant, GrantSource, Use
from ..domain.entry import Entry, EntryKind, parse_draws, parse_limits
from ..domain.lots import NEVER, Lot, Pending
from ..domain.periods import DAY_US, Period
from ..domain.reservation import Reservation, ReservationState
from .exchange import PG_EPOCH

Row = Sequence[Any]

ENTRY_COLUMNS = (
    "account_id, revision, kind, create_time, amount, cost, available, reserved, spent, forfeited, quantity,"
    " catalog_version, operation, request_id, fingerprint, draws, limits, usage::text, details::text, hash"
)

ACCOUNT_COLUMNS = (
    "account_id, revision, level, state, labels::text, available, reserved, spent, forfeited, create_time,"
    " last_time, commit_position, head_hash, lots::text, next_due_time, pending::text, allowances::text, reservations,"
    " uses"
)

GRANT_COLUMNS = (
    "account_id, revision, amount, priority, source, create_time, reason, labels::text, effective_time, expire_time,"
    " void_time"
)

RESERVATION_COLUMNS = (
    "account_id, revision, operation, quantity, amount, state, create_time, expire_time, catalog_version, draws,"
    " metrics::text"
)


def entry_from_row(row: Row) -> Entry:
    """The entry of a row of ``ENTRY_COLUMNS``."""
    (account_id, revision, kind, create_time, amount, cost, available, reserved, spent, forfeited, quantity,
     catalog_version, operation, request_id, fingerprint, draws, limits, usage, details, digest) = row  # fmt: skip
    return Entry(
        account_id, revision, EntryKind(kind), create_time + PG_EPOCH, amount, cost,
        available, reserved, spent, forfeited, quantity, catalog_version, operation, request_id, fingerprint,
        parse_draws(draws), parse_limits(operation, limits), usage, details, digest,
    )  # fmt: skip


def account_from_row(row: Row) -> Account:
    """The account of a row of ``ACCOUNT_COLUMNS``, without its remembered requests."""
    (account_id, revision, level, state, labels, available, reserved, spent, forfeited, create_time,
     last_time, commit_position, head_hash, lots, next_due_time, pending, allowances, reservations,
     uses) = row  # fmt: skip
    return Account(
        account_id, revision, level, _STATES[state], labels, available, reserved, spent, forfeited,
        create_time + PG_EPOCH, last_time + PG_EPOCH, commit_position, head_hash, parse_lots(lots),
        _micros(next_due_time),
        [] if pending == "[]" else parse_pending(pending),
        {} if allowances == "{}" else parse_allowances(allowances), reservations, parse_uses(uses) if uses else {},
    )  # fmt: skip


def grant_from_row(row: Row) -> Grant:
    """The grant of a row of ``GRANT_COLUMNS``."""
    (account_id, revision, amount, priority, source, create_time, reason, labels, effective_time, expire_time,
     void_time) = row  # fmt: skip
    return Grant(
        account_id, revision, amount, priority, GrantSource(source), create_time + PG_EPOCH, reason, labels,
        _micros(effective_time), NEVER if expire_time is None else expire_time + PG_EPOCH, _micros(void_time),
    )  # fmt: skip


def reservation_from_row(row: Row) -> Reservation:
    """The reservation of a row of ``RESERVATION_COLUMNS``."""
    (account_id, revision, operation, quantity, amount, state, create_time, expire_time, catalog_version, draws,
     metrics) = row  # fmt: skip
    return Reservation(
        account_id, revision, operation, quantity, amount, ReservationState(state), create_time + PG_EPOCH,
        expire_time + PG_EPOCH, catalog_version, parse_draws(draws), metrics,
    )  # fmt: skip


_PERIODS = {str(period.value): period for period in Period}
_STATES = {state.value: state for state in AccountState}  # calling the class costs ten times as much


def lots_text(lots: Sequence[Lot]) -> str:
    """Lots as ``account.lots`` keeps them: ``[[grant revision, priority, remaining, expire time, held], ...]``.

    The last two are left out where they say nothing; 0 stands for an expire time that never comes.
    """
    return "[" + ",".join([_lot_text(lot) for lot in lots]) + "]"


def _lot_text(lot: Lot) -> str:
    priority, expire_time, revision, remaining, held = lot
    if expire_time == NEVER and not held:
        return f"[{revision},{priority},{remaining}]"
    end = 0 if expire_time == NEVER else expire_time
    return (
        f"[{revision},{priority},{remaining},{end},{held}]"
        if held
        else f"[{revision},{priority},{remaining},{end}]"
    )


def parse_lots(text: str) -> list[Lot]:
    """The lots that ``lots_text`` wrote, in burn order."""
    # By hand, because the json module takes three times as long, for every account of every batch.
    return [_parse_lot(part.split(",")) for part in text[2:-2].split("],[") if part]


def _parse_lot(parts: list[str]) -> Lot:
    revision, priority, remaining, *more = parts
    if not more:
        return Lot(int(priority), NEVER, int(revision), int(remaining))
    return Lot(
        int(priority), int(more[0]) or NEVER, int(revision), int(remaining), int(more[1]) if more[1:] else 0
    )


def pending_text(pending: Sequence[Pending]) -> str:
    """Grants to come as ``account.pending`` keeps them: see the migration."""
    return json.dumps(
        [(*grant[:4], 0 if grant.expire_time == NEVER else grant.expire_time) for grant in pending]
    )


def parse_pending(text: str) -> list[Pending]:
    """The grants that ``pending_text`` wrote."""
    return [
        Pending(revision, priority, amount, effective_time, expire_time or NEVER)
        for revision, priority, amount, effective_time, expire_time in json.loads(text)
    ]


def allowances_text(allowances: Mapping[Period, int]) -> str:
    """Starts of periods as ``account.allowances`` keeps them."""
    return json.dumps({int(period): start for period, start in sorted(allowances.items())})


def parse_allowances(text: str) -> dict[Period, int]:
    """The starts that ``allowances_text`` wrote."""
    return {Period(int(period)): start for period, start in json.loads(text).items()}


def uses_text(uses: Mapping[tuple[str, Period], Use]) -> str:
    """Counters as ``account.uses`` keeps them: ``operation:period:days from 1970 to its start:uses,...``."""
    return ",".join(
        [
            f"{operation}:{period:d}:{start // DAY_US}:{count}"
            for (operation, period), (start, count) in uses.items()
        ]
    )


def parse_uses(text: str) -> dict[tuple[str, Period], Use]:
    """The counters that ``uses_text`` wrote."""
    uses = {}
    for part in text.split(","):
        operation, period, days, count = part.split(":")
        uses[operation, _PERIODS[period]] = Use(int(days) * DAY_US, int(count))
    return uses


def _micros(time: int | None) -> int | None:
    return None if time is None else time + PG_EPOCH
