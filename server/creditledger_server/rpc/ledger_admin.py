"""The service LedgerAdmin: validates, calls the ledger, answers."""

from __future__ import annotations

from creditledger.v1 import ledger_admin_pb2 as pb
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminServicer

from .. import __version__
from ..domain.commands import Command
from ..domain.decide import Accepted
from ..domain.refusal import Reason, Refused
from ..ledger.ledger import Ledger
from . import convert, requests
from .catalog_messages import catalog_message, catalog_of, package_message
from .context import Context, accepted, deadline_of
from .paging import Pages, fitting
from .validate import Fields


class LedgerAdminService(LedgerAdminServicer):
    """The control plane. Methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, ledger: Ledger, default_deadline: float) -> None:
        self._ledger = ledger
        self._pages = Pages(ledger.identity.cursor_key)
        self._default_deadline = default_deadline

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Context) -> pb.OpenAccountResponse:
        entry, replayed = await self._write(requests.open_account(request), context)
        return pb.OpenAccountResponse(
            account=convert.opened_account(entry), entry=convert.entry(entry), replayed=replayed
        )

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.GetAccountResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        fields.check()
        return pb.GetAccountResponse(account=convert.account(await self._ledger.account(request.account_id)))

    async def ListAccounts(
        self, request: pb.ListAccountsRequest, context: Context
    ) -> pb.ListAccountsResponse:
        fields = Fields()
        if request.prefix:
            fields.identifier("prefix", request.prefix)
        level = fields.optional_name("level", request.level)
        size = fields.page_size(request.page_size)
        after = self._pages.position(fields, request) or ""
        fields.check()
        found = await self._ledger.accounts(after, request.prefix, level, size + 1)
        accounts = fitting([convert.account(account) for account in found[:size]])
        token = self._pages.token(request, accounts[-1].account_id) if len(accounts) < len(found) else ""
        return pb.ListAccountsResponse(accounts=accounts, next_page_token=token)

    async def UpdateAccount(
        self, request: pb.UpdateAccountRequest, context: Context
    ) -> pb.UpdateAccountResponse:
        entry, replayed = await self._write(requests.update_account(request), context)
        return pb.UpdateAccountResponse(
            account=convert.updated_account(entry), entry=convert.entry(entry), replayed=replayed
        )

    async def GrantCredits(
        self, request: pb.GrantCreditsRequest, context: Context
    ) -> pb.GrantCreditsResponse:
        entry, replayed = await self._write(requests.grant_credits(request), context)
        message = convert.entry(entry)
        return pb.GrantCreditsResponse(
            grant=convert.new_grant(entry), entry=message, balance=message.balance, replayed=replayed
        )

    async def VoidGrant(self, request: pb.VoidGrantRequest, context: Context) -> pb.VoidGrantResponse:
        entry, replayed = await self._write(requests.void_grant(request), context)
        return pb.VoidGrantResponse(
            grant=convert.voided_grant(entry), entry=convert.entry(entry), balance=convert.balance(entry),
            replayed=replayed,
        )  # fmt: skip

    async def ListGrants(self, request: pb.ListGrantsRequest, context: Context) -> pb.ListGrantsResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        size = fields.page_size(request.page_size)
        before = self._pages.position(fields, request)
        fields.check()
        found = await self._ledger.history.grants(request.account_id, before, size + 1)
        grants = fitting([convert.grant(grant, remaining) for grant, remaining in found[:size]])
        last = found[len(grants) - 1][0].revision if grants else 0
        token = self._pages.token(request, last) if len(grants) < len(found) else ""
        return pb.ListGrantsResponse(grants=grants, next_page_token=token)

    async def AdjustBalance(
        self, request: pb.AdjustBalanceRequest, context: Context
    ) -> pb.AdjustBalanceResponse:
        entry, replayed = await self._write(requests.adjust_balance(request), context)
        return pb.AdjustBalanceResponse(
            entry=convert.entry(entry), balance=convert.balance(entry), replayed=replayed
        )

    async def ListPackages(
        self, request: pb.ListPackagesRequest, context: Context
    ) -> pb.ListPackagesResponse:
        fields = Fields()
        size = fields.page_size(request.page_size)
        after = self._pages.position(fields, request) or ""
        fields.check()
        current = await self._ledger.catalogs.get(None)
        known = sorted(current.catalog.packages.items()) if current else []
        found = [package_message(package) for name, package in known if name > after]
        packages = fitting(found[:size])
        token = self._pages.token(request, packages[-1].package_id) if len(packages) < len(found) else ""
        return pb.ListPackagesResponse(packages=packages, next_page_token=token)

    async def PurchasePackage(
        self, request: pb.PurchasePackageRequest, context: Context
    ) -> pb.PurchasePackageResponse:
        entry, replayed = await self._write(requests.purchase_package(request), context)
        return pb.PurchasePackageResponse(
            grant=convert.new_grant(entry), entry=convert.entry(entry), balance=convert.balance(entry),
            replayed=replayed,
        )  # fmt: skip

    async def GetCatalog(self, request: pb.GetCatalogRequest, context: Context) -> pb.GetCatalogResponse:
        version = request.version if request.HasField("version") else None
        found = await self._ledger.catalogs.get(version)
        if found is None:
            which = "no catalog yet" if version is None else f"no catalog of version {version}"
            raise Refused(Reason.CATALOG_NOT_FOUND, which, version=version)
        return pb.GetCatalogResponse(catalog=catalog_message(found))

    async def UpdateCatalog(
        self, request: pb.UpdateCatalogRequest, context: Context
    ) -> pb.UpdateCatalogResponse:
        fields = Fields()
        fields.identifier("request_id", request.request_id)
        if not request.HasField("catalog"):
            fields.wrong("catalog", "is required")
        fields.check()
        expected = request.expected_version if request.HasField("expected_version") else None
        updated, replayed = await self._ledger.catalogs.update(
            request.request_id, catalog_of(request.catalog), expected
        )
        return pb.UpdateCatalogResponse(catalog=catalog_message(updated), replayed=replayed)

    async def VerifyAccount(
        self, request: pb.VerifyAccountRequest, context: Context
    ) -> pb.VerifyAccountResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        fields.check()
        account, entries, finding = await self._ledger.verify(request.account_id)
        return pb.VerifyAccountResponse(
            valid=finding is None,
            entries=entries,
            first_bad_revision=finding.revision if finding else 0,
            problem=finding.problem if finding else "",
            head_hash=account.head_hash if account else b"",
        )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        info = await self._ledger.info()
        return pb.GetServerInfoResponse(
            ledger_id=str(self._ledger.identity.ledger_id),
            decimals=self._ledger.identity.decimals,
            server_version=__version__,
            schema_version=info.schema_version,
            catalog_version=info.catalog_version,
            server_time=convert.timestamp(info.now),
        )

    async def _write(self, command: Command, context: Context) -> Accepted:
        [answer] = await self._ledger.write([command], deadline_of(context, self._default_deadline))
        return accepted(answer)
