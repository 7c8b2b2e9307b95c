# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Answers as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from creditledger.cli.units import Amounts, printable, time_text, word
from creditledger.v1.resources_pb2 import AccountState, EntryKind, GrantSource, Period, Usage

if TYPE_CHECKING:
    from creditledger.v1.credit_ledger_pb2 import DeductResponse, GetBalanceResponse
    from creditledger.v1.ledger_admin_pb2 import GrantCreditsResponse, PurchasePackageResponse
    from creditledger.v1.resources_pb2 import Account, Balance, CreditPackage, Entry, Grant, LimitState

BALANCE_FIELDS = ("available", "reserved", "granted", "spent", "forfeited")
LIMIT_COLUMNS = ("limit", ">used", ">of", "until")


def table(*columns: str) -> Table:
    """An empty table. A column whose name begins with ">" is one of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        numeric = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if numeric else "left", no_wrap=numeric)
    return made


def standing(answer: GetBalanceResponse, amounts: Amounts) -> Iterator[Text | Table]:
    """An account with its balance, and its limits and grants if it has any."""
    yield Text(_headline(answer.account, answer.revision), style="bold")
    yield Text()
    yield _balance(answer.balance, amounts)
    if answer.limits:
        yield Text()
        yield limit_table(answer.limits)
    if answer.grants:
        yield Text()
        yield _grants(answer.grants, amounts)


def _headline(account: Account, revision: int) -> str:
    state = word(AccountState, account.state, "ACCOUNT_STATE_")
    return f"{account.account_id}: level {account.level}, {state}, revision {revision}"


def _balance(balance: Balance, amounts: Amounts) -> Table:
    made = table("balance", ">amount")
    for field in BALANCE_FIELDS:
        made.add_row(
            field, amounts.text(getattr(balance, field)), style="bold" if field == "available" else ""
        )
    return made


def limit_table(limits: Iterable[LimitState]) -> Table:
    """Limits with what is used of them."""
    made = table(*LIMIT_COLUMNS)
    for limit in limits:
        made.add_row(*limit_cells(limit), style=limit_style(limit))
    return made


def limit_cells(limit: LimitState) -> tuple[str, ...]:
    """A row of LIMIT_COLUMNS."""
    until = time_text(limit.reset_time) if limit.HasField("reset_time") else "ever"
    return limit_name(limit), str(limit.used), _allowed(limit), until


def limit_style(limit: LimitState) -> str:
    """One that is used up stands out."""
    return "red" if 0 <= limit.limit <= limit.used else ""


def limit_name(limit: LimitState) -> str:
    """What is limited, and over which span."""
    return f"{limit.operation} per {word(Period, limit.period, 'PERIOD_')}"


def _allowed(limit: LimitState) -> str:
    return "unlimited" if limit.limit < 0 else str(limit.limit)


def _grants(grants: Iterable[Grant], amounts: Amounts) -> Table:
    made = table("grant", ">remaining", ">of", ">priority", "source", "expires", "reason")
    for grant in grants:
        made.add_row(
            grant.grant_id,
            amounts.text(grant.remaining),
            amounts.text(grant.amount),
            str(grant.priority),
            word(GrantSource, grant.source, "GRANT_SOURCE_"),
            time_text(grant.expire_time) if grant.HasField("expire_time") else "never",
            printable(grant.reason),
        )
    return made


def statement(entries: Sequence[Entry], amounts: Amounts, with_account: bool = False) -> Table:
    """Entries in their order; `with_account` also says whose each is."""
    made = table(
        *["account"] * with_account, ">revision", "time", "kind", "operation", ">amount", ">available"
    )
    if any(entry.reason for entry in entries):
        made.add_column("reason")
    for entry in entries:
        made.add_row(
            *[entry.account_id] * with_account,
            str(entry.revision),
            time_text(entry.create_time),
            kind_text(entry),
            operation_text(entry),
            Text(amounts.signed(entry.amount), style="green" if entry.amount > 0 else ""),
            amounts.text(entry.balance.available),
            *[printable(entry.reason)] * (len(made.columns) > 6 + with_account),
        )
    return made


def kind_text(entry: Entry) -> str:
    """What the entry records."""
    kind = word(EntryKind, entry.kind, "ENTRY_KIND_")
    return f"{kind} (failed)" if entry.usage.outcome == Usage.OUTCOME_FAILED else kind


def operation_text(entry: Entry) -> str:
    """The operation, and how many uses if it was several."""
    return f"{entry.operation} x{entry.quantity}" if entry.quantity > 1 else entry.operation


def package_table(packages: Iterable[CreditPackage], amounts: Amounts) -> Table:
    """Packages for sale."""
    made = table("package", "name", ">credits", ">price", "features")
    for package in packages:
        made.add_row(
            package.package_id,
            printable(package.display_name),
            amounts.text(package.credits),
            f"{package.price.amount} {package.price.currency_code}",
            printable("; ".join(package.features)),
        )
    return made


def granted(answer: GrantCreditsResponse | PurchasePackageResponse, amounts: Amounts) -> str:
    """What a grant or a purchase brought, as one line."""
    grant = answer.grant
    line = f"granted {amounts.text(grant.amount)} to {grant.account_id} as {grant.grant_id}"
    if grant.HasField("effective_time"):
        line += f", from {time_text(grant.effective_time)}"
    if grant.HasField("expire_time"):
        line += f", until {time_text(grant.expire_time)}"
    return f"{line}; {_available(answer.balance, amounts, answer.replayed)}"


def charged(answer: DeductResponse, amounts: Amounts) -> str:
    """What a deduction cost, as one line, and one for each limit that it counts towards."""
    entry = answer.entry
    line = f"charged {entry.account_id} {amounts.text(answer.cost)} for {operation_text(entry)}"
    lines = [f"{line}; {_available(answer.balance, amounts, answer.replayed)}"]
    lines += [f"{limit_name(limit)}: {limit.used} of {_allowed(limit)}" for limit in answer.limits]
    return "\n".join(lines)


def _available(balance: Balance, amounts: Amounts, replayed: bool) -> str:
    line = f"available: {amounts.text(balance.available)}"
    return f"{line} (had been carried out before)" if replayed else line
