"""The model by itself, with numbers worked out by hand from decision 9: it is the oracle, so it must be right."""

from __future__ import annotations

from typing import Any

import pytest
from ledger_model import Ledger
from model_catalog import (
    DAY,
    HOUR,
    SECOND,
    Plain,
    from_datetime,
    period_end,
    period_start,
    price,
    to_datetime,
)
from model_usage import average, bucket_start

WEDNESDAY = from_datetime(to_datetime(0).replace(2031, 1, 15, 12))
"""2031-01-15 12:00, a Wednesday."""
MIDNIGHT = WEDNESDAY + 12 * HOUR


class Told:
    """A model with one account, and short calls on it."""

    def __init__(
        self, allowance: Plain | None = None, limits: list[Plain] | None = None, level: str = "pro"
    ) -> None:
        self.ledger, self.now, self.numbers = Ledger(), WEDNESDAY, 0
        self.catalog = catalog(allowance, limits)
        self.ledger.catalogs.add(WEDNESDAY - DAY, self.catalog)
        self("OpenAccount", level=level)

    def __call__(self, method: str, **fields: Any) -> Plain:
        self.numbers += 1
        return self.ledger.call(
            method, {"request_id": f"q{self.numbers}", "account_id": "a", **fields}, self.now
        )

    def grant(self, amount: int, **fields: Any) -> str:
        """Grants; returns the grant's name."""
        return str(self("GrantCredits", amount=amount, **fields)["grant"]["grant_id"])

    @property
    def balance(self) -> tuple[int, ...]:
        """available, reserved, granted, spent, forfeited."""
        return tuple(self("GetBalance")["balance"].values())

    def entries(self, first: int = 1) -> list[tuple[str, int, int]]:
        """Kind, amount and time since noon of the entries from a revision on."""
        listed = self("ListEntries", order="OLDEST_FIRST", from_revision=first)["entries"]
        return [(each["kind"], each.get("amount", 0), each["create_time"] - WEDNESDAY) for each in listed]

    def used(self) -> list[int]:
        """The uses of all limits."""
        return [limit["used"] for limit in self("GetBalance")["limits"]]

    def remaining(self) -> dict[str, int]:
        """What remains of each grant."""
        return {grant["grant_id"]: grant["remaining"] for grant in self("ListGrants")["grants"]}


def catalog(allowance: Plain | None = None, limits: list[Plain] | None = None) -> Plain:
    """An operation of price 1 and one of price 5; the level pro has what is given, free nothing."""
    pro: Plain = {"level": "pro", "limits": limits or []}
    if allowance:
        pro["allowance"] = allowance
    return {
        "operations": [{"operation": "chat", "flat": {"amount": 1}}, {"operation": "voice", "flat": {"amount": 5}}],
        "levels": [{"level": "free"}, pro],
        "default_level": "free",
        "packages": [{"package_id": "small", "credits": 10}],
    }  # fmt: skip


def reason(answer: Plain) -> str:
    """Why a call failed."""
    return str(answer["error"]["reason"])


def test_periods_begin_and_end_at_midnight() -> None:
    days = [(period_start(each, WEDNESDAY) - WEDNESDAY) / DAY for each in ("DAY", "WEEK", "MONTH")]
    ends = [((period_end(each, WEDNESDAY) or 0) - WEDNESDAY) / DAY for each in ("DAY", "WEEK", "MONTH")]

    assert days == [-0.5, -2.5, -14.5]
    assert ends == [0.5, 4.5, 16.5]
    assert period_end("LIFETIME", WEDNESDAY) is None


def test_a_metered_price_is_rounded_up_once() -> None:
    rates = [{"metric": "t", "amount": 1, "per": 1_000}, {"metric": "s", "amount": 3, "per": 60}]
    operation = {"metered": {"rates": rates, "minimum": 2}}

    assert price(operation, 1, {"t": 500, "s": 31}) == 3  # 0.5 + 1.55 = 2.05
    assert price(operation, 3, {"t": 2_500}) == 8  # 7.5
    assert price(operation, 4, {}) == 8  # 4 times the minimum


def test_grants_burn_by_priority_then_expiry_then_age() -> None:
    told = Told()
    never, soon, late, first = (
        told.grant(2), told.grant(2, expire_time=MIDNIGHT), told.grant(2, expire_time=MIDNIGHT + 1),
        told.grant(2, priority=-1),
    )  # fmt: skip

    drawn = told("Deduct", operation="chat", quantity=7)["entry"]["draws"]

    assert [draw["grant_id"] for draw in drawn] == [first, soon, late, never]
    assert [draw["amount"] for draw in drawn] == [2, 2, 2, 1]


