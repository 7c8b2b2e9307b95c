"""One transaction for many requests: lock, load, then write and commit in one pipeline.

The lock is a statement of its own and everything else is read by later ones: in READ COMMITTED a statement that waited
for a lock sees the locked row as it is now, but everything else as it was before the wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..domain.account import Account, Grant
from ..domain.entry import Entry, draws_text, limits_text
from ..domain.lots import NEVER
from ..domain.times import iso_time
from .arrays import arrays, columns, int_array, text_array
from .exchange import BEGIN, COMMIT, PG_EPOCH, ROLLBACK, Bound, Connection, Statement
from .records import WantedRecords, attach, loads, saves
from .rows import (
    ACCOUNT_COLUMNS,
    ENTRY_COLUMNS,
    account_from_row,
    allowances_text,
    entry_from_row,
    lots_text,
    pending_text,
    uses_text,
)


class Wanted(NamedTuple):
    """What a batch needs: accounts (sorted: the order of locking), and (account, request id) pairs."""

    accounts: Sequence[str]
    requests: Sequence[tuple[str, str]]
    records: WantedRecords | None = None


class Loaded(NamedTuple):
    """What a batch found, under the locks. ``accounts`` lacks those that do not exist; times are in microseconds."""

    accounts: dict[str, Account]
    now: int
    transaction_id: int
    catalog_version: int
    lock_wait: int


_LOCK = Statement(
    "lock",
    f"""
SELECT {ACCOUNT_COLUMNS} FROM account WHERE account_id = ANY($1::text[])
ORDER BY account_id FOR NO KEY UPDATE
""",
)

# The LATERAL probe with its LIMIT keeps the planner from joining against an account's whole history (architecture §6).
_LOAD_REQUESTS = Statement(
    "load_requests",
    f"""
SELECT context.*, earlier.* FROM (
    SELECT ledger_time(), pg_current_xact_id()::text::bigint,
           coalesce((SELECT max(version) FROM catalog), 0),
           (extract(epoch FROM clock_timestamp() - now()) * 1000000)::bigint
) AS context LEFT JOIN LATERAL (
    SELECT found.* FROM unnest($1::text[], $2::text[]) AS wanted (account_id, request_id)
    CROSS JOIN LATERAL (
        SELECT {ENTRY_COLUMNS} FROM entry
        WHERE entry.account_id = wanted.account_id AND entry.request_id = wanted.request_id LIMIT 1
    ) AS found
) AS earlier ON true
""",
)

_OPEN_ACCOUNTS = Statement(
    "open_accounts",
    """
INSERT INTO account (account_id, revision, available, reserved, granted, spent, forfeited, commit_position, last_time,
                     level, head_hash, lots, uses, state, labels, next_due_time, pending, allowances, reservations,
                     create_time)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::text[], $11::bytea[], $12::json[], $13::text[], $14::smallint[], $15::json[],
    $16::timestamptz[], $17::json[], $18::json[], $19::integer[], $20::timestamptz[])
""",
)

_UPDATE_ACCOUNTS = Statement(
    "update_accounts",
    """
UPDATE account SET
    revision = new.revision, available = new.available, reserved = new.reserved, granted = new.granted,
    spent = new.spent, forfeited = new.forfeited, commit_position = new.commit_position, last_time = new.last_time,
    level = new.level, head_hash = new.head_hash, lots = new.lots, uses = new.uses
FROM unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::text[], $11::bytea[], $12::json[], $13::text[]
) AS new (account_id, revision, available, reserved, granted, spent, forfeited, commit_position, last_time,
          level, head_hash, lots, uses)
WHERE account.account_id = new.account_id
""",
)

_UPDATE_WHOLE = Statement(
    "update_whole",
    """
UPDATE account SET
    revision = new.revision, available = new.available, reserved = new.reserved, granted = new.granted,
    spent = new.spent, forfeited = new.forfeited, commit_position = new.commit_position, last_time = new.last_time,
    level = new.level, head_hash = new.head_hash, lots = new.lots, uses = new.uses, state = new.state,
    labels = new.labels, next_due_time = new.next_due_time, pending = new.pending, allowances = new.allowances,
    reservations = new.reservations
FROM unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::text[], $11::bytea[], $12::json[], $13::text[], $14::smallint[], $15::json[],
    $16::timestamptz[], $17::json[], $18::json[], $19::integer[]
) AS new (account_id, revision, available, reserved, granted, spent, forfeited, commit_position, last_time,
          level, head_hash, lots, uses, state, labels, next_due_time, pending, allowances, reservations)
WHERE account.account_id = new.account_id
""",
)

_INSERT_ENTRIES = Statement(
    "insert_entries",
    """
INSERT INTO entry (account_id, revision, kind, create_time, amount, cost, available, reserved, spent, forfeited,
                   quantity, catalog_version, operation, request_id, fingerprint, draws, limits, usage, details, hash)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::smallint[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::integer[], $13::text[], $14::text[], $15::bytea[],
    $16::text[], $17::text[], $18::json[], $19::json[], $20::bytea[])
""",
)

_INSERT_GRANTS = Statement(
    "insert_grants",
    """
INSERT INTO grant_lot (account_id, revision, amount, priority, source, create_time, reason, labels, effective_time,
                       expire_time)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::smallint[], $6::timestamptz[],
                     $7::text[], $8::json[], $9::timestamptz[], $10::timestamptz[])
