# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The methods of both clients for charges and what became of them, and with those of the other files all methods.

Each unary method is written once: from its keywords to its request message. It is called on a client, which sends the
request and returns the response; see `_rpc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from creditledger._admin_methods import AdminMethods
from creditledger._fields import duration, given_or_drawn, several, timestamp
from creditledger._grant_methods import GrantMethods
from creditledger._reservation_methods import ReservationMethods
from creditledger._rpc import rpc
from creditledger.v1.credit_ledger_pb2 import (
    BatchDeductRequest,
    CanPerformRequest,
    DeductRequest,
    EntryOrder,
    GetBalanceRequest,
    GetEntryRequest,
    ListEntriesRequest,
    RefundRequest,
    SummarizeUsageRequest,
    UsageBucket,
    WatchUsageRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta

    from creditledger.v1.resources_pb2 import EntryKind, Usage


class LedgerMethods(ReservationMethods, GrantMethods, AdminMethods):
    """The unary methods of CreditLedger and LedgerAdmin."""

    @rpc(lambda stubs: stubs.ledger.CanPerform)
    def can_perform(
        self,
        account_id: str,
        operation: str,
        *,
        quantity: int = 1,
        metrics: Mapping[str, int] | None = None,
        account_level: str | None = None,
        timeout: float | None = None,
    ) -> CanPerformRequest:
        """Tell whether a `deduct` of the same arguments would be accepted now, and if not, every reason.

        A denial is data, not an error. It is advice as of the response's revision: `deduct` decides again.

        Args:
            account_id: The account.
            operation: An operation of the catalog.
            quantity: How many uses; 1 to 10^9.
            metrics: The expected metrics of a metered price, for example {"tokens": 1834}; values 0 to 10^15.
            account_level: Your own record of the account's level; the check evaluates as if `deduct` had
                applied it.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account, and no account_level.
            OperationUnknown, LevelUnknown: Not in the current catalog.
        """
        return CanPerformRequest(
            account_id=account_id,
            account_level=account_level or "",
            operation=operation,
            quantity=quantity,
            metrics=metrics,
        )

    @rpc(lambda stubs: stubs.ledger.Deduct, mutates=True, batchable=True)
    def deduct(
        self,
        account_id: str,
        operation: str,
        *,
        quantity: int = 1,
        usage: Usage | None = None,
        request_id: str | None = None,
        account_level: str | None = None,
        timeout: float | None = None,
    ) -> DeductRequest:
        """Charge an account for an operation: the whole cost or nothing.

        When it returns, the entry is durable. With `usage.outcome = Usage.OUTCOME_FAILED` it records the
        attempt and charges nothing.

        Args:
            account_id: The account to charge.
            operation: An operation of the catalog.
            quantity: How many uses; 1 to 10^9.
            usage: What the use was; its metrics are what a metered price is computed from.
            request_id: The logical call: the same id charges once, however often it is sent. 1 to 128
                characters of [A-Za-z0-9._:@/+=-], unique within the account for ever; a job's own id is best,
                since it outlives this process. None draws a UUID for this call and its retries.
            account_level: Your own record of the account's level: opens an unknown account at it, and changes
                the level of a known one.
            timeout: Seconds; None for the client's.

        Raises:
            InsufficientCredits: The cost exceeds what is available.
            LimitExceeded: A limit of the account's level is used up.
            AccountFrozen, AccountClosed: The account does not spend.
            AccountNotFound: No such account, and no account_level.
            OperationUnknown, LevelUnknown: Not in the current catalog.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return DeductRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            account_level=account_level or "",
            operation=operation,
            quantity=quantity,
            usage=usage,
        )

    @rpc(lambda stubs: stubs.ledger.BatchDeduct, mutates=True)
    def batch_deduct(
        self, requests: Iterable[DeductRequest], *, timeout: float | None = None
    ) -> BatchDeductRequest:
        """Make up to 1,000 deductions, on any accounts, each independent of the others.

        Items on one account are decided in their order. `raise_for_status` turns a result into what `deduct`
        returns or raises.

        Args:
            requests: 1 to 1,000 deductions. An item without a request_id gets one on a copy; give it one to
                be able to send it again yourself.
            timeout: Seconds; None for the client's.

        Raises:
            CreditLedgerError: With outcome_unknown, call again with the error's request_ids set on the items.
        """
        batch = BatchDeductRequest(requests=requests)
        for item in batch.requests:
            item.request_id = item.request_id or given_or_drawn(None)
        return batch

    @rpc(lambda stubs: stubs.ledger.Refund, mutates=True)
    def refund(
        self,
        account_id: str,
        revision: int,
        *,
        amount: int | None = None,
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> RefundRequest:
        """Give back what one deduction or commit charged, all or part of it, to the grants it came from.

        What came from a grant that has expired or was voided meanwhile is forfeited; the response says how
        much. When nothing is left to refund, the use no longer counts in its limit either.

        Args:
            account_id: The account.
            revision: The revision of the deduction or commit, as its entry tells.
            amount: How much, in the ledger's minor unit; 1 to 10^15. None for all that is left of its cost.
            reason: Why, for people; at most 1,024 bytes.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            RefundExceedsCost: More than is left of the cost; also where the entry charged nothing.
            EntryNotFound: No such revision, or it charges for no operation.
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        if amount == 0:
            # On the wire it stands for all that is left, which no caller that computed it means.
            raise ValueError("amount is 1 or more; leave it out for all that is left")
        return RefundRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            revision=revision,
            amount=amount or 0,
            reason=reason,
        )

    @rpc(lambda stubs: stubs.ledger.GetBalance)
    def get_balance(
        self,
        account_id: str,
        *,
        at_time: datetime | None = None,
        at_revision: int | None = None,
        timeout: float | None = None,
    ) -> GetBalanceRequest:
        """Tell an account's balance, limits and grants, now or as they stood.

        Args:
            account_id: The account.
            at_time: As it stood at this time, not later than now; needs a time zone. Excludes at_revision.
            at_revision: As it stood after this revision.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
        """
        if at_revision is None:
            return GetBalanceRequest(account_id=account_id, at_time=timestamp(at_time))
        if at_time is not None:
            raise ValueError("at_time and at_revision exclude each other")
        return GetBalanceRequest(account_id=account_id, at_revision=at_revision)

    @rpc(lambda stubs: stubs.ledger.GetEntry)
    def get_entry(
        self,
        account_id: str,
        *,
        revision: int | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> GetEntryRequest:
        """Tell one entry, by its revision or by the request that caused it.

        Args:
            account_id: The account.
            revision: The entry's place in the account's history; 1 or more. Excludes request_id.
            request_id: The request that caused it.
            timeout: Seconds; None for the client's.

        Raises:
            EntryNotFound: The account has no such entry.
            AccountNotFound: No such account.
        """
        if revision is not None and request_id is None:
            return GetEntryRequest(account_id=account_id, revision=revision)
        if request_id is not None and revision is None:
            return GetEntryRequest(account_id=account_id, request_id=request_id)
        raise ValueError("give either a revision or a request_id")

    @rpc(lambda stubs: stubs.ledger.ListEntries)
    def list_entries(
        self,
        account_id: str,
        *,
        order: EntryOrder.ValueType = EntryOrder.ENTRY_ORDER_NEWEST_FIRST,
        from_revision: int = 0,
        to_revision: int = 0,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        kinds: Iterable[EntryKind.ValueType] = (),
        operation: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> ListEntriesRequest:
        """List a page of an account's entries: its statement. All filters hold at once.

        Args:
            account_id: The account.
            order: By falling or rising revision.
            from_revision: The first revision, inclusive; 0 for the oldest.
            to_revision: The last revision, inclusive; 0 for the newest.
            start_time: The earliest create_time, inclusive; needs a time zone.
            end_time: The latest create_time, exclusive; needs a time zone.
            kinds: Only these kinds; empty for all.
            operation: Only this operation; empty for all.
            page_size: 1 to 1,000; 0 for 100.
            page_token: next_page_token of the page before; all else but page_size as then.
                It is empty on the last page.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
        """
        return ListEntriesRequest(
            account_id=account_id,
            page_size=page_size,
            page_token=page_token,
            order=order,
            from_revision=from_revision,
            to_revision=to_revision,
            start_time=timestamp(start_time),
            end_time=timestamp(end_time),
            kinds=kinds,
            operation=operation,
        )

    @rpc(lambda stubs: stubs.ledger.SummarizeUsage)
    def summarize_usage(
        self,
        account_id: str,
        *,
        operations: str | Iterable[str] = (),
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        bucket: UsageBucket.ValueType = UsageBucket.USAGE_BUCKET_NONE,
        time_zone: str = "",
        timeout: float | None = None,
    ) -> SummarizeUsageRequest:
        """Sum an account's usage by operation and bucket of time: uses, failures, credits, metrics.

        Args:
            account_id: The account.
            operations: Only these operations; empty for all.
            start_time: From when, inclusive; needs a time zone. None for the beginning.
            end_time: Until when, exclusive; needs a time zone. None for now.
            bucket: A row per operation and day, week (from Monday) or month; NONE for one per operation.
            time_zone: The IANA time zone whose days count, for example "Europe/Paris"; empty for UTC.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
        """
        return SummarizeUsageRequest(
            account_id=account_id,
            operations=several(operations),
            start_time=timestamp(start_time),
            end_time=timestamp(end_time),
            bucket=bucket,
            time_zone=time_zone,
        )


def watch_request(
    account_ids: str | Iterable[str],
    cursor: str | None,
    min_interval: timedelta | None,
    kinds: Iterable[EntryKind.ValueType],
) -> WatchUsageRequest:
    """The first request of `watch_usage`."""
    return WatchUsageRequest(
        account_ids=several(account_ids),
        cursor=cursor or "",
        min_interval=duration(min_interval),
        kinds=kinds,
    )
