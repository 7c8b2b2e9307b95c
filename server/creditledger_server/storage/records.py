"""What few commands need beyond the account's row: reservations, refunds, grants' terms and payments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..domain.account import Account, Payment
from ..domain.entry import draws_text
from ..domain.times import iso_time
from .arrays import columns, text_array
from .exchange import PG_EPOCH, Bound, Connection, Statement
from .rows import (
    ENTRY_COLUMNS,
    GRANT_COLUMNS,
    RESERVATION_COLUMNS,
    entry_from_row,
    grant_from_row,
    reservation_from_row,
)

Key = tuple[str, int]
Accounts = Mapping[str, Account]


class WantedRecords(NamedTuple):
    """Reservations, refundable entries and grants as (account, revision), payments as (account, reference)."""

    reservations: Sequence[Key] = ()
    refunds: Sequence[Key] = ()
    grants: Sequence[Key] = ()
    payments: Sequence[tuple[str, str]] = ()


_RESERVATIONS = Statement(
    "load_reservations",
    f"""
SELECT found.* FROM unnest($1::text[], $2::bigint[]) AS wanted (account_id, revision)
CROSS JOIN LATERAL (
    SELECT {RESERVATION_COLUMNS} FROM reservation
    WHERE reservation.account_id = wanted.account_id AND reservation.revision = wanted.revision LIMIT 1
) AS found
""",
)

# A range of one revision, in order: a bare equality lets the planner take the index of request ids (see read_entry).
_ENTRY = """
    SELECT {columns} FROM entry
    WHERE entry.account_id = wanted.account_id AND revision BETWEEN wanted.revision AND wanted.revision
    ORDER BY revision LIMIT 1
"""

_REFUNDABLE = Statement(
    "load_refundable",
    f"""
SELECT coalesce(given_back.refunded, 0), charged.*
FROM unnest($1::text[], $2::bigint[]) AS wanted (account_id, revision)
CROSS JOIN LATERAL ({_ENTRY.format(columns=ENTRY_COLUMNS)}) AS charged
LEFT JOIN LATERAL (
    SELECT refunded FROM refund
    WHERE refund.account_id = wanted.account_id AND refund.revision = wanted.revision LIMIT 1
) AS given_back ON true
""",
)

_PAYERS = Statement(
    "load_payers",
    f"""
SELECT found.* FROM unnest($1::text[], $2::bigint[]) AS wanted (account_id, revision)
CROSS JOIN LATERAL ({_ENTRY.format(columns="coalesce(details ->> 'paid', draws) AS draws")}) AS charged
CROSS JOIN LATERAL unnest(string_to_array(charged.draws, ',')) AS draw
CROSS JOIN LATERAL (
    SELECT {GRANT_COLUMNS} FROM grant_lot
    WHERE grant_lot.account_id = wanted.account_id AND grant_lot.revision = split_part(draw, ':', 1)::bigint LIMIT 1
) AS found
""",
)

_GRANTS = Statement(
    "load_grants",
    f"""
SELECT found.* FROM unnest($1::text[], $2::bigint[]) AS wanted (account_id, revision)
CROSS JOIN LATERAL (
    SELECT {GRANT_COLUMNS} FROM grant_lot
    WHERE grant_lot.account_id = wanted.account_id AND grant_lot.revision = wanted.revision LIMIT 1
) AS found
""",
)

_PAYMENTS = Statement(
    "load_payments",
    f"""
SELECT wanted.account_id, paid.payment_reference, paid.account_id, paid.package_id, granted.*
FROM unnest($1::text[], $2::text[]) AS wanted (account_id, payment_reference)
CROSS JOIN LATERAL (
    SELECT purchase.* FROM purchase WHERE purchase.payment_reference = wanted.payment_reference LIMIT 1
) AS paid
LEFT JOIN LATERAL (
    SELECT {ENTRY_COLUMNS} FROM entry
    WHERE entry.account_id = wanted.account_id AND entry.account_id = paid.account_id
      AND revision BETWEEN paid.revision AND paid.revision
    ORDER BY revision LIMIT 1
) AS granted ON true
""",
)

_RUN_OUT = Statement(
    "load_run_out",
    f"""
SELECT {RESERVATION_COLUMNS} FROM reservation
WHERE account_id = ANY($1::text[]) AND state = 1 AND expire_time <= $2::timestamptz
""",
)

_NEXT_EXPIRIES = Statement(
    "load_next_expiries",
    """
SELECT wanted.account_id, (
    SELECT expire_time FROM reservation
    WHERE reservation.account_id = wanted.account_id AND state = 1 AND expire_time > $2::timestamptz
    ORDER BY expire_time LIMIT 1
) FROM unnest($1::text[]) AS wanted (account_id)
""",
)

_SAVE_RESERVATIONS = Statement(
    "save_reservations",
    """
