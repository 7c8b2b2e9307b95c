"""What the model does with the mutations of LedgerAdmin. Functions are as in model_charges."""

from __future__ import annotations

from typing import Any

from model_account import MOST_LOTS, Account, Grant
from model_catalog import Plain
from model_charges import Call, Refused, refuse_if_closed

Purchases = dict[str, tuple[str, str, Plain]]
"""payment_reference: account_id, package_id and the response."""


def grant_told(account: Account, revision: int, grant: Grant | None = None) -> Plain:
    """A grant as responses tell it."""
    grant = grant or account.grants[revision]
    return {
        "grant_id": f"g{revision}", "account_id": account.account_id, "amount": grant.amount,
        "remaining": grant.remaining, "priority": grant.priority, "source": grant.source,
        "effective_time": grant.effective_time, "expire_time": grant.expire_time,
        "create_time": grant.create_time, "reason": grant.reason, "labels": grant.labels,
    }  # fmt: skip


def open_account(call: Call) -> Plain:
    """OpenAccount, of an account that is not open."""
    account, request = call.account, call.request
    if account.level not in call.catalog.levels:
        raise Refused("LEVEL_UNKNOWN", level=account.level)
    entry = account.post(
        "OPENED",
        call.now,
        level=account.level,
        request_id=request["request_id"],
        catalog_version=call.catalog.version,
    )
    told = account.plain()
    account.take_allowance(call.catalog, call.now, call.notes)
    return {"account": told, "entry": entry}


def update_account(call: Call) -> Plain:
    """UpdateAccount."""
    account, request, mask = call.account, call.request, call.request["update_mask"]
    if "level" in mask and request["level"] not in call.catalog.levels:
        raise Refused("LEVEL_UNKNOWN", level=request["level"])
    refuse_if_closed(call)
    moves = "level" in mask and request["level"] != account.level
    if "level" in mask:
        account.level = request["level"]
    if "labels" in mask:
        account.labels = request.get("labels", {})
    if "state" in mask:
        account.state = request["state"]
        call.notes[f"made {account.state}"] += 1
    kind = "LEVEL_CHANGED" if set(mask) == {"level"} else "STATE_CHANGED"
    entry = account.post(
        kind,
        call.now,
        level=account.level,
        request_id=request["request_id"],
        catalog_version=call.catalog.version,
    )
    told = account.plain()
    if moves:
        account.take_allowance(call.catalog, call.now, call.notes)
    return {"account": told, "entry": entry}


def refuse_if_full(call: Call) -> None:
    """With as many lots as there may be, no grant is taken."""
    if call.account.lots() >= MOST_LOTS:
        call.notes["denied one grant too many"] += 1
        raise Refused("FIELD_INVALID", "account_id")


def _make_grant(call: Call, kind: str, grant: Grant, **fields: Any) -> Plain:
    """A grant and its entry, unless the account has too many."""
    account = call.account
    refuse_if_full(call)
    account.add_grant(grant)
    return account.post(
        kind, call.now, amount=grant.amount if grant.state == "LIVE" else 0, grant_id=f"g{grant.revision}",
        request_id=call.request["request_id"], reason=grant.reason, **fields,
    )  # fmt: skip


def grant_credits(call: Call) -> Plain:
    """GrantCredits."""
    request, account = call.request, call.account
    effective, expires = request.get("effective_time"), request.get("expire_time")
    if expires is not None and expires <= call.now:
        call.notes["grant expired before"] += 1
        raise Refused("FIELD_INVALID", "expire_time")
    refuse_if_closed(call)
    refuse_if_full(call)
    later = effective is not None and effective > call.now
    grant = Grant(
        account.revision + 1, request["amount"], request["amount"], call.now, "ADMIN", request.get("priority", 0),
        effective if later else None, expires, request.get("reason", ""), request.get("labels", {}),
        state="PENDING" if later else "LIVE",
    )  # fmt: skip
    call.notes["grant that begins later"] += later
    entry = _make_grant(call, "GRANTED", grant)
    return {"grant": grant_told(account, grant.revision), "entry": entry, "balance": entry["balance"]}


def void_grant(call: Call) -> Plain:
    """VoidGrant."""
    refuse_if_closed(call)
    account, name = call.account, call.request["grant_id"]
    grant = next((each for each in account.grants.values() if f"g{each.revision}" == name), None)
    if grant is None:
        raise Refused("GRANT_NOT_FOUND", accountId=account.account_id, grantId=name)
    call.notes["voided while held"] += grant.held > 0
    call.notes["voided before it began"] += grant.state == "PENDING"
    call.notes["voided after its end"] += grant.state == "ENDED"
    taken = grant.remaining if grant.state == "LIVE" else 0
    account.change_grant(grant.revision, state="ENDED", remaining=0)
    account.move(available=-taken, forfeited=taken)
    entry = account.post(
        "GRANT_VOIDED", call.now, [(grant.revision, taken)] if taken else [], amount=-taken, grant_id=name,
        request_id=call.request["request_id"], reason=call.request.get("reason", ""),
    )  # fmt: skip
    return {"grant": grant_told(account, grant.revision), "entry": entry, "balance": entry["balance"]}


def adjust(call: Call) -> Plain:
    """AdjustBalance."""
    refuse_if_closed(call)
    account, amount, reason = call.account, call.request["amount"], call.request["reason"]
    call.notes["adjusted up" if amount > 0 else "adjusted down"] += 1
    if amount > 0:
        grant = Grant(account.revision + 1, amount, amount, call.now, "ADJUSTMENT", reason=reason)
        entry = _make_grant(call, "ADJUSTED", grant)
        return {"entry": entry, "balance": entry["balance"]}
    available = account.balance["available"]
    if -amount > available:
        missing = -amount - available
        raise Refused("INSUFFICIENT_CREDITS", required=-amount, available=available, shortfall=missing)
    draws = account.draw(-amount)
    account.move(available=amount, forfeited=-amount)
    entry = account.post(
        "ADJUSTED", call.now, draws, amount=amount, request_id=call.request["request_id"], reason=reason
    )
    return {"entry": entry, "balance": entry["balance"]}


def purchase(call: Call, purchases: Purchases) -> Plain:
    """PurchasePackage, of a payment that was not credited before."""
    request, account = call.request, call.account
    if request["package_id"] not in call.catalog.packages:
        raise Refused("PACKAGE_UNKNOWN", packageId=request["package_id"])
    refuse_if_closed(call)
    credits_ = call.catalog.packages[request["package_id"]]["credits"]
    grant = Grant(account.revision + 1, credits_, credits_, call.now, "PACKAGE")
    entry = _make_grant(call, "GRANTED", grant, catalog_version=call.catalog.version)
    response = {"grant": grant_told(account, grant.revision), "entry": entry, "balance": entry["balance"]}
    purchases[request["payment_reference"]] = (account.account_id, request["package_id"], response)
    return response
