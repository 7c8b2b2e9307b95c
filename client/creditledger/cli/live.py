# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Accounts as they change: lines, or a view that is drawn again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from creditledger.cli import tables
from creditledger.cli.units import Amounts, time_text, word
from creditledger.errors import CreditLedgerError
from creditledger.v1.resources_pb2 import AccountState, EntryKind

if TYPE_CHECKING:
    from creditledger._client import CreditLedgerClient
    from creditledger.v1.credit_ledger_pb2 import UsageSummary, WatchUsageResponse
    from creditledger.v1.resources_pb2 import Account, Balance, Entry, LimitState

_NEWEST = 10
"""How many entries the view shows."""
_CHANGES_ACCOUNT = (EntryKind.ENTRY_KIND_LEVEL_CHANGED, EntryKind.ENTRY_KIND_STATE_CHANGED)


def lines(messages: Iterable[WatchUsageResponse], amounts: Amounts) -> Iterator[str]:
    """A line for each message that tells something."""
    for message in messages:
        match message.WhichOneof("event"):
            case "snapshot":
                told = message.snapshot
                available = amounts.text(told.balance.available)
                yield f"{told.account.account_id}  revision {told.revision}  available {available}"
            case "change":
                yield _change(message.change.entry, amounts)
            case "summary":
                yield _summary(message.summary, amounts)


def _change(entry: Entry, amounts: Amounts) -> str:
    what = " ".join(filter(None, [tables.kind_text(entry), tables.operation_text(entry)]))
    head = f"{entry.account_id}  revision {entry.revision}  {time_text(entry.create_time)}  {what}"
    return f"{head}  {amounts.signed(entry.amount)}  available {amounts.text(entry.balance.available)}"


def _summary(summary: UsageSummary, amounts: Amounts) -> str:
    head = f"{summary.account_id}  revisions {summary.from_revision} to {summary.to_revision}"
    spent, available = amounts.text(summary.credits), amounts.text(summary.balance.available)
    return f"{head}  {summary.changes} changes, charged {spent}  available {available}"


def view(
    console: Console, ledger: CreditLedgerClient, messages: Iterable[WatchUsageResponse], amounts: Amounts
) -> None:
    """Draws the accounts after every message, until it is interrupted."""
    seen = _View(ledger, amounts)
    log = logging.getLogger("creditledger")
    log.addHandler(seen.interruptions)
    try:
        # Drawn by a thread of its own, so that a busy account is drawn no more often than an idle one.
        with Live(seen, console=console):
            for message in messages:
                seen.apply(message)
    finally:
        log.removeHandler(seen.interruptions)


class _Interruptions(logging.Handler):
    """Keeps what the client says of a broken connection, for the view to show."""

    def __init__(self) -> None:
        super().__init__()
        self.newest = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.newest = record.getMessage()


class _View:
    """What is known of the accounts."""

    def __init__(self, ledger: CreditLedgerClient, amounts: Amounts) -> None:
        self._ledger = ledger
        self._amounts = amounts
        self._accounts: dict[str, Account] = {}
        self._balances: dict[str, Balance] = {}
        # By account, then operation and period.
        self._limits: dict[str, dict[tuple[str, int], LimitState]] = {}
        self._entries: list[Entry] = []
        self.interruptions = _Interruptions()
        # One thread applies messages, another one draws.
        self._lock = threading.Lock()

    def apply(self, message: WatchUsageResponse) -> None:
        """Takes in a message."""
        with self._lock:
            self.interruptions.newest = ""
            self._apply(message)
            for account_id, limits in self._limits.items():
                if any(_has_passed(limit) for limit in limits.values()):
                    self._read_account(account_id)

    def _apply(self, message: WatchUsageResponse) -> None:
        match message.WhichOneof("event"):
            case "snapshot":
                told = message.snapshot
                self._accounts[told.account.account_id] = told.account
                self._balances[told.account.account_id] = told.balance
                self._put_limits(told.account.account_id, told.limits)
                self._read_entries(told.account.account_id, told.revision)
            case "change":
                self._apply_change(message.change.entry, message.change.limits)
            case "summary":
                summary = message.summary
                self._balances[summary.account_id] = summary.balance
                self._read_account(summary.account_id)
                self._read_entries(summary.account_id, summary.to_revision)

    def _apply_change(self, entry: Entry, limits: Iterable[LimitState]) -> None:
        self._balances[entry.account_id] = entry.balance
        self._put_limits(entry.account_id, limits)
        self._put_entries([entry])
        if entry.kind in _CHANGES_ACCOUNT:
            self._read_account(entry.account_id)

    def _read_account(self, account_id: str) -> None:
        """Asks for what no message tells: the new level and its limits, and limits of a new period."""
        try:
            answer = self._ledger.get_balance(account_id)
        except CreditLedgerError:
            return  # The view stays as it is until the next message.
        self._accounts[account_id] = answer.account
        self._limits[account_id] = {}
        self._put_limits(account_id, answer.limits)

    def _read_entries(self, account_id: str, revision: int) -> None:
        page = self._ledger.list_entries(account_id, to_revision=revision, page_size=_NEWEST)
        self._put_entries(page.entries)

    def _put_limits(self, account_id: str, limits: Iterable[LimitState]) -> None:
        kept = self._limits.setdefault(account_id, {})
        kept.update({(limit.operation, limit.period): limit for limit in limits})

    def _put_entries(self, entries: Iterable[Entry]) -> None:
        kept = {(entry.account_id, entry.revision): entry for entry in [*self._entries, *entries]}
        newest = sorted(kept.values(), key=lambda entry: (entry.create_time.ToNanoseconds(), entry.revision))
        self._entries = newest[: -_NEWEST - 1 : -1]

    def __rich__(self) -> Group:
        with self._lock:
            return Group(*self._parts())

    def _parts(self) -> list[Text | Table]:
        parts: list[Text | Table] = [self._balance_table()]
        if any(self._limits.values()):
            parts += [Text(), self._limit_table()]
        if self._entries:
            parts += [
                Text(),
                tables.statement(self._entries, self._amounts, with_account=len(self._accounts) > 1),
            ]
        return [*parts, Text(), Text(self.interruptions.newest or "Ctrl-C ends this.", style="dim")]

    def _balance_table(self) -> Table:
        made = tables.table("account", "level", "state", *[f">{name}" for name in tables.BALANCE_FIELDS])
        for account_id, account in self._accounts.items():
            balance = self._balances[account_id]
            amounts = [self._amounts.text(getattr(balance, name)) for name in tables.BALANCE_FIELDS]
            state = word(AccountState, account.state, "ACCOUNT_STATE_")
            made.add_row(account_id, account.level, state, Text(amounts[0], style="bold"), *amounts[1:])
        return made

    def _limit_table(self) -> Table:
        made = tables.table("account", *tables.LIMIT_COLUMNS)
        for account_id, limits in self._limits.items():
            for limit in limits.values():
                made.add_row(account_id, *tables.limit_cells(limit), style=tables.limit_style(limit))
        return made


def _has_passed(limit: LimitState) -> bool:
    return limit.HasField("reset_time") and limit.reset_time.ToDatetime(UTC) <= datetime.now(UTC)
