"""What the audit of an account's entries finds, also where somebody has computed the hashes anew."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from creditledger_server.domain.account import Account
from creditledger_server.domain.audit import Audit, Finding
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
from creditledger_server.domain.decide import decide
from creditledger_server.domain.entry import GENESIS, Draw, Entry, EntryKind, LimitState, chain_hash
from creditledger_server.domain.lots import NEVER, Lot
from creditledger_server.domain.periods import Period
from creditledger_server.domain.usage import Usage

CATALOG = parse_catalog(
    {
        "default_level": "free",
        "operations": {"voice": {"price": {"flat": 5}}},
        "levels": {
            "free": {"limits": [{"operation": "voice", "period": "day", "limit": 9}]},
            "pro": {},
        },
    }
)
BOOK = CatalogBook([CatalogVersion(1, CATALOG, 0)])
HISTORY: list[Command] = [
    OpenAccount("open", "ann"),
    GrantCredits("grant-1", "ann", 7, 1),
    GrantCredits("grant-2", "ann", 4, 0),
    Deduct("use-1", "ann", "voice", usage=Usage(service="a")),
    Deduct("use-2", "ann", "voice", usage=Usage(failed=True)),
    Deduct("use-3", "ann", "voice", account_level="pro"),
]
KINDS = ["OPENED", "GRANTED", "GRANTED", "DEDUCTED", "DEDUCTED", "LEVEL_CHANGED", "DEDUCTED"]


def written() -> Account:
    account = Account("ann")
    for time, command in enumerate(HISTORY, 1_000):
        decide(command, account, BOOK, time)
    return account


ACCOUNT = written()
ENTRIES = ACCOUNT.written


def findings(entries: list[Entry], account: Account = ACCOUNT) -> Finding | None:
    """The first finding of an audit."""
    audit = Audit("ann", BOOK)
    for entry in entries:
        if finding := audit.add(entry):
            return finding
    return audit.compare(account, audit.kept)


def forged(revision: int, **changed: object) -> list[Entry]:
    """The history with one entry changed and all hashes computed anew."""
    entries, previous = list(ENTRIES), GENESIS
    entries[revision - 1] = entries[revision - 1]._replace(**changed)  # type: ignore[arg-type]
    for place, entry in enumerate(entries):
        previous = chain_hash(previous, entry)
        entries[place] = entry._replace(hash=previous)
    return entries


def other(entry: Entry, name: str) -> object:
    """Another value for a field of an entry."""
    value: Any = getattr(entry, name)
    match name, value:
        case "draws", _:
            return (*value, Draw(1, 1))
        case "limits", _:
            return (*value, LimitState("voice", Period.WEEK, 1, 1, 1))
        case "kind", _:
            return EntryKind(value % 4 + 1)
        case _, int():
            return value + 1
        case _, str():
            return value + "x"
        case "hash", bytes():
            return bytes(32)
        case "fingerprint", None:
            return bytes(32)
        case _, bytes():
            return None
        case _, _:
            return "x"


def test_an_honest_history_has_no_findings() -> None:
    assert [entry.kind.name for entry in ENTRIES] == KINDS
    assert findings(ENTRIES) is None


@pytest.mark.parametrize("name", Entry._fields)
@pytest.mark.parametrize("revision", range(1, len(KINDS) + 1))
def test_any_changed_field_of_any_entry_is_found_there(revision: int, name: str) -> None:
    entries = list(ENTRIES)
    entries[revision - 1] = entries[revision - 1]._replace(**{name: other(ENTRIES[revision - 1], name)})  # type: ignore[arg-type]
    finding = findings(entries)
    assert finding is not None
    assert finding.revision == entries[revision - 1].revision


@pytest.mark.parametrize("revision", range(1, len(KINDS)))
def test_a_removed_a_repeated_and_a_swapped_entry_are_found(revision: int) -> None:
    removed = ENTRIES[: revision - 1] + ENTRIES[revision:]
    repeated = ENTRIES[:revision] + ENTRIES[revision - 1 :]
    swapped = [*ENTRIES[: revision - 1], ENTRIES[revision], ENTRIES[revision - 1], *ENTRIES[revision + 1 :]]
    assert findings(removed) == Finding(revision + 1, f"revision {revision} is missing")
    assert findings(repeated) == Finding(revision, f"revision {revision + 1} is missing")
    assert findings(swapped) == Finding(revision + 1, f"revision {revision} is missing")


def test_entries_cut_off_the_end_are_found_in_the_account_row() -> None:
    finding = findings(ENTRIES[:-1])
    assert finding is not None
    assert (finding.revision, finding.problem) == (
        6,
        "the account row does not match its entries in revision, available, spent, head_hash, lots, uses",
    )


@pytest.mark.parametrize(
    ("revision", "changed"),
    [
        (4, {"available": 7}),
        (4, {"reserved": 1}),
        (4, {"spent": 4}),
        (4, {"forfeited": 1}),
        (4, {"amount": -4}),
        (4, {"cost": 4}),
        (2, {"amount": 8}),
        (4, {"amount": -4, "available": 7}),
        (4, {"cost": 4, "spent": 4}),
        (5, {"amount": 1, "available": 7}),
        (4, {"create_time": 1_001}),
        (4, {"draws": (Draw(3, 4),)}),
        (4, {"draws": (Draw(3, 4), Draw(2, 2))}),
        (4, {"draws": (Draw(2, 1), Draw(3, 4))}),
        (4, {"draws": (Draw(2, 5),)}),
        (4, {"draws": (Draw(3, 5),)}),
        (4, {"draws": (Draw(3, 4), Draw(2, 1), Draw(2, 0))}),
        (4, {"draws": (Draw(3, 5), Draw(2, -1))}),
        (4, {"draws": (Draw(3, 4), Draw(1, 1))}),
        (4, {"draws": ()}),
        (2, {"kind": EntryKind.LEVEL_CHANGED, "details": '{"level":"free"}'}),
        (3, {"details": '{"priority":2}'}),
    ],
)
def test_what_does_not_follow_is_found_even_if_all_hashes_were_computed_anew(
    revision: int, changed: dict[str, object]
) -> None:
    entries = forged(revision, **changed)
    account = deepcopy(ACCOUNT)
    account.head_hash = entries[-1].hash
    assert findings(entries, account) is not None


@pytest.mark.parametrize(
    ("changed", "row", "problem"),
    [
        (
            {"amount": -4, "available": 2},
            {"available": 2},
            "the balance does not follow from its predecessor",
        ),
        (
            {"draws": (Draw(2, 4),)},
            {"lots": [Lot(1, NEVER, 2, 2)]},
            "the draws are not in burn order, or do not add up",
        ),
    ],
)
def test_a_false_last_entry_is_found_though_the_account_row_agrees_with_it(
    changed: dict[str, object], row: dict[str, object], problem: str
) -> None:
    entries = forged(7, **changed)
    account = deepcopy(ACCOUNT)
    for name, value in {**row, "head_hash": entries[-1].hash}.items():
        setattr(account, name, value)
    assert findings(entries, account) == Finding(7, problem)


def test_hashes_computed_anew_do_not_match_the_account_row() -> None:
    finding = findings(forged(5, usage='{"outcome":"failed","service":"b"}'))
    assert finding == Finding(7, "the account row does not match its entries in head_hash")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("revision", 8),
        ("available", 2),
        ("reserved", 1),
        ("spent", 9),
        ("forfeited", 1),
        ("level", "free"),
        ("last_time", 1_006),
        ("head_hash", GENESIS),
        ("lots", [Lot(0, NEVER, 2, 1)]),
        ("lots", [Lot(1, NEVER, 2, 1), Lot(1, NEVER, 3, 1)]),
        ("lots", []),
    ],
)
def test_an_account_row_that_its_entries_do_not_say_is_found(name: str, value: object) -> None:
    account = deepcopy(ACCOUNT)
    setattr(account, name, value)
    assert findings(ENTRIES, account) == Finding(7, f"the account row does not match its entries in {name}")


@pytest.mark.parametrize(("name", "value"), [("labels", '{"plan":"a"}'), ("create_time", 999)])
def test_what_the_account_row_keeps_of_its_opening_is_compared_too(name: str, value: object) -> None:
    account = deepcopy(ACCOUNT)
    setattr(account, name, value)
    assert findings(ENTRIES, account) is not None


@pytest.mark.parametrize("revision", [1, 6])
def test_credits_out_of_nowhere_are_found_even_if_all_else_was_computed_anew(revision: int) -> None:
    entries = list(ENTRIES)
    for place, entry in enumerate(entries[revision - 1 :], revision - 1):
        entries[place] = entry._replace(available=entry.available + 100)
    entries[revision - 1] = entries[revision - 1]._replace(amount=100)
    previous = GENESIS
    for place, entry in enumerate(entries):
        previous = chain_hash(previous, entry)
        entries[place] = entry._replace(hash=previous)
    account = deepcopy(ACCOUNT)
    account.available, account.head_hash = account.available + 100, previous
    assert findings(entries, account) is not None


def test_the_order_of_lots_in_the_account_row_matters() -> None:
    account = Account("ann")
    for command in HISTORY[:3]:
        decide(command, account, BOOK, 1_000)
    audited = deepcopy(account)
    audited.lots.reverse()
    assert findings(account.written, account) is None
    assert findings(account.written, audited) is not None


def test_an_account_without_entries_fits_no_row_but_an_unopened_one() -> None:
    assert findings([], Account("ann")) is None
    assert findings([]) is not None
