"""Interleavings made on purpose: whoever holds an account's row decides when the servers may go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, LiteralString

import grpc
import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from ledger_calls import TIMEOUT, Ledger, deduction, failure_of
from ledger_harness import ServerProcess
from ledger_load import await_true, effects, rows, verified

StartServer = Callable[..., ServerProcess]
Call = Any  # grpc's future of a response

PATIENT = {"CREDITLEDGER_LOCK_TIMEOUT_MS": "60000", "CREDITLEDGER_STATEMENT_TIMEOUT_MS": "60000"}

WAITING: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
EVERYTHING: LiteralString = """
SELECT (SELECT json_agg(t) FROM account t)::text, (SELECT json_agg(t) FROM entry t)::text,
       (SELECT json_agg(t) FROM commit_log t)::text
"""
REFUSE: LiteralString = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$
"""


@pytest.fixture
def ledgers(start_server: StartServer) -> Iterator[list[Ledger]]:
    """Calls to each of two servers that wait for locks."""
    with ExitStack() as stack:
        both = [stack.enter_context(Ledger(start_server(env=PATIENT).target)) for _ in range(2)]
        for ledger in both:
            ledger.open()  # a first round loads twice, because it has not seen the catalog yet
        yield both


@pytest.fixture
def ledger(start_server: StartServer) -> Iterator[Ledger]:
    """Calls to a server that waits for locks."""
    with Ledger(start_server(env=PATIENT).target) as calls:
        yield calls


@contextmanager
def held(dsn: str, account_id: str) -> Iterator[None]:
    """Keeps an account's row locked."""
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM account WHERE account_id = %s FOR UPDATE", [account_id])
        yield


def sent(ledger: Ledger, request: pb.DeductRequest, timeout: float = TIMEOUT) -> Call:
    """A deduction under way."""
    stub: Any = CreditLedgerStub(ledger.channel)
    return stub.Deduct.future(request, timeout=timeout)


def waiting(dsn: str, count: int) -> None:
    """Until so many transactions wait for a lock."""
    await_true(lambda: rows(dsn, WAITING) == [(count,)])


def sent_into_the_lock(
    dsn: str, ledgers: Sequence[Ledger], requests: Sequence[pb.DeductRequest]
) -> list[Call]:
    """The requests, one to each server, all of which have begun before any may go on."""
    calls = []
    with held(dsn, requests[0].account_id):
        for ledger, request in zip(ledgers, requests, strict=True):
            calls.append(sent(ledger, request))
            waiting(dsn, len(calls))
    return calls


def outcome(call: Call) -> str:
    error = call.exception(timeout=TIMEOUT)
    return "OK" if error is None else failure_of(error).reason


def test_two_servers_that_begin_before_either_decides_spend_the_last_credit_once(
    dsn: str, ledgers: list[Ledger]
) -> None:
    account = ledgers[0].open(credits_=1)

    calls = sent_into_the_lock(dsn, ledgers, [deduction(account), deduction(account)])

    assert sorted(map(outcome, calls)) == ["INSUFFICIENT_CREDITS", "OK"]
    assert effects(dsn) == 1


def test_two_servers_that_begin_one_request_before_either_decides_carry_it_out_once(
    dsn: str, ledgers: list[Ledger]
) -> None:
    request = deduction(ledgers[0].open(credits_=5))

    calls = sent_into_the_lock(dsn, ledgers, [request, request])

    assert [outcome(call) for call in calls] == ["OK", "OK"]
    assert sorted(call.result().replayed for call in calls) == [False, True]
    assert effects(dsn) == 1


def test_two_servers_that_begin_before_either_decides_count_the_last_use_once(
    dsn: str, ledgers: list[Ledger]
) -> None:
    account = ledgers[0].open(level="free", credits_=100)

    calls = sent_into_the_lock(dsn, ledgers, [deduction(account, "voice_creation") for _ in ledgers])

    assert sorted(map(outcome, calls)) == ["LIMIT_EXCEEDED", "OK"]


