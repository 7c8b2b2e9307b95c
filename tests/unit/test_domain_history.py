"""Random histories of one account, held against a small model of the contract that shares no code with the product."""

from __future__ import annotations

import calendar
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

from creditledger_server.domain.account import Account, AccountState
from creditledger_server.domain.audit import Audit
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount, UpdateAccount
from creditledger_server.domain.decide import Accepted, decide
from creditledger_server.domain.entry import Draw, Entry, EntryKind, LimitState
from creditledger_server.domain.periods import Period
from creditledger_server.domain.refusal import Refused
from creditledger_server.domain.usage import Usage
from hypothesis import given, settings
from hypothesis import strategies as st

# ── The catalog, as plain data ────────────────────────────────────────────────────────────────────────────────────

FLAT = {"script": 1, "voice": 5, "gift": 0, "house": 10**15}
TOKENS_PER_CREDIT, LEAST_SUMMARY = 1_000, 2
LIMITS = {
    "free": {
        ("script", "day"): 3,
        ("script", "month"): 5,
        ("voice", "week"): 1,
        ("summary", "lifetime"): 4,
    },
    "pro": {("script", "month"): -1, ("voice", "day"): 2, ("gift", "week"): 0},
}
CATALOG = parse_catalog(
    {
        "default_level": "free",
        "operations": {
            **{name: {"price": {"flat": amount}} for name, amount in FLAT.items()},
            "summary": {
                "price": {
                    "rates": [{"metric": "tokens", "amount": 1, "per": TOKENS_PER_CREDIT}],
                    "minimum": LEAST_SUMMARY,
                }
            },
        },
        "levels": {
            level: {
                "limits": [
                    {"operation": operation, "period": period, "limit": limit}
                    for (operation, period), limit in limits.items()
                ]
            }
            for level, limits in LIMITS.items()
        },
    }
)
BOOK = CatalogBook([CatalogVersion(1, CATALOG, 0)])
PERIODS = ("day", "week", "month", "lifetime")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 11, 27, 23, 59, 59, 999_998, tzinfo=UTC)  # a Friday
DAY = timedelta(days=1)


# ── What happens to the account ───────────────────────────────────────────────────────────────────────────────────


class Send(NamedTuple):
    """A new request; its content is a plain dict."""

    request_id: str
    content: dict[str, Any]


class Again(NamedTuple):
    """One of the accepted requests once more, as it was or with other content."""

    place: int
    content: dict[str, Any] | None


class Wait(NamedTuple):
    """Time passes: so many microseconds, then on to the next midnight less so many, if any."""

    micros: int
    before_midnight: int | None


Step = Send | Again | Wait

levels = st.sampled_from([None] * 5 + ["free", "pro", "pro", "gold"])
opens = st.fixed_dictionaries({"do": st.just("open"), "level": levels})
grants = st.fixed_dictionaries(
    {"do": st.just("grant"), "amount": st.integers(1, 12) | st.just(10**15), "priority": st.integers(-1, 2)}
)
operations = ["script"] * 3 + ["voice"] * 4 + ["summary"] * 4 + ["gift", "house", "nothing"]
deductions = st.fixed_dictionaries(
    {
        "do": st.just("deduct"),
        "operation": st.sampled_from(operations),
        "quantity": st.integers(1, 3),
        "tokens": st.sampled_from([0, 1, 1_000, 1_001, 3_500, 9_001]),
        "failed": st.sampled_from([False] * 5 + [True]),
        "level": levels,
    }
)
updates = st.fixed_dictionaries(
    {
        "do": st.just("update"),
        "level": levels,
        "state": st.sampled_from([None, *["ACTIVE"] * 4, "FROZEN", "FROZEN", "CLOSED"]),
    }
)
contents = st.sampled_from([deductions] * 9 + [grants] * 4 + [updates] * 2 + [opens]).flatmap(
    lambda content: content
)
sends = st.builds(Send, st.uuids().map(str), contents)
again = st.builds(Again, st.integers(0, 99), st.none() | contents)
waits = st.builds(
    Wait, st.integers(0, 3) | st.integers(0, 10 * 86_400 * 10**6), st.sampled_from([None, 0, 1])
)
steps = st.sampled_from([sends] * 12 + [again] * 2 + [waits] * 3).flatmap(lambda step: step)
histories = st.lists(steps, min_size=20, max_size=50)


# ── The model ─────────────────────────────────────────────────────────────────────────────────────────────────────


