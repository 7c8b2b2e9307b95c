"""One transaction for many requests: lock, load, then write and commit in one pipeline.

The lock is a statement of its own and everything else is read by later ones: in READ COMMITTED a statement that waited
for a lock sees the locked row as it is now, but everything else as it was before the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..domain.account import Account, Use
from ..domain.entry import draws_text, limits_text
from ..domain.periods import Period
from ..domain.times import iso_time, to_micros
from .arrays import bytes_array, int_array, text_array, time_array
from .exchange import Bound, Connection, Statement
from .rows import ACCOUNT_COLUMNS, ENTRY_COLUMNS, account_from_row, entry_from_row, lots_text


class Wanted(NamedTuple):
    """What a batch needs: accounts (sorted: the order of locking), (account, request id) pairs, counters of uses."""

    accounts: Sequence[str]
    requests: Sequence[tuple[str, str]]
    uses: Sequence[tuple[str, str, Period]]


class Loaded(NamedTuple):
    """What a batch found, under the locks. ``accounts`` lacks those that do not exist."""

    accounts: dict[str, Account]
    now: int
    transaction_id: int
    catalog_version: int


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
           coalesce((SELECT max(version) FROM catalog), 0)
) AS context LEFT JOIN LATERAL (
    SELECT found.* FROM unnest($1::text[], $2::text[]) AS wanted (account_id, request_id)
    CROSS JOIN LATERAL (
        SELECT {ENTRY_COLUMNS} FROM entry
        WHERE entry.account_id = wanted.account_id AND entry.request_id = wanted.request_id LIMIT 1
    ) AS found
) AS earlier ON true
""",
)

_LOAD_USES = Statement(
    "load_uses",
    """
SELECT found.* FROM unnest($1::text[], $2::text[], $3::smallint[]) AS wanted (account_id, operation, period)
CROSS JOIN LATERAL (
    SELECT account_id, operation, period, period_start, uses FROM limit_use
    WHERE limit_use.account_id = wanted.account_id AND limit_use.operation = wanted.operation
      AND limit_use.period = wanted.period LIMIT 1
) AS found
""",
)

_OPEN_ACCOUNTS = Statement(
    "open_accounts",
    """
INSERT INTO account (account_id, revision, available, reserved, granted, spent, forfeited, commit_position, last_time,
                     create_time, state, level, head_hash, lots, labels)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::timestamptz[], $11::smallint[], $12::text[], $13::bytea[], $14::json[], $15::json[])
""",
)

_UPDATE_ACCOUNTS = Statement(
    "update_accounts",
    """
UPDATE account SET
    revision = new.revision, available = new.available, reserved = new.reserved, granted = new.granted,
    spent = new.spent, forfeited = new.forfeited, commit_position = new.commit_position, last_time = new.last_time,
    level = new.level, head_hash = new.head_hash, lots = new.lots
FROM unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[], $10::text[], $11::bytea[], $12::json[]
) AS new (account_id, revision, available, reserved, granted, spent, forfeited, commit_position, last_time,
          level, head_hash, lots)
WHERE account.account_id = new.account_id
""",
)

_UPDATE_TERMS = Statement(
    "update_terms",
    """
UPDATE account SET state = new.state, labels = new.labels
FROM unnest($1::text[], $2::smallint[], $3::json[]) AS new (account_id, state, labels)
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
INSERT INTO grant_lot (account_id, revision, amount, priority, source, create_time, reason, labels)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::smallint[], $6::timestamptz[],
                     $7::text[], $8::json[])
""",
)

_UPSERT_USES = Statement(
    "upsert_uses",
    """
INSERT INTO limit_use (account_id, operation, period, period_start, uses)
SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::timestamptz[], $5::bigint[])
ON CONFLICT (account_id, operation, period) DO UPDATE SET period_start = excluded.period_start, uses = excluded.uses
""",
)

_INSERT_COMMIT = Statement(
    "insert_commit",
    """
INSERT INTO commit_log (position, account_id, account_ids, first_revisions, last_revisions)
VALUES ($1, $2, $3::text[], $4::bigint[], $5::bigint[])
""",
)


_BEGIN: Bound = Statement("begin", "BEGIN"), ()
_COMMIT: Bound = Statement("commit", "COMMIT"), ()
_ROLLBACK: Bound = Statement("rollback", "ROLLBACK"), ()


async def lock_and_load(conn: Connection, wanted: Wanted) -> Loaded:
    """Begins the transaction, locks the accounts in order and reads what the batch needs. Raises as ``translated``."""
    statements: list[Bound] = [
        _BEGIN,
        (_LOCK, [text_array(wanted.accounts)]),
        (_LOAD_REQUESTS, _columns(wanted.requests, "tt")),
    ]
    if wanted.uses:
        statements.append((_LOAD_USES, _columns(wanted.uses, "tti")))
    _, accounts, requests, *uses = await conn.exchange(*statements)
    loaded = _assemble(accounts, requests)
    for rows in uses:
        _attach_uses(loaded.accounts, rows)
    return loaded


