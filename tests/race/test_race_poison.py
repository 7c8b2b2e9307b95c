"""A request that Postgres refuses within a round of good ones fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.error_reason_pb2 import ErrorReason
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from ledger_harness import ServerProcess
from ledger_load import effects, open_account, rows, verified

ACCOUNTS = [f"account-{number}" for number in range(5)]
OTHERS = [(f"good-{number}", account_id) for number in range(3) for account_id in ACCOUNTS]
INTERNALS = ("SELECT", "INSERT", "entry", "constraint", "poison", "psycopg", "Traceback", "violates", "File")


@pytest.fixture
def stub(dsn: str, start_server: Any) -> Iterator[Any]:
    """A server whose database refuses what it does not expect: one request id, and one account."""
    server: ServerProcess = start_server(env={"CREDITLEDGER_LANES": "1"})
    for account_id in [*ACCOUNTS, "sick"]:
        open_account(server.target, account_id, 100)
    rows(
        dsn,
        "ALTER TABLE entry ADD CONSTRAINT poison"
        " CHECK (request_id <> 'poisoned' AND account_id <> 'sick') NOT VALID",
    )
    with grpc.insecure_channel(server.target) as channel:
        yield CreditLedgerStub(channel)


def test_the_neighbours_of_a_poisoned_request_in_the_same_batch_succeed(dsn: str, stub: Any) -> None:
    calls = [*OTHERS[:7], ("poisoned", ACCOUNTS[1]), *OTHERS[7:], ("of-the-sick", "sick")]

    results = _batch(stub, calls)

    bad = [call for call, result in zip(calls, results, strict=True) if result.HasField("status")]
    assert bad == [("poisoned", ACCOUNTS[1]), ("of-the-sick", "sick")]
    assert effects(dsn) == len(OTHERS)
    assert verified(dsn) == f"accounts=6 entries={12 + len(OTHERS)} mismatches=0"


def test_the_order_of_an_accounts_requests_survives_a_poisoned_one(stub: Any) -> None:
    calls = [("one", "account-0"), ("poisoned", "account-0"), ("two", "account-0"), ("three", "account-0")]

    results = _batch(stub, calls)

    assert [result.response.entry.revision for result in results] == [3, 0, 4, 5]


def test_a_poisoned_request_is_an_internal_error_that_tells_an_incident_and_no_internals(stub: Any) -> None:
    [result] = _batch(stub, [("poisoned", "account-0")])
    with pytest.raises(grpc.RpcError) as raised:
        stub.Deduct(_request("poisoned", "account-0"), timeout=20)

    assert result.status.reason == ErrorReason.ERROR_REASON_INTERNAL
    assert result.status.code == grpc.StatusCode.INTERNAL.value[0]
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    info = _error_info(raised.value)
    for told in (result.status, raised.value.details(), info):
        assert not [word for word in INTERNALS if word in str(told)]
    assert result.status.metadata["incidentId"]
    assert info.metadata["incidentId"]


def test_a_server_that_began_with_a_poisoned_request_serves_the_next(dsn: str, stub: Any) -> None:
    for number in range(3):
        assert _batch(stub, [("poisoned", "account-0")])[0].HasField("status")
        assert _batch(stub, [(f"good-{number}", "account-0")])[0].HasField("response")
    assert effects(dsn) == 3


def _batch(stub: Any, calls: list[tuple[str, str]]) -> list[pb.BatchDeductResult]:
    requests = [_request(*call) for call in calls]
    return list(stub.BatchDeduct(pb.BatchDeductRequest(requests=requests), timeout=20).results)


def _request(request_id: str, account_id: str) -> pb.DeductRequest:
    return pb.DeductRequest(request_id=request_id, account_id=account_id, operation="chat_refinement")


def _error_info(error: Any) -> ErrorInfo:
    [status] = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    info = ErrorInfo()
    assert Status.FromString(status).details[0].Unpack(info)
    return info
