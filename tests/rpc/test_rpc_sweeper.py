"""With the sweeper or without it, answers and histories are the same to the byte (contract §3.6)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import grpc
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.message import Message
from ledger_calls import Failure, Ledger, failure_of, serving
from ledger_clock import LedgerClock
from ledger_harness import Postgres
from ledger_load import rows, verified
from timed_story import DAY, MIDNIGHT, MINUTE, NOON, SECOND, TICK, timed_catalog, to_proto

PATIENCE = 60.0
"""Seconds; only ends a test that would hang."""

_DUE = """
SELECT count(*) FROM account WHERE next_due_time <= ledger_time()
OR (level = 'daily' AND state <> 3 AND last_time < date_trunc('day', ledger_time(), 'UTC'))
"""
_HISTORY = "SELECT account_id, revision, kind, create_time, hash FROM entry ORDER BY account_id, revision"


class Run:
    """A server, told a story; ``answers`` are what it said, in order."""

    def __init__(self, dsn: str, ledger: Ledger, clock: LedgerClock, sweeper: bool) -> None:
        self._dsn, self._ledger, self._clock, self._sweeper = dsn, ledger, clock, sweeper
        self.answers: list[Message | Failure] = []
        self.due = 0
        """How many accounts were left to the next call, summed over the instants."""

    def at(self, now: datetime) -> None:
        """Makes it this time; a sweeper has then written what is due."""
        self._clock.set(now)
        end = time.monotonic() + PATIENCE
        while (due := self._count_due()) and self._sweeper:
            assert time.monotonic() < end, "the sweeper does not sweep"
            time.sleep(0.02)
        self.due += due

    def send(self, kind: type[Message], account: str, **fields: Any) -> Any:
        """The answer to a request about an account, or how it failed."""
        if "request_id" in kind.DESCRIPTOR.fields_by_name:
            fields["request_id"] = f"request-{len(self.answers)}"
        told = {name: to_proto(value) for name, value in fields.items()}
        try:
            answer = self._ledger.call(kind(account_id=account, **told))
        except grpc.RpcError as error:
            answer = failure_of(error)
        self.answers.append(answer)
        return answer

    def look(self, *accounts: str) -> None:
        """Reads all there is to read of accounts."""
        for account in accounts:
            self.send(pb.CanPerformRequest, account, operation="voice")
            for kind in (pb.GetBalanceRequest, pb.ListReservationsRequest, admin_pb.ListGrantsRequest):
                self.send(kind, account)

    def history(self) -> list[tuple[Any, ...]]:
        """Every entry of the ledger, with the hash over it and all before it."""
        return rows(self._dsn, _HISTORY)

    def _count_due(self) -> int:
        [(count,)] = rows(self._dsn, _DUE)
        return int(count)


def tell(run: Run) -> None:
    """A story in which something of every sort falls due, with calls before, at and after its instant, and none."""
    for account, level in {
        "ann": "free",
        "bob": "daily",
        "cleo": "daily",
        "dan": "pro",
        "eve": "daily",
    }.items():
        run.send(admin_pb.OpenAccountRequest, account, level=level)
    run.send(admin_pb.GrantCreditsRequest, "ann", amount=20, expire_time=NOON + 20 * SECOND)
    run.send(admin_pb.GrantCreditsRequest, "ann", amount=7, effective_time=NOON + 10 * SECOND)
    run.send(admin_pb.GrantCreditsRequest, "dan", amount=50, expire_time=MIDNIGHT + DAY)
    held = {
        account: run.send(
            pb.ReserveRequest, account, operation="voice", quantity=2, ttl=seconds * SECOND
        ).reservation.reservation_id
        for account, seconds in {"ann": 20, "bob": 30, "dan": 40}.items()
    }

    run.at(NOON + 10 * SECOND - TICK)
    run.look("ann")
    run.at(NOON + 10 * SECOND)  # ann's second grant begins
    run.send(pb.DeductRequest, "ann", operation="chat", quantity=12)
    run.at(NOON + 20 * SECOND)  # ann's reservation runs out as her first grant ends
    run.send(pb.CommitReservationRequest, "ann", reservation_id=held["ann"], quantity=1)  # late
    run.look("ann", "bob")
    run.at(NOON + 30 * SECOND + TICK)  # bob's reservation ran out, unseen
    run.send(pb.ExtendReservationRequest, "bob", reservation_id=held["bob"], ttl=MINUTE)
    run.send(pb.ExtendReservationRequest, "dan", reservation_id=held["dan"], ttl=DAY - 31 * SECOND)
    run.send(admin_pb.UpdateAccountRequest, "eve", update_mask={"paths": ["state"]}, state=closed())
    run.at(MIDNIGHT - TICK)
    run.look("dan", "bob")
    run.at(MIDNIGHT)  # allowances end and begin
    charged = run.send(pb.DeductRequest, "bob", operation="voice", quantity=2).entry
    run.send(pb.RefundRequest, "bob", revision=charged.revision, amount=3)
    run.at(MIDNIGHT + 3 * DAY)  # dan's reservation ran out, then his grant; two days went by
    run.send(pb.CommitReservationRequest, "dan", reservation_id=held["dan"])
    run.send(pb.DeductRequest, "bob", operation="chat", quantity=11)
    run.send(pb.DeductRequest, "cleo", operation="chat", quantity=10)
    run.look("ann", "bob", "cleo", "dan", "eve")


def closed() -> Any:
    return resources_pb2.ACCOUNT_STATE_CLOSED


@pytest.fixture(scope="module")
def told(postgres: Postgres) -> Iterator[dict[bool, Run]]:
    """The story, told to a server with a sweeper and to one without, each on a database of its own."""
    runs = {}
    for sweeper in (True, False):
        dsn = postgres.create_database()
        clock = LedgerClock(dsn, NOON)
        with serving(dsn, env={"CREDITLEDGER_SWEEPER": str(sweeper).lower()}) as (_, ledger):
            ledger.call(admin_pb.UpdateCatalogRequest(request_id="catalog", catalog=timed_catalog()))
            runs[sweeper] = Run(dsn, ledger, clock, sweeper)
            tell(runs[sweeper])
    yield runs
    for run in runs.values():
        postgres.drop_database(run._dsn)


def test_the_histories_are_the_same_to_the_byte(told: dict[bool, Run]) -> None:
    histories = {sweeper: run.history() for sweeper, run in told.items()}

    assert histories[True] == histories[False]
    # RESERVATION_EXPIRED, GRANT_EXPIRED, GRANT_STARTED: each sort of instant was among them
    assert {8, 11, 15} <= {kind for _, _, kind, _, _ in histories[True]}


def test_all_answers_are_the_same(told: dict[bool, Run]) -> None:
    for swept, unswept in zip(told[True].answers, told[False].answers, strict=True):
        assert swept == unswept


def test_the_sweeper_wrote_what_else_the_next_call_did(told: dict[bool, Run]) -> None:
    assert told[True].due == 0
    assert told[False].due >= 8


def test_the_story_has_answers_of_both_sorts(told: dict[bool, Run]) -> None:
    refusals = {answer.reason for answer in told[False].answers if isinstance(answer, Failure)}

    assert refusals == {"RESERVATION_EXPIRED", "INSUFFICIENT_CREDITS"}


def test_both_ledgers_verify(told: dict[bool, Run]) -> None:
    for run in told.values():
        assert verified(run._dsn).endswith("mismatches=0")
