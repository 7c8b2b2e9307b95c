"""The rules of charging and granting, as a table that reads like the contract."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations

import pytest
from creditledger_server.domain.account import Account, AccountState
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount
from creditledger_server.domain.decide import Accepted, decide
from creditledger_server.domain.entry import Draw, Entry, EntryKind, LimitState
from creditledger_server.domain.evaluate import Evaluation, check_level, evaluate
from creditledger_server.domain.grant_rules import MAX_LIVE_GRANTS
from creditledger_server.domain.lots import NEVER, Lot
from creditledger_server.domain.names import MAX_AMOUNT, MAX_BALANCE, MAX_QUANTITY
from creditledger_server.domain.periods import Period
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.domain.usage import Usage

CATALOG = parse_catalog(
    tomllib.loads("""
default_level = "free"
[operations.script]
price = { flat = 1 }
[operations.voice]
price = { flat = 5 }
[operations.gift]
price = { flat = 0 }
[operations.summary]
price = { rates = [ { metric = "tokens", amount = 1, per = 1000 } ], minimum = 2 }
[operations.secret]
price = { flat = 1 }
[operations.house]
price = { flat = 1_000_000_000_000_000 }
[levels.free]
limits = [ { operation = "script", period = "day", limit = 3 },
           { operation = "script", period = "month", limit = 5 },
           { operation = "voice", period = "lifetime", limit = 1 },
           { operation = "secret", period = "week", limit = 0 } ]
[levels.pro]
limits = [ { operation = "script", period = "month", limit = -1 },
           { operation = "script", period = "week", limit = 100 } ]
