"""What the model answers to reads. Accounts are settled before."""

from __future__ import annotations

import bisect

from model_account import Account, Snapshot, limit_states
from model_admin import grant_told
from model_catalog import Catalogs, Plain, price
from model_charges import Call, Refused, denials, known_operation, reservation_told, take_level


def can_perform(call: Call, revision: int) -> Plain:
    """CanPerform, of a copy that is thrown away; ``revision`` is that of the account as it is."""
    request = call.request
    operation, quantity = known_operation(call), request.get("quantity", 1)
    take_level(call)
    cost = price(operation, quantity, request.get("metrics", {}))
    found = denials(call, request["operation"], quantity, cost)
    call.notes["CanPerform allowed" if not found else "CanPerform denied"] += 1
    return {
        "allowed": not found,
        "denials": [{"reason": denial.reason, "shortfall": denial.shortfall} for denial in found],
        "cost": cost,
        "balance": dict(call.account.balance),
        "limits": call.limits(request["operation"]),
        "catalog_version": call.catalog.version,
        "revision": revision,
        "decide_time": call.now,
    }


def get_balance(account: Account, catalogs: Catalogs, now: int, request: Plain) -> Plain:
    """GetBalance, now or as it was."""
    snapshot, time = _snapshot(account, now, request)
    grants = [grant for grant in snapshot.grants.values() if grant.state == "LIVE" and grant.remaining]
    grants.sort(key=lambda grant: grant.burn_key)
    return {
        "account": snapshot.account,
        "balance": snapshot.balance,
        "limits": limit_states(catalogs.at(time), snapshot.level, snapshot.uses, time),
        "grants": [grant_told(account, grant.revision, grant) for grant in grants],
        "revision": snapshot.account["revision"],
        "read_time": time,
    }


def _snapshot(account: Account, now: int, request: Plain) -> tuple[Snapshot, int]:
    """The state asked for, and the time as of which its limits are told."""
    if "at_revision" in request:
        revision = request["at_revision"]
        if revision > account.revision:
            raise Refused("ENTRY_NOT_FOUND", accountId=account.account_id, revision=revision)
        snapshot = account.snapshots[revision - 1]
        return snapshot, snapshot.time
    if "at_time" in request:
        time = request["at_time"]
        if time > now:
            raise Refused("FIELD_INVALID", "at_time")
        place = bisect.bisect_right(account.snapshots, time, key=lambda snapshot: snapshot.time)
        if place == 0:
            raise Refused("ACCOUNT_NOT_FOUND", accountId=account.account_id)
        return account.snapshots[place - 1], time
    return account.snapshots[-1], now


def get_entry(account: Account, request: Plain) -> Plain:
    """GetEntry."""
    if "revision" in request:
        revision = request["revision"]
        if revision > account.revision:
            raise Refused("ENTRY_NOT_FOUND", accountId=account.account_id, revision=revision)
        return {"entry": account.entries[revision - 1]}
    for entry in account.entries:
        if entry.get("request_id") == request["request_id"]:
            return {"entry": entry}
    raise Refused("ENTRY_NOT_FOUND", accountId=account.account_id, requestId=request["request_id"])


def list_entries(account: Account, request: Plain) -> list[Plain]:
    """All pages of ListEntries."""
    kinds = request.get("kinds")
    found = [
        entry
        for entry in account.entries
        if entry["revision"] >= request.get("from_revision", 0)
        and entry["revision"] <= (request.get("to_revision") or account.revision)
        and entry["create_time"] >= request.get("start_time", 0)
        and entry["create_time"] < request.get("end_time", 1 << 62)
        and (not kinds or entry["kind"] in kinds)
        and request.get("operation") in (None, entry.get("operation"))
    ]
    return found if request.get("order") == "OLDEST_FIRST" else found[::-1]


def list_reservations(account: Account, request: Plain) -> list[Plain]:
    """All pages of ListReservations."""
    states = request.get("states")
    found = [each for each in account.reservations.values() if not states or each.state in states]
    return [reservation_told(account, each) for each in reversed(found)]


def get_reservation(account: Account, request: Plain) -> Plain:
    """GetReservation."""
    name = request["reservation_id"]
    for each in account.reservations.values():
        if f"r{each.revision}" == name:
            return {"reservation": reservation_told(account, each)}
    raise Refused("RESERVATION_NOT_FOUND", accountId=account.account_id, reservationId=name)


def list_grants(account: Account) -> list[Plain]:
    """All pages of ListGrants, newest first."""
    return [grant_told(account, revision) for revision in sorted(account.grants, reverse=True)]