class No(Exception):
    """The model refuses: the reason, and what the refusal must tell besides."""

    def __init__(self, reason: str, **told: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.told = {key: str(value) for key, value in told.items()}


def new_model() -> dict[str, Any]:
    return {
        "now": START, "revision": 0, "level": None, "state": "ACTIVE",
        "granted": 0, "spent": 0,
        "lots": {},  # revision of the grant → [priority, what is left], in the order of granting
        "uses": [],  # (operation, quantity, time) of every use that counted
        "accepted": {},  # request id → (content, revision of its entry)
    }  # fmt: skip


def available(model: dict[str, Any]) -> int:
    lots: dict[int, list[int]] = model["lots"]
    return sum(left for _, left in lots.values())


def period_of(period: str, time: datetime) -> tuple[datetime, datetime | None]:
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight, midnight + DAY
    if period == "week":
        monday = midnight - DAY * midnight.weekday()
        return monday, monday + 7 * DAY
    if period == "month":
        first = midnight.replace(day=1)
        return first, first + DAY * calendar.monthrange(first.year, first.month)[1]
    return EPOCH, None


def used(model: dict[str, Any], operation: str, period: str) -> int:
    start, _ = period_of(period, model["now"])
    uses: list[tuple[str, int, datetime]] = model["uses"]
    return sum(quantity for name, quantity, time in uses if name == operation and time >= start)


def cost_of(content: dict[str, Any]) -> int:
    operation: str = content["operation"]
    quantity: int = content["quantity"]
    if operation == "summary":
        return max(ceil(Fraction(content["tokens"] * quantity, TOKENS_PER_CREDIT)), LEAST_SUMMARY * quantity)
    return FLAT[operation] * quantity


def expect(model: dict[str, Any], send: Send) -> list[dict[str, Any]]:
    """The entries that the request must write, none for a replay; raises No where it must be refused."""
    content = send.content
    if not model["revision"] and not (
        content["do"] == "open" or (content["do"] == "deduct" and content["level"])
    ):
        raise No("ACCOUNT_NOT_FOUND")
    if send.request_id in model["accepted"]:
        if model["accepted"][send.request_id][0] != content:
            raise No("REQUEST_ID_REUSED")
        return []
    rules = {
        "open": expect_open, "update": expect_update, "grant": expect_grant, "deduct": expect_deduct,
    }  # fmt: skip
    entries = rules[content["do"]](model, content)
    model["accepted"][send.request_id] = (content, model["revision"])
    return entries


def expect_open(model: dict[str, Any], content: dict[str, Any]) -> list[dict[str, Any]]:
    if model["revision"]:
        raise No("ACCOUNT_EXISTS")
    level = content["level"] or "free"
    if level not in LIMITS:
        raise No("LEVEL_UNKNOWN", level=level)
    model["level"] = level
    return [write(model, "OPENED")]


def expect_update(model: dict[str, Any], content: dict[str, Any]) -> list[dict[str, Any]]:
    level = content["level"] or model["level"]
    if level not in LIMITS:
        raise No("LEVEL_UNKNOWN", level=level)
    if model["state"] == "CLOSED":
        raise No("ACCOUNT_CLOSED")
    model["level"] = level
    model["state"] = content["state"] or model["state"]
    return [write(model, "STATE_CHANGED" if content["state"] else "LEVEL_CHANGED")]


def expect_grant(model: dict[str, Any], content: dict[str, Any]) -> list[dict[str, Any]]:
    if model["state"] == "CLOSED":
        raise No("ACCOUNT_CLOSED")
    model["granted"] += content["amount"]
    model["lots"][model["revision"] + 1] = [content["priority"], content["amount"]]
    return [write(model, "GRANTED", amount=content["amount"])]


def expect_deduct(model: dict[str, Any], content: dict[str, Any]) -> list[dict[str, Any]]:
    level = content["level"] or model["level"]
    operation, quantity = content["operation"], content["quantity"]
    if level not in LIMITS:
        raise No("LEVEL_UNKNOWN", level=level)
    if operation not in FLAT and operation != "summary":
        raise No("OPERATION_UNKNOWN", operation=operation)
    cost = cost_of(content)
    if not content["failed"] and cost > 10**15:
        raise No("FIELD_INVALID")
    if model["state"] != "ACTIVE":
        raise No(f"ACCOUNT_{model['state']}")
    if not content["failed"]:
        check_limits(model, level, operation, quantity)
        if cost > available(model):
            raise No(
                "INSUFFICIENT_CREDITS", required=cost, available=available(model),
                shortfall=cost - available(model),
            )  # fmt: skip
    entries = []
    if not model["revision"]:
        entries.append(write(model, "OPENED"))
    elif level != model["level"]:
        entries.append(write(model, "LEVEL_CHANGED"))
    model["level"] = level
    if content["failed"]:
        cost = 0
    else:
        model["uses"].append((operation, quantity, model["now"]))
    model["spent"] += cost
    draws = burn(model, cost)
    return [
        *entries,
        write(
            model, "DEDUCTED", amount=-cost, cost=cost, quantity=quantity, operation=operation, draws=draws
        ),
    ]


def check_limits(model: dict[str, Any], level: str, operation: str, quantity: int) -> None:
    for period in PERIODS:
        limit = LIMITS[level].get((operation, period), -1)
        count = used(model, operation, period)
        if limit >= 0 and count + quantity > limit:
            raise No(
                "LIMIT_EXCEEDED", operation=operation, period=period.upper(), limit=limit, used=count,
                shortfall=count + quantity - limit,
            )  # fmt: skip


def burn(model: dict[str, Any], cost: int) -> list[tuple[int, int]]:
    draws = []
    while cost:
        revision = min(model["lots"], key=lambda born: (model["lots"][born][0], born))
        taken = min(cost, model["lots"][revision][1])
        draws.append((revision, taken))
        cost -= taken
        model["lots"][revision][1] -= taken
        if not model["lots"][revision][1]:
            del model["lots"][revision]
    return draws


def write(model: dict[str, Any], kind: str, **told: Any) -> dict[str, Any]:
    model["revision"] += 1
    plain: dict[str, Any] = {"amount": 0, "cost": 0, "quantity": 0, "operation": None, "draws": []}
    return {"revision": model["revision"], "kind": kind, **plain, **told}


def limits_now(model: dict[str, Any], operation: str) -> list[tuple[str, int, int, datetime | None]]:
    return [
        (period, limit, used(model, operation, period), period_of(period, model["now"])[1])
        for period in PERIODS
        if (limit := LIMITS[model["level"]].get((operation, period))) is not None
    ]


# ── The product ───────────────────────────────────────────────────────────────────────────────────────────────────


def micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def command_of(send: Send) -> Command:
    content = send.content
    if content["do"] == "open":
        return OpenAccount(send.request_id, "ann", content["level"])
    if content["do"] == "update":
        state = content["state"] and AccountState[content["state"]]
        return UpdateAccount(send.request_id, "ann", content["level"], state=state)
    if content["do"] == "grant":
        return GrantCredits(send.request_id, "ann", content["amount"], content["priority"])
    usage = Usage(metrics={"tokens": content["tokens"]}, failed=content["failed"])
    return Deduct(send.request_id, "ann", content["operation"], content["quantity"], usage, content["level"])


def send_and_compare(account: Account, model: dict[str, Any], send: Send) -> None:
    before = deepcopy(account)
    model_before = deepcopy(model)
    try:
        expected = expect(model, send)
    except No as no:
        assert model == model_before
        refused = refusal(account, model, send)
        assert refused.reason.value == no.reason
        assert account == before
        assert no.told.items() <= refused.metadata.items()
        return
    accepted = decide(command_of(send), account, BOOK, micros(model["now"]))
    if not expected:
        _, revision = model["accepted"][send.request_id]
        assert accepted == Accepted(account.written[revision - 1], replayed=True)
        assert account == before
        return
    written = account.written[before.revision :]
    assert accepted == Accepted(written[-1], replayed=False)
    assert [told(entry) for entry in written] == expected
    check_last_entry(written[-1], model, send)
    assert account.written[: before.revision] == before.written


def refusal(account: Account, model: dict[str, Any], send: Send) -> Refused:
    try:
        answer = decide(command_of(send), account, BOOK, micros(model["now"]))
    except Refused as refused:
        return refused
    raise AssertionError(f"not refused: {answer}")


def told(entry: Entry) -> dict[str, Any]:
    """What the model knows of an entry."""
    return {
        "revision": entry.revision, "kind": entry.kind.name, "amount": entry.amount, "cost": entry.cost,
        "quantity": entry.quantity, "operation": entry.operation, "draws": [tuple(d) for d in entry.draws],
    }  # fmt: skip


def check_last_entry(entry: Entry, model: dict[str, Any], send: Send) -> None:
    assert (entry.create_time, entry.request_id) == (micros(model["now"]), send.request_id)
    assert sum(draw.amount for draw in entry.draws) == entry.cost
    assert entry.granted == model["granted"]
    assert (entry.available, entry.spent) == (available(model), model["spent"])
    if entry.operation:
        assert entry.limits == tuple(
            LimitState(
                entry.operation, Period[period.upper()], limit, count, None if end is None else micros(end)
            )
            for period, limit, count, end in limits_now(model, entry.operation)
        )


def check_account(account: Account, model: dict[str, Any]) -> None:
    assert account.revision == model["revision"] == len(account.written)
    assert (account.level, account.state.name) == (model["level"] or "", model["state"])
    assert account.available == available(model) == sum(lot.remaining for lot in account.lots)
    assert (account.spent, account.reserved, account.forfeited) == (model["spent"], 0, 0)
    assert account.granted == model["granted"] == account.available + account.spent  # nothing else exists yet
    assert {lot.grant_revision: [lot.priority, lot.remaining] for lot in account.lots} == model["lots"]
    assert account.lots == sorted(account.lots, key=lambda lot: (lot.priority, lot.grant_revision))
    for operation, period in account.uses:
        now = micros(model["now"])
        assert account.used(operation, period, now) == used(model, operation, period.name.lower())


def take(account: Account, model: dict[str, Any], step: Step) -> None:
    match step:
        case Send():
            send_and_compare(account, model, step)
        case Again(place, content):
            accepted = list(model["accepted"].items()) or [("new", ({"do": "open", "level": None}, 1))]
            request_id, (earlier, _) = accepted[place % len(accepted)]
            send_and_compare(account, model, Send(request_id, content or earlier))
        case Wait(passed, before_midnight):
            model["now"] += timedelta(microseconds=passed)
            if before_midnight is not None:
                midnight = period_of("day", model["now"])[1]
                assert midnight is not None
                model["now"] = max(model["now"], midnight - timedelta(microseconds=before_midnight))
    check_account(account, model)


# ── Tampering ─────────────────────────────────────────────────────────────────────────────────────────────────────


def tampered(entry: Entry) -> list[Entry]:
    """The entry with one field changed: every field in turn."""
    draws, limits = entry.draws, entry.limits
    other: dict[str, Any] = {
        "account_id": entry.account_id + "a",
        "kind": next(kind for kind in EntryKind if kind is not entry.kind),
        "operation": "else" if entry.operation is None else None,
        "request_id": "else" if entry.request_id is None else None,
        "fingerprint": bytes([1]) * 32 if entry.fingerprint is None else None,
        "draws": (draws[0]._replace(amount=draws[0].amount + 1), *draws[1:]) if draws else (Draw(1, 1),),
        "limits": (limits[0]._replace(used=limits[0].used + 1), *limits[1:])
        if limits
        else (LimitState("script", Period.DAY, 1, 1, 1),),
        "usage": "{}" if entry.usage is None else entry.usage + " ",
        "details": "{}" if entry.details is None else None,
        "hash": bytes([entry.hash[0] ^ 1]) + entry.hash[1:],
    }
    return [
        entry._replace(**{name: other[name] if name in other else getattr(entry, name) + 1})
        for name in Entry._fields
    ]


def copy_of(audit: Audit) -> Audit:
    return deepcopy(audit)


def check_audit(account: Account) -> None:
    audit = Audit(account.account_id, BOOK)
    for entry in account.written:
        for false in tampered(entry):
            assert copy_of(audit).add(false) is not None, false
        assert audit.add(entry) is None
    assert audit.compare(account, audit.kept) is None


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([0, 9, 60]), histories)
def test_a_random_history_is_what_the_contract_says_and_every_forged_field_of_it_is_found(
    granted_first: int, history: list[Step]
) -> None:
    account, model = Account("ann"), new_model()
    if granted_first:
        take(account, model, Send("open", {"do": "open", "level": None}))
        take(account, model, Send("grant", {"do": "grant", "amount": granted_first, "priority": 1}))
    for step in history:
        take(account, model, step)
    check_audit(account)