def test_an_entry_has_the_time_of_its_decision_and_not_of_its_beginning(dsn: str, ledger: Ledger) -> None:
    account = ledger.open(credits_=1)
    with held(dsn, account):
        call = sent(ledger, deduction(account))
        waiting(dsn, 1)
        [(released,)] = rows(dsn, "SELECT clock_timestamp()")
    assert outcome(call) == "OK"
    [(decided,)] = rows(dsn, "SELECT create_time FROM entry WHERE revision = 3")
    assert decided > released


def test_the_time_of_an_account_never_steps_back(dsn: str, ledger: Ledger) -> None:
    account = ledger.open(credits_=1)
    [(ahead,)] = rows(dsn, "UPDATE account SET last_time = now() + interval '1 hour' RETURNING last_time")

    ledger.deduct(account)

    assert rows(dsn, "SELECT create_time FROM entry WHERE revision = 3") == [(ahead,)]


def test_what_nobody_waits_for_any_more_when_its_lock_comes_is_not_carried_out(
    dsn: str, ledger: Ledger
) -> None:
    account = ledger.open(credits_=5)
    with held(dsn, account):
        call = sent(ledger, deduction(account), timeout=0.5)
        waiting(dsn, 1)
        assert call.exception(timeout=TIMEOUT).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(0.1)  # the server's clock has its own idea of the deadline
    # Behind it in the lane.
    assert ledger.deduct(account).entry.revision == 3
    assert effects(dsn) == 1


def test_nobody_is_told_ok_before_the_commit(dsn: str, ledger: Ledger) -> None:
    account = ledger.open(credits_=5)
    rows(dsn, REFUSE)
    rows(
        dsn,
        "CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    request = deduction(account)

    assert ledger.refusal(request).reason == "INTERNAL"

    assert effects(dsn) == 0
    rows(dsn, "DROP TRIGGER refused ON entry")
    assert not ledger.call(request).replayed


BREAKS: dict[str, LiteralString] = {
    table: f"CREATE TRIGGER refused BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    for table in ("account", "entry", "commit_log")
}


@pytest.mark.parametrize("table", BREAKS)
def test_of_what_postgres_refuses_in_part_nothing_is_written(dsn: str, ledger: Ledger, table: str) -> None:
    request = deduction(ledger.open(level="free", credits_=100), "voice_creation")
    rows(dsn, REFUSE)
    rows(dsn, BREAKS[table])
    before = rows(dsn, EVERYTHING)

    assert ledger.refusal(request).reason == "INTERNAL"

    assert rows(dsn, EVERYTHING) == before
    rows(dsn, f"DROP TRIGGER refused ON {table}")
    assert not ledger.call(request).replayed
    assert verified(dsn) == "accounts=1 entries=3 mismatches=0"


GATE = "account-gate"
ROUNDS = 24  # in any order about half of them would deadlock
DEADLOCKS: LiteralString = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def test_two_batches_that_are_stopped_half_way_through_their_locks_do_not_deadlock(
    dsn: str, start_server: StartServer
) -> None:
    servers = [start_server(env={**PATIENT, "CREDITLEDGER_LANES": "1"}) for _ in range(2)]
    names = [GATE, *(f"account-{number:02}" for number in range(20))]
    with ExitStack() as stack:
        ledgers = [stack.enter_context(Ledger(server.target)) for server in servers]
        ledgers[1].open()
        for name in names:
            ledgers[0].open(name, credits_=100)
        for _ in range(ROUNDS):
            assert _stopped_half_way(dsn, ledgers, names) == Counter(response=2 * len(names))
    for server in servers:
        server.stop()
    assert rows(dsn, DEADLOCKS) == [(0,)]


def _stopped_half_way(dsn: str, ledgers: Sequence[Ledger], names: Sequence[str]) -> Counter[str | None]:
    """Batches over all accounts, in one order and its reverse, that meet at the gate."""
    calls: list[Call] = []
    with held(dsn, GATE):
        for ledger, order in zip(ledgers, (names, names[::-1]), strict=True):
            stub: Any = CreditLedgerStub(ledger.channel)
            batch = pb.BatchDeductRequest(requests=[deduction(name) for name in order])
            calls.append(stub.BatchDeduct.future(batch, timeout=TIMEOUT))
            waiting(dsn, len(calls))
    results = [result for call in calls for result in call.result(timeout=TIMEOUT).results]
    return Counter(result.WhichOneof("result") for result in results)
