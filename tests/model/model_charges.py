"""What the model does with Deduct, Reserve, CommitReservation, ReleaseReservation, ExtendReservation and Refund.

Every function gets an account that is settled and may be thrown away: it raises Refused or returns the response.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from model_account import Account, Charge, Counted, Draws, Reservation
from model_catalog import HOUR, SECOND, Catalog, Catalogs, Plain, price

MOST_RESERVATIONS = 1_000
REFUSES_SPENDING = ("FROZEN", "CLOSED")

CODES = {
    "FIELD_INVALID": "INVALID_ARGUMENT",
    "OPERATION_UNKNOWN": "INVALID_ARGUMENT",
    "LEVEL_UNKNOWN": "INVALID_ARGUMENT",
    "PACKAGE_UNKNOWN": "INVALID_ARGUMENT",
    "ACCOUNT_NOT_FOUND": "NOT_FOUND",
    "RESERVATION_NOT_FOUND": "NOT_FOUND",
    "GRANT_NOT_FOUND": "NOT_FOUND",
    "ENTRY_NOT_FOUND": "NOT_FOUND",
    "CATALOG_NOT_FOUND": "NOT_FOUND",
    "INSUFFICIENT_CREDITS": "FAILED_PRECONDITION",
    "LIMIT_EXCEEDED": "RESOURCE_EXHAUSTED",
    "ACCOUNT_FROZEN": "FAILED_PRECONDITION",
    "ACCOUNT_CLOSED": "FAILED_PRECONDITION",
    "RESERVATION_COMMITTED": "FAILED_PRECONDITION",
    "RESERVATION_RELEASED": "FAILED_PRECONDITION",
    "RESERVATION_EXPIRED": "FAILED_PRECONDITION",
    "REFUND_EXCEEDS_COST": "FAILED_PRECONDITION",
    "REQUEST_ID_REUSED": "ALREADY_EXISTS",
    "ACCOUNT_EXISTS": "ALREADY_EXISTS",
    "PAYMENT_REFERENCE_REUSED": "ALREADY_EXISTS",
    "VERSION_MISMATCH": "ABORTED",
    "TOO_MANY_RESERVATIONS": "RESOURCE_EXHAUSTED",
}


class Refused(Exception):
    """How a call fails: a reason, the metadata that the protos promise, and of FIELD_INVALID the fields."""

    def __init__(self, reason: str, *fields: str, **metadata: Any) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fields = fields
        self.metadata = metadata


@dataclass
class Call:
    """What a rule gets."""

    account: Account
    catalogs: Catalogs
    catalog: Catalog
    now: int
    request: Plain
    notes: Counter[str]

    def limits(self, operation: str) -> list[Plain]:
        """The limits of an operation as the response tells them."""
        return self.account.limits(self.catalog, self.now, operation)


@dataclass
class Denial:
    """A rule that does not allow a charge."""

    reason: str
    shortfall: int = 0
    metadata: Plain | None = None

    def refusal(self) -> Refused:
        """As the error of a mutation."""
        return Refused(self.reason, **(self.metadata or {}))


def usage_told(usage: Plain | None) -> Plain | None:
    """The usage as entries tell it."""
    if usage is None:
        return None
    return {**usage, "outcome": usage.get("outcome", "SUCCEEDED")}


def failed(usage: Plain | None) -> bool:
    """Whether the usage is of a failed attempt."""
    return usage is not None and usage.get("outcome") == "FAILED"


def take_level(call: Call) -> None:
    """Applies account_level: opens an account that is at revision 0, or changes the level."""
    account, level = call.account, call.request.get("account_level")
    if account.revision == 0:
        account.post("OPENED", call.now, level=account.level, catalog_version=call.catalog.version)
    elif level and level != account.level:
        account.level = level
        account.post("LEVEL_CHANGED", call.now, level=level, catalog_version=call.catalog.version)
    else:
        return
    account.take_allowance(call.catalog, call.now, call.notes)


def known_operation(call: Call) -> Plain:
    """The operation, if level and operation are in the catalog."""
    level = call.request.get("account_level") or call.account.level
    if level not in call.catalog.levels:
        call.notes["level that was dropped"] += 1
        raise Refused("LEVEL_UNKNOWN", level=level)
    operation = call.request["operation"]
    if operation not in call.catalog.operations:
        raise Refused("OPERATION_UNKNOWN", operation=operation)
    return call.catalog.operations[operation]


def denials(call: Call, operation: str, uses: int, required: int) -> list[Denial]:
    """Every rule that denies some more uses and credits: state, limits, balance."""
    account = call.account
    found = []
    if account.state in REFUSES_SPENDING:
        found.append(Denial(f"ACCOUNT_{account.state}"))
    found += [
        _limit_denial(limit, uses)
        for limit in call.limits(operation)
        if uses and limit["limit"] != -1 and limit["used"] + uses > limit["limit"]
    ]
    available = account.balance["available"]
    if required > available:
        missing = {"required": required, "available": available, "shortfall": required - available}
        found.append(Denial("INSUFFICIENT_CREDITS", required - available, missing))
    return found


def _limit_denial(limit: Plain, uses: int) -> Denial:
    shortfall = limit["used"] + uses - limit["limit"]
    return Denial("LIMIT_EXCEEDED", shortfall, {**limit, "shortfall": shortfall})


def refuse_if_denied(call: Call, operation: str, uses: int, required: int) -> None:
    """Raises the first denial."""
    for denial in denials(call, operation, uses, required):
        call.notes[f"denied {denial.reason}"] += 1
        raise denial.refusal()


def deduct(call: Call) -> Plain:
    """Deduct."""
    request, usage = call.request, call.request.get("usage")
    operation, quantity = known_operation(call), request.get("quantity", 1)
    take_level(call)
    cost = 0 if failed(usage) else price(operation, quantity, (usage or {}).get("metrics", {}))
    uses = 0 if failed(usage) else quantity
    refuse_if_denied(call, request["operation"], uses, cost)
    entry = _charge(
        call, "DEDUCTED", request["operation"], quantity, uses, cost,
        request_id=request["request_id"], usage=usage_told(usage), catalog_version=call.catalog.version,
    )  # fmt: skip
    limits = call.limits(request["operation"])
    return {"entry": entry, "cost": cost, "balance": entry["balance"], "limits": limits}


def _charge(
    call: Call, kind: str, operation: str, quantity: int, uses: int, cost: int, **fields: Any
) -> Plain:
    """Draws a cost from what is available and counts the uses."""
    account = call.account
    draws = account.draw(cost)
    counted = account.count(call.catalog, operation, uses, call.now) if uses else ()
    account.move(available=-cost, spent=cost)
    entry = account.post(
        kind, call.now, draws, amount=-cost, cost=cost, operation=operation, quantity=quantity, **fields
    )
    account.charges[account.revision] = Charge(cost, operation, quantity, draws, counted)
    return entry


def reserve(call: Call) -> Plain:
    """Reserve."""
    request, account = call.request, call.account
    operation, quantity = known_operation(call), request.get("quantity", 1)
    take_level(call)
    cost = price(operation, quantity, request.get("metrics", {}))
    if sum(each.state == "ACTIVE" for each in account.reservations.values()) >= MOST_RESERVATIONS:
        raise Refused("TOO_MANY_RESERVATIONS")
    refuse_if_denied(call, request["operation"], quantity, cost)
    draws = account.draw(cost, held=True)
    counted = account.count(call.catalog, request["operation"], quantity, call.now)
    account.move(available=-cost, reserved=cost)
    made = Reservation(
        account.revision + 1, request["operation"], quantity, cost, "ACTIVE", call.now,
        call.now + request.get("ttl", 60 * SECOND), call.catalog.version, draws, request.get("metrics", {}), counted,
    )  # fmt: skip
    account.reservations[made.revision] = made
    entry = account.post(
        "RESERVED", call.now, draws, amount=-cost, operation=request["operation"], quantity=quantity,
        request_id=request["request_id"], reservation_id=f"r{made.revision}", catalog_version=call.catalog.version,
    )  # fmt: skip
    told = reservation_told(account, made)
    return {"reservation": told, "balance": entry["balance"], "limits": call.limits(request["operation"])}


def reservation_told(account: Account, made: Reservation) -> Plain:
    """A reservation as responses tell it."""
    return {
        "reservation_id": f"r{made.revision}", "account_id": account.account_id, "operation": made.operation,
        "quantity": made.quantity, "amount": made.amount, "state": made.state, "create_time": made.create_time,
        "expire_time": made.expire_time, "catalog_version": made.catalog_version,
    }  # fmt: skip


def _reservation(call: Call) -> Reservation:
    name = call.request["reservation_id"]
    for each in call.account.reservations.values():
        if f"r{each.revision}" == name:
            return each
    raise Refused("RESERVATION_NOT_FOUND", accountId=call.account.account_id, reservationId=name)


def _active_reservation(call: Call) -> Reservation:
    held = _reservation(call)
    if held.state != "ACTIVE":
        call.notes[f"ended reservation: {held.state}"] += 1
        raise Refused(f"RESERVATION_{held.state}")
    return held


def refuse_if_closed(call: Call) -> None:
    """Closed accounts take nothing."""
    if call.account.state == "CLOSED":
        call.notes["denied ACCOUNT_CLOSED"] += 1
        raise Refused("ACCOUNT_CLOSED")


def commit(call: Call) -> Plain:
    """CommitReservation."""
    if call.account.state in REFUSES_SPENDING:
        raise Refused(f"ACCOUNT_{call.account.state}")
    held = _reservation(call)
    if held.state in ("COMMITTED", "RELEASED"):
        call.notes[f"ended reservation: {held.state}"] += 1
        raise Refused(f"RESERVATION_{held.state}")
    usage = call.request.get("usage")
    quantity = call.request.get("quantity", held.quantity)
    metrics = held.metrics if usage is None else usage.get("metrics", {})
    operation = call.catalogs.version(held.catalog_version).operations[held.operation]
    cost = 0 if failed(usage) else price(operation, quantity, metrics)
    uses = 0 if failed(usage) else quantity
    late = held.state == "EXPIRED"
    entry = (_commit_late if late else _commit_in_time)(call, held, quantity, uses, cost)
    call.account.reservations[held.revision] = replace(
        call.account.reservations[held.revision], state="COMMITTED"
    )
    call.notes["commit FAILED"] += failed(usage)
    return {
        "entry": entry, "cost": cost, "released": 0 if late else max(0, held.amount - cost), "late": late,
        "balance": entry["balance"], "limits": call.limits(held.operation),
    }  # fmt: skip


def _told_of_commit(call: Call, held: Reservation) -> Plain:
    return {
        "request_id": call.request["request_id"], "reservation_id": f"r{held.revision}",
        "usage": usage_told(call.request.get("usage")), "catalog_version": held.catalog_version,
    }  # fmt: skip


def _commit_late(call: Call, held: Reservation, quantity: int, uses: int, cost: int) -> Plain:
    if denials(call, held.operation, uses, cost):
        call.notes["late commit denied"] += 1
        raise Refused("RESERVATION_EXPIRED")
    call.notes["late commit"] += 1
    told = _told_of_commit(call, held)
    return _charge(call, "COMMITTED", held.operation, quantity, uses, cost, **told)


def _split(draws: Draws, amount: int) -> tuple[Draws, Draws]:
    """Draws as far as an amount goes, and the rest."""
    first, rest = [], []
    for revision, drawn in draws:
        used = min(drawn, amount)
        amount -= used
        first.append((revision, used))
        rest.append((revision, drawn - used))
    return tuple(draw for draw in first if draw[1]), tuple(draw for draw in rest if draw[1])


def _commit_in_time(call: Call, held: Reservation, quantity: int, uses: int, cost: int) -> Plain:
    account = call.account
    more = max(0, uses - held.quantity)
    refuse_if_denied(call, held.operation, more, max(0, cost - held.amount))
    consumed, rest = _split(held.draws, cost)
    account.unhold(held.draws)
    alive = account.give_back(rest, call.now)
    released = sum(amount for _, amount in rest)
    extra = cost - (held.amount - released)
    drawn = account.draw(extra)
    counted = _recount(call, held, uses, more)
    account.move(reserved=-held.amount, available=alive - extra, spent=cost, forfeited=released - alive)
    _note_commit(call, released, alive, extra)
    entry = account.post(
        "COMMITTED", call.now, [*drawn, *((key, -amount) for key, amount in rest)], amount=alive - extra,
        cost=cost, operation=held.operation, quantity=quantity, **_told_of_commit(call, held),
    )  # fmt: skip
    account.charges[account.revision] = Charge(cost, held.operation, quantity, consumed + drawn, counted)
    return entry


def _recount(call: Call, held: Reservation, uses: int, more: int) -> tuple[Counted, ...]:
    """Uses below the reserved quantity return to their windows, uses above count now. Returns what counts."""
    account = call.account
    less = held.quantity - min(uses, held.quantity)
    account.uncount(held.operation, [each._replace(uses=less) for each in held.counted])
    kept = tuple(each._replace(uses=each.uses - less) for each in held.counted)
    return kept + (account.count(call.catalog, held.operation, more, call.now) if more else ())


def _note_commit(call: Call, released: int, alive: int, extra: int) -> None:
    call.notes["commit less"] += released > 0
    call.notes["commit more"] += extra > 0
    call.notes["commit equal"] += released == extra == 0
    call.notes["released to an ended grant"] += alive < released


def release(call: Call) -> Plain:
    """ReleaseReservation."""
    refuse_if_closed(call)
    held = _active_reservation(call)
    entry = call.account.end_reservation(
        held.revision, "RELEASED", call.now, "RELEASED",
        request_id=call.request["request_id"], reason=call.request.get("reason", ""),
        catalog_version=call.catalog.version,
    )  # fmt: skip
    call.notes["released to an ended grant"] += entry["amount"] < held.amount
    return {"entry": entry, "balance": entry["balance"], "limits": call.limits(held.operation)}


def extend(call: Call) -> Plain:
    """ExtendReservation."""
    refuse_if_closed(call)
    held = _active_reservation(call)
    expire_time = call.now + call.request["ttl"]
    if expire_time > held.create_time + 24 * HOUR:
        call.notes["extended too far"] += 1
        raise Refused("FIELD_INVALID", "ttl")
    held = replace(held, expire_time=expire_time)
    call.account.reservations[held.revision] = held
    call.account.post(
        "EXTENDED", call.now, operation=held.operation, quantity=held.quantity,
        request_id=call.request["request_id"], reservation_id=f"r{held.revision}",
        catalog_version=held.catalog_version,
    )  # fmt: skip
    return {"reservation": reservation_told(call.account, held)}


def refund(call: Call) -> Plain:
    """Refund."""
    refuse_if_closed(call)
    account, revision = call.account, call.request["revision"]
    if revision > account.revision:
        raise Refused("ENTRY_NOT_FOUND", accountId=account.account_id, revision=revision)
    if revision not in account.charges:
        raise Refused("FIELD_INVALID", "revision")
    charge = account.charges[revision]
    left = charge.cost - charge.refunded
    amount = call.request.get("amount", 0) or left
    if amount > left or left == 0:
        raise Refused("REFUND_EXCEEDS_COST", refundable=left)
    back = _refund_draws(charge, amount)
    alive = account.give_back(back, call.now)
    account.move(available=alive, forfeited=amount - alive, spent=-amount)
    left -= amount
    account.charges[revision] = replace(charge, refunded=charge.refunded + amount)
    if left == 0:
        account.uncount(charge.operation, charge.counted)
    _note_refund(call, amount, left, alive)
    entry = account.post(
        "REFUNDED", call.now, [(key, -given) for key, given in back], amount=alive, operation=charge.operation,
        quantity=charge.quantity, request_id=call.request["request_id"], refunds_revision=revision,
        reason=call.request.get("reason", ""), catalog_version=account.entries[revision - 1]["catalog_version"],
    )  # fmt: skip
    return {"entry": entry, "balance": entry["balance"], "refundable": left, "forfeited": amount - alive}


def _refund_draws(charge: Charge, amount: int) -> Draws:
    """From the last draw to the first, after what was refunded before; one draw per grant."""
    _, open_draws = _split(tuple(reversed(charge.draws)), charge.refunded)
    back, _ = _split(open_draws, amount)
    sums: dict[int, int] = {}
    for revision, given in back:
        sums[revision] = sums.get(revision, 0) + given
    return tuple(sums.items())


def _note_refund(call: Call, amount: int, left: int, alive: int) -> None:
    call.notes["refund in part"] += left > 0
    call.notes["refund whole"] += left == 0
    call.notes["refund to an ended grant"] += alive < amount