def test_a_grant_expires_at_its_instant_and_not_before() -> None:
    told = Told()
    told.grant(8, expire_time=MIDNIGHT)
    told("Deduct", operation="voice")

    told.now = MIDNIGHT - 1
    assert told.balance == (3, 0, 8, 5, 0)
    told.now = MIDNIGHT
    assert told.balance == (0, 0, 8, 5, 3)
    assert told.entries(4) == [("GRANT_EXPIRED", -3, 12 * HOUR)]


def test_a_grant_that_begins_later_is_no_credit_before() -> None:
    told = Told()
    name = told.grant(8, effective_time=MIDNIGHT)
    other = told.grant(4, effective_time=MIDNIGHT)
    assert told.entries(2) == [("GRANTED", 0, 0), ("GRANTED", 0, 0)]

    told("VoidGrant", grant_id=other)
    told.now = MIDNIGHT + HOUR

    assert told.balance == (8, 0, 8, 0, 0)
    assert told.entries(4) == [("GRANT_VOIDED", 0, 0), ("GRANT_STARTED", 8, 12 * HOUR)]
    assert told.remaining() == {name: 8, other: 0}


def test_an_allowance_comes_with_opening_and_every_period_and_expires() -> None:
    told = Told({"credits": 20, "period": "DAY"})
    told("Deduct", operation="voice")
    told.now = MIDNIGHT + DAY

    assert told.balance == (20, 0, 60, 5, 35)
    assert told.entries(2) == [
        ("GRANTED", 20, 0),
        ("DEDUCTED", -5, 0),
        ("GRANT_EXPIRED", -15, 12 * HOUR),
        ("GRANTED", 20, 12 * HOUR),
        ("GRANT_EXPIRED", -20, 36 * HOUR),
        ("GRANTED", 20, 36 * HOUR),
    ]


def test_there_is_one_allowance_per_period_also_for_one_who_moves_back_and_forth() -> None:
    told = Told({"credits": 20, "period": "MONTH"}, level="free")
    for level in ("pro", "free", "pro"):
        told("Deduct", operation="chat", account_level=level)

    assert told.balance == (17, 0, 20, 3, 0)
    told.now += 17 * DAY
    assert told.balance == (20, 0, 40, 3, 17)


def test_a_catalog_in_the_middle_of_a_period_brings_its_allowance_with_the_next_one() -> None:
    told = Told({"credits": 20, "period": "DAY"})
    told.now += HOUR
    told("UpdateCatalog", catalog=catalog({"credits": 7, "period": "DAY"}))
    assert told.balance == (20, 0, 20, 0, 0)

    told.now = MIDNIGHT
    assert told.balance == (7, 0, 27, 0, 20)


def test_a_catalog_of_the_very_instant_decides_the_allowance() -> None:
    told = Told({"credits": 20, "period": "DAY"})
    told.ledger.catalogs.add(MIDNIGHT, catalog({"credits": 7, "period": "DAY"}))
    told.now = MIDNIGHT

    assert told.balance == (7, 0, 27, 0, 20)


@pytest.mark.parametrize(
    ("quantity", "expected", "draws"),
    [
        (1, (5, 0, 10, 5, 0), [("g2", -1), ("g3", -4)]),
        (2, (0, 0, 10, 10, 0), []),
        (3, "INSUFFICIENT_CREDITS", []),
    ],
)
def test_a_commit_takes_what_it_costs(quantity: int, expected: object, draws: list[tuple[str, int]]) -> None:
    told = Told()
    told.grant(6), told.grant(4)
    told("Reserve", operation="voice", quantity=2)
    assert told.balance == (0, 10, 10, 0, 0)

    answer = told("CommitReservation", reservation_id="r4", quantity=quantity)

    if "error" in answer:
        assert (reason(answer), told.balance) == (expected, (0, 10, 10, 0, 0))
    else:
        assert told.balance == expected
        assert [(each["grant_id"], each["amount"]) for each in answer["entry"]["draws"]] == draws


def test_what_a_reservation_holds_outlives_its_grant_and_is_forfeited_when_it_comes_back() -> None:
    told = Told()
    told.grant(8, expire_time=MIDNIGHT)
    told("Reserve", operation="voice", ttl=24 * HOUR)
    told.now = MIDNIGHT
    assert told.balance == (0, 5, 8, 0, 3)

    answer = told("CommitReservation", reservation_id="r3", usage={"outcome": "FAILED"})

    assert (answer["cost"], answer["released"], answer["entry"]["amount"]) == (0, 5, 0)
    assert told.balance == (0, 0, 8, 0, 8)


