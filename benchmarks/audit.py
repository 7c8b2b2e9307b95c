"""Whether a ledger holds what was answered: by SQL after every round, by ``creditledger-server verify`` at the end."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from .site import COMMAND, Site

# Every account: what was granted is the sum of where it went; its entries are as many as its revision, without a
# gap, and add up to its balance. The primary key sees to it that no revision is there twice.
_MISMATCHES = """
WITH touched AS MATERIALIZED (SELECT * FROM account WHERE last_time >= '{since}')
SELECT count(*) FROM touched LEFT JOIN LATERAL (
    SELECT count(*) AS entries, max(revision) AS newest, sum(cost) AS cost, sum(amount) AS amount
    FROM entry WHERE entry.account_id = touched.account_id
) AS history ON true
WHERE granted <> available + reserved + spent + forfeited
   OR (revision, revision, spent, available) IS DISTINCT FROM (entries, newest, cost, amount)
"""
# The same over the whole table, where reading it once is cheaper than looking every account up.
_ALL_MISMATCHES = """
SELECT count(*) FROM account FULL JOIN (
    SELECT account_id, count(*) AS entries, max(revision) AS newest, sum(cost) AS cost, sum(amount) AS amount
    FROM entry GROUP BY account_id
) AS history USING (account_id)
WHERE granted IS DISTINCT FROM available + reserved + spent + forfeited
   OR (revision, revision, spent, available) IS DISTINCT FROM (entries, newest, cost, amount)
"""


class Totals(NamedTuple):
    """Entries, credits spent (one per deduction of the benchmarks) and commits of a ledger."""

    entries: int
    spent: int
    commits: int


def totals(site: Site, database: str) -> Totals:
    """The sums of the account rows, which ``mismatches`` holds against the entries."""
    [row] = site.execute(
        "SELECT coalesce(sum(revision), 0), coalesce(sum(spent), 0), (SELECT count(*) FROM commit_log) FROM account",
        database,
    )
    return Totals(*map(int, row))


def mismatches(site: Site, database: str, before: Totals, oks: int, since: str | None = None) -> int:
    """How much does not fit after a round that counted ``oks``; ``since``: without accounts whose entries are older."""
    after = totals(site, database)
    wrong = (after.entries - before.entries != oks) + (after.spent - before.spent != oks)
    if after == before:
        return wrong  # nothing was written, so all accounts are as they were audited before
    query = _ALL_MISMATCHES if since is None else _MISMATCHES.format(since=since)
    [(accounts,)] = site.execute(query, database)
    return int(accounts) + wrong


def verify(dsn: str) -> str:
    """What ``creditledger-server verify`` says in its first line, as ``accounts=… entries=… mismatches=…``."""
    result = subprocess.run([*COMMAND, "verify", "--database-url", dsn], capture_output=True, text=True)
    return (result.stdout or result.stderr).splitlines()[0]
