"""What the model knows of reservations, refunds and expiry: rules of ``fault_model``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from fault_terms import PRICES, Charge, Entry, Reservation

Facts = dict[str, Any]


def after(time: str, seconds: int) -> str:
    """A time so many seconds later, as the ledger writes it."""
    later = datetime.fromisoformat(time) + timedelta(seconds=seconds)
    return later.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def reserve(account: Any, entry: Entry) -> Facts:
    """RESERVED: moves the cost from available to reserved."""
    operation, quantity = entry.content["operation"], entry.content["quantity"]
    cost = PRICES[operation] * quantity
    denials = account.denials(operation, quantity, entry.time)
    account.balance["available"] -= cost
    account.balance["reserved"] += cost
    account.uses[operation, entry.time[:7]] += quantity
    draws = account.burn(cost, hold=True)
    expire = after(entry.time, entry.content["ttl"])
    account.reservations[entry.revision] = Reservation(operation, quantity, cost, draws, expire)
    account.active.add(entry.revision)
    limits = account.limits(operation, entry.time)
    return {"amount": -cost, "cost": 0, "draws": draws, "limits": limits, "denials": denials}


def commit_denials(account: Any, content: dict[str, Any], time: str) -> list[list[Any]]:
    """Why a commit is refused: [reason, shortfall], the first one first."""
    reservation = account.reservations.get(content["reservation"])
    if reservation is None:
        return [["RESERVATION_NOT_FOUND", 0]]
    if reservation.state in ("COMMITTED", "RELEASED"):
        return [[f"RESERVATION_{reservation.state}", 0]]
    held, uses = (reservation.amount, reservation.quantity) if reservation.state == "ACTIVE" else (0, 0)
    more_uses = max(0, content["quantity"] - uses)
    more = max(0, PRICES[reservation.operation] * content["quantity"] - held)
    found: list[list[Any]] = [
        ["LIMIT_EXCEEDED", used + more_uses - limit]
        for _, limit, used in account.limits(reservation.operation, time)
        if more_uses and used + more_uses > limit
    ]
    if more > account.balance["available"]:
        found.append(["INSUFFICIENT_CREDITS", more - account.balance["available"]])
    return [["RESERVATION_EXPIRED", 0]] if found and reservation.state == "EXPIRED" else found


def commit(account: Any, entry: Entry) -> Facts:
    """COMMITTED: in time from what is held and, if that is too little, from what is available; late from that alone."""
    denials = commit_denials(account, entry.content, entry.time)
    reservation = account.reservations.get(entry.content["reservation"])
    if reservation is None:
        return {"denials": denials}
    quantity = entry.content["quantity"]
    cost = PRICES[reservation.operation] * quantity
    in_time = reservation.state == "ACTIVE"
    reservation.state = "COMMITTED"
    account.active.discard(entry.content["reservation"])
    account.uses[reservation.operation, entry.time[:7]] += quantity - (reservation.quantity if in_time else 0)
    consumed, returned = _divided(reservation.draws, cost) if in_time else ([], [])
    alive = 0
    for revision, amount in consumed:
        account.lots[revision].held -= amount
    for revision, amount in returned:
        alive += account.give_back(revision, amount, entry.time, held=True)
    more = cost - sum(amount for _, amount in consumed)
    drawn = account.burn(more)
    account.balance["available"] -= more
    account.balance["reserved"] -= reservation.amount if in_time else 0
    account.balance["spent"] += cost
    account.charges[entry.revision] = Charge(
        reservation.operation, quantity, cost, [[*draw] for draw in (*consumed, *drawn)]
    )
    return {
        "amount": alive - more, "cost": cost, "draws": [[name, -amount] for name, amount in returned] + drawn,
        "limits": account.limits(reservation.operation, entry.time), "denials": denials,
    }  # fmt: skip


def release(account: Any, entry: Entry) -> Facts:
    """RELEASED and RESERVATION_EXPIRED: gives everything back."""
    reservation = account.reservations.get(entry.content["reservation"])
    if reservation is None or reservation.state != "ACTIVE":
        return {"denials": [ended(reservation)]}
    expired = entry.kind == "reservation_expired"
    on_time = reservation.expire == entry.time if expired else reservation.expire > entry.time
    reservation.state = "EXPIRED" if expired else "RELEASED"
    account.active.discard(entry.content["reservation"])
    account.uses[reservation.operation, entry.time[:7]] -= reservation.quantity
    account.balance["reserved"] -= reservation.amount
    alive = sum(
        account.give_back(revision, amount, entry.time, held=True) for revision, amount in reservation.draws
    )
    return {
        "amount": alive, "cost": 0, "draws": [[name, -amount] for name, amount in reservation.draws],
        "limits": account.limits(reservation.operation, entry.time), "denials": [] if on_time else [["NOT_THEN", 0]],
    }  # fmt: skip


def extend(account: Any, entry: Entry) -> Facts:
    """EXTENDED: moves the end."""
    reservation = account.reservations.get(entry.content["reservation"])
    if reservation is None or reservation.state != "ACTIVE":
        return {"denials": [ended(reservation)]}
    reservation.expire = after(entry.time, entry.content["ttl"])
    return {"amount": 0, "cost": 0, "draws": [], "denials": []}


def refund(account: Any, entry: Entry) -> Facts:
    """REFUNDED: gives back from the last draw to the first."""
    denials = refund_denials(account, entry.content)
    charge = account.charges.get(entry.content["revision"])
    if charge is None or denials:
        return {"denials": denials}
    amount = entry.content["amount"]
    kept, returned = _divided(charge.draws, charge.left - amount)
    charge.draws, charge.left = kept, charge.left - amount
    merged: dict[int, int] = {}
    for revision, part in returned:
        merged[revision] = merged.get(revision, 0) + part
    alive = sum(
        account.give_back(revision, part, entry.time, held=False) for revision, part in merged.items()
    )
    account.balance["spent"] -= amount
    if not charge.left:
        account.uses[charge.operation, entry.time[:7]] -= charge.quantity
    order = sorted(account.lots[revision] for revision in merged)
    return {
        "amount": alive, "cost": 0, "draws": [[lot.revision, -merged[lot.revision]] for lot in order], "denials": [],
    }  # fmt: skip


def refund_denials(account: Any, content: dict[str, Any]) -> list[list[Any]]:
    """Why a refund is refused."""
    charge: Charge | None = account.charges.get(content["revision"])
    left = charge.left if charge else 0
    return [] if 0 < content["amount"] <= left else [["REFUND_EXCEEDS_COST", 0]]


def grant_expired(account: Any, entry: Entry) -> Facts:
    """GRANT_EXPIRED: what is left is forfeited."""
    lot = account.lots.get(entry.content["grant"])
    if lot is None or not lot.left or lot.expire != entry.time:
        return {"denials": [["NOT_THEN", 0]]}
    left, lot.left = lot.left, 0
    account.balance["available"] -= left
    account.balance["forfeited"] += left
    return {"amount": -left, "cost": 0, "draws": [[lot.revision, left]], "denials": []}


def ended(reservation: Reservation | None) -> list[Any]:
    """The refusal of whoever wants an active reservation."""
    return ["RESERVATION_NOT_FOUND" if reservation is None else f"RESERVATION_{reservation.state}", 0]


def _divided(draws: list[list[int]], amount: int) -> tuple[list[list[int]], list[list[int]]]:
    """The first ``amount`` of draws, and the rest."""
    first, rest = [], []
    for revision, drawn in draws:
        taken = min(drawn, max(0, amount))
        amount -= drawn
        if taken:
            first.append([revision, taken])
        if drawn > taken:
            rest.append([revision, drawn - taken])
    return first, rest