def test_a_late_commit_is_a_deduction_and_a_second_one_is_refused() -> None:
    told = Told()
    told.grant(9)
    told("Reserve", operation="voice", ttl=SECOND)
    told.now += SECOND
    assert told.balance == (9, 0, 9, 0, 0)
    assert told.entries(4) == [("RESERVATION_EXPIRED", 5, SECOND)]

    assert reason(told("CommitReservation", reservation_id="r3", quantity=2)) == "RESERVATION_EXPIRED"
    assert told("CommitReservation", reservation_id="r3")["late"] is True
    assert told.balance == (4, 0, 9, 5, 0)
    assert reason(told("CommitReservation", reservation_id="r3")) == "RESERVATION_COMMITTED"


def test_uses_come_back_to_the_window_in_which_they_counted() -> None:
    limits = [{"operation": "chat", "period": period, "limit": 9} for period in ("DAY", "LIFETIME")]
    told = Told(limits=limits)
    told.grant(9)
    told("Reserve", operation="chat", quantity=3, ttl=24 * HOUR)
    told.now = MIDNIGHT
    told("Deduct", operation="chat", quantity=2)
    assert told.used() == [2, 5]

    told("ReleaseReservation", reservation_id="r3")
    assert told.used() == [2, 2]

    told("Refund", revision=4, amount=1)
    assert told.used() == [2, 2]
    told("Refund", revision=4)
    assert told.used() == [0, 0]


def test_uses_above_the_reserved_ones_have_to_fit_the_limit() -> None:
    told = Told(limits=[{"operation": "chat", "period": "DAY", "limit": 4}])
    told.grant(9)
    told("Reserve", operation="chat", quantity=3)

    assert reason(told("CommitReservation", reservation_id="r3", quantity=5)) == "LIMIT_EXCEEDED"
    told("CommitReservation", reservation_id="r3", quantity=4)
    assert (told.used(), told.balance) == ([4], (5, 0, 9, 4, 0))


def test_refunds_go_from_the_last_draw_to_the_first_and_add_up() -> None:
    told = Told()
    told.grant(3, expire_time=MIDNIGHT), told.grant(9)
    told("Deduct", operation="voice")
    told.now = MIDNIGHT

    first = told("Refund", revision=4, amount=1)
    assert (first["refundable"], first["entry"]["amount"]) == (4, 1)
    rest = told("Refund", revision=4)

    assert (rest["refundable"], rest["forfeited"], rest["entry"]["amount"]) == (0, 3, 1)
    assert told.balance == (9, 0, 12, 0, 3)
    assert reason(told("Refund", revision=4)) == "REFUND_EXCEEDS_COST"


def test_corrections_make_a_grant_or_forfeit() -> None:
    told = Told()
    told("AdjustBalance", amount=7, reason="count")
    told("AdjustBalance", amount=-3, reason="count")

    assert told.balance == (4, 0, 7, 0, 3)
    assert told("ListGrants")["grants"][0]["source"] == "ADJUSTMENT"
    assert reason(told("AdjustBalance", amount=-5, reason="count")) == "INSUFFICIENT_CREDITS"


def test_frozen_accounts_do_not_spend_and_closed_ones_take_nothing() -> None:
    told = Told({"credits": 20, "period": "DAY"})
    told("Reserve", operation="voice", ttl=HOUR)
    told("UpdateAccount", state="FROZEN", update_mask=["state"])
    assert reason(told("Deduct", operation="chat")) == "ACCOUNT_FROZEN"
    assert reason(told("CommitReservation", reservation_id="r3")) == "ACCOUNT_FROZEN"
    assert "error" not in told("ReleaseReservation", reservation_id="r3")

    told("UpdateAccount", state="CLOSED", update_mask=["state"])
    told.now = MIDNIGHT

    assert reason(told("GrantCredits", amount=1)) == "ACCOUNT_CLOSED"
    assert told.balance == (0, 0, 20, 0, 20)


def test_a_payment_is_credited_once() -> None:
    told = Told()
    first = told("PurchasePackage", package_id="small", payment_reference="p")

    assert told("PurchasePackage", package_id="small", payment_reference="p") == {**first, "replayed": True}
    other = {"request_id": "o", "account_id": "b", "package_id": "small", "payment_reference": "p"}
    told.ledger.call("OpenAccount", {"request_id": "open", "account_id": "b"}, told.now)
    assert reason(told.ledger.call("PurchasePackage", other, told.now)) == "PAYMENT_REFERENCE_REUSED"
    assert told.balance == (10, 0, 10, 0, 0)


