# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The methods of both clients by which credits come in and are taken back; see `_methods`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from creditledger._fields import given_or_drawn, timestamp
from creditledger._rpc import rpc
from creditledger.v1.ledger_admin_pb2 import (
    AdjustBalanceRequest,
    GrantCreditsRequest,
    ListGrantsRequest,
    ListPackagesRequest,
    PurchasePackageRequest,
    VoidGrantRequest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class GrantMethods:
    """Grants, corrections and packages."""

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
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            amount=amount,
            priority=priority,
            effective_time=timestamp(effective_time),
            expire_time=timestamp(expire_time),
            reason=reason,
            labels=labels,
        )

    @rpc(lambda stubs: stubs.admin.VoidGrant, mutates=True)
    def void_grant(
        self,
        account_id: str,
        grant_id: str,
        *,
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> VoidGrantRequest:
        """Take back what is left of a grant. What reservations hold of it stays usable by their commits.

        Args:
            account_id: The account.
            grant_id: The grant, as `grant_credits` and `list_grants` tell it.
            reason: Why, for people; at most 1,024 bytes.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            GrantNotFound: The account has no such grant.
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return VoidGrantRequest(
            request_id=given_or_drawn(request_id), account_id=account_id, grant_id=grant_id, reason=reason
        )

    @rpc(lambda stubs: stubs.admin.ListGrants)
    def list_grants(
        self, account_id: str, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> ListGrantsRequest:
        """List a page of an account's grants, newest first, also those with nothing remaining.

        Args:
            account_id: The account.
            page_size: 1 to 1,000; 0 for 100.
            page_token: next_page_token of the page before; all else but page_size as then.
                It is empty on the last page.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
        """
        return ListGrantsRequest(account_id=account_id, page_size=page_size, page_token=page_token)

    @rpc(lambda stubs: stubs.admin.AdjustBalance, mutates=True)
    def adjust_balance(
        self,
        account_id: str,
        amount: int,
        *,
        reason: str,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> AdjustBalanceRequest:
        """Correct a balance up, by a grant without expiry, or down, from what is available.

        Args:
            account_id: The account.
            amount: How much to add, or with a minus to take, in the ledger's minor unit; 1 to 10^15 either way.
            reason: Why, for people; 1 to 1,024 bytes.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            InsufficientCredits: Less is available than is to be taken.
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return AdjustBalanceRequest(
            request_id=given_or_drawn(request_id), account_id=account_id, amount=amount, reason=reason
        )

    @rpc(lambda stubs: stubs.admin.ListPackages)
    def list_packages(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> ListPackagesRequest:
        """List a page of the packages of the current catalog.

        Args:
            page_size: 1 to 1,000; 0 for 100.
            page_token: next_page_token of the page before. It is empty on the last page.
            timeout: Seconds; None for the client's.
        """
        return ListPackagesRequest(page_size=page_size, page_token=page_token)

    @rpc(lambda stubs: stubs.admin.PurchasePackage, mutates=True)
    def purchase_package(
        self,
        account_id: str,
        package_id: str,
        *,
        payment_reference: str,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> PurchasePackageRequest:
        """Give an account the credits of a package that was paid for, once per payment in the whole ledger.

        The ledger moves credits, never money: call it when the payment provider has told you that it was paid.
        Called again for the same payment it returns the first answer, also with another request_id.

        Args:
            account_id: The account.
            package_id: A package of the current catalog.
            payment_reference: The payment's id at the payment provider; 1 to 128 characters of
                [A-Za-z0-9._:@/+=-].
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            PaymentReferenceReused: The payment was credited to another account, or as another package.
            PackageUnknown: Not in the current catalog.
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return PurchasePackageRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            package_id=package_id,
            payment_reference=payment_reference,
        )
