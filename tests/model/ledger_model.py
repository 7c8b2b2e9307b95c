"""A model of the whole ledger, written from the contract and decision 9 and not from the code, which it may contradict.

It imports nothing of the product. Requests and responses are dicts with the names of the protos: times are
microseconds, enums their names without prefix, and what is zero or absent may be left out.

What those documents leave open, and the model has to assume:

- Grants are named ``g`` and reservations ``r`` with the revision of their entry.
- Several grants that expire, or begin, at one instant do so by revision, as reservations do.
- What a reservation gives back at the very instant at which its grant expires is forfeited: the grant has expired.
- A grant of which nothing remains expires without an entry. One that is voided always gets one, also a second time.
- account_level, also where it opens the account, brings the level's allowance before the charge is decided.
- OpenAccount and UpdateAccount tell the account as it is after their own entry, before the allowance that they bring.
- Draws name a grant once and are told in burn order, also those of refunds. Limits are told by operation and period.
- Limits of a commit are those of the account's level in the catalog that is current, its price that of the pinned one.
- catalog_version: of COMMITTED and EXTENDED the pinned one, of REFUNDED that of the refunded entry; the current one of
  RELEASED, RESERVATION_EXPIRED, OPENED, LEVEL_CHANGED, STATE_CHANGED, and of what an allowance or package granted.
- Names that the catalog lacks and a grant that has expired already are told before the account's state, everywhere.
- A reservation that an extension would make older than 24 h is FIELD_INVALID, as is a grant that has already expired,
  a refund of what is neither deduction nor commit, and one grant too many (decision 2).
- Pending grants are no part of GetBalance.grants. A balance before the account was opened is ACCOUNT_NOT_FOUND.
- Where the ledger's clock has been set back, the time of an account is that of its newest entry until the clock has
  caught up, for reads of it as well; the current catalog is the newest one. What a read settled is not undone.
- SummarizeUsage adds up what DEDUCTED, COMMITTED and REFUNDED entries tell; others make no row. What a refund takes off
  is all of its amount, forfeited or not, as of ``spent``.
- read_time of a balance of the past is the time as of which it is told: it is equal to what was answered then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import model_reads as reads
from model_account import Account
from model_admin import (
    Purchases,
    adjust,
    grant_credits,
    open_account,
    purchase,
    update_account,
    void_grant,
)
from model_catalog import Catalogs, Plain
from model_charges import (
    CODES,
    Call,
    Refused,
    commit,
    deduct,
    extend,
    refund,
    release,
    reserve,
    usage_told,
)
from model_fields import bad_fields
from model_usage import summarize

RULES: dict[str, Callable[[Call], Plain]] = {
    "Deduct": deduct,
    "Reserve": reserve,
    "CommitReservation": commit,
    "ReleaseReservation": release,
    "ExtendReservation": extend,
    "Refund": refund,
    "OpenAccount": open_account,
    "UpdateAccount": update_account,
    "GrantCredits": grant_credits,
    "VoidGrant": void_grant,
    "AdjustBalance": adjust,
}
OPENING = ("OpenAccount", "Deduct", "Reserve", "CanPerform")
DEFAULTS: dict[str, Plain] = {"Deduct": {"quantity": 1}, "Reserve": {"quantity": 1, "ttl": 60_000_000}}
PAGED = {
    "ListEntries": "entries",
    "ListReservations": "reservations",
    "ListGrants": "grants",
    "ListPackages": "packages",
    "ListAccounts": "accounts",
}
"""The methods that tell pages, with the field that holds them: the model answers with all pages at once."""


def identity(method: str, request: Plain) -> Any:
    """What makes two requests the same."""
    content = {**DEFAULTS.get(method, {}), **request}
    if "usage" in content:
        content["usage"] = usage_told(content["usage"])
    return method, {key: value for key, value in content.items() if value not in (None, "", {}, [])}


class Ledger:
    """The model. ``notes`` counts the interesting cases that came up."""

    def __init__(self) -> None:
        self.catalogs = Catalogs()
        self.accounts: dict[str, Account] = {}
        self.purchases: Purchases = {}
        self.catalog_requests: dict[str, tuple[Any, Plain]] = {}
        self.notes: Counter[str] = Counter()

    def call(self, method: str, request: Plain, now: int) -> Plain:
        """The response, or {"error": …} with code, reason, metadata and fields."""
        try:
            return self._answer(method, request, now)
        except Refused as refused:
            return {"error": self._error(method, request, refused, now)}

    def _error(self, method: str, request: Plain, refused: Refused, now: int) -> Plain:
        """Every refused mutation tells at which revision and when that was decided (contract §3.4)."""
        metadata = dict(refused.metadata)
        if method in RULES and refused.reason not in ("FIELD_INVALID", "ENTRY_NOT_FOUND"):
            account = self.accounts.get(request["account_id"])
            decided = account.now(now) if account else now
            metadata |= {"revision": account.revision if account else 0, "decideTime": decided}
        return {
            "code": CODES[refused.reason],
            "reason": refused.reason,
            "metadata": metadata,
            "fields": sorted(refused.fields),
        }

    def _answer(self, method: str, request: Plain, now: int) -> Plain:
        if bad := bad_fields(method, request):
            raise Refused("FIELD_INVALID", *bad)
        if method == "BatchDeduct":
            return {"results": [self._item(each, now) for each in request["requests"]]}
        if method in ("UpdateCatalog", "GetCatalog", "ListPackages", "ListAccounts"):
            return self._of_ledger(method, request, now)
        account = self._settled(request["account_id"], now)
        now = account.now(now) if account else now
        if account is None and not self._opens(method, request):
            raise Refused("ACCOUNT_NOT_FOUND", accountId=request["account_id"])
        if method in RULES or method == "PurchasePackage":
            return self._mutate(method, request, account, now)
        return self._read(method, request, account, now)

    def _item(self, request: Plain, now: int) -> Plain:
        answer = self.call("Deduct", request, now)
        return {"status": answer["error"]} if "error" in answer else {"response": answer}

    def _opens(self, method: str, request: Plain) -> bool:
        return method == "OpenAccount" or (method in OPENING and bool(request.get("account_level")))

    def _settled(self, account_id: str, now: int) -> Account | None:
        account = self.accounts.get(account_id)
        if account:
            account.settle(self.catalogs, now, self.notes)
        return account

    # Mutations

    def _mutate(self, method: str, request: Plain, account: Account | None, now: int) -> Plain:
        if account and (replay := self._replayed(account.requests, method, request)):
            return replay
        if method == "PurchasePackage" and (replay := self._paid(request)):
            return replay
        if method == "OpenAccount" and account:
            raise Refused("ACCOUNT_EXISTS", accountId=request["account_id"])
        trial = self._trial(method, request, account, now)
        call = Call(trial, self.catalogs, self.catalogs.at(now), now, request, self.notes)
        response = purchase(call, self.purchases) if method == "PurchasePackage" else RULES[method](call)
        trial.requests[request["request_id"]] = (identity(method, request), response)
        self.accounts[request["account_id"]] = trial
        return response

    def _trial(self, method: str, request: Plain, account: Account | None, now: int) -> Account:
        if account:
            return account.copy()
        level = request.get("level" if method == "OpenAccount" else "account_level")
        level = level or self.catalogs.at(now).document["default_level"]
        return Account(request["account_id"], level, now, request.get("labels", {}))

    def _replayed(self, requests: dict[str, tuple[Any, Plain]], method: str, request: Plain) -> Plain | None:
        earlier = requests.get(request["request_id"])
        if earlier is None:
            return None
        content, response = earlier
        if content != identity(method, request):
            self.notes["request id reused"] += 1
            raise Refused("REQUEST_ID_REUSED", requestId=request["request_id"])
        self.notes["replay"] += 1
        return {**response, "replayed": True}

    def _paid(self, request: Plain) -> Plain | None:
        earlier = self.purchases.get(request["payment_reference"])
        if earlier is None:
            return None
        account_id, package_id, response = earlier
        if (account_id, package_id) != (request["account_id"], request["package_id"]):
            self.notes["payment reference reused"] += 1
            raise Refused("PAYMENT_REFERENCE_REUSED", paymentReference=request["payment_reference"])
        self.notes["payment credited before"] += 1
        return {**response, "replayed": True}

    # Reads

    def _read(self, method: str, request: Plain, account: Account | None, now: int) -> Plain:
        if method == "CanPerform":
            trial = self._trial(method, request, account, now)
            call = Call(trial, self.catalogs, self.catalogs.at(now), now, request, Counter())
            return reads.can_perform(call, account.revision if account else 0)
        assert account
        if method == "GetBalance":
            return reads.get_balance(account, self.catalogs, now, request)
        if method == "GetAccount":
            return {"account": account.plain()}
        if method == "GetEntry":
            return reads.get_entry(account, request)
        if method == "GetReservation":
            return reads.get_reservation(account, request)
        if method == "SummarizeUsage":
            return summarize(account, request)
        if method == "VerifyAccount":
            return {"valid": True, "entries": account.revision}
        return {PAGED[method]: self._listed(method, request, account)}

    def _listed(self, method: str, request: Plain, account: Account) -> list[Plain]:
        if method == "ListEntries":
            return reads.list_entries(account, request)
        if method == "ListReservations":
            return reads.list_reservations(account, request)
        return reads.list_grants(account)

    # What is not of one account

    def _of_ledger(self, method: str, request: Plain, now: int) -> Plain:
        if method == "UpdateCatalog":
            return self._update_catalog(request, now)
        if method == "GetCatalog":
            if not 0 < request.get("version", 1) <= len(self.catalogs.versions):
                raise Refused("CATALOG_NOT_FOUND", version=request["version"])
            version = request.get("version", len(self.catalogs.versions))
            return {"catalog": self.catalogs.version(version).plain()}
        if method == "ListPackages":
            return {"packages": self.catalogs.at(now).document["packages"]}
        found = [
            self._settled(name, now) for name in sorted(self.accounts) if name.startswith(request["prefix"])
        ]
        level = request.get("level")
        return {"accounts": [each.plain() for each in found if each and level in (None, each.level)]}

    def _update_catalog(self, request: Plain, now: int) -> Plain:
        if replay := self._replayed(self.catalog_requests, "UpdateCatalog", request):
            return replay
        current = len(self.catalogs.versions)
        expected = request.get("expected_version", current)
        if expected != current:
            raise Refused("VERSION_MISMATCH", expected=expected, current=current)
        response = {"catalog": self.catalogs.add(now, request["catalog"]).plain()}
        self.catalog_requests[request["request_id"]] = (identity("UpdateCatalog", request), response)
        return response
