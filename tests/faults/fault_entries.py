"""Reads the ledger's history by SQL, in words of the model."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
from fault_terms import Entry

_KINDS = {
    1: "open", 3: "grant", 4: "deduct", 5: "reserve", 6: "commit", 7: "release", 8: "reservation_expired",
    9: "extend", 10: "refund", 11: "grant_expired",
}  # fmt: skip

_ENTRIES = """
SELECT account_id, revision, kind, coalesce(request_id, ''),
       to_char(create_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       (extract(epoch FROM create_time) * 1000000)::bigint, operation, quantity, usage::text, details::text,
       amount, cost, available, reserved, spent, forfeited, coalesce(draws, ''), coalesce(limits, '')
FROM entry ORDER BY account_id, revision
"""

_UNEQUAL_ACCOUNTS = """
SELECT account_id FROM account FULL JOIN (
    SELECT DISTINCT ON (account_id) * FROM entry ORDER BY account_id, revision DESC
) AS newest USING (account_id)
WHERE (account.revision, account.available, account.reserved, account.spent, account.forfeited, account.head_hash)
    IS DISTINCT FROM (newest.revision, newest.available, newest.reserved, newest.spent, newest.forfeited, newest.hash)
"""


def read_entries(conn: psycopg.Connection[Any]) -> list[Entry]:
    """All entries."""
    return [_entry(row) for row in conn.execute(_ENTRIES)]


def unequal_accounts(conn: psycopg.Connection[Any]) -> list[str]:
    """Accounts that do not stand as their newest entry says."""
    return [row[0] for row in conn.execute(_UNEQUAL_ACCOUNTS)]


def _entry(row: tuple[Any, ...]) -> Entry:
    account_id, revision, kind, request_id, time, micros, operation, quantity, usage, details, *figures = row
    amount, cost, available, reserved, spent, forfeited, draws, limits = figures
    facts = {
        "amount": amount, "cost": cost, "available": available, "reserved": reserved, "spent": spent,
        "forfeited": forfeited, "granted": available + reserved + spent + forfeited,
        "draws": [[int(part) for part in draw.split(":")] for draw in draws.split(",") if draw],
        "limits": [[int(part) for part in limit.split(":")[:3]] for limit in limits.split(",") if limit],
    }  # fmt: skip
    told = json.loads(details or "{}")
    name = _KINDS.get(kind, str(kind))
    tokens = json.loads(usage or "{}").get("metrics", {}).get("tokens", 0)
    ttl = (told.get("expire_time_us", micros) - micros) // 1_000_000
    contents: dict[str, dict[str, Any]] = {
        "open": {"level": told.get("level")},
        "grant": {
            "amount": amount, "priority": told.get("priority"), "reason": told.get("reason"),
            "expire": iso_micros(told["expire_time_us"]) if "expire_time_us" in told else "",
        },
        "deduct": {"operation": operation, "quantity": quantity, "tokens": tokens},
        "reserve": {"operation": operation, "quantity": quantity, "ttl": ttl},
        "commit": {"reservation": told.get("reservation"), "quantity": quantity, "tokens": tokens},
        "release": {"reservation": told.get("reservation")},
        "reservation_expired": {"reservation": told.get("reservation")},
        "extend": {"reservation": told.get("reservation"), "ttl": ttl},
        "refund": {"revision": told.get("refunds"), "amount": -sum(part for _, part in facts["draws"])},
        "grant_expired": {"grant": told.get("grant")},
    }  # fmt: skip
    return Entry(account_id, revision, name, request_id, contents.get(name, {}), time, facts)


def iso_micros(micros: int) -> str:
    """A time as the ledger writes it."""
    return (
        datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        + f"{micros % 1_000_000:06}Z"
    )