""")
)
VERSION = 7
BOOK = CatalogBook([CatalogVersion(VERSION, CATALOG, 0)])


def micros(*date: int) -> int:
    return (datetime(*date, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)  # type: ignore[arg-type, misc]


NOW = micros(2026, 11, 18, 12)  # a Wednesday
TOMORROW = micros(2026, 11, 19)
NEXT_MONDAY = micros(2026, 11, 23)
NEXT_MONTH = micros(2026, 12, 1)


def do(command: Command, account: Account, now: int = NOW) -> Accepted:
    return decide(command, account, BOOK, now)


def refusal(command: Command, account: Account, now: int = NOW) -> Refused:
    """How the command is refused, which must leave the account as it was, to the last field."""
    before = deepcopy(account)
    with pytest.raises(Refused) as caught:
        do(command, account, now)
    assert account == before
    return caught.value


def opened(*grants: int, level: str = "free", state: AccountState = AccountState.ACTIVE) -> Account:
    """An account with these grants, all of priority 0; they are made by revisions 2, 3, 4, ..."""
    account = Account("ann")
    do(OpenAccount("open", "ann", level), account)
    for number, amount in enumerate(grants, 1):
        grant(account, amount, request_id=f"grant-{number}")
    account.state = state
    return account


def grant(account: Account, amount: int, priority: int = 0, request_id: str = "grant") -> Entry:
    return do(GrantCredits(request_id, "ann", amount, priority), account).entry


def use(operation: str = "script", quantity: int = 1, request_id: str = "use", **more: object) -> Deduct:
    return Deduct(request_id, "ann", operation, quantity, **more)  # type: ignore[arg-type]


def failed(operation: str, quantity: int = 1, level: str | None = None) -> Deduct:
    return use(operation, quantity, usage=Usage(failed=True), account_level=level)


# ── Whole amount or nothing ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("available", "command", "cost"),
    [
        (5, use("voice"), 5),
        (6, use("voice"), 5),
        (10, use("voice", 2, account_level="pro"), 10),
        (1, use("gift", MAX_QUANTITY), 0),
        (2, use("summary"), 2),
        (2, use("summary", usage=Usage(metrics={"tokens": 2_000})), 2),
        (3, use("summary", usage=Usage(metrics={"tokens": 2_001})), 3),
        (5, use("summary", 2, usage=Usage(metrics={"tokens": 2_001})), 5),
        (2, use("summary", usage=Usage(metrics={"pages": 9_000_000})), 2),
        (MAX_AMOUNT, use("house"), MAX_AMOUNT),
    ],
)
def test_a_deduction_that_fits_charges_its_whole_cost(available: int, command: Deduct, cost: int) -> None:
    account = opened(available)
    entry = do(command, account).entry
    assert (entry.cost, entry.amount, entry.available, entry.spent) == (cost, -cost, available - cost, cost)
    assert (account.available, account.spent, account.granted) == (available - cost, cost, available)


@pytest.mark.parametrize(
    ("available", "command", "required"),
    [
        (4, use("voice"), 5),
        (9, use("voice", 2, account_level="pro"), 10),
        (1, use("summary"), 2),
        (2, use("summary", usage=Usage(metrics={"tokens": 2_001})), 3),
        (MAX_AMOUNT - 1, use("house"), MAX_AMOUNT),
    ],
)
def test_a_deduction_that_does_not_fit_is_refused_with_what_is_missing(
    available: int, command: Deduct, required: int
) -> None:
    refused = refusal(command, opened(available))
    assert (refused.reason, refused.shortfall) == (Reason.INSUFFICIENT_CREDITS, required - available)
    assert refused.metadata == {
        "required": str(required),
        "available": str(available),
        "shortfall": str(required - available),
    }


def test_without_any_credits_only_what_is_free_is_accepted() -> None:
    account = opened()
    assert refusal(use("script"), account).shortfall == 1
    assert do(use("gift"), account).entry.draws == ()


def test_as_many_deductions_succeed_as_the_balance_pays_for() -> None:
    account = opened(7, 10, 6, level="pro")
    for number in range(4):
        do(use("voice", request_id=f"use-{number}"), account)
    assert refusal(use("voice"), account).shortfall == 2


def test_after_a_top_up_the_refused_request_id_succeeds() -> None:
    account = opened(4)
    refusal(use("voice"), account)
    grant(account, 1)
    assert do(use("voice"), account) == Accepted(account.written[-1], replayed=False)


def test_an_entry_tells_everything_about_the_deduction() -> None:
    account = opened(10)
    command = use("voice", usage=Usage(service="openai", metrics={"tokens": 3}))
    entry = do(command, account, NOW + 1).entry
    assert entry == account.written[-1]
    assert entry._replace(hash=b"") == Entry(
        "ann", 3, EntryKind.DEDUCTED, NOW + 1, -5, 5, 5, 0, 5, 0, 1, VERSION, "voice", "use",
        command.fingerprint(), (Draw(2, 5),), (LimitState("voice", Period.LIFETIME, 1, 1, None),),
        '{"metrics":{"tokens":3},"service":"openai"}', None, b"",
    )  # fmt: skip


def test_every_mutation_adds_one_to_the_revision_and_writes_one_entry() -> None:
    account = opened(3, 4, 5)
    do(use("gift"), account)
    do(use("voice", request_id="other"), account)
    assert [entry.revision for entry in account.written] == [1, 2, 3, 4, 5, 6]
    assert account.revision == 6


# ── Who is refused for what, and in which order ───────────────────────────────────────────────────────────────────

ORDER = {
    "the request id was used": Reason.REQUEST_ID_REUSED,
    "the level is unknown": Reason.LEVEL_UNKNOWN,
    "the operation is unknown": Reason.OPERATION_UNKNOWN,
    "the account is frozen": Reason.ACCOUNT_FROZEN,
    "the limit is used up": Reason.LIMIT_EXCEEDED,
    "credits are missing": Reason.INSUFFICIENT_CREDITS,
}


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1)))


def wrong_in(*wrong: str) -> tuple[Deduct, Account]:
    """A deduction and its account with these things wrong and no others."""
    account = opened(9 if "credits are missing" in wrong else 10)
    do(use("voice", request_id="earlier"), account)
    if "the limit is used up" not in wrong:
        account.uses.clear()
    if "the account is frozen" in wrong:
        account.state = AccountState.FROZEN
    command = use(
        operation="nothing" if "the operation is unknown" in wrong else "voice",
        request_id="earlier" if "the request id was used" in wrong else "new",
        usage=Usage(service="told only now"),
        account_level="gold" if "the level is unknown" in wrong else None,
    )
    return command, account


def test_a_deduction_with_nothing_wrong_is_accepted() -> None:
    assert do(*wrong_in()).entry.cost == 5


@pytest.mark.parametrize("wrong", subsets(list(ORDER)), ids=" and ".join)
def test_when_several_things_are_wrong_the_first_of_the_contract_is_told(wrong: tuple[str, ...]) -> None:
    assert refusal(*wrong_in(*wrong)).reason is ORDER[wrong[0]]


@pytest.mark.parametrize("command", [use("nothing"), use("house"), GrantCredits("grant", "ann", 1)])
def test_an_unknown_account_comes_before_everything_else(command: Command) -> None:
    refused = refusal(command, Account("ann"))
    assert (refused.reason, refused.metadata) == (Reason.ACCOUNT_NOT_FOUND, {"accountId": "ann"})


def evaluation(account: Account, operation: str = "script", quantity: int = 1, level: str = "") -> Evaluation:
    before = deepcopy(account)
    result = evaluate(account, level or account.level, CATALOG, operation, quantity, {}, NOW)
    assert account == before
    return result


def test_an_evaluation_without_denials_tells_cost_and_limits() -> None:
    limits = (
        LimitState("script", Period.DAY, 3, 0, TOMORROW),
        LimitState("script", Period.MONTH, 5, 0, NEXT_MONTH),
    )
    assert evaluation(opened(2), quantity=2) == Evaluation(2, limits, ())


def test_an_evaluation_lists_every_rule_that_denies_in_the_order_of_the_contract() -> None:
    account = opened(3, state=AccountState.FROZEN)
    denials = evaluation(account, quantity=6).denials
    assert [(denial.reason, denial.shortfall) for denial in denials] == [
        (Reason.ACCOUNT_FROZEN, 0),
        (Reason.LIMIT_EXCEEDED, 3),
        (Reason.LIMIT_EXCEEDED, 1),
        (Reason.INSUFFICIENT_CREDITS, 3),
    ]
    assert [denial.metadata.get("period") for denial in denials] == [None, "DAY", "MONTH", None]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("available", [1, 2, 3])
@pytest.mark.parametrize("used", [1, 2, 3])
def test_a_deduction_is_refused_with_the_first_denial_of_its_evaluation(
    used: int, available: int, frozen: bool
) -> None:
    account = opened(used + available)
    do(use(quantity=used), account)
    account.state = AccountState.FROZEN if frozen else AccountState.ACTIVE
    denials = evaluation(account, quantity=2).denials
    if denials:
        refused = refusal(use(quantity=2, request_id="new"), account)
        assert (refused.reason, refused.metadata) == (denials[0].reason, denials[0].metadata)
    else:
        assert do(use(quantity=2, request_id="new"), account).entry.cost == 2
    assert bool(denials) == (frozen or used + 2 > 3 or available < 2)


# ── Frozen and closed ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "command", "reason"),
    [
        (AccountState.FROZEN, use("gift"), Reason.ACCOUNT_FROZEN),
        (AccountState.FROZEN, use("gift", account_level="pro"), Reason.ACCOUNT_FROZEN),
        (AccountState.FROZEN, failed("gift"), Reason.ACCOUNT_FROZEN),
        (AccountState.CLOSED, use("gift"), Reason.ACCOUNT_CLOSED),
        (AccountState.CLOSED, failed("gift"), Reason.ACCOUNT_CLOSED),
        (AccountState.CLOSED, GrantCredits("new", "ann", 1), Reason.ACCOUNT_CLOSED),
    ],
)
def test_a_frozen_account_refuses_spending_and_a_closed_one_grants_too(
    state: AccountState, command: Command, reason: Reason
) -> None:
    refused = refusal(command, opened(9, state=state))
    assert (refused.reason, refused.metadata) == (reason, {"accountId": "ann"})


def test_a_frozen_account_still_receives_credits() -> None:
    account = opened(1, state=AccountState.FROZEN)
    assert grant(account, 4).available == 5


@pytest.mark.parametrize("state", [AccountState.FROZEN, AccountState.CLOSED])
def test_a_frozen_or_closed_account_still_answers_replays(state: AccountState) -> None:
    account = opened(9)
    earlier = do(use("voice"), account).entry
    account.state = state
    assert do(use("voice"), account) == Accepted(earlier, replayed=True)


# ── Failed uses ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    [failed("voice"), failed("script", 4), failed("secret"), failed("summary", MAX_QUANTITY)],
    ids=["without credits", "beyond the limit", "forbidden", "dear"],
)
def test_a_failed_use_is_recorded_and_charges_nothing(command: Deduct) -> None:
    account = opened()
    entry = do(command, account).entry
    assert (entry.kind, entry.operation, entry.quantity) == (
        EntryKind.DEDUCTED,
        command.operation,
        command.quantity,
    )
    assert (entry.amount, entry.cost, entry.draws, entry.usage) == (0, 0, (), '{"outcome":"failed"}')


def test_a_failed_use_counts_towards_no_limit_and_tells_where_they_stand() -> None:
    account = opened(9)
    do(use(quantity=2), account)
    uses = dict(account.uses)
    entry = do(use(request_id="failed", usage=Usage(failed=True)), account).entry
    assert [state.used for state in entry.limits] == [2, 2]
    assert account.uses == uses


def test_a_failed_use_of_something_unknown_is_refused() -> None:
    assert refusal(failed("nothing"), opened()).reason is Reason.OPERATION_UNKNOWN
    assert refusal(failed("voice", level="gold"), opened()).reason is Reason.LEVEL_UNKNOWN


def test_a_failed_use_opens_the_account_or_changes_its_level_like_any_other() -> None:
    account = Account("ann")
    do(failed("voice", level="free"), account)
    do(use("voice", request_id="2", usage=Usage(failed=True), account_level="pro"), account)
    assert [entry.kind.name for entry in account.written] == [
        "OPENED",
        "DEDUCTED",
        "LEVEL_CHANGED",
        "DEDUCTED",
    ]


# ── Opening and levels ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_account_opens_at_the_level_it_names_or_the_default_one() -> None:
    assert opened(level="pro").level == "pro"
    account = Account("ann")
    entry = do(OpenAccount("open", "ann", labels={"b": "2", "a": "1"}), account).entry
    assert (account.level, account.labels, account.create_time) == ("free", '{"a":"1","b":"2"}', NOW)
    assert (entry.kind, entry.revision, entry.catalog_version) == (EntryKind.OPENED, 1, VERSION)
    assert entry.details == '{"labels":{"a":"1","b":"2"},"level":"free"}'


def test_an_account_keeps_the_time_of_its_opening() -> None:
    account = opened()
    do(use("gift"), account, NOW + 1)
    assert (account.create_time, account.last_time) == (NOW, NOW + 1)


def test_an_account_opens_once() -> None:
    refused = refusal(OpenAccount("again", "ann"), opened())
    assert (refused.reason, refused.metadata) == (Reason.ACCOUNT_EXISTS, {"accountId": "ann"})


def test_an_account_does_not_open_at_an_unknown_level() -> None:
    refused = refusal(OpenAccount("open", "ann", "gold"), Account("ann"))
    assert (refused.reason, refused.metadata) == (Reason.LEVEL_UNKNOWN, {"level": "gold"})


def test_a_deduction_that_tells_the_level_opens_an_unknown_account() -> None:
    account = Account("ann")
    entry = do(use("gift", account_level="pro"), account).entry
    assert [(e.revision, e.kind, e.request_id) for e in account.written] == [
        (1, EntryKind.OPENED, None),
        (2, EntryKind.DEDUCTED, "use"),
    ]
    assert (account.level, account.create_time, account.labels) == ("pro", NOW, "{}")
    assert entry.create_time == account.written[0].create_time == NOW


@pytest.mark.parametrize("level", ["free", "pro"])
def test_a_deduction_that_does_not_fit_opens_no_account(level: str) -> None:
    assert refusal(use("voice", account_level=level), Account("ann")).reason is Reason.INSUFFICIENT_CREDITS


def test_a_deduction_that_tells_another_level_changes_it_with_an_entry_of_its_own() -> None:
    account = opened(9)
    do(use("voice", account_level="pro"), account)
    changed, deducted = account.written[-2:]
    assert (changed.kind, changed.details, changed.request_id) == (
        EntryKind.LEVEL_CHANGED,
        '{"level":"pro"}',
        None,
    )
    assert (changed.amount, changed.cost, changed.available) == (0, 0, 9)
    assert (deducted.kind, deducted.revision, account.level) == (EntryKind.DEDUCTED, 4, "pro")


def test_a_deduction_that_tells_the_stored_level_changes_nothing_about_it() -> None:
    account = opened(9)
    do(use("voice", account_level="free"), account)
    assert account.revision == 3


def test_the_level_told_sets_the_limits_of_this_very_deduction() -> None:
    account = opened(9)
    assert refusal(use(quantity=4), account).reason is Reason.LIMIT_EXCEEDED
    assert do(use(quantity=4, account_level="pro"), account).entry.cost == 4
    assert refusal(use(request_id="back", account_level="free"), account).metadata["used"] == "4"


def test_a_level_that_a_newer_catalog_dropped_is_refused_not_unlimited() -> None:
    account = opened(9)
    account.level = "gold"
    assert refusal(use("gift"), account).reason is Reason.LEVEL_UNKNOWN
    assert do(use("gift", account_level="pro"), account).entry.cost == 0


def test_check_level_names_the_field() -> None:
    check_level(CATALOG, "pro")
    with pytest.raises(Refused) as caught:
        check_level(CATALOG, "")
    assert caught.value.violations == (("account_level", "not a level of the catalog"),)


# ── Request ids ───────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS: list[Command] = [
    OpenAccount("id", "ann", "pro", {"plan": "a"}),
    GrantCredits("id", "ann", 5, 1, "gift", {"by": "bob"}),
    use("gift", request_id="id", usage=Usage(service="s", metrics={"m": 1})),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_the_same_request_again_answers_the_same_entry_and_writes_nothing(command: Command) -> None:
    account = Account("ann") if isinstance(command, OpenAccount) else opened(1)
    first = do(command, account)
    grant(account, 1, request_id="meanwhile")
    before = deepcopy(account)
    assert do(command, account, NOW + 1) == Accepted(first.entry, replayed=True)
    assert account == before


@pytest.mark.parametrize("again", COMMANDS, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("first", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_request_id_serves_one_request_only(first: Command, again: Command) -> None:
    account = Account("ann") if isinstance(first, OpenAccount) else opened(1)
    entry = do(first, account).entry
    if first is again:
        assert do(again, account) == Accepted(entry, replayed=True)
    else:
        refused = refusal(again, account)
        assert (refused.reason, refused.metadata) == (Reason.REQUEST_ID_REUSED, {"requestId": "id"})


def test_a_replay_answers_though_nothing_about_it_would_be_accepted_now() -> None:
    account = opened(5)
    command = use("voice", account_level="free")
    first = do(command, account).entry
    account.state, account.level = AccountState.CLOSED, "gold"
    assert do(command, account) == Accepted(first, replayed=True)


def test_a_replay_of_what_opened_or_changed_the_level_answers_the_deduction() -> None:
    account = Account("ann")
    command = use("gift", account_level="pro")
    do(command, account)
    account.level = "free"
    assert do(command, account).entry.kind is EntryKind.DEDUCTED
    assert account.level == "free"


def test_refusals_are_not_remembered() -> None:
    account = opened()
    refusal(use("voice", usage=Usage(service="a")), account)
    grant(account, 5)
    assert not do(use("voice", usage=Usage(service="b")), account).replayed


# ── Grants ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grant_is_a_lot_an_entry_and_its_terms() -> None:
    account = opened()
    entry = do(GrantCredits("g", "ann", 8, -3, "sorry", {"by": "bob"}), account, NOW + 5).entry
    assert (entry.kind, entry.amount, entry.cost, entry.available) == (EntryKind.GRANTED, 8, 0, 8)
    assert entry.details == '{"labels":{"by":"bob"},"priority":-3,"reason":"sorry","source":1}'
    assert account.lots == [Lot(-3, NEVER, 2, 8)]
    assert account.new_grants == [("ann", 2, 8, -3, 1, NOW + 5, "sorry", '{"by":"bob"}', None, NEVER, None)]


@pytest.mark.parametrize(
    ("grants", "cost", "draws", "left"),
    [
        ([(0, 5)], 5, [(2, 5)], []),
        ([(0, 6)], 5, [(2, 5)], [(2, 1)]),
        ([(0, 3), (0, 4)], 5, [(2, 3), (3, 2)], [(3, 2)]),
        ([(1, 9), (0, 4)], 5, [(3, 4), (2, 1)], [(2, 8)]),
        ([(0, 9), (-1, 4)], 5, [(3, 4), (2, 1)], [(2, 8)]),
        (
            [(2, 1), (1, 1), (0, 1), (1, 1), (0, 1), (3, 9)],
            5,
            [(4, 1), (6, 1), (3, 1), (5, 1), (2, 1)],
            [(7, 9)],
        ),
        ([(0, 2), (0, 3), (0, 1)], 5, [(2, 2), (3, 3)], [(4, 1)]),
        ([(1, 5), (0, 5)], 5, [(3, 5)], [(2, 5)]),
        ([(9, 1)] * 7, 5, [(2, 1), (3, 1), (4, 1), (5, 1), (6, 1)], [(7, 1), (8, 1)]),
    ],
)
def test_grants_burn_by_priority_then_age_and_the_entry_tells_the_draws(
    grants: list[tuple[int, int]], cost: int, draws: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    account = opened()
    for number, (priority, amount) in enumerate(grants):
        grant(account, amount, priority, f"grant-{number}")
    entry = do(use("voice"), account).entry
    assert (entry.cost, list(entry.draws)) == (cost, draws)
    assert [(lot.grant_revision, lot.remaining) for lot in account.lots] == left


def test_a_lot_serves_several_deductions_until_it_is_empty() -> None:
    account = opened(12, 100, level="pro")
    drawn = [do(use("voice", request_id=str(number)), account).entry.draws for number in range(3)]
    assert drawn == [(Draw(2, 5),), (Draw(2, 5),), (Draw(2, 2), Draw(3, 3))]


def test_an_account_has_at_most_so_many_live_grants() -> None:
    account = opened(*[5] * MAX_LIVE_GRANTS, level="pro")
    refused = refusal(GrantCredits("one-more", "ann", 1), account)
    assert (refused.reason, [field for field, _ in refused.violations]) == (
        Reason.FIELD_INVALID,
        ["account_id"],
    )
    do(use("voice"), account)
    assert grant(account, 1, request_id="one-more").available == 5 * (MAX_LIVE_GRANTS - 1) + 1


def test_one_deduction_may_empty_all_live_grants() -> None:
    account = opened(*[1] * MAX_LIVE_GRANTS, level="pro")
    entry = do(use("voice", MAX_LIVE_GRANTS // 5), account).entry
    assert entry.draws == tuple(Draw(revision, 1) for revision in range(2, 2 + MAX_LIVE_GRANTS))
    assert (account.lots, account.available) == ([], 0)


# ── How large it all may grow ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    [
        use("house", 2),
        use("summary", MAX_QUANTITY, usage=Usage(metrics={"tokens": MAX_AMOUNT})),
        use("summary", usage=Usage(metrics={"tokens": MAX_AMOUNT * 1_000 + 1})),
    ],
)
def test_a_cost_beyond_the_largest_amount_is_a_bad_field(command: Deduct) -> None:
    refused = refusal(command, opened(MAX_AMOUNT))
    assert (refused.reason, [field for field, _ in refused.violations]) == (
        Reason.FIELD_INVALID,
        ["quantity"],
    )


def rich(granted: int, *, spent: int = 0) -> Account:
    """An account that was granted so much in all, as loaded from the database."""
    account = opened()
    account.available, account.spent = granted - spent, spent
    account.lots = [Lot(0, NEVER, 1, granted - spent)]
    return account


@pytest.mark.parametrize("spent", [0, 1, MAX_BALANCE - 2 * MAX_AMOUNT])
def test_what_was_ever_granted_reaches_the_largest_balance_and_not_more(spent: int) -> None:
    account = rich(MAX_BALANCE - MAX_AMOUNT, spent=spent)
    assert do(GrantCredits("fits", "ann", MAX_AMOUNT), account).entry.granted == MAX_BALANCE
    refused = refusal(GrantCredits("one-more", "ann", 1), account)
    assert (refused.reason, [field for field, _ in refused.violations]) == (Reason.FIELD_INVALID, ["amount"])


def test_a_full_account_still_spends() -> None:
    account = rich(MAX_BALANCE)
    assert do(use("house"), account).entry.available == MAX_BALANCE - MAX_AMOUNT


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("operation", "used", "quantity", "limit", "reset_time"),
    [
        ("script", 0, 4, 3, TOMORROW),
        ("script", 2, 2, 3, TOMORROW),
        ("script", 3, 1, 3, TOMORROW),
        ("voice", 1, 1, 1, None),
        ("secret", 0, 1, 0, NEXT_MONDAY),
    ],
)
def test_uses_beyond_the_limit_are_refused_with_where_it_stands(
    operation: str, used: int, quantity: int, limit: int, reset_time: int | None
) -> None:
    account = opened(100)
    if used:
        do(use(operation, used, "earlier"), account)
    refused = refusal(use(operation, quantity), account)
    assert (refused.reason, refused.shortfall) == (Reason.LIMIT_EXCEEDED, used + quantity - limit)
    told = refused.metadata
    assert (told["operation"], told["limit"], told["used"]) == (operation, str(limit), str(used))
    if reset_time is None:
        assert (refused.retry_after, told.get("resetTime"), told["period"]) == (None, None, "LIFETIME")
    else:
        assert refused.retry_after == reset_time - NOW
        assert told["resetTime"] == f"2026-11-{19 if reset_time == TOMORROW else 23}T00:00:00.000000Z"


def test_uses_up_to_the_limit_are_accepted_and_told() -> None:
    account = opened(9)
    assert [state.used for state in do(use(quantity=2, request_id="1"), account).entry.limits] == [2, 2]
    assert [state.used for state in do(use(quantity=1, request_id="2"), account).entry.limits] == [3, 3]


def test_unlimited_counts_and_never_refuses() -> None:
    account = opened(MAX_AMOUNT, level="pro")
    entry = do(use(quantity=99), account).entry
    assert entry.limits == (
        LimitState("script", Period.WEEK, 100, 99, NEXT_MONDAY),
        LimitState("script", Period.MONTH, -1, 99, NEXT_MONTH),
    )


def test_uses_count_for_the_limits_of_every_level_so_that_a_change_finds_them() -> None:
    account = opened(9, level="pro")
    do(use("voice", account_level="pro"), account)
    do(use(quantity=3, request_id="3"), account)
    assert (
        refusal(use("voice", request_id="4", account_level="free"), account).reason is Reason.LIMIT_EXCEEDED
    )
    assert refusal(use(request_id="5", account_level="free"), account).metadata["period"] == "DAY"


@pytest.mark.parametrize(
    ("period", "next_period"),
    [
        (Period.DAY, TOMORROW),
        (Period.WEEK, NEXT_MONDAY),
        (Period.MONTH, NEXT_MONTH),
    ],
)
def test_a_limit_resets_at_the_first_microsecond_of_the_next_period(period: Period, next_period: int) -> None:
    catalog = parse_catalog(
        {
            "default_level": "free",
            "operations": {"script": {"price": {"flat": 1}}},
            "levels": {
                "free": {"limits": [{"operation": "script", "period": period.name.lower(), "limit": 2}]}
            },
        }
    )
    book = CatalogBook([CatalogVersion(1, catalog, 0)])
    account = opened(9)
    decide(use(quantity=2), account, book, NOW)
    with pytest.raises(Refused) as caught:
        decide(use(request_id="too early"), account, book, next_period - 1)
    assert caught.value.retry_after == 1
    entry = decide(use(request_id="in time"), account, book, next_period).entry
    assert [state.used for state in entry.limits] == [1]


def test_a_lifetime_limit_never_resets() -> None:
    account = opened(100)
    do(use("voice", request_id="1"), account, NOW)
    assert refusal(use("voice"), account, micros(2199, 12, 31)).reason is Reason.LIMIT_EXCEEDED


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_entries_of_one_instant_are_in_order_and_an_older_one_is_a_bug() -> None:
    account = opened(9)
    do(use("gift", request_id="1"), account, NOW)
    do(use("gift", request_id="2"), account, NOW)
    with pytest.raises(AssertionError):
        do(use("gift", request_id="3"), account, NOW - 1)
