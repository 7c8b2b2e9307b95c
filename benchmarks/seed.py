"""Ledgers loaded by COPY, entry for entry what the server would have written: decided and chained by its own rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from creditledger_server.domain.account import Account
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.commands import Deduct, GrantCredits, OpenAccount
from creditledger_server.domain.decide import decide
from creditledger_server.domain.entry import Entry, draws_text, limits_text
from creditledger_server.domain.times import iso_time
from creditledger_server.storage.rows import ACCOUNT_COLUMNS, ENTRY_COLUMNS, lots_text

from .generators import process_pool
from .sample import account_name
from .site import LEVEL, OPERATION, Site, load_catalog, serving, started

CREDITS = 10**9
FIRST_ENTRIES = 2  # an account is opened and given credits
_START = 1_700_000_000_000_000  # microseconds since 1970; before every entry that a benchmark writes
_ACCOUNTS_AT_ONCE = 2_000
_ENTRIES_AT_ONCE = 50_000
_PROCESSES = 2
_BULK = 1_000_000  # more deductions than this: indexes are built after the load
_INDEXES = {
    "entry_pkey": "PRIMARY KEY (account_id, revision)",
    "entry_request_id_key": "UNIQUE (account_id, request_id)",
}

_ENTRY_COLUMNS = ENTRY_COLUMNS.replace("::text", "")
_ACCOUNT_COLUMNS = f"{ACCOUNT_COLUMNS.replace('::text', '')}, granted"
_GRANT_COLUMNS = "account_id, revision, amount, priority, source, create_time, reason, labels"


def create_ledger(site: Site, name: str, *parts: tuple[int, int]) -> str:
    """A ledger of (accounts, deductions that each has made), numbered from 0 through all parts; returns its DSN.

    Its tables are vacuumed and analysed, as autovacuum would leave them.
    """
    dsn = site.create(name)
    with started(serving(dsn)):
        pass  # the first start writes the ledger's row and the catalog
    bulk = sum(accounts * deductions for accounts, deductions in parts) > _BULK
    if bulk:
        for constraint in _INDEXES:
            site.execute(f"ALTER TABLE entry DROP CONSTRAINT {constraint}", name)
    with process_pool(_PROCESSES) as pool:
        for work in [pool.submit(load, dsn, numbers, deductions) for numbers, deductions in _shares(parts)]:
            work.result()
    if bulk:
        for constraint, definition in _INDEXES.items():
            command = f"ALTER TABLE entry ADD CONSTRAINT {constraint} {definition}"
            site.execute(f"SET maintenance_work_mem = '1GB'; {command}", name)
    site.execute("VACUUM (ANALYZE)", name)
    return dsn


def _shares(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[range, int]]:
    """The numbers of accounts that one call loads, and their deductions."""
    first = 0
    for accounts, deductions in parts:
        numbers = range(first, first + accounts)
        share = -(-accounts // _PROCESSES)
        for start in range(0, accounts, share):
            yield numbers[start : start + share], deductions
        first += accounts


def load(dsn: str, numbers: range, deductions: int) -> None:
    """Loads the accounts of these numbers."""
    book = CatalogBook([CatalogVersion(1, load_catalog(), 0)])
    waiting = iter(numbers)
    with psycopg.connect(dsn) as conn:
        while True:
            accounts = [_opened(number, book) for number in itertools.islice(waiting, _ACCOUNTS_AT_ONCE)]
            if not accounts:
                return
            for written in _histories(accounts, book, deductions):
                _copy(conn, "entry", _ENTRY_COLUMNS, map(_entry_fields, written))
            grants = [grant for account in accounts for grant in account.new_grants]
            _copy(conn, "grant_lot", _GRANT_COLUMNS, map(_grant_fields, grants))
            _copy(conn, "account", _ACCOUNT_COLUMNS, map(_account_fields, accounts))
            conn.commit()


def _opened(number: int, book: CatalogBook) -> Account:
    name = account_name(number)
    account = Account(name)
    decide(OpenAccount("open", name, LEVEL), account, book, _START)
    decide(GrantCredits("grant", name, CREDITS), account, book, _START)
    return account


def _histories(accounts: Iterable[Account], book: CatalogBook, deductions: int) -> Iterator[list[Entry]]:
    """The entries of all accounts, in pieces; an account forgets what it has told."""
    piece: list[Entry] = []
    for account in accounts:
        for number in range(deductions):
            command = Deduct(f"{random.getrandbits(128):032x}", account.account_id, OPERATION)
            decide(command, account, book, _START + number)
            if len(account.written) == _ENTRIES_AT_ONCE:
                yield _forgotten(account)
        piece += _forgotten(account)
        if len(piece) >= _ENTRIES_AT_ONCE:
            yield piece
            piece = []
    yield piece


def _forgotten(account: Account) -> list[Entry]:
    written = list(account.written)
    account.written.clear()
    account.remembered.clear()
    return written


def _copy(conn: psycopg.Connection, table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    lines = "".join(["\t".join(map(_field, row)) + "\n" for row in rows])
    with conn.cursor().copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
        copy.write(lines)


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, bytes):
        return f"\\\\x{value.hex()}"
    return str(value).replace("\\", "\\\\")


def _entry_fields(e: Entry) -> tuple[Any, ...]:
    return (
        e.account_id, e.revision, int(e.kind), iso_time(e.create_time), e.amount, e.cost, e.available, e.reserved,
        e.spent, e.forfeited, e.quantity, e.catalog_version, e.operation, e.request_id, e.fingerprint,
        draws_text(e.draws), limits_text(e.limits), e.usage, e.details, e.hash,
    )  # fmt: skip


def _account_fields(a: Account) -> tuple[Any, ...]:
    return (
        a.account_id, a.revision, a.level, int(a.state), a.labels, a.available, a.reserved, a.spent, a.forfeited,
        iso_time(a.create_time), iso_time(a.last_time), a.commit_position, a.head_hash, lots_text(a.lots), None, "[]",
        "{}", 0, "", a.granted,
    )  # fmt: skip


def _grant_fields(grant: Any) -> tuple[Any, ...]:
    return (*grant[:4], int(grant.source), iso_time(grant.create_time), grant.reason, grant.labels)
