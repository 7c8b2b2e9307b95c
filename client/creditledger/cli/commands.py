# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The commands: their arguments, and the calls that they make."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo

import click
from rich.text import Text

from creditledger.cli import chart, live, tables, units
from creditledger.cli.failures import Commands
from creditledger.cli.session import Session, ledger_command
from creditledger.v1.credit_ledger_pb2 import EntryOrder, UsageBucket
from creditledger.v1.ledger_admin_pb2 import ListPackagesResponse
from creditledger.v1.resources_pb2 import Entry, EntryKind, Usage

KINDS = {name.removeprefix("ENTRY_KIND_").lower(): value for name, value in EntryKind.items() if value}
BUCKETS = {name.removeprefix("USAGE_BUCKET_").lower(): value for name, value in UsageBucket.items() if value}
_PAGE = 1_000
"""The most entries that a server tells at once."""

_request_id = click.option(
    "--request-id",
    metavar="ID",
    help="The logical call: sent again, it happens once. Without it one is drawn.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="creditledger", prog_name="creditledger")
def commands() -> None:
    """Look at the accounts of a credit ledger, grant, charge, and watch.

    Amounts that you give, and those in JSON, are whole numbers of the ledger's minor unit; those that are shown have
    the ledger's decimals. Times are in UTC.

    \b
    First steps:
      creditledger grant user-1 100 --reason welcome
      creditledger deduct user-1 voice_creation
      creditledger watch user-1
    """


@commands.command()
@click.argument("account")
@ledger_command
def balance(session: Session, account: str) -> None:
    """Tell an account's balance, limits and grants."""
    answer = session.ledger.get_balance(account)
    if session.as_json:
        session.dump(answer)
    else:
        session.show(*tables.standing(answer, session.amounts))


@commands.command()
@click.argument("account")
@click.argument("amount", type=units.amount)
@click.option("--reason", default="", help="Why, for people.")
@click.option("--priority", type=int, default=0, help="Lower burns first; -1000 to 1000.  [default: 0]")
@click.option("--starts", type=units.time, help="From when it can be spent.  [default: now]")
@click.option("--expires", type=units.time, help="From when it can no longer be spent.  [default: never]")
@_request_id
@ledger_command
def grant(
    session: Session,
    account: str,
    amount: int,
    reason: str,
    priority: int,
    starts: datetime | None,
    expires: datetime | None,
    request_id: str | None,
) -> None:
    """Give an account credits.

    \b
    Example:
      creditledger grant user-1 100 --reason welcome --expires 2027-01-31
    """
    send = functools.partial(
        session.ledger.grant_credits,
        account,
        amount,
        reason=reason,
        priority=priority,
        effective_time=starts,
        expire_time=expires,
    )
    session.mutate(send, request_id, tables.granted)


@commands.command()
@click.argument("account")
@click.argument("operation")
@click.option("--quantity", type=click.IntRange(1, 10**9), default=1, help="How many uses.  [default: 1]")
@click.option(
    "--metric",
    "metrics",
    type=units.metric,
    multiple=True,
    metavar="NAME=VALUE",
    help="What was measured; may be repeated.",
)
@click.option("--level", metavar="LEVEL", help="Opens an unknown account at it, or moves a known one to it.")
@click.option("--service", default="", help="Who did the work.")
@_request_id
@ledger_command
def deduct(
    session: Session,
    account: str,
    operation: str,
    quantity: int,
    metrics: Sequence[tuple[str, int]],
    level: str | None,
    service: str,
    request_id: str | None,
) -> None:
    """Charge an account for an operation.

    \b
    Example:
      creditledger deduct user-1 chat_refinement --metric tokens=1834 --service openai
    """
    usage = Usage(service=service, metrics=dict(metrics)) if service or metrics else None
    send = functools.partial(
        session.ledger.deduct, account, operation, quantity=quantity, usage=usage, account_level=level
    )
    session.mutate(send, request_id, tables.charged)


@commands.command()
@click.argument("account")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option(
    "--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Only these; may be repeated."
)
@click.option("--operation", default="", help="Only this operation.")
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest instead of the newest.")
@ledger_command
def entries(
    session: Session, account: str, limit: int, kinds: Sequence[str], operation: str, oldest_first: bool
) -> None:
    """List an account's entries: its statement. With --json, one line each."""
    order = EntryOrder.ENTRY_ORDER_OLDEST_FIRST if oldest_first else EntryOrder.ENTRY_ORDER_NEWEST_FIRST
    found = _entries(session, account, limit, order, [KINDS[kind] for kind in kinds], operation)
    if session.as_json:
        for entry in found:
            session.dump(entry, indent=None)
    else:
        session.show(tables.statement(list(found), session.amounts))


def _entries(
    session: Session,
    account: str,
    limit: int,
    order: EntryOrder.ValueType,
    kinds: Sequence[EntryKind.ValueType],
    operation: str,
) -> Iterator[Entry]:
    token = ""
    while limit > 0:
        page = session.ledger.list_entries(
            account,
            order=order,
            kinds=kinds,
            operation=operation,
            page_size=min(limit, _PAGE),
            page_token=token,
        )
        yield from page.entries
        limit -= len(page.entries)
        token = page.next_page_token
        if not token:
            return


@commands.command()
@click.argument("account")
@click.option("--days", type=click.IntRange(1, 3_660), default=30, show_default=True, help="How far back.")
@click.option(
    "--bucket", type=click.Choice(list(BUCKETS)), default="day", show_default=True, help="How to divide them."
)
@click.option(
    "--zone",
    type=units.zone,
    default="UTC",
    show_default=True,
    metavar="NAME",
    help="The IANA time zone whose days count.",
)
@click.option("--operation", "operations", multiple=True, help="Only these; may be repeated.")
@ledger_command
def usage(
    session: Session, account: str, days: int, bucket: str, zone: tzinfo, operations: Sequence[str]
) -> None:
    """Sum an account's usage, and draw it.

    The days begin with that of the first bucket.

    \b
    Example:
      creditledger usage user-1 --days 90 --bucket week --zone Europe/Berlin
    """
    now = session.ledger.get_server_info().server_time.ToDatetime(UTC)
    span = chart.Span.before(now, days, bucket, zone)
    summarize = functools.partial(
        session.ledger.summarize_usage,
        account,
        operations=operations,
        start_time=span.start_time,
        time_zone=str(zone),
    )
    answer = summarize(bucket=BUCKETS[bucket])
    if session.as_json:
        session.dump(answer)
        return
    totals = summarize(bucket=UsageBucket.USAGE_BUCKET_NONE).rows
    drawn = chart.Chart([row.operation for row in totals], session.amounts, session.room, session.block)
    if bucket != "none":
        session.show(drawn.over_time(answer.rows, span), Text())
    session.show(drawn.by_operation(totals))


@commands.command()
@click.argument("accounts", metavar="ACCOUNT...", nargs=-1, required=True)
@ledger_command
def watch(session: Session, accounts: Sequence[str]) -> None:
    """Show accounts as they change, until Ctrl-C.

    In a terminal: balances, limits and the newest entries. Elsewhere a line for each change, and with --json each
    message of the stream as a line.
    """
    # Asked first: the stream would wait for a server that is not there.
    amounts = session.amounts
    try:
        with session.ledger.watch_usage(dict.fromkeys(accounts)) as messages:
            if session.as_json:
                for message in messages:
                    session.dump(message, indent=None)
            elif session.is_live:
                live.view(session.console, session.ledger, messages, amounts)
            else:
                for line in live.lines(messages, amounts):
                    click.echo(line)
    except KeyboardInterrupt:
        pass


@commands.command()
@ledger_command
def packages(session: Session) -> None:
    """List the packages of credits that are for sale."""
    found = ListPackagesResponse()
    while True:
        page = session.ledger.list_packages(page_token=found.next_page_token)
        found.MergeFrom(page)
        found.next_page_token = page.next_page_token
        if not found.next_page_token:
            break
    if session.as_json:
        session.dump(found)
    else:
        session.show(tables.package_table(found.packages, session.amounts))


@commands.command()
@click.argument("account")
@click.argument("package")
@click.option("--payment", required=True, metavar="REFERENCE", help="The payment's id at its provider.")
@_request_id
@ledger_command
def buy(session: Session, account: str, package: str, payment: str, request_id: str | None) -> None:
    """Grant an account the credits of a package that was paid for, once per payment.

    \b
    Example:
      creditledger buy user-1 starter --payment pi_3Nx8
    """
    send = functools.partial(session.ledger.purchase_package, account, package, payment_reference=payment)
    session.mutate(send, request_id, tables.granted)
