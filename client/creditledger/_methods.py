# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Every unary method of both clients, once: from its keywords to its request message.

They are called on a client, which sends the request and returns the response; see `_rpc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from creditledger._rpc import rpc
from creditledger.v1.credit_ledger_pb2 import (
    BatchDeductRequest,
    CanPerformRequest,
    DeductRequest,
    EntryOrder,
    GetBalanceRequest,
    GetEntryRequest,
    ListEntriesRequest,
    WatchUsageRequest,
)
from creditledger.v1.ledger_admin_pb2 import (
    GetAccountRequest,
    GetCatalogRequest,
    GetServerInfoRequest,
    GrantCreditsRequest,
    ListAccountsRequest,
    OpenAccountRequest,
    UpdateAccountRequest,
    UpdateCatalogRequest,
    VerifyAccountRequest,
)
from creditledger.v1.resources_pb2 import AccountState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta

    from creditledger.v1.resources_pb2 import Catalog, EntryKind, Usage


class LedgerMethods:
    """The unary methods of CreditLedger and LedgerAdmin."""

    # --- CreditLedger

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
            request_id=_given_or_drawn(request_id),
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
            item.request_id = item.request_id or str(uuid4())
        return batch

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
            return GetBalanceRequest(account_id=account_id, at_time=_timestamp(at_time))
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
            start_time=_timestamp(start_time),
            end_time=_timestamp(end_time),
            kinds=kinds,
            operation=operation,
        )

    # --- LedgerAdmin

    @rpc(lambda stubs: stubs.admin.OpenAccount, mutates=True)
    def open_account(
        self,
        account_id: str,
        *,
        level: str | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> OpenAccountRequest:
        """Open an account.

        Args:
            account_id: Your own name of it, for example a user id; 1 to 128 characters of
                [A-Za-z0-9._:@/+=-].
            level: A level of the catalog; None for its default_level.
            labels: At most 32; keys of 1 to 64 bytes, values of at most 256 bytes.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            AccountExists: It is open already, under another request id.
            LevelUnknown: Not in the current catalog.
            RequestIdReused: The id was accepted before with other content.
        """
        return OpenAccountRequest(
            request_id=_given_or_drawn(request_id), account_id=account_id, level=level or "", labels=labels
        )

    @rpc(lambda stubs: stubs.admin.GetAccount)
    def get_account(self, account_id: str, *, timeout: float | None = None) -> GetAccountRequest:
        """Tell one account.

        Args:
            account_id: The account.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
        """
        return GetAccountRequest(account_id=account_id)

    @rpc(lambda stubs: stubs.admin.ListAccounts)
    def list_accounts(
        self,
        *,
        prefix: str = "",
        level: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> ListAccountsRequest:
        """List a page of accounts by rising account_id, in byte order.

        Args:
            prefix: Only accounts whose id begins so; empty for all.
            level: Only accounts of this level; empty for all.
            page_size: 1 to 1,000; 0 for 100.
            page_token: next_page_token of the page before; all else but page_size as then.
                It is empty on the last page.
            timeout: Seconds; None for the client's.
        """
        return ListAccountsRequest(page_size=page_size, page_token=page_token, prefix=prefix, level=level)

    @rpc(lambda stubs: stubs.admin.UpdateAccount, mutates=True)
    def update_account(
        self,
        account_id: str,
        *,
        level: str | None = None,
        labels: Mapping[str, str] | None = None,
        state: AccountState.ValueType | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> UpdateAccountRequest:
        """Change what is not None, at least one of level, labels and state.

        Args:
            account_id: The account.
            level: A level of the catalog.
            labels: They replace all; at most 32, keys of 1 to 64 bytes, values of at most 256 bytes.
            state: ACCOUNT_STATE_ACTIVE, FROZEN (refuses spending) or CLOSED (for good).
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            LevelUnknown: Not in the current catalog.
            RequestIdReused: The id was accepted before with other content.
        """
        changes = {"level": level, "labels": labels, "state": state}
        return UpdateAccountRequest(
            request_id=_given_or_drawn(request_id),
            account_id=account_id,
            update_mask=FieldMask(paths=[name for name, value in changes.items() if value is not None]),
            level=level or "",
            labels=labels,
            state=state or AccountState.ACCOUNT_STATE_UNSPECIFIED,
        )

    @rpc(lambda stubs: stubs.admin.GrantCredits, mutates=True)
    def grant_credits(
        self,
        account_id: str,
        amount: int,
        *,
        priority: int = 0,
        effective_time: datetime | None = None,
        expire_time: datetime | None = None,
        reason: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> GrantCreditsRequest:
        """Give an account credits.

        Args:
            account_id: The account.
            amount: How many, in the ledger's minor unit; 1 to 10^15.
            priority: Lower burns first; -1,000 to 1,000.
            effective_time: From when they can be spent; needs a time zone. None for now.
            expire_time: From when they can no longer be spent, later than effective_time; needs a time zone.
                None for never.
            reason: Why, for people; at most 1,024 bytes.
            labels: At most 32; keys of 1 to 64 bytes, values of at most 256 bytes.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return GrantCreditsRequest(
            request_id=_given_or_drawn(request_id),
            account_id=account_id,
            amount=amount,
            priority=priority,
            effective_time=_timestamp(effective_time),
            expire_time=_timestamp(expire_time),
            reason=reason,
            labels=labels,
        )

    @rpc(lambda stubs: stubs.admin.GetCatalog)
    def get_catalog(self, *, version: int | None = None, timeout: float | None = None) -> GetCatalogRequest:
        """Tell the current catalog or an earlier version.

        Args:
            version: 1 or more; None for the current one.
            timeout: Seconds; None for the client's.

        Raises:
            CatalogNotFound: The ledger has no such version, or no catalog at all yet.
        """
        return GetCatalogRequest(version=version)

    @rpc(lambda stubs: stubs.admin.UpdateCatalog, mutates=True)
    def update_catalog(
        self,
        catalog: Catalog,
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> UpdateCatalogRequest:
        """Replace the catalog as a whole.

        Args:
            catalog: The whole new catalog; its output-only fields are ignored.
            expected_version: The version that it replaces; None for any.
            request_id: The logical call, as in `deduct` but unique within the ledger.
            timeout: Seconds; None for the client's.

        Raises:
            InvalidRequest: field_violations names every mistake; nothing was changed.
            VersionMismatch: The current version is not expected_version.
            RequestIdReused: The id was accepted before with other content.
        """
        return UpdateCatalogRequest(
            request_id=_given_or_drawn(request_id), catalog=catalog, expected_version=expected_version
        )

    @rpc(lambda stubs: stubs.admin.VerifyAccount)
    def verify_account(self, account_id: str, *, timeout: float | None = None) -> VerifyAccountRequest:
        """Recompute an account's balance, grants and hash chain from its entries, and tell what does not fit.

        Args:
            account_id: The account.
            timeout: Seconds; None for the client's. A long history takes longer than the default.

        Raises:
            AccountNotFound: No such account.
        """
        return VerifyAccountRequest(account_id=account_id)

    @rpc(lambda stubs: stubs.admin.GetServerInfo)
    def get_server_info(self, *, timeout: float | None = None) -> GetServerInfoRequest:
        """Tell what the server and its ledger are: the ledger's id and decimals, versions, and the database's
        time.

        Args:
            timeout: Seconds; None for the client's.
        """
        return GetServerInfoRequest()


def watch_request(
    account_ids: str | Iterable[str],
    cursor: str | None,
    min_interval: timedelta | None,
    kinds: Iterable[EntryKind.ValueType],
) -> WatchUsageRequest:
    """The first request of `watch_usage`."""
    interval = None
    if min_interval is not None:
        interval = Duration()
        interval.FromTimedelta(min_interval)
    return WatchUsageRequest(
        # A lone str is an iterable of its characters, each of them a legal account id.
        account_ids=[account_ids] if isinstance(account_ids, str) else account_ids,
        cursor=cursor or "",
        min_interval=interval,
        kinds=kinds,
    )


def _given_or_drawn(request_id: str | None) -> str:
    # Not for "": an id that came out empty is a bug to be told of, not to be papered over with one that
    # protects nothing.
    return str(uuid4()) if request_id is None else request_id


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    if time.utcoffset() is None:
        # protobuf would silently take it as UTC.
        raise ValueError(f"{time!r} has no time zone")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
