"""What time, reservations, refunds and grants do to an account: docs/decisions/0009 in numbers worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from creditledger_server.domain.account import Account, AccountState, GrantSource
from creditledger_server.domain.audit import Audit
from creditledger_server.domain.book import CatalogBook, CatalogVersion
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.domain.commands import (
    AdjustBalance,
    Command,
    CommitReservation,
    Deduct,
    ExtendReservation,
    GrantCredits,
    OpenAccount,
    PurchasePackage,
    Refund,
    ReleaseReservation,
    Reserve,
    UpdateAccount,
    VoidGrant,
)
from creditledger_server.domain.decide import decide
from creditledger_server.domain.entry import Entry
from creditledger_server.domain.names import MAX_BALANCE
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.domain.reservation import ReservationState
from creditledger_server.domain.settle import is_due, settle
from creditledger_server.domain.usage import Usage

SECOND, DAY = 1_000_000, 86_400_000_000


def micros(*date: int) -> int:
    return (datetime(*date, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)  # type: ignore[arg-type, misc]


NOON = micros(2026, 11, 22, 12)
MIDNIGHT = micros(2026, 11, 23)


def catalog(price: int = 5, allowance: int = 10, limit: int = 3) -> Any:
    return parse_catalog(
        {
            "default_level": "free",
            "operations": {"voice": {"price": {"flat": price}}},
            "levels": {
                "free": {"limits": [{"operation": "voice", "period": "day", "limit": limit}]},
                "pro": {"allowance": {"credits": allowance, "period": "day"}},
                "plus": {"allowance": {"credits": 1, "period": "day"}},
            },
            "packages": {"starter": {"credits": 100, "price": {"currency_code": "EUR", "amount": "9.90"}}},
        }
    )


BOOK = CatalogBook([CatalogVersion(1, catalog(), 0)])


class Story:
    """An account, told what happens to it one after the other; every request id is new."""

    def __init__(self, level: str = "free", credits_: int = 0) -> None:
        self.account, self.book, self.calls = Account("ann"), BOOK, 0
        self.do(OpenAccount, level)
        if credits_:
            self.do(GrantCredits, credits_)

    def do(self, command: type[Command], *content: Any, at: int = NOON, **more: Any) -> Entry:
        """Carries a command out as a lane would, everything loaded, and audits the whole history."""
        self.calls += 1
        self.settle(at)
        records = self.account.records
        records.entries |= {entry.revision: entry for entry in self.account.written}
        records.grants |= {grant.revision: grant for grant in self.account.new_grants}
        records.grants |= {grant.revision: grant for grant in records.voided}
        entry = decide(
            command(f"id-{self.calls}", "ann", *content, **more), self.account, self.book, at
        ).entry
        self.audit()
        return entry

    def refused(self, command: type[Command], *content: Any, at: int = NOON, **more: Any) -> Reason:
        with pytest.raises(Refused) as caught:
            self.do(command, *content, at=at, **more)
        return caught.value.reason

    def settle(self, at: int) -> None:
        if is_due(self.account, self.book, at):
            records = self.account.records  # as storage loads them
            ends = [
                each.expire_time
                for each in records.reservations.values()
                if each.state is ReservationState.ACTIVE
            ]
            records.next_expiry = min((end for end in ends if end > at), default=None)
            settle(self.account, self.book, at)
            self.audit()

    def audit(self) -> None:
        audit = Audit("ann", self.book)
        for entry in self.account.written:
            assert audit.add(entry) is None, audit.add(entry)
        assert audit.compare(self.account, audit.kept) is None, audit.compare(self.account, audit.kept)

    @property
    def balance(self) -> tuple[int, int, int, int]:
        """Available, reserved, spent, forfeited."""
        account = self.account
        return account.available, account.reserved, account.spent, account.forfeited

    @property
    def kinds(self) -> list[str]:
        return [entry.kind.name for entry in self.account.written]

    @property
    def used(self) -> int:
        return self.account.used("voice", 1, self.account.last_time)  # type: ignore[arg-type]


def draws(entry: Entry) -> list[tuple[int, int]]:
    return [(draw.grant_revision, draw.amount) for draw in entry.draws]


# ── Grants ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grant_can_be_spent_until_the_microsecond_before_it_expires() -> None:
    story = Story()
    story.do(GrantCredits, 10, expire_time=NOON + SECOND)
    story.do(Deduct, "voice", at=NOON + SECOND - 1)

    assert story.refused(Deduct, "voice", at=NOON + SECOND) is Reason.INSUFFICIENT_CREDITS
    assert story.balance == (0, 0, 5, 5)
    expired = story.account.written[-1]
    assert (expired.kind.name, expired.create_time, draws(expired)) == (
        "GRANT_EXPIRED",
        NOON + SECOND,
        [(2, 5)],
    )


def test_a_grant_that_begins_later_is_no_credit_before_and_one_from_its_instant_on() -> None:
    story = Story()
    promised = story.do(GrantCredits, 10, effective_time=NOON + SECOND)
    assert (promised.amount, story.balance, story.account.granted) == (0, (0, 0, 0, 0), 0)

    assert story.refused(Deduct, "voice", at=NOON + SECOND - 1) is Reason.INSUFFICIENT_CREDITS
    story.do(Deduct, "voice", at=NOON + SECOND)
    assert story.kinds == ["OPENED", "GRANTED", "GRANT_STARTED", "DEDUCTED"]
    assert story.balance == (5, 0, 5, 0)


def test_a_grant_that_begins_and_ends_unseen_leaves_both_entries_at_their_instants() -> None:
    story = Story()
    story.do(GrantCredits, 10, effective_time=NOON + 1, expire_time=NOON + 3)
    story.settle(NOON + DAY)
    assert [(entry.kind.name, entry.create_time - NOON) for entry in story.account.written[2:]] == [
        ("GRANT_STARTED", 1), ("GRANT_EXPIRED", 3),
    ]  # fmt: skip


def test_what_expires_first_burns_first_within_a_priority() -> None:
    story = Story()
    story.do(GrantCredits, 3)
    story.do(GrantCredits, 3, expire_time=NOON + 9 * SECOND)
    story.do(GrantCredits, 3, expire_time=NOON + 8 * SECOND)
    story.do(GrantCredits, 1, 1, expire_time=NOON + SECOND)
    assert draws(story.do(Deduct, "voice")) == [(4, 3), (3, 2)]


def test_a_grant_that_has_expired_already_is_refused() -> None:
    assert Story().refused(GrantCredits, 1, expire_time=NOON) is Reason.FIELD_INVALID


def test_a_voided_grant_forfeits_what_is_left_and_a_second_void_nothing() -> None:
    story = Story(credits_=10)
    story.do(Deduct, "voice")
    assert draws(story.do(VoidGrant, 2)) == [(2, 5)]
    assert draws(story.do(VoidGrant, 2)) == []
    assert story.balance == (0, 0, 5, 5)
    assert story.refused(VoidGrant, 9) is Reason.GRANT_NOT_FOUND


def test_a_grant_to_come_can_be_voided_without_a_trace_in_the_balance() -> None:
    story = Story()
    story.do(GrantCredits, 10, effective_time=NOON + SECOND)
    story.do(VoidGrant, 2)
    story.settle(NOON + DAY)
    assert story.kinds == ["OPENED", "GRANTED", "GRANT_VOIDED"]


def test_corrections_grant_upwards_and_forfeit_downwards() -> None:
    story = Story()
    story.do(AdjustBalance, 8, "sorry")
    assert story.account.new_grants[-1].source is GrantSource.ADJUSTMENT
    story.do(AdjustBalance, -3, "too much")
    assert story.balance == (5, 0, 0, 3)
    assert story.refused(AdjustBalance, -6, "more") is Reason.INSUFFICIENT_CREDITS


# ── Allowances ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_allowance_comes_with_opening_and_at_every_midnight_and_ends_there() -> None:
    story = Story("pro")
    assert story.balance == (10, 0, 0, 0)
    story.do(Deduct, "voice", at=MIDNIGHT - 1)
    story.settle(MIDNIGHT)
    assert story.kinds[-2:] == ["GRANT_EXPIRED", "GRANTED"]
    assert {entry.create_time for entry in story.account.written[-2:]} == {MIDNIGHT}
    assert story.balance == (10, 0, 5, 5)


def test_days_that_went_by_unseen_leave_their_entries_all_the_same() -> None:
    story = Story("pro")
    story.settle(MIDNIGHT + 3 * DAY + 5)
    assert story.kinds[2:] == ["GRANT_EXPIRED", "GRANTED"] * 4
    assert story.balance == (10, 0, 0, 40)


def test_whoever_changes_levels_back_and_forth_has_one_allowance_per_period() -> None:
    story = Story("pro")
    for level in ("free", "pro", "plus", "pro"):
        story.do(UpdateAccount, level)
    assert story.balance == (10, 0, 0, 0)


def test_a_first_call_is_decided_with_the_allowance_that_it_brings() -> None:
    account = Account("ann")
    entry = decide(Deduct("id", "ann", "voice", 2, None, "pro"), account, BOOK, NOON).entry
    assert (entry.revision, entry.available) == (3, 0)
    with pytest.raises(Refused) as caught:
        decide(Deduct("id", "bob", "voice", 3, None, "pro"), Account("bob"), BOOK, NOON)
    assert caught.value.metadata["available"] == "10"


def test_closed_accounts_get_no_allowance_and_frozen_ones_do() -> None:
    for state, available in ((AccountState.FROZEN, 10), (AccountState.CLOSED, 0)):
        story = Story("pro")
        story.do(UpdateAccount, None, None, state)
        story.settle(MIDNIGHT)
        assert story.account.available == available


@pytest.mark.parametrize("barrier", ["closed", "full"])
def test_nothing_stays_due_where_no_allowance_can_come(barrier: str) -> None:
    story = Story("pro")
    if barrier == "closed":
        story.do(UpdateAccount, None, None, AccountState.CLOSED)
    else:
        story.account.spent = MAX_BALANCE - 19
    assert is_due(story.account, BOOK, MIDNIGHT)  # the allowance of today ends
    settle(story.account, BOOK, MIDNIGHT)

    assert story.kinds[-1] == "GRANT_EXPIRED"
    assert not is_due(story.account, BOOK, MIDNIGHT + 9 * DAY)  # whoever reads waits until nothing is


def test_the_catalog_at_the_beginning_of_the_period_says_how_much() -> None:
    story = Story("pro")
    story.book = CatalogBook([*BOOK.versions, CatalogVersion(2, catalog(allowance=99), MIDNIGHT + DAY + 1)])
    story.settle(MIDNIGHT + 2 * DAY)
    assert [entry.amount for entry in story.account.written if entry.kind.name == "GRANTED"] == [
        10,
        10,
        10,
        99,
    ]


# ── Reservations ──────────────────────────────────────────────────────────────────────────────────────────────────


def reserved(story: Story, quantity: int = 2, ttl: int = 60 * SECOND, at: int = NOON) -> int:
    return story.do(Reserve, "voice", quantity, ttl=ttl, at=at).revision


@pytest.mark.parametrize(
    ("quantity", "balance", "used"), [(1, (15, 0, 5, 0), 1), (2, (10, 0, 10, 0), 2), (3, (5, 0, 15, 0), 3)]
)
def test_a_commit_charges_the_real_quantity(quantity: int, balance: tuple[int, ...], used: int) -> None:
    story = Story(credits_=20)
    name = reserved(story)
    assert (story.balance, story.used) == ((10, 10, 0, 0), 2)
    story.do(CommitReservation, name, quantity)
    assert (story.balance, story.used) == (balance, used)
    assert story.refused(CommitReservation, name) is Reason.RESERVATION_COMMITTED
    assert story.refused(ReleaseReservation, name) is Reason.RESERVATION_COMMITTED


def test_a_commit_of_more_than_there_is_changes_nothing() -> None:
    story = Story(credits_=12)
    name = reserved(story)
    assert story.refused(CommitReservation, name, 3) is Reason.INSUFFICIENT_CREDITS
    assert story.refused(CommitReservation, name, 4) is Reason.LIMIT_EXCEEDED
    assert story.balance == (2, 10, 0, 0)


def test_work_that_failed_costs_nothing_and_gives_everything_back() -> None:
    story = Story(credits_=20)
    story.do(CommitReservation, reserved(story), None, Usage(failed=True))
    assert (story.balance, story.used) == ((20, 0, 0, 0), 0)


def test_a_commit_is_priced_by_the_catalog_at_which_it_was_reserved() -> None:
    story = Story(credits_=20)
    name = reserved(story)
    story.book = CatalogBook([*BOOK.versions, CatalogVersion(2, catalog(price=7), NOON)])
    assert story.do(CommitReservation, name).cost == 10


def test_a_release_gives_credits_and_uses_back() -> None:
    story = Story(credits_=20)
    name = reserved(story)
    story.do(ReleaseReservation, name)
    assert (story.balance, story.used) == ((20, 0, 0, 0), 0)
    assert story.refused(CommitReservation, name) is Reason.RESERVATION_RELEASED


def test_a_reservation_runs_out_at_its_instant_and_a_late_commit_is_charged_from_what_there_is() -> None:
    story = Story(credits_=20)
    name = reserved(story)
    late = story.do(CommitReservation, name, at=NOON + 60 * SECOND)
    assert story.kinds[-2:] == ["RESERVATION_EXPIRED", "COMMITTED"]
    assert story.account.written[-2].create_time == NOON + 60 * SECOND
    assert (story.balance, story.used, late.told()["late"]) == ((10, 0, 10, 0), 2, True)


@pytest.mark.parametrize("spent", [3, 1])
def test_a_late_commit_that_does_not_fit_is_refused_as_expired(spent: int) -> None:
    story = Story(credits_=20 if spent == 3 else 14)  # the limit is used up, or the credits are
    name = reserved(story)
    story.do(Deduct, "voice", spent, at=NOON + 60 * SECOND)
    assert story.refused(CommitReservation, name, at=NOON + 60 * SECOND) is Reason.RESERVATION_EXPIRED


def test_an_extension_moves_the_end_up_to_a_day_of_life() -> None:
    story = Story(credits_=20)
    name = reserved(story)
    story.do(ExtendReservation, name, 60 * SECOND, at=NOON + 59 * SECOND)
    story.settle(NOON + 118 * SECOND)
    assert story.account.reserved == 10
    assert story.refused(ExtendReservation, name, DAY, at=NOON + 118 * SECOND) is Reason.FIELD_INVALID
    story.settle(NOON + 119 * SECOND)
    assert story.account.reserved == 0


def test_held_credits_outlive_their_grant_for_their_commit_and_for_nothing_else() -> None:
    for command, balance in ((CommitReservation, (0, 0, 10, 10)), (ReleaseReservation, (0, 0, 0, 20))):
        story = Story()
        story.do(GrantCredits, 20, expire_time=NOON + SECOND)
        story.do(command, reserved(story), at=NOON + 2 * SECOND)
        assert story.balance == balance


def test_what_a_voided_grant_gets_back_is_forfeited() -> None:
    story = Story(credits_=20)
    name = reserved(story)
    story.do(VoidGrant, 2)
    assert story.balance == (0, 10, 0, 10)
    story.do(ReleaseReservation, name)
    assert story.balance == (0, 0, 0, 20)


def test_uses_return_to_the_window_in_which_they_counted() -> None:
    story = Story(credits_=50)
    name = reserved(story, 2, ttl=DAY)
    story.do(Deduct, "voice", at=MIDNIGHT)
    story.do(ReleaseReservation, name, at=MIDNIGHT)
    assert story.used == 1


def test_the_1001st_active_reservation_is_refused() -> None:
    story = Story("pro")
    story.account.active_reservations = 1_000
    with pytest.raises(Refused) as caught:
        decide(Reserve("id", "ann", "voice"), story.account, BOOK, NOON)
    assert caught.value.reason is Reason.TOO_MANY_RESERVATIONS


# ── Refunds ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_partial_refunds_go_from_the_last_draw_to_the_first_and_never_exceed_the_cost() -> None:
    story = Story()
    story.do(GrantCredits, 8, 0)
    story.do(GrantCredits, 8, 1)
    charged = story.do(Deduct, "voice", 2).revision
    assert draws(story.account.written[-1]) == [(2, 8), (3, 2)]
    assert draws(story.do(Refund, charged, 3)) == [(2, -1), (3, -2)]
    assert story.used == 2
    assert story.refused(Refund, charged, 8) is Reason.REFUND_EXCEEDS_COST
    assert draws(story.do(Refund, charged)) == [(2, -7)]
    assert (story.balance, story.used) == ((16, 0, 0, 0), 0)
    assert story.refused(Refund, charged) is Reason.REFUND_EXCEEDS_COST


def test_a_refund_to_a_grant_that_has_ended_is_forfeited_and_said_so() -> None:
    story = Story()
    story.do(GrantCredits, 5, expire_time=NOON + SECOND)
    charged = story.do(Deduct, "voice").revision
    told = story.do(Refund, charged, at=NOON + SECOND).told()
    assert (told["forfeited"], told["refundable"], story.balance) == (5, 0, (0, 0, 0, 5))


def test_a_refund_revives_a_grant_that_was_used_up_with_its_end() -> None:
    story = Story()
    story.do(GrantCredits, 5, expire_time=NOON + 9 * SECOND)
    story.do(Refund, story.do(Deduct, "voice").revision)
    story.settle(NOON + 9 * SECOND)
    assert story.balance == (0, 0, 0, 5)


def test_a_commit_is_refunded_to_the_grants_that_paid_it() -> None:
    story = Story()
    story.do(GrantCredits, 10, 1)
    name = reserved(story)
    story.do(GrantCredits, 10, 0)
    committed = story.do(CommitReservation, name, 3).revision
    assert draws(story.do(Refund, committed, 7)) == [(4, -5), (2, -2)]
    assert story.balance == (12, 0, 8, 0)


@pytest.mark.parametrize(("revision", "reason"), [(2, Reason.FIELD_INVALID), (99, Reason.ENTRY_NOT_FOUND)])
def test_what_cannot_be_refunded(revision: int, reason: Reason) -> None:
    assert Story(credits_=5).refused(Refund, revision) is reason


# ── Packages and states ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_payment_is_credited_once() -> None:
    story = Story()
    bought = story.do(PurchasePackage, "starter", "pi_1")
    assert story.do(PurchasePackage, "starter", "pi_1") == bought
    assert story.account.available == 100
    assert story.refused(PurchasePackage, "large", "pi_1") is Reason.PAYMENT_REFERENCE_REUSED
    assert story.refused(PurchasePackage, "large", "pi_2") is Reason.PACKAGE_UNKNOWN


def test_frozen_accounts_refuse_to_spend_and_take_everything_else() -> None:
    story = Story(credits_=20)
    charged, name = story.do(Deduct, "voice").revision, reserved(story)
    story.do(UpdateAccount, None, None, AccountState.FROZEN)
    for command in ((Deduct, "voice"), (Reserve, "voice"), (CommitReservation, name)):
        assert story.refused(*command) is Reason.ACCOUNT_FROZEN
    story.do(ReleaseReservation, name)
    story.do(Refund, charged)
    story.do(AdjustBalance, 1, "x")
    story.do(PurchasePackage, "starter", "pi_1")
    assert story.account.available == 121