async def write_and_commit(conn: Connection, accounts: Iterable[Account], transaction_id: int) -> None:
    """Writes what the batch changed and commits; returns once Postgres has reported the commit.

    Raises as ``translated``; after StorageUnavailable it is unknown whether the transaction committed.
    """
    changed = sorted(accounts, key=lambda account: account.account_id)
    position = max(transaction_id, *(account.commit_position for account in changed))
    for account in changed:
        account.commit_position = position
    await conn.exchange(*_statements(changed, position), _COMMIT)


async def rollback(conn: Connection) -> None:
    """Ends the transaction without a trace and frees its locks. Raises as ``translated``."""
    await conn.exchange(_ROLLBACK)


def _assemble(accounts: list[Any], requests: list[Any]) -> Loaded:
    found = {row[0]: account_from_row(row) for row in accounts}
    now, transaction_id, catalog_version = requests[0][:3]
    for row in requests:
        if row[3] is not None and row[3] in found:
            entry = entry_from_row(row[3:])
            found[entry.account_id].remembered[str(entry.request_id)] = entry
    return Loaded(found, to_micros(now), transaction_id, catalog_version)


def _attach_uses(accounts: dict[str, Account], rows: list[Any]) -> None:
    for account_id, operation, period, period_start, uses in rows:
        if account_id in accounts:
            accounts[account_id].uses[operation, Period(period)] = Use(to_micros(period_start), uses)


def _statements(changed: list[Account], position: int) -> Iterable[Bound]:
    opened = [account for account in changed if account.written[0].revision == 1]
    known = [account for account in changed if account.written[0].revision > 1]
    grants = [grant for account in changed for grant in account.new_grants]
    uses = [
        (account.account_id, operation, period, _time(use.period_start), use.uses)
        for account in changed
        for operation, period in account.touched_uses
        for use in [account.uses[operation, period]]
    ]
    if opened:
        yield _OPEN_ACCOUNTS, _columns([_opened_row(account) for account in opened], "tiiiiiiiTTitbtt")
    if known:
        yield _UPDATE_ACCOUNTS, _columns([_updated_row(account) for account in known], "tiiiiiiiTtbt")
    if restated := [account for account in known if account.touched_terms]:
        yield _UPDATE_TERMS, _columns([(a.account_id, a.state, a.labels) for a in restated], "tit")
    yield _INSERT_ENTRIES, _columns(list(_entry_rows(changed)), "tiiTiiiiiiiittbttttb")
    if grants:
        rows = [(*grant[:5], _time(grant.create_time), *grant[6:]) for grant in grants]
        yield _INSERT_GRANTS, _columns(rows, "tiiiiTtt")
    if uses:
        yield _UPSERT_USES, _columns(uses, "ttiTi")
    yield _INSERT_COMMIT, _commit_row(changed, position)


def _updated_row(account: Account) -> tuple[Any, ...]:
    return (
        account.account_id, account.revision, account.available, account.reserved, account.granted,
        account.spent, account.forfeited, account.commit_position, _time(account.last_time),
        account.level, account.head_hash, lots_text(account.lots),
    )  # fmt: skip


def _opened_row(account: Account) -> tuple[Any, ...]:
    *known, level, head_hash, lots = _updated_row(account)
    return (*known, _time(account.create_time), account.state, level, head_hash, lots, account.labels)


def _entry_rows(changed: list[Account]) -> Iterable[tuple[Any, ...]]:
    for account in changed:
        for e in account.written:
            yield (
                e.account_id, e.revision, int(e.kind), _time(e.create_time), e.amount, e.cost, e.available,
                e.reserved, e.spent, e.forfeited, e.quantity, e.catalog_version, e.operation, e.request_id,
                e.fingerprint, draws_text(e.draws), limits_text(e.limits), e.usage, e.details, e.hash,
            )  # fmt: skip


def _commit_row(changed: list[Account], position: int) -> list[str | int]:
    account_ids = [account.account_id for account in changed]
    first = [account.written[0].revision for account in changed]
    last = [account.revision for account in changed]
    return [position, account_ids[0], text_array(account_ids), int_array(first), int_array(last)]


_time = lru_cache(maxsize=1024)(iso_time)  # the entries of a batch share a few times

_DUMPERS: dict[str, Callable[[Iterable[Any]], str]] = {
    "t": text_array,
    "T": time_array,
    "i": int_array,
    "b": bytes_array,
}


def _columns(rows: Sequence[Sequence[Any]], types: str) -> list[str]:
    """Turns rows into one array literal per column: t text, T time as text, i integer, b bytes."""
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return [_DUMPERS[kind](column) for kind, column in zip(types, columns, strict=True)]
