"""Sends calls and notes them in a history: by the raw stubs with retries off, or by the product's client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Protocol

import grpc
from creditledger import AsyncCreditLedgerClient, CreditLedgerError
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.error_reason_pb2 import ErrorReason
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminStub
from fault_history import OK, UNKNOWN, Call, HistoryLog
from fault_kinds import KINDS, Content, digest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

RAW_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
)


class Sender(Protocol):
    """Sends one request message and returns the response; raises what grpc raises."""

    @property
    def targets(self) -> Sequence[str]:
        """The servers that a call may name."""

    async def send(self, request: Any, target: int, timeout: float, cancel_after: float | None) -> Any:
        """``target`` is a place in ``targets``; times are in seconds."""

    async def close(self) -> None:
        """Closes the connections."""


class RawSender:
    """The generated stubs over one connection per server; nothing is ever sent twice unasked."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = targets
        self.channels = [grpc.aio.insecure_channel(target, RAW_OPTIONS) for target in targets]
        self._stubs = [(CreditLedgerStub(channel), LedgerAdminStub(channel)) for channel in self.channels]

    async def send(self, request: Any, target: int, timeout: float, cancel_after: float | None) -> Any:
        """See Sender."""
        method = type(request).__name__.removesuffix("Request")
        ledger, admin = self._stubs[target]
        call = getattr(ledger if hasattr(ledger, method) else admin, method)(request, timeout=timeout)
        if cancel_after is not None:
            asyncio.get_running_loop().call_later(cancel_after, call.cancel)
        return await call

    async def close(self) -> None:
        """See Sender."""
        for channel in self.channels:
            await channel.close()


class ClientSender:
    """The product's client with its own retries, which knows the addresses of all servers."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = ["ipv4:" + ",".join(targets)]
        self._client = AsyncCreditLedgerClient(
            self.targets[0], options=[("grpc.use_local_subchannel_pool", 1)]
        )

    async def send(self, request: Any, target: int, timeout: float, cancel_after: float | None) -> Any:
        """See Sender."""
        client = self._client
        match request:
            case pb.BatchDeductRequest():
                return await client.batch_deduct(request.requests, timeout=timeout)
            case pb.GetBalanceRequest():
                return await client.get_balance(request.account_id, timeout=timeout)
            case pb.CanPerformRequest():
                use = (request.account_id, request.operation)
                return await client.can_perform(*use, quantity=request.quantity, timeout=timeout)
            case pb.DeductRequest():
                usage = request.usage if request.HasField("usage") else None
                return await client.deduct(
                    request.account_id, request.operation, quantity=request.quantity, usage=usage,
                    request_id=request.request_id, timeout=timeout,
                )  # fmt: skip
            case admin_pb.GrantCreditsRequest():
                expire = request.expire_time.ToDatetime(UTC) if request.HasField("expire_time") else None
                return await client.grant_credits(
                    request.account_id, request.amount, priority=request.priority, reason=request.reason,
                    expire_time=expire, request_id=request.request_id, timeout=timeout,
                )  # fmt: skip
        return await _send_reservation(client, request, timeout)

    async def close(self) -> None:
        """See Sender."""
        await self._client.close()


async def _send_reservation(client: AsyncCreditLedgerClient, request: Any, timeout: float) -> Any:
    common = {"request_id": request.request_id, "timeout": timeout}
    match request:
        case pb.ReserveRequest():
            use = (request.account_id, request.operation)
            ttl = request.ttl.ToTimedelta()
            return await client.create_reservation(*use, quantity=request.quantity, ttl=ttl, **common)
        case pb.CommitReservationRequest():
            usage = request.usage if request.HasField("usage") else None
            held = (request.account_id, request.reservation_id)
            return await client.commit_reservation(*held, quantity=request.quantity, usage=usage, **common)
        case pb.ReleaseReservationRequest():
            return await client.release_reservation(request.account_id, request.reservation_id, **common)
        case pb.ExtendReservationRequest():
            held = (request.account_id, request.reservation_id)
            return await client.extend_reservation(*held, ttl=request.ttl.ToTimedelta(), **common)
    return await client.refund(request.account_id, request.revision, amount=request.amount, **common)


class Caller:
    """Makes calls and notes each of them."""

    def __init__(self, sender: Sender, history: Path, process: str, resolving: bool = False) -> None:
        self.sender = sender
        self._log = HistoryLog(history, process)
        self._resolving = resolving

    async def call(
        self, kind: str, account_id: str, request_id: str, content: Content, *,
        target: int = 0, timeout: float = 5.0, cancel_after: float | None = None,
    ) -> Call:  # fmt: skip
        """Makes one call; the answer is in what it returns."""
        request = KINDS[kind].request(request_id, account_id, content)
        call = self._sent(kind, account_id, request_id, content, target)
        outcome = await _outcome(self.sender.send(request, target, timeout, cancel_after))
        self._answered(call, outcome)
        return call

    async def batch(
        self, items: Sequence[tuple[str, str, Content]], *,
        target: int = 0, timeout: float = 5.0, cancel_after: float | None = None,
    ) -> list[Call]:  # fmt: skip
        """Makes deductions of (account, request id, content) in one call; each is noted as a call of its own."""
        requests = [
            KINDS["deduct"].request(request_id, account_id, content)
            for account_id, request_id, content in items
        ]
        calls = [self._sent("deduct", *item, target) for item in items]
        batch = pb.BatchDeductRequest(requests=requests)
        outcome = await _outcome(self.sender.send(batch, target, timeout, cancel_after))
        for place, call in enumerate(calls):
            if isinstance(outcome, pb.BatchDeductResponse):
                result = outcome.results[place]
                self._answered(call, getattr(result, str(result.WhichOneof("result"))))
            else:
                self._answered(call, outcome)
        return calls

    def _sent(self, kind: str, account_id: str, request_id: str, content: Content, target: int) -> Call:
        return self._log.sent(kind, account_id, request_id, content, target, self._resolving)

    def _answered(self, call: Call, outcome: Any) -> None:
        call.outcome, call.facts = _reason(outcome)
        if call.outcome == OK:
            call.facts = KINDS[call.kind].facts(outcome)
            if call.mutates:
                call.replayed = outcome.replayed
                call.digest = digest(outcome)
        self._log.answered(call)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason that an error gives, or its code."""
    return _told(error)[0]


def is_unknown(call: Call) -> bool:
    """Whether a call may have happened or not."""
    return call.mutates and call.outcome in UNKNOWN


async def _outcome(sending: Any) -> Any:
    """The response, or the error; None for a call that was cancelled here."""
    try:
        return await sending
    except CreditLedgerError as error:
        return error.__cause__ or error
    except grpc.aio.AioRpcError as error:
        return error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None


def _reason(outcome: Any) -> tuple[str, dict[str, Any]]:
    """OK or the reason, and what the error told with it."""
    match outcome:
        case None:
            return "CANCELLED", {}
        case resources_pb2.ItemStatus():
            return ErrorReason.Name(outcome.reason).removeprefix("ERROR_REASON_"), dict(outcome.metadata)
        case grpc.aio.AioRpcError():
            return _told(outcome)
        case Exception():
            return "BROKEN", {"error": repr(outcome)}
    return OK, {}


def _told(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, Any]]:
    info = ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                if detail.Unpack(info):
                    return info.reason, dict(info.metadata)
    words = error.details() or ""
    # What grpc itself makes of a connection that ends in the middle of an answer.
    broken = error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and (
        "RST_STREAM" in words or "Stream removed" in words
    )
    return ("BROKEN", {}) if broken else (str(error.code().name), {"message": words[:200]})
