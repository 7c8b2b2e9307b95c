"""Reads the ledger's history by SQL, in words of the model."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from fault_model import Entry

_KINDS = {1: "open", 3: "grant", 4: "deduct"}

_ENTRIES = """
SELECT account_id, revision, kind, coalesce(request_id, ''),
       to_char(create_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       operation, quantity, usage::text, details::text,
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
    account_id, revision, kind, request_id, time, operation, quantity, usage, details, *figures = row
    amount, cost, available, reserved, spent, forfeited, draws, limits = figures
    facts = {
        "amount": amount, "cost": cost, "available": available, "reserved": reserved, "spent": spent,
        "forfeited": forfeited, "granted": available + reserved + spent + forfeited,
        "draws": [[int(part) for part in draw.split(":")] for draw in draws.split(",") if draw],
        "limits": [[int(part) for part in limit.split(":")[:3]] for limit in limits.split(",") if limit],
    }  # fmt: skip
    told = json.loads(details or "{}")
    name = _KINDS.get(kind, str(kind))
    content: dict[str, Any] = {"level": told.get("level")}
    if name == "deduct":
        tokens = json.loads(usage or "{}").get("metrics", {}).get("tokens", 0)
        content = {"operation": operation, "quantity": quantity, "tokens": tokens}
    elif name == "grant":
        content = {"amount": amount, "priority": told["priority"], "reason": told["reason"]}
    return Entry(account_id, revision, name, request_id, content, time, facts)