INSERT INTO reservation (account_id, revision, operation, quantity, amount, state, create_time, expire_time,
                         catalog_version, draws, metrics)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::smallint[], $7::timestamptz[],
    $8::timestamptz[], $9::integer[], $10::text[], $11::json[])
ON CONFLICT (account_id, revision) DO UPDATE SET state = excluded.state, expire_time = excluded.expire_time
""",
)

_SAVE_REFUNDS = Statement(
    "save_refunds",
    """
INSERT INTO refund (account_id, revision, refunded) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
ON CONFLICT (account_id, revision) DO UPDATE SET refunded = excluded.refunded
""",
)

# In one order everywhere, so that two servers that credit the same payments wait for each other and not in a circle.
_SAVE_PAYMENTS = Statement(
    "save_payments",
    """
INSERT INTO purchase (payment_reference, account_id, revision, package_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
""",
)

_VOID_GRANTS = Statement(
    "void_grants",
    """
UPDATE grant_lot SET void_time = new.void_time
FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS new (account_id, revision, void_time)
WHERE grant_lot.account_id = new.account_id AND grant_lot.revision = new.revision
""",
)


def loads(wanted: WantedRecords) -> list[Bound]:
    """The statements that load what is wanted; ``attach`` takes their results."""
    refunds = columns(wanted.refunds, "ti")
    return [
        (_RESERVATIONS, columns(wanted.reservations, "ti")),
        (_REFUNDABLE, refunds),
        (_PAYERS, refunds),
        (_GRANTS, columns(wanted.grants, "ti")),
        (_PAYMENTS, columns(wanted.payments, "tt")),
    ]


def attach(accounts: Accounts, results: Sequence[list[Any]]) -> None:
    """Gives what ``loads`` has found to those accounts that exist."""
    reservations, refundable, payers, grants, payments = results
    _attach_reservations(accounts, reservations)
    for row in refundable:
        if row[1] in accounts:
            entry = entry_from_row(row[1:])
            accounts[row[1]].records.entries[entry.revision] = entry
            accounts[row[1]].records.refunded[entry.revision] = row[0]
    for row in (*payers, *grants):
        if row[0] in accounts:
            grant = grant_from_row(row)
            accounts[row[0]].records.grants[grant.revision] = grant
    for account_id, reference, owner, package_id, *entry_row in payments:
        if account_id in accounts:
            entry_ = entry_from_row(entry_row) if entry_row[0] is not None else None
            accounts[account_id].records.payments[reference] = Payment(owner, package_id, entry_)


async def load_run_out(conn: Connection, accounts: Accounts, now: int) -> None:
    """Loads the reservations of these accounts that have run out, within the transaction that has locked them."""
    names, time = text_array([*accounts]), iso_time(now)
    run_out, next_expiries = await conn.exchange((_RUN_OUT, [names, time]), (_NEXT_EXPIRIES, [names, time]))
    _attach_reservations(accounts, run_out)
    for account_id, expire_time in next_expiries:
        accounts[account_id].records.next_expiry = None if expire_time is None else expire_time + PG_EPOCH


def saves(accounts: Iterable[Account]) -> Iterable[Bound]:
    """The statements that write what has changed of the records of these accounts."""
    with_records = [(account, account.loaded_records) for account in accounts if account.loaded_records]
    reservations = [
        _reservation_row(records.reservations[revision])
        for _, records in with_records
        for revision in records.touched_reservations
    ]
    refunds = [
        (account.account_id, revision, records.refunded[revision])
        for account, records in with_records
        for revision in records.touched_refunds
    ]
    payments = sorted(
        (reference, account.account_id, revision, records.payments[reference].package_id)
        for account, records in with_records
        for reference, revision in records.new_payments.items()
    )
    voided = [
        (grant.account_id, grant.revision, iso_time(grant.void_time or 0))
        for _, records in with_records
        for grant in records.voided
    ]
    for statement, rows, types in (
        (_SAVE_RESERVATIONS, reservations, "titiiiTTitt"),
        (_SAVE_REFUNDS, refunds, "tii"),
        (_SAVE_PAYMENTS, payments, "ttit"),
        (_VOID_GRANTS, voided, "tiT"),
    ):
        if rows:
            yield statement, columns(rows, types)


def _attach_reservations(accounts: Accounts, rows: Iterable[Any]) -> None:
    for row in rows:
        if row[0] in accounts:
            reservation = reservation_from_row(row)
            accounts[row[0]].records.reservations[reservation.revision] = reservation


def _reservation_row(of: Any) -> tuple[Any, ...]:
    return (
        of.account_id, of.revision, of.operation, of.quantity, of.amount, int(of.state), iso_time(of.create_time),
        iso_time(of.expire_time), of.catalog_version, draws_text(of.draws), of.metrics,
    )  # fmt: skip
