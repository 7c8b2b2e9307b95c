# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The methods of both clients for accounts, the catalog and the ledger itself; see `_methods`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from creditledger._fields import given_or_drawn
from creditledger._rpc import rpc
from creditledger.v1.ledger_admin_pb2 import (
    GetAccountRequest,
    GetCatalogRequest,
    GetServerInfoRequest,
    ListAccountsRequest,
    OpenAccountRequest,
    UpdateAccountRequest,
    UpdateCatalogRequest,
    VerifyAccountRequest,
)
from creditledger.v1.resources_pb2 import AccountState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from creditledger.v1.resources_pb2 import Catalog


class AdminMethods:
    """Accounts, the catalog, and checks of the ledger itself."""

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
            request_id=given_or_drawn(request_id), account_id=account_id, level=level or "", labels=labels
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
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            update_mask=FieldMask(paths=[name for name, value in changes.items() if value is not None]),
            level=level or "",
            labels=labels,
            state=state or AccountState.ACCOUNT_STATE_UNSPECIFIED,
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
            request_id=given_or_drawn(request_id), catalog=catalog, expected_version=expected_version
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