def test_the_past_is_as_it_was_told() -> None:
    told = Told({"credits": 20, "period": "DAY"}, [{"operation": "chat", "period": "DAY", "limit": 9}])
    told("Deduct", operation="chat", quantity=4)
    then = told("GetBalance")
    told.now = MIDNIGHT + DAY
    told("UpdateCatalog", catalog=catalog())
    told("Deduct", operation="voice")

    assert told("GetBalance", at_revision=3) == then
    assert told("GetBalance", at_time=WEDNESDAY) == then
    assert told("GetBalance", at_time=MIDNIGHT - 1)["balance"] == then["balance"]
    assert told("GetBalance", at_time=MIDNIGHT)["balance"]["forfeited"] == 16
    assert reason(told("GetBalance", at_time=WEDNESDAY - 1)) == "ACCOUNT_NOT_FOUND"


def test_a_request_sent_again_is_answered_as_before_and_another_is_refused() -> None:
    told = Told()
    told.grant(9)
    request = {"request_id": "x", "account_id": "a", "operation": "chat"}
    first = told.ledger.call("Deduct", request, told.now)
    told.now += HOUR

    assert told.ledger.call("Deduct", request, told.now) == {**first, "replayed": True}
    assert told.ledger.call("Deduct", {**request, "quantity": 1}, told.now)["replayed"]
    assert reason(told.ledger.call("Deduct", {**request, "quantity": 2}, told.now)) == "REQUEST_ID_REUSED"


def test_time_stands_still_for_an_account_until_a_clock_that_was_set_back_has_caught_up() -> None:
    told = Told({"credits": 20, "period": "DAY"})
    told.now = MIDNIGHT
    told("GetBalance")  # the allowances of two days

    told.now = WEDNESDAY
    charged = told("Deduct", operation="voice")
    assert charged["entry"]["create_time"] == told("GetBalance")["read_time"] == MIDNIGHT
    assert told.balance == (15, 0, 40, 5, 20)
    told.now = MIDNIGHT
    assert told.balance == (15, 0, 40, 5, 20)


def test_usage_is_what_was_charged_less_what_was_refunded_where_it_was_refunded() -> None:
    told = Told()
    told.grant(30, expire_time=MIDNIGHT)
    told.grant(30)
    charged = told("Deduct", operation="voice", quantity=2, usage={"metrics": {"t": 3}, "response_time": 5})
    told("Deduct", operation="voice", usage={"outcome": "FAILED", "metrics": {"t": 4}, "response_time": 2})
    told("Reserve", operation="chat")
    told.now = MIDNIGHT
    told("Refund", revision=charged["entry"]["revision"], amount=3)  # forfeited

    rows = told("SummarizeUsage", bucket="DAY")["rows"]

    voice = {"operation": "voice", "metrics": {"t": 7}, "response_time": 3}
    first = {
        "bucket_start": MIDNIGHT - DAY,
        "uses": 2,
        "failures": 1,
        "credits": 10,
        "average_credits": "5.000000",
    }
    assert rows[0] == {**voice, **first}
    assert [rows[1][key] for key in ("bucket_start", "uses", "credits", "average_credits")] == [
        MIDNIGHT, 0, -3, "0.000000",
    ]  # fmt: skip
    assert len(rows) == 2
    assert told("SummarizeUsage", start_time=MIDNIGHT, operations=["chat"]) == {"rows": []}
    assert told("SummarizeUsage", end_time=MIDNIGHT)["rows"][0]["credits"] == 10


def test_averages_are_rounded_half_away_from_zero() -> None:
    told = [
        average(1, 3),
        average(2, 3),
        average(1, 2_000_000),
        average(-1, 2_000_000),
        average(-1, 3_000_000),
    ]

    assert told == ["0.333333", "0.666667", "0.000001", "-0.000001", "0.000000"]


@pytest.mark.parametrize(
    ("zone", "bucket", "hours"),
    [
        ("UTC", "DAY", -12),
        ("UTC", "WEEK", -60),
        ("UTC", "MONTH", -348),
        ("Asia/Kathmandu", "DAY", -17.75),  # 5:45 ahead
        ("America/Los_Angeles", "DAY", -4),
        ("Australia/Lord_Howe", "MONTH", -359),  # 11 ahead
    ],
)
def test_buckets_begin_with_the_days_of_their_zone(zone: str, bucket: str, hours: float) -> None:
    assert (bucket_start(bucket, zone, WEDNESDAY) - WEDNESDAY) / HOUR == hours
