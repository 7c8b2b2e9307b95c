"""Between rows of the tables and objects of the domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..domain.account import Account, AccountState, Grant, Lot
from ..domain.entry import Entry, EntryKind, parse_draws, parse_limits
from ..domain.times import to_micros

Row = Sequence[Any]

ENTRY_COLUMNS = (
    "account_id, revision, kind, create_time, amount, cost, available, reserved, spent, forfeited, quantity,"
    " catalog_version, operation, request_id, fingerprint, draws, limits, usage::text, details::text, hash"
)

ACCOUNT_COLUMNS = (
    "account_id, revision, level, state, labels::text, available, reserved, spent, forfeited, create_time,"
    " last_time, commit_position, head_hash, lots::text"
)

GRANT_COLUMNS = "account_id, revision, amount, priority, source, create_time, reason, labels::text"


def entry_from_row(row: Row) -> Entry:
    """The entry of a row of ``ENTRY_COLUMNS``."""
    (account_id, revision, kind, create_time, amount, cost, available, reserved, spent, forfeited, quantity,
     catalog_version, operation, request_id, fingerprint, draws, limits, usage, details, digest) = row  # fmt: skip
    return Entry(
        account_id, revision, EntryKind(kind), to_micros(create_time), amount, cost,
        available, reserved, spent, forfeited, quantity, catalog_version, operation, request_id, fingerprint,
        parse_draws(draws), parse_limits(operation, limits), usage, details, digest,
    )  # fmt: skip


def account_from_row(row: Row) -> Account:
    """The account of a row of ``ACCOUNT_COLUMNS``, without its uses and remembered requests."""
    (account_id, revision, level, state, labels, available, reserved, spent, forfeited, create_time,
     last_time, commit_position, head_hash, lots) = row  # fmt: skip
    return Account(
        account_id, revision, level, _STATES[state], labels, available, reserved, spent, forfeited,
        to_micros(create_time), to_micros(last_time), commit_position, head_hash, parse_lots(lots),
    )  # fmt: skip


def grant_from_row(row: Row) -> Grant:
    """The grant of a row of ``GRANT_COLUMNS``."""
    account_id, revision, amount, priority, source, create_time, reason, labels = row
    return Grant(account_id, revision, amount, priority, source, to_micros(create_time), reason, labels)


_STATES = {state.value: state for state in AccountState}  # calling the class costs ten times as much


def lots_text(lots: Sequence[Lot]) -> str:
    """Live lots as ``account.lots`` keeps them: ``[[grant revision, priority, remaining], ...]``."""
    return "[" + ",".join([f"[{lot.grant_revision},{lot.priority},{lot.remaining}]" for lot in lots]) + "]"


def parse_lots(text: str) -> list[Lot]:
    """The lots that ``lots_text`` wrote, in burn order."""
    # By hand, because the json module takes three times as long, for every account of every batch.
    parts = [part.split(",") for part in text[2:-2].split("],[") if part]
    return [Lot(int(priority), int(revision), int(remaining)) for revision, priority, remaining in parts]