""",
)

_INSERT_COMMIT = Statement(
    "insert_commit",
    """
INSERT INTO commit_log (position, account_id, account_ids, first_revisions, last_revisions)
VALUES ($1, $2, $3::text[], $4::bigint[], $5::bigint[])
""",
)


async def lock_and_load(conn: Connection, wanted: Wanted) -> Loaded:
    """Begins the transaction, locks the accounts in order and reads what the batch needs. Raises as ``translated``."""
    statements: list[Bound] = [
        BEGIN,
        (_LOCK, [text_array(wanted.accounts)]),
        (_LOAD_REQUESTS, columns(wanted.requests, "tt")),
    ]
    if wanted.records:
        statements += loads(wanted.records)
    _, accounts, requests, *rest = await conn.exchange(*statements)
    loaded = _assemble(accounts, requests)
    if wanted.records:
        attach(loaded.accounts, rest)
    return loaded


async def write_and_commit(conn: Connection, accounts: Iterable[Account], transaction_id: int) -> None:
    """Writes what the batch changed and commits; returns once Postgres has reported the commit.

    Raises as ``translated``; after StorageUnavailable it is unknown whether the transaction committed.
    """
    changed = sorted(accounts, key=lambda account: account.account_id)
    position = max(transaction_id, *(account.commit_position for account in changed))
    for account in changed:
        if account.written:
            account.commit_position = position
    await conn.exchange(*_statements(changed, position), COMMIT)


async def rollback(conn: Connection) -> None:
    """Ends the transaction without a trace and frees its locks. Raises as ``translated``."""
    await conn.exchange(ROLLBACK)


def _assemble(accounts: list[Any], requests: list[Any]) -> Loaded:
    found = {row[0]: account_from_row(row) for row in accounts}
    now, transaction_id, catalog_version, lock_wait = requests[0][:4]
    for row in requests:
        if row[4] is not None and row[4] in found:
            entry = entry_from_row(row[4:])
            found[entry.account_id].remembered[str(entry.request_id)] = entry
    return Loaded(found, now + PG_EPOCH, transaction_id, catalog_version, lock_wait)


def _statements(changed: list[Account], position: int) -> Iterable[Bound]:
    written = [account for account in changed if account.written]
    opened = [account for account in written if account.written[0].revision == 1]
    known = [account for account in changed if account.revision > len(account.written)]
    plain = [account for account in known if not account.touched_terms]
    whole = [account for account in known if account.touched_terms]
    if opened:
        rows = [(*_whole_row(account), _time(account.create_time)) for account in opened]
        yield _OPEN_ACCOUNTS, columns(rows, "tiiiiiiiTtbttittttiT")
    if plain:
        yield _UPDATE_ACCOUNTS, columns([_plain_row(account) for account in plain], "tiiiiiiiTtbtt")
    if whole:
        yield _UPDATE_WHOLE, columns([_whole_row(account) for account in whole], "tiiiiiiiTtbttitttti")
    if written:
        yield _INSERT_ENTRIES, _entry_columns([entry for account in written for entry in account.written])
    if grants := [_grant_row(grant) for account in changed for grant in account.new_grants]:
        yield _INSERT_GRANTS, columns(grants, "tiiiiTtttt")
    yield from saves(changed)
    if written:
        yield _INSERT_COMMIT, _commit_row(written, position)


def _plain_row(account: Account) -> tuple[Any, ...]:
    return (
        account.account_id, account.revision, account.available, account.reserved, account.granted,
        account.spent, account.forfeited, account.commit_position, _time(account.last_time),
        account.level, account.head_hash, lots_text(account.lots),
        uses_text(account.present_uses()) if account.uses else "",
    )  # fmt: skip


def _whole_row(account: Account) -> tuple[Any, ...]:
    return (
        *_plain_row(account), int(account.state), account.labels, _time_or_none(account.next_due_time),
        pending_text(account.pending), allowances_text(account.allowances), account.active_reservations,
    )  # fmt: skip


def _grant_row(grant: Grant) -> tuple[Any, ...]:
    expire_time = None if grant.expire_time == NEVER else grant.expire_time
    return (
        *grant[:5], _time(grant.create_time), grant.reason, grant.labels, _time_or_none(grant.effective_time),
        _time_or_none(expire_time),
    )  # fmt: skip


def _entry_columns(entries: list[Entry]) -> list[str]:
    """Entries as arrays: they are tuples in the order of the table's columns, so that no row has to be built."""
    values: list[Sequence[Any]] = list(zip(*entries, strict=True))
    values[2] = [int(kind) for kind in values[2]]
    values[3] = [_time(time) for time in values[3]]
    values[15] = [draws_text(draws) for draws in values[15]]
    values[16] = [limits_text(limits) for limits in values[16]]
    return arrays(values, "tiiTiiiiiiiittbttttb")


def _commit_row(changed: list[Account], position: int) -> list[str | int]:
    account_ids = [account.account_id for account in changed]
    first = [account.written[0].revision for account in changed]
    last = [account.revision for account in changed]
    return [position, account_ids[0], text_array(account_ids), int_array(first), int_array(last)]


_time = lru_cache(maxsize=1024)(iso_time)  # the entries of a batch share a few times


def _time_or_none(time: int | None) -> str | None:
    return None if time is None else _time(time)
