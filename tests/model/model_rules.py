"""What the examples do: each rule makes some calls on an example. ``WEIGHTS`` says how often each is chosen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from model_account import Account
from model_catalog import DAY, HOUR, SECOND, Plain
from model_catalogs import LEVELS, OPERATIONS, PACKAGES, some_catalog
from model_example import Example, Mismatch

SWEEP_SECONDS = 5.0
"""Real seconds, though two are promised: the machine may be busy."""

Rule = Callable[[Example], object]


def _level(on: Example) -> str | None:
    return on.draw.choice(LEVELS) if on.chance(0.12) else None


def _metrics(on: Example) -> dict[str, int]:
    return {"tokens": on.draw.choice((0, 1, 999, 1_000, 4_321)), "seconds": on.draw.choice((0, 59, 61))}


def _usage(on: Example) -> Plain | None:
    if on.chance(0.4):
        return None
    usage: Plain = {"metrics": _metrics(on)} if on.chance(0.8) else {"service": "s"}
    if on.chance(0.2):
        usage["outcome"] = on.draw.choice(("FAILED", "SUCCEEDED"))
    if on.chance(0.2):
        usage |= {"response_time": on.draw.randint(0, SECOND), "metadata": {"model": "m", "temperature": 0.5}}
    return usage


def _quantity(on: Example) -> int | None:
    return on.draw.choice((None, None, 1, 2, 3, 7))


def _deduction(on: Example, name: str) -> Plain:
    fields = {
        "request_id": on.new_id(), "account_id": name, "account_level": _level(on),
        "operation": on.draw.choice(OPERATIONS), "quantity": _quantity(on), "usage": _usage(on),
    }  # fmt: skip
    return {key: value for key, value in fields.items() if value is not None}


def tick(on: Example) -> None:
    """A moment passes."""
    on.go(on.now + on.draw.choice((1, 2, 1_000, SECOND, 61 * SECOND)))


def to_due(on: Example) -> None:
    """Just before, at or just after an instant at which something falls due; then looks."""
    account = on.account()
    mine = [each for each in account.instants() if each > on.now]
    instant = min(mine) if mine and on.chance(0.7) else on.coming()
    for offset in on.draw.choice(((-1, 0, 1), (0,), (-1,), (1,), (-1, 0))):
        on.go(instant + offset)
        if on.chance(0.5):
            on.ask("GetBalance", {"account_id": account.account_id})
        else:
            on.ask("CanPerform", {"account_id": account.account_id, "operation": on.draw.choice(OPERATIONS)})


def hop(on: Example) -> None:
    """Some hours or days pass."""
    on.go(on.now + on.draw.choice((HOUR, 5 * HOUR, DAY, DAY, 3 * DAY, 40 * DAY)) + on.draw.randint(-5, 5))


def fall_back(on: Example) -> None:
    """The clock goes wrong: back by a moment, over what has just happened, or over midnight."""
    on.fall_back(on.draw.choice((1, SECOND, HOUR, DAY, on.now % DAY + 1)))


def restart(on: Example) -> None:
    """Ends a server and starts it again, with or without a sweeper."""
    kill = on.chance(0.5)
    on.note("kill -9" if kill else "SIGTERM")
    on.world.restart(on.draw.randrange(2), kill, sweeper=on.chance(0.5))


def sweep(on: Example) -> None:
    """Waits for the sweeper to write what is due (contract §6: within 2 s)."""
    account = on.account()
    times = [each for each in account.instants() if each > on.now]
    if not on.world.swept or not times or account.state == "CLOSED":
        return
    on.go(min(times))
    account.settle(on.model.catalogs, on.now, on.model.notes)
    deadline = time.monotonic() + SWEEP_SECONDS
    while (written := on.world.clock.revision(account.account_id)) < account.revision:
        if time.monotonic() > deadline:
            raise Mismatch(f"the sweeper wrote up to revision {written} of {account.revision}")
        time.sleep(0.05)
    on.note("swept")


def open_account(on: Example) -> None:
    """Opens an account, or finds it open."""
    on.mutate(
        "OpenAccount", account_id=on.name(), level=on.draw.choice((None, *LEVELS)),
        labels={"a": "1"} if on.chance(0.3) else None,
    )  # fmt: skip


def update_level(on: Example) -> None:
    """Moves to a level, perhaps the one it has."""
    name, level = on.account().account_id, on.draw.choice(LEVELS)
    on.mutate("UpdateAccount", account_id=name, level=level, update_mask=["level"])


def update_state(on: Example) -> None:
    """Freezes and thaws; seldom closes."""
    account = on.account()
    state = (
        "ACTIVE" if account.state != "ACTIVE" else on.draw.choice(("FROZEN", "FROZEN", "FROZEN", "CLOSED"))
    )
    if state == "CLOSED" and on.chance(0.7):
        return
    fields: dict[str, Any] = {"state": state, "update_mask": ["state"]}
    if on.chance(0.2):
        fields |= {"labels": {"b": on.draw.choice("xy")}, "update_mask": ["state", "labels"]}
    if on.chance(0.2):
        fields["level"] = on.draw.choice(LEVELS)
        fields["update_mask"] = [*fields["update_mask"], "level"]
    on.mutate("UpdateAccount", account_id=account.account_id, **fields)


def grant(on: Example) -> None:
    """Grants, often with times, often at instants at which something else happens."""
    effective = on.draw.choice((None, None, None, on.coming(), on.now, on.now - 1))
    expires = on.draw.choice((None, on.coming(), on.coming(), on.coming(), on.now))
    if effective is not None and expires is not None and on.chance(0.9):
        expires = max(expires, effective + on.draw.choice((1, HOUR)))
    on.mutate(
        "GrantCredits", account_id=on.account().account_id, amount=on.draw.choice((1, 3, 10, 25)),
        priority=on.draw.choice((None, None, -5, 1, 7)), effective_time=effective, expire_time=expires,
        reason=on.draw.choice((None, "why")), labels={"k": "v"} if on.chance(0.2) else None,
    )  # fmt: skip


def many_grants(on: Example) -> None:
    """Grants up to the most that an account may have, and one more."""
    account = on.account()
    for _ in range(101 - account.lots()):
        on.mutate("GrantCredits", account_id=account.account_id, amount=1, expire_time=on.now + 9 * HOUR)
    on.mutate("AdjustBalance", account_id=account.account_id, amount=1, reason="one too many")


def purchase(on: Example) -> None:
    """Buys; sometimes tells a payment again."""
    reference = f"{on.prefix}p{on.draw.randint(1, 12)}"
    name = on.account().account_id
    on.mutate(
        "PurchasePackage", account_id=name, package_id=on.draw.choice(PACKAGES), payment_reference=reference
    )


def adjust(on: Example) -> None:
    """Corrects up or down."""
    amount = on.draw.choice((1, 5, -1, -2, -5, -20))
    on.mutate("AdjustBalance", account_id=on.account().account_id, amount=amount, reason="count")


def void(on: Example) -> None:
    """Voids a grant, preferably one that is held or yet to come."""
    account = on.account()
    grants = list(account.grants.values())
    odd = [each for each in grants if each.held or each.state == "PENDING"]
    pool = odd if odd and on.chance(0.5) else [each for each in grants if each.counts]
    name = f"g{on.draw.choice(pool).revision}" if pool and on.chance(0.95) else f"g{on.draw.randint(1, 40)}"
    on.mutate(
        "VoidGrant", account_id=account.account_id, grant_id=name, reason=on.draw.choice((None, "fraud"))
    )


def deduct(on: Example) -> None:
    """Charges."""
    name = on.account().account_id if on.chance(0.95) else on.name()
    request = _deduction(on, name)
    if on.chance(0.3):
        fields = ("account_id", "account_level", "operation", "quantity")
        check = {key: request[key] for key in fields if key in request}
        on.ask("CanPerform", {**check, "metrics": request.get("usage", {}).get("metrics", {})})
    on.ask("Deduct", request)


def batch(on: Example) -> None:
    """Charges several at once, some twice."""
    requests = [_deduction(on, on.name() if on.chance(0.2) else on.account().account_id) for _ in range(4)]
    if on.chance(0.5):
        requests.append(on.draw.choice(requests))
    on.ask("BatchDeduct", {"requests": requests})


def can_perform(on: Example) -> None:
    """Asks whether it may."""
    request: Plain = {"account_id": on.name(), "operation": on.draw.choice((*OPERATIONS, "none"))}
    if on.chance(0.4):
        request["account_level"] = on.draw.choice(LEVELS)
    if on.chance(0.5):
        request |= {"quantity": on.draw.choice((1, 3, 50)), "metrics": _metrics(on)}
    on.ask("CanPerform", request)


def reserve(on: Example) -> None:
    """Reserves, often until an instant at which something else happens."""
    until = on.coming() - on.now
    ttl = until if SECOND <= until <= 24 * HOUR else on.draw.choice((None, SECOND, 90 * SECOND, 24 * HOUR))
    on.mutate(
        "Reserve", account_id=on.account().account_id, account_level=_level(on), operation=on.draw.choice(OPERATIONS),
        quantity=_quantity(on), metrics=_metrics(on) if on.chance(0.5) else None, ttl=ttl,
    )  # fmt: skip


def some_reservation(on: Example) -> tuple[Account, str]:
    """An account and one of its reservations: mostly an active one, sometimes one that has ended or is none."""
    accounts = [on.account() for _ in range(3)]
    states = ("ACTIVE",) if on.chance(0.7) else ("EXPIRED",) if on.chance(0.7) else ("COMMITTED", "RELEASED")
    for account in accounts:
        found = [each for each in account.reservations.values() if each.state in states]
        if found:
            return account, f"r{on.draw.choice(found).revision}"
    return accounts[0], f"r{on.draw.randint(1, 30)}"


def commit(on: Example) -> None:
    """Commits: less, the same, more, failed, or late."""
    account, name = some_reservation(on)
    on.mutate(
        "CommitReservation", account_id=account.account_id, reservation_id=name,
        quantity=on.draw.choice((None, None, 1, 2, 5)), usage=_usage(on),
    )  # fmt: skip


def release(on: Example) -> None:
    """Releases."""
    account, name = some_reservation(on)
    reason = on.draw.choice((None, "gave up"))
    on.mutate("ReleaseReservation", account_id=account.account_id, reservation_id=name, reason=reason)


def extend(on: Example) -> None:
    """Extends, sometimes beyond the longest life of a reservation."""
    account, name = some_reservation(on)
    ttl = on.draw.choice((SECOND, HOUR, 24 * HOUR, on.coming() - on.now))
    if not SECOND <= ttl <= 24 * HOUR:
        ttl = 30 * SECOND
    on.mutate("ExtendReservation", account_id=account.account_id, reservation_id=name, ttl=ttl)


def refund(on: Example) -> None:
    """Refunds in part or whole; sometimes what cannot be."""
    account = on.account()
    open_charges = [key for key, each in account.charges.items() if each.cost > each.refunded]
    if open_charges and on.chance(0.9):
        revision = on.draw.choice(open_charges)
    else:
        revision = on.draw.randint(1, account.revision + 1)
    amount = on.draw.choice((None, None, 1, 2, 3))
    on.mutate(
        "Refund", account_id=account.account_id, revision=revision, amount=amount,
        reason=on.draw.choice((None, "sorry")),
    )  # fmt: skip


def replay(on: Example) -> None:
    """Sends something again that was accepted."""
    if on.accepted:
        on.ask(*on.draw.choice(on.accepted))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "amount": lambda value: value + 1,
    "quantity": lambda value: value + 1,
    "ttl": lambda value: value - 1 if value > SECOND else value + 1,
    "reason": lambda value: value + "!",
    "operation": lambda value: "chat" if value != "chat" else "voice",
    "reservation_id": lambda value: value + "0",
    "grant_id": lambda value: value + "0",
    "package_id": lambda value: value + "r",
    "payment_reference": lambda value: value + "0",
    "revision": lambda value: value + 1,
    "priority": lambda value: value + 1,
    "expire_time": lambda value: value + 1,
    "labels": lambda value: {**value, "z": "1"},
    "metrics": lambda value: {**value, "z": 1},
    "usage": lambda value: {**value, "service": "other"},
    "level": lambda value: "max" if value != "max" else "pro",
    "account_level": lambda value: "max" if value != "max" else "pro",
}


def reuse(on: Example) -> None:
    """Sends something other under an id that was accepted: one field changed, or another method."""
    if not on.accepted:
        return
    method, request = on.draw.choice(on.accepted)
    if method != "UpdateCatalog" and on.chance(0.2):
        other = {"request_id": request["request_id"], "account_id": request["account_id"]}
        on.ask("GrantCredits", {**other, "amount": 999_999})
        return
    names = [name for name in sorted(CHANGES) if name in request]
    if method == "UpdateCatalog":
        on.ask(method, {**request, "catalog": some_catalog(on.draw)})
    elif names:
        name = on.draw.choice(names)
        on.ask(method, {**request, name: CHANGES[name](request[name])})


def malformed(on: Example) -> None:
    """Breaks rules of fields, whatever else is wrong."""
    account = on.account().account_id
    choices: list[tuple[str, Plain]] = [
        ("Deduct", {"operation": "chat", "quantity": 0}),
        ("Reserve", {"operation": "chat", "ttl": SECOND - 1}),
        ("Reserve", {"operation": "chat", "ttl": 24 * HOUR + 1, "quantity": 10**9 + 1}),
        ("ExtendReservation", {"reservation_id": "r1"}),
        ("AdjustBalance", {"amount": 0, "reason": ""}),
        ("GrantCredits", {"amount": 0, "priority": 1_001}),
        ("GrantCredits", {"amount": 1, "effective_time": on.now + 9, "expire_time": on.now + 9}),
        ("Refund", {"revision": 0, "amount": -1}),
        ("PurchasePackage", {"payment_reference": "x"}),
    ]
    method, fields = on.draw.choice(choices)
    on.mutate(method, account_id=account, **fields)


def catalog(on: Example) -> None:
    """Another catalog; seldom with an expected version."""
    if on.chance(0.2):
        current = len(on.model.catalogs.versions)
        on.mutate("UpdateCatalog", catalog=some_catalog(on.draw), expected_version=current - 1)
    on.new_catalog()
