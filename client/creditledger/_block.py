# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""What a block of reserved work knows and decides. Does no I/O: `_sync_block` and `_async_block` do."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

import grpc

from creditledger._fields import duration, given_or_drawn, timestamp
from creditledger.errors import (
    CreditLedgerError,
    FailedPrecondition,
    ReservationCommitted,
    ReservationExpired,
    ReservationReleased,
)
from creditledger.v1.credit_ledger_pb2 import CommitReservationRequest
from creditledger.v1.resources_pb2 import ReservationState, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from creditledger.v1.credit_ledger_pb2 import (
        CommitReservationResponse,
        ExtendReservationResponse,
        ReleaseReservationResponse,
        ReserveResponse,
    )
    from creditledger.v1.resources_pb2 import Balance, Entry, LimitState, Reservation

_log = logging.getLogger("creditledger")

_MIN_BACKOFF = 0.1
_MAX_BACKOFF = 2.0
_MAX_RETRY = 1.0

_NOT_BEGUN = "nothing is reserved before `with` or `async with`"
_ENDINGS: dict[int, tuple[type[FailedPrecondition], str]] = {
    ReservationState.RESERVATION_STATE_COMMITTED: (ReservationCommitted, "was committed"),
    ReservationState.RESERVATION_STATE_RELEASED: (ReservationReleased, "was released"),
    ReservationState.RESERVATION_STATE_EXPIRED: (ReservationExpired, "has expired"),
}