priorities = st.lists(
    st.tuples(st.integers(-1_000, 1_000), st.integers(1, 9)),
    min_size=1,
    max_size=8,
    unique_by=lambda lot: lot[0],
)


@settings(deadline=None, max_examples=60)
@given(priorities, st.data())
def test_grants_of_distinct_priorities_burn_alike_in_whatever_order_they_came(
    lots: list[tuple[int, int]], data: st.DataObject
) -> None:
    cost = data.draw(st.integers(1, sum(amount for _, amount in lots)))
    spent = [spend(order, cost) for order in (lots, data.draw(st.permutations(lots)))]
    assert spent[0] == spent[1]
    assert sum(taken for _, taken in spent[0]) == cost
    assert [priority for priority, _ in spent[0]] == sorted(priority for priority, _ in spent[0])


def spend(lots: list[tuple[int, int]], cost: int) -> list[tuple[int, int]]:
    """Grants in this order, then charges; returns what was drawn by priority."""
    account = Account("ann")
    decide(OpenAccount("open", "ann", "pro"), account, BOOK, 0)
    for number, (priority, amount) in enumerate(lots):
        decide(GrantCredits(f"grant-{number}", "ann", amount, priority), account, BOOK, 0)
    entry = decide(Deduct("use", "ann", "script", cost), account, BOOK, 0).entry
    return [(lots[draw.grant_revision - 2][0], draw.amount) for draw in entry.draws]
