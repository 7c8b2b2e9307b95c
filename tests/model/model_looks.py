"""The rules that only read, and all rules with their weights."""

from __future__ import annotations

import random

import model_rules as rules
from model_catalog import HOUR, Plain
from model_catalogs import OPERATIONS
from model_example import Example
from model_rules import Rule

KINDS = ("GRANTED", "DEDUCTED", "RESERVED", "COMMITTED", "REFUNDED", "GRANT_EXPIRED", "RESERVATION_EXPIRED")

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "America/Havana",
    "Australia/Lord_Howe",
    "America/Los_Angeles",
)
"""Among them one whose clocks change at midnight and one in which they do by half an hour."""


def balance_now(on: Example) -> None:
    """How an account stands, on both servers."""
    name = on.name() if on.chance(0.1) else on.account().account_id
    on.ask("GetBalance", {"account_id": name})
    on.place += 1
    on.ask("GetBalance", {"account_id": name})


def balance_then(on: Example) -> None:
    """How an account stood; seldom, how it will."""
    account = on.account()
    of = {"account_id": account.account_id}
    if on.chance(0.5):
        revision = on.draw.randint(1, account.revision + on.chance(0.1))
        on.ask("GetBalance", {**of, "at_revision": revision})
    else:
        time = account.now(on.now) + 1 if on.chance(0.05) else on.past(account)
        on.ask("GetBalance", {**of, "at_time": time})


def entries(on: Example) -> None:
    """A statement, filtered."""
    account = on.account()
    request: Plain = {
        "account_id": account.account_id,
        "order": on.draw.choice(("NEWEST_FIRST", "OLDEST_FIRST")),
    }
    if on.chance(0.3):
        first = on.draw.randint(1, account.revision)
        request |= {"from_revision": first, "to_revision": first + on.draw.randint(0, 20)}
    if on.chance(0.3):
        start = on.past(account)
        request |= {"start_time": start, "end_time": start + on.draw.choice((1, 3_600_000_000, 10**12))}
    if on.chance(0.3):
        request["kinds"] = on.draw.sample(KINDS, 2)
    if on.chance(0.3):
        request["operation"] = on.draw.choice(("chat", "summary"))
    on.ask("ListEntries", request, page_size=on.draw.choice((0, 3, 1_000)))


def entry(on: Example) -> None:
    """One entry, by revision or request."""
    account = on.account()
    key: Plain = {"revision": on.draw.randint(1, account.revision + 1)}
    if on.chance(0.5):
        key = {"request_id": on.draw.choice([*account.requests, "none"])}
    on.ask("GetEntry", {"account_id": account.account_id, **key})


def reservations(on: Example) -> None:
    """Reservations, one or many."""
    account, name = rules.some_reservation(on)
    of = {"account_id": account.account_id}
    if on.chance(0.5):
        on.ask("GetReservation", {**of, "reservation_id": name})
    else:
        states = on.draw.choice(([], ["ACTIVE"], ["EXPIRED", "COMMITTED"]))
        on.ask("ListReservations", {**of, "states": states}, page_size=on.draw.choice((0, 2)))


def grants(on: Example) -> None:
    """All grants."""
    on.ask("ListGrants", {"account_id": on.account().account_id}, page_size=on.draw.choice((0, 3)))


def usage(on: Example) -> None:
    """Usage summed: of everything, or of some operations, a span, and buckets of some zone."""
    account = on.account()
    request: Plain = {"account_id": account.account_id if on.chance(0.95) else on.name()}
    if on.chance(0.7):
        request["bucket"] = on.draw.choice(("NONE", "DAY", "WEEK", "MONTH"))
    if on.chance(0.6):
        request["time_zone"] = on.draw.choice(ZONES)
    if on.chance(0.3):
        request["operations"] = on.draw.sample(OPERATIONS, 2)
    if on.chance(0.3):
        request["start_time"] = on.past(account)
    if on.chance(0.3):
        request["end_time"] = on.past(account) + on.draw.choice((0, 0, 1, HOUR))
    answer = on.ask("SummarizeUsage", request)
    on.note("usage summed" if answer.get("rows") else "no usage")


def others(on: Example) -> None:
    """Accounts, packages, catalogs, and the chain."""
    account = on.account().account_id
    choices: list[tuple[str, Plain]] = [
        ("ListAccounts", {"prefix": on.prefix}),
        ("ListPackages", {}),
        ("GetCatalog", {"version": on.draw.randint(1, len(on.model.catalogs.versions) + 1)}),
        ("GetAccount", {"account_id": on.name()}),
        ("VerifyAccount", {"account_id": account}),
    ]
    method, request = on.draw.choice(choices)
    on.ask(method, request, page_size=2 if "prefix" in request else 0)


WEIGHTS: dict[Rule, float] = {
    rules.tick: 10, rules.to_due: 12, rules.hop: 3, rules.fall_back: 1,
    rules.restart: 0.04, rules.sweep: 0.1, rules.open_account: 2, rules.update_level: 2, rules.update_state: 1.5,
    rules.grant: 8, rules.many_grants: 0.05, rules.purchase: 3, rules.adjust: 3, rules.void: 3,
    rules.deduct: 14, rules.batch: 3, rules.can_perform: 4,
    rules.reserve: 13, rules.commit: 12, rules.release: 4, rules.extend: 3, rules.refund: 8,
    rules.replay: 7, rules.reuse: 4, rules.malformed: 1, rules.catalog: 1,
    balance_now: 6, balance_then: 6, entries: 3, entry: 2, reservations: 3, grants: 2, usage: 3, others: 2,
}  # fmt: skip
_RULES, _SHARES = list(WEIGHTS), list(WEIGHTS.values())


def step(on: Example, draw: random.Random) -> str:
    """One rule with these choices; returns its name."""
    on.draw = draw
    rule = draw.choices(_RULES, _SHARES)[0]
    rule(on)
    return getattr(rule, "__name__", "")
