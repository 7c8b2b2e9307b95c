"""Commits, releases, refunds, expiry and new periods at the same instant, over two servers on one database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import LiteralString

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import Ledger, example_catalog, unique
from ledger_clock import LedgerClock
from ledger_harness import ServerProcess
from ledger_load import rows, verified
from many_calls import accepted, call_all

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

# How many reservations ended how; what ran out may have been committed late.
_ENDS: LiteralString = """
SELECT word, count(DISTINCT (account_id, details ->> 'reservation')) FROM (
    SELECT account_id, details, CASE kind WHEN 7 THEN 'released' WHEN 8 THEN 'expired' ELSE
        CASE WHEN details ->> 'late' IS NULL THEN 'committed' ELSE 'late' END END AS word
    FROM entry WHERE kind IN (6, 7, 8)
) AS ended GROUP BY word
"""


@pytest.fixture
def clock(dsn: str) -> LedgerClock:
    """It is noon, until a test says otherwise."""
    return LedgerClock(dsn, NOON)


@pytest.fixture
def targets(clock: LedgerClock, start_server: Callable[..., ServerProcess]) -> list[str]:
    """Where two servers are, both with a sweeper, and with a daily allowance of 7 for pro."""
    found = [start_server().target for _ in range(2)]
    catalog = example_catalog()
    catalog.levels[1].allowance.CopyFrom(resources_pb2.Allowance(credits=7, period=resources_pb2.PERIOD_DAY))
    package = catalog.packages.add(package_id="starter", credits=100)
    package.price.CopyFrom(resources_pb2.Price(currency_code="EUR", amount="9.90"))
    with Ledger(found[0]) as ledger:
        ledger.call(admin_pb.UpdateCatalogRequest(request_id="catalog", catalog=catalog))
    return found


@pytest.fixture
def ledger(targets: list[str]) -> Ledger:
    """Calls to the first of them."""
    return Ledger(targets[0])


def later(clock: LedgerClock, now: datetime, seconds: float) -> threading.Timer:
    """Sets the clock while other calls are under way."""
    timer = threading.Timer(seconds, clock.set, [now])
    timer.start()
    return timer


def test_each_of_2000_reservations_ends_once_by_commit_release_or_expiry(
    ledger: Ledger, targets: list[str], clock: LedgerClock, dsn: str
) -> None:
    accounts = [ledger.open(level="free", credits_=100) for _ in range(20)]
    reserved = accepted(
        call_all(
            targets,
            [
                pb.ReserveRequest(request_id=unique("reserve"), account_id=name, operation="chat_refinement")
                for name in accounts * 100
            ],
        )
    )
    assert len(reserved) == 2_000
    calls = [
        (
            pb.CommitReservationRequest(request_id=unique("commit"), account_id=each.account_id,
                                        reservation_id=each.reservation_id),
            pb.ReleaseReservationRequest(request_id=unique("release"), account_id=each.account_id,
                                         reservation_id=each.reservation_id),
        )
        for each in (answer.reservation for answer in reserved)
    ]  # fmt: skip

    timer = later(clock, NOON + MINUTE, 0.7)
    outcomes = call_all(targets, list(chain.from_iterable(calls)))
    timer.join()

    for name in accounts:  # whatever is still to be written
        ledger.entries(name)
    ends = dict(rows(dsn, _ENDS))
    assert rows(dsn, "SELECT count(*) FROM reservation WHERE state = 1") == [(0,)]
    assert ends["committed"] + ends["released"] + ends["expired"] == 2_000  # each of another reservation
    assert min(ends.values()) > 0, ends  # all of them took part
    counted = Counter(word for word, _ in outcomes)
    assert counted["OK"] == ends["committed"] + ends["released"] + ends["late"]
    assert set(counted) <= {"OK", "RESERVATION_COMMITTED", "RESERVATION_RELEASED", "RESERVATION_EXPIRED"}
    spent = ends["committed"] + ends["late"]
    assert rows(dsn, "SELECT sum(available), sum(reserved), sum(spent) FROM account") == [
        (2_000 - spent, 0, spent)
    ]
    assert verified(dsn).endswith("mismatches=0")


def test_a_grant_is_spent_before_its_end_and_never_after(
    ledger: Ledger, targets: list[str], clock: LedgerClock, dsn: str
) -> None:
    account, end = ledger.open(level="free"), NOON + MINUTE
    expire_time = Timestamp()
    expire_time.FromDatetime(end)
    ledger.grant(account, 10_000, expire_time=expire_time)
    calls = [
        kind(request_id=unique(), account_id=account, operation="chat_refinement")
        for _ in range(700)
        for kind in (pb.DeductRequest, pb.ReserveRequest)
    ]

    timer = later(clock, end, 0.3)
    outcomes = call_all(targets, calls)
    timer.join()

    counted = Counter(word for word, _ in outcomes)
    assert set(counted) == {"OK", "INSUFFICIENT_CREDITS"}, counted
    late = rows(dsn, "SELECT count(*) FROM entry WHERE kind IN (4, 5) AND create_time >= %s", end)
    assert late == [(0,)]
    assert all(failure.decided[1] >= end for word, failure in outcomes if word != "OK")
    balance = ledger.balance(account).balance
    assert balance.available == 0
    assert balance.spent + balance.reserved + balance.forfeited == 10_000
    assert verified(dsn).endswith("mismatches=0")


@pytest.mark.parametrize("kind", [pb.DeductRequest, pb.ReserveRequest])
def test_100_first_calls_of_an_account_open_it_once_with_one_allowance(
    targets: list[str], dsn: str, kind: type[pb.DeductRequest | pb.ReserveRequest]
) -> None:
    calls = [
        kind(request_id=f"id-{number}", account_id="new", operation="chat_refinement", account_level="pro")
        for number in range(100)
    ]

    counted = Counter(word for word, _ in call_all(targets, calls, at_once=100))

    assert counted == {"OK": 7, "INSUFFICIENT_CREDITS": 93}
    assert rows(
        dsn, "SELECT count(*) FILTER (WHERE kind = 1), count(*) FILTER (WHERE kind = 3) FROM entry"
    ) == [(1, 1)]
    assert verified(dsn) == "accounts=1 entries=9 mismatches=0"


def test_two_servers_and_their_sweepers_enter_a_new_day_together_with_one_allowance_per_account(
    ledger: Ledger, targets: list[str], clock: LedgerClock, dsn: str
) -> None:
    accounts = [ledger.open(level="pro") for _ in range(50)]

    for day in (1, 2, 4):  # one of them goes by unseen
        timer = later(clock, NOON.replace(hour=0) + timedelta(days=day), 0.05)
        call_all(
            targets,
            [
                request
                for name in accounts
                for request in (
                    pb.DeductRequest(request_id=unique(), account_id=name, operation="chat_refinement"),
                    pb.CanPerformRequest(account_id=name, operation="chat_refinement"),
                )
            ],
        )  # fmt: skip
        timer.join()
    for name in accounts:
        ledger.entries(name)

    assert rows(
        dsn,
        "SELECT DISTINCT count(*), count(DISTINCT create_time) FROM entry WHERE kind = 3 GROUP BY account_id",
    ) == [(5, 5)]
    assert verified(dsn).endswith("mismatches=0")


@pytest.mark.parametrize("owners", [1, 2, 50])
def test_a_payment_is_credited_once_in_the_whole_ledger(
    ledger: Ledger, targets: list[str], dsn: str, owners: int
) -> None:
    accounts = [ledger.open(level="free") for _ in range(owners)]
    calls = [
        admin_pb.PurchasePackageRequest(
            request_id=unique(), account_id=accounts[number % owners], package_id="starter",
            payment_reference="pi_1",
        )
        for number in range(100)
    ]  # fmt: skip

    outcomes = call_all(targets, calls)

    answers = accepted(outcomes)
    [owner] = {answer.entry.account_id for answer in answers}
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(answers) == 100 // owners
    assert {word for word, _ in outcomes} <= {"OK", "PAYMENT_REFERENCE_REUSED"}
    assert rows(dsn, "SELECT account_id, available FROM account WHERE available > 0") == [(owner, 100)]
    assert verified(dsn).endswith("mismatches=0")


def test_refunds_of_one_entry_never_exceed_its_cost(ledger: Ledger, targets: list[str], dsn: str) -> None:
    account = ledger.open(level="free", credits_=100)
    charged = ledger.deduct(account, "voice_creation", quantity=8).entry.revision
    calls = [
        pb.RefundRequest(request_id=unique(), account_id=account, revision=charged, amount=1 + number % 3)
        for number in range(100)
    ]

    outcomes = call_all(targets, calls)

    given_back = sum(-draw.amount for answer in accepted(outcomes) for draw in answer.entry.draws)
    assert {word for word, _ in outcomes} == {"OK", "REFUND_EXCEEDS_COST"}
    assert given_back == 40
    assert ledger.available(account) == 100
    assert verified(dsn).endswith("mismatches=0")


def test_one_reservation_is_committed_once_however_often_the_same_commit_is_sent(
    ledger: Ledger, targets: list[str], dsn: str
) -> None:
    account = ledger.open(level="free", credits_=100)
    reserved = ledger.call(
        pb.ReserveRequest(
            request_id="reserve", account_id=account, operation="voice_creation", ttl=Duration(seconds=60)
        )
    )
    same = pb.CommitReservationRequest(
        request_id="commit", account_id=account, reservation_id=reserved.reservation.reservation_id
    )

    answers = accepted(call_all(targets, [same] * 60))

    assert Counter(answer.replayed for answer in answers) == {False: 1, True: 59}
    assert ledger.balance(account).balance.spent == 5
    assert verified(dsn).endswith("mismatches=0")