class Block:
    """Reserved work: what was reserved, what will be charged, and how it ended."""

    quantity: int
    """How many uses are charged; as many as were reserved unless you set it."""

    _pulse: Pulse | None = None

    def __init__(self, quantity: int, metrics: Mapping[str, int] | None) -> None:
        self.quantity = quantity
        self._told: dict[str, Any] = {"metrics": dict(metrics or {})}
        # None until something is told: then the ledger takes the metrics that were reserved with.
        self._usage: Usage | None = None
        self._begun = False
        self._answer: ReserveResponse | CommitReservationResponse | ReleaseReservationResponse | None = None
        self._response: CommitReservationResponse | None = None
        self._is_released = False
        # The commit that was sent and whose outcome is unknown. It is sent again as it is, and nothing else is.
        self._unresolved: CommitReservationRequest | None = None

    @property
    def reservation(self) -> Reservation:
        """The reservation as last told: when it was made, extended or looked up."""
        if self._pulse is None:
            raise RuntimeError(_NOT_BEGUN)
        return self._pulse.reservation

    @property
    def balance(self) -> Balance:
        """The balance as last told: after the reservation, and in the end after the commit or release."""
        return self._last_answer.balance

    @property
    def limits(self) -> Sequence[LimitState]:
        """The limits of the operation as last told, at the same time as `balance`."""
        return self._last_answer.limits

    @property
    def response(self) -> CommitReservationResponse:
        """What was charged; once the block has ended, or `commit` was called."""
        if self._response is None:
            raise RuntimeError("nothing has been committed")
        return self._response

    @property
    def entry(self) -> Entry:
        """The entry that records what was charged."""
        return self.response.entry

    @property
    def cost(self) -> int:
        """What was charged, in the ledger's minor unit."""
        return self.response.cost

    @property
    def late(self) -> bool:
        """Whether the reservation had expired before it was committed."""
        return self.response.late

    def usage(
        self,
        *,
        service: str | None = None,
        metrics: Mapping[str, int] | None = None,
        response_time: timedelta | None = None,
        outcome: Usage.Outcome.ValueType | None = None,
        occur_time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell what the use really was, as often as you learn of it; the commit charges and keeps it.

        A keyword replaces what was given for it before, and keeps it if left out.

        Args:
            service: Who did the work, for example "openai"; at most 128 bytes.
            metrics: What a metered price is computed from, for example {"tokens": 1834}. Never given, they are
                those that were reserved with.
            response_time: How long it took; 0 to 366 days.
            outcome: OUTCOME_FAILED records the attempt and charges nothing.
            occur_time: When it happened by your clock; needs a time zone.
            metadata: Anything else worth keeping; at most 4,096 bytes as JSON.
        """
        told = {
            "service": service,
            "metrics": metrics,
            "response_time": duration(response_time),
            "outcome": outcome,
            "occur_time": timestamp(occur_time),
            "metadata": metadata,
        }
        self._told.update({name: value for name, value in told.items() if value is not None})
        self._usage = Usage(**self._told)

    @property
    def _last_answer(self) -> ReserveResponse | CommitReservationResponse | ReleaseReservationResponse:
        if self._answer is None:
            raise RuntimeError(_NOT_BEGUN)
        return self._answer

    @property
    def _has_ended(self) -> bool:
        return self._is_released or self._response is not None

    def _begin(self) -> None:
        if self._begun:
            raise RuntimeError("a reservation is made once; call reserve() for each block")
        self._begun = True

    def _reserved(self, answer: ReserveResponse, reservation: Reservation, seconds_of_call: float) -> Pulse:
        """Keeps what was reserved, or raises what its commit would if it has ended: before the work, not after it."""
        if ending := _ENDINGS.get(reservation.state):
            error, words = ending
            raise error(
                f"reservation {reservation.reservation_id!r} of this request_id {words}",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                reason=f"RESERVATION_{ReservationState.Name(reservation.state).removeprefix('RESERVATION_STATE_')}",
                metadata={"accountId": reservation.account_id, "reservationId": reservation.reservation_id},
            )
        self._answer = answer
        self._pulse = Pulse(answer, reservation, seconds_of_call)
        return self._pulse

    def _commit_to_send(self) -> CommitReservationRequest:
        """The commit, which from now on is unresolved."""
        self._check_not_ended()
        if self._unresolved is None:
            self._unresolved = CommitReservationRequest(
                request_id=given_or_drawn(None),
                account_id=self.reservation.account_id,
                reservation_id=self.reservation.reservation_id,
                quantity=self.quantity,
                usage=self._usage,
            )
        return self._unresolved

    def _check_may_release(self) -> None:
        self._check_not_ended()
        if self._unresolved is not None:
            raise RuntimeError("a commit was sent and its outcome is unknown; call commit() to find out")

    def _check_not_ended(self) -> None:
        if self._has_ended:
            raise RuntimeError(
                f"the reservation was {'released' if self._is_released else 'committed'} before"
            )

    def _committed(self, response: CommitReservationResponse) -> CommitReservationResponse:
        self._unresolved = None
        self._answer = self._response = response
        return response

    def _was_released(self, response: ReleaseReservationResponse) -> ReleaseReservationResponse:
        self._is_released = True
        self._answer = response
        return response

    def _resend_after(self, error: Exception, resending: Resending) -> float:
        """The seconds to wait before the commit is sent again; raises if it is not."""
        if not isinstance(error, CreditLedgerError):
            # The client was closed: nothing was sent now, but maybe before.
            raise self._unanswered(resending.error) if resending.error else error
        if not error.outcome_unknown:
            self._unresolved = None
            raise error
        delay = resending.wait_after(error)
        if delay is None:
            raise self._unanswered(error)
        return delay

    def _unanswered(self, error: CreditLedgerError) -> CreditLedgerError:
        error.add_note(
            f"Reservation {self.reservation.reservation_id} of {self.reservation.account_id} was not released, because"
            " its commit may have happened. commit() of the block sends it again."
        )
        return error


class Resending:
    """When an unanswered commit is sent again, and when no more."""

    def __init__(self, seconds: float, seconds_of_call: float) -> None:
        self._end = time.monotonic() + seconds
        self._seconds_of_call = seconds_of_call
        self._failures = 0
        # What the last attempt ended with.
        self.error: CreditLedgerError | None = None

    def seconds(self) -> float:
        """The timeout of the next attempt."""
        return max(0.001, min(self._seconds_of_call, self._end - time.monotonic()))

    def wait_after(self, error: CreditLedgerError) -> float | None:
        """The seconds to wait before the next attempt; None if there is none."""
        self.error = error
        delay = min(_MAX_BACKOFF, _MIN_BACKOFF * 2 ** min(self._failures, 10)) * random.uniform(0.8, 1.2)
        self._failures += 1
        if error.retry_delay is not None:
            delay = max(delay, error.retry_delay.total_seconds())
        return delay if time.monotonic() + delay < self._end else None


class Pulse:
    """When a reservation is extended. Knows nothing of the block, which may be dropped without an end."""

    def __init__(self, answer: ReserveResponse, reservation: Reservation, seconds_of_call: float) -> None:
        made = answer.reservation
        self.ttl = made.expire_time.ToDatetime() - made.create_time.ToDatetime()
        self.reservation = reservation
        self._interval = self.ttl.total_seconds() / 3
        # One that was made before may be about to expire.
        self.first = 0.0 if answer.replayed else self._interval
        self.seconds_of_call = min(seconds_of_call, self._interval)
        self.is_stopped = False

    def wait_after_success(self, response: ExtendReservationResponse) -> float:
        """The seconds to wait before the next extension."""
        if not self.is_stopped:
            self.reservation = response.reservation
        return self._interval

    def wait_after(self, error: Exception) -> float | None:
        """The seconds to wait before the next attempt; None if there is none, and a late commit has to do."""
        if self.is_stopped:
            return None
        name = f"reservation {self.reservation.reservation_id} of {self.reservation.account_id}"
        if isinstance(error, CreditLedgerError) and error.outcome_unknown:
            _log.warning("%s was not extended (%s); trying again", name, error)
            return min(_MAX_RETRY, self._interval / 3)
        _log.warning("%s is not extended any more: %s", name, error)
        return None


def note_unreleased(error: BaseException, failure: Exception, reservation: Reservation) -> None:
    """Tells with the error of the work that the release failed, unless nothing was left to release."""
    if not isinstance(failure, (ReservationExpired, ReservationReleased)):
        error.add_note(
            f"Reservation {reservation.reservation_id} of {reservation.account_id} was not released ({failure});"
            f" it ends at {reservation.expire_time.ToJsonString()}."
        )
