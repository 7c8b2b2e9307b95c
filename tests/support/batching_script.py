"""A scripted ledger for calls that travel together, and ways to make them do so."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc
from batching_callers import TIMEOUT, Callers
from creditledger import (
    BatchDeductResult,
    CreditLedgerError,
    DeductRequest,
    DeductResponse,
    Entry,
    ErrorReason,
    ItemStatus,
    _batches,
)
from creditledger.v1.credit_ledger_pb2 import BatchDeductRequest, BatchDeductResponse

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer

Code = grpc.StatusCode


def status(code: Code, reason: str, **fields: Any) -> ItemStatus:
    return ItemStatus(code=code.value[0], reason=ErrorReason.Value(f"ERROR_REASON_{reason}"), **fields)


UNAVAILABLE = status(Code.UNAVAILABLE, "STORAGE_UNAVAILABLE", message="for a developer")


class Accounts:
    """Answers Deduct and BatchDeduct by the account of each item: charges it unless told otherwise."""

    def __init__(self, server: FakeServer) -> None:
        self.refusals: dict[str, list[ItemStatus]] = defaultdict(list)
        self.held: dict[str, threading.Event] = {}
        self._server = server
        server.always("Deduct", self._decide_alone)
        server.always("BatchDeduct", self._decide_all)

    def hold(self, account_id: str) -> threading.Event:
        """Answers about the account come when the event is set."""
        self.held[account_id] = threading.Event()
        return self.held[account_id]

    def sent(self) -> list[DeductRequest]:
        """All items that came, alone and in batches."""
        return [*self._server.requests["Deduct"], *(item for batch in self.batches() for item in batch)]

    def times_sent(self, account_id: str) -> int:
        """How many items about the account came."""
        return [item.account_id for item in self.sent()].count(account_id)

    def batches(self) -> list[list[DeductRequest]]:
        """The items of each batch that came."""
        return [list(request.requests) for request in self._server.requests["BatchDeduct"]]

    def batch_of(self, account_id: str) -> list[str]:
        """The accounts of the last batch in which the account was."""
        batches = [[item.account_id for item in batch] for batch in self.batches()]
        return next((batch for batch in reversed(batches) if account_id in batch), [])

    def _decide_alone(self, item: DeductRequest, context: grpc.ServicerContext) -> DeductResponse:
        result = self._decide(item, context)
        if result.HasField("status"):
            code = next(code for code in Code if code.value[0] == result.status.code)
            context.abort_with_status(self._server.error(code))
        return result.response

    def _decide_all(self, request: BatchDeductRequest, context: grpc.ServicerContext) -> BatchDeductResponse:
        return BatchDeductResponse(results=[self._decide(item, context) for item in request.requests])

    def _decide(self, item: DeductRequest, context: grpc.ServicerContext) -> BatchDeductResult:
        if item.account_id in self.held:
            while not self.held[item.account_id].wait(0.01) and context.is_active():
                pass
        if self.refusals[item.account_id]:
            return BatchDeductResult(status=self.refusals[item.account_id].pop(0))
        entry = Entry(account_id=item.account_id, request_id=item.request_id)
        return BatchDeductResult(response=DeductResponse(entry=entry, cost=1))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Busy:
    """As many calls under way as there may be batches; until `end` others wait."""

    def __init__(self, callers: Callers, accounts: Accounts) -> None:
        self._queue = callers.client._batcher._queue
        name = f"busy-{len(accounts.held)}"
        self._gate = accounts.hold(name)
        self.calls: list[Future[DeductResponse]] = []
        for _ in range(_batches.MAX_IN_FLIGHT):
            self.calls.append(callers.submit(name))
            until(lambda: accounts.times_sent(name) == len(self.calls))

    def wait_for(self, waiting: int) -> None:
        """Waits until so many calls wait for them."""
        until(lambda: len(self._queue) == waiting)

    def end(self) -> None:
        self._gate.set()


def together(
    callers: Callers, accounts: Accounts, *account_ids: str, **options: Any
) -> list[Future[DeductResponse]]:
    """Calls that travel in one batch, in this order."""
    busy = Busy(callers, accounts)
    calls = []
    for waiting, account_id in enumerate(account_ids, 1):
        calls.append(callers.submit(account_id, **options))
        busy.wait_for(waiting)
    busy.end()
    return calls


def error_of(call: Future[DeductResponse]) -> CreditLedgerError:
    error = call.exception(TIMEOUT)
    assert isinstance(error, CreditLedgerError), error
    return error
