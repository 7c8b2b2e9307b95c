"""Verification of accounts and of the whole ledger against the entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..domain.account import Account
from ..domain.audit import Audit, Finding, Kept
from ..domain.book import CatalogBook
from ..storage.audits import consistent_reads, count_rows, misstated_sums, read_kept, stream_entries
from ..storage.connect import Connection, Database
from ..storage.reads import read_accounts, read_info, read_snapshot
from .catalogs import CurrentCatalog
from .usage import wrong_rollups

_PAGE = 500


class Report(NamedTuple):
    """What a verification of the whole ledger found."""

    accounts: int
    entries: int
    mismatches: list[str]


class AccountReport(NamedTuple):
    """What a verification of one account found; ``account`` None: there is no such."""

    account: Account | None
    entries: int
    finding: Finding | None


async def verify_account(conn: Connection, account_id: str) -> AccountReport:
    """Recomputes one account from its entries, as of one moment."""
    async with consistent_reads(conn):
        snapshot = await read_snapshot(conn, [account_id])
        account = snapshot.accounts.get(account_id)
        if account is None:
            return AccountReport(None, 0, None)
        book = await CurrentCatalog().at(snapshot.catalog_version, conn)
        kept = await read_kept(conn, [account_id])
        return await _audit(conn, account, kept[account_id], book, lambda: None)


async def verify_ledger(dsn: str, progress: Callable[[int, int], None]) -> Report:
    """Recomputes every account. ``progress`` is told how many entries are done, and how many there are.

    Reads one snapshot of the database, so that it may run beside a busy server.
    """
    database = Database(dsn, pool_size=1, lock_timeout=1_000, statement_timeout=600_000, standby=True)
    conn = await database.connect()
    async with conn, consistent_reads(conn):
        return await _verify_all(conn, progress)


async def _verify_all(conn: Connection, progress: Callable[[int, int], None]) -> Report:
    stored_accounts, stored_entries = await count_rows(conn)
    entries, after = 0, ""
    mismatches: list[str] = []

    def advance() -> None:
        nonlocal entries
        entries += 1
        if entries % 1_000 == 0:
            progress(entries, stored_entries)

    misstated = await misstated_sums(conn)
    book = await CurrentCatalog().at((await read_info(conn)).catalog_version, conn)
    while page := await read_accounts(conn, after, "", None, _PAGE):
        kept = await read_kept(conn, [account.account_id for account in page])
        for account in page:
            report = await _audit(conn, account, kept[account.account_id], book, advance)
            if report.finding is None and account.account_id in misstated:
                report = report._replace(
                    finding=Finding(account.revision, "granted is not the sum of where it went")
                )
            if report.finding:
                mismatches.append(
                    f"{account.account_id} revision {report.finding.revision}: {report.finding.problem}"
                )
            elif problem := await wrong_rollups(conn, account.account_id):
                mismatches.append(f"{account.account_id}: {problem}; 'rebuild-usage' repairs that")
        after = page[-1].account_id
    progress(entries, stored_entries)
    if entries != stored_entries:
        mismatches.append(f"{stored_entries - entries} entries belong to no account")
    return Report(stored_accounts, entries, mismatches)


async def _audit(
    conn: Connection, account: Account, kept: Kept, book: CatalogBook, advance: Callable[[], None]
) -> AccountReport:
    audit = Audit(account.account_id, book)
    count, finding = 0, None
    async for revision, entry in stream_entries(conn, account.account_id):
        count += 1
        advance()
        if finding is None:
            finding = audit.add(entry) if entry else Finding(revision, "the entry cannot be read")
    return AccountReport(account, count, finding or audit.compare(account, kept))
