"""An account whose row others hold: its callers are told, everybody else is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger_server.ledger.ledger import lane_of
from ledger_harness import ServerProcess
from ledger_load import Answer, ClientProcess, Plan, open_account, verified

LANES = 4
HELD, *NEIGHBOURS = [name for name in map("account-{}".format, range(200)) if lane_of(name, LANES) == 0][:9]
CALLS = [(f"id-{number}", account_id) for number in range(3) for account_id in (HELD, *NEIGHBOURS)]


@pytest.fixture
def target(start_server: Callable[..., ServerProcess]) -> str:
    """Where a server is that soon stops waiting for a lock."""
    server = start_server(env={"CREDITLEDGER_LOCK_TIMEOUT_MS": "200", "CREDITLEDGER_LANES": str(LANES)})
    for account_id in (HELD, *NEIGHBOURS):
        open_account(server.target, account_id, 100)
    return server.target


@pytest.mark.parametrize("batch", [0, len(CALLS)], ids=["unary", "batch"])
def test_only_callers_of_the_held_account_are_turned_away_and_nothing_of_them_happened(
    dsn: str, target: str, batch: int
) -> None:
    with _held(dsn, "SELECT FROM account WHERE account_id = %s FOR UPDATE", HELD):
        answers = _deduct(target, batch)
    afterwards = _deduct(target, batch)

    assert {answer.outcome for answer in answers if answer.account_id == HELD} == {"CONTENTION"}
    assert {answer.outcome for answer in answers if answer.account_id != HELD} == {"OK"}
    assert {(answer.account_id == HELD, answer.outcome, answer.replayed) for answer in afterwards} == {
        (True, "OK", False),
        (False, "OK", True),
    }
    assert verified(dsn) == "accounts=9 entries=45 mismatches=0"


def test_a_caller_whose_deadline_ends_before_the_lock_is_free_leaves_no_effect(dsn: str, target: str) -> None:
    with _held(dsn, "SELECT FROM account WHERE account_id = %s FOR UPDATE", HELD):
        answers = _deduct(target, timeout=100)
    assert {answer.outcome for answer in answers if answer.account_id == HELD} <= {
        "DEADLINE_EXCEEDED",
        "DEADLINE_PASSED",
    }
    assert verified(dsn).endswith("mismatches=0")
    assert {answer.outcome for answer in _deduct(target)} == {"OK"}


def test_a_table_that_others_hold_is_contention_for_deductions_and_checks_alike(
    dsn: str, target: str
) -> None:
    with _held(dsn, "LOCK TABLE account"):
        answers = _deduct(target)
        check = _can_perform(target)
    assert {answer.outcome for answer in answers} == {"CONTENTION"}
    assert check is grpc.StatusCode.ABORTED
    assert _can_perform(target) is grpc.StatusCode.OK


@contextmanager
def _held(dsn: str, statement: str, *parameters: str) -> Iterator[None]:
    """Runs a statement in a transaction that is open for as long as the block lasts."""
    with psycopg.connect(dsn) as conn:
        conn.execute(statement, parameters)
        yield


def _deduct(target: str, batch: int = 0, timeout: float = 20_000) -> list[Answer]:
    plan = Plan([target], CALLS, callers=1 if batch else len(CALLS), batch=batch, timeout=(timeout, timeout))
    with ClientProcess(plan) as client:
        client.await_ready()
        client.go()
        return client.answers()


def _can_perform(target: str) -> grpc.StatusCode:
    with grpc.insecure_channel(target) as channel:
        try:
            CreditLedgerStub(channel).CanPerform(
                pb.CanPerformRequest(account_id=HELD, operation="chat_refinement"), timeout=10
            )
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK
