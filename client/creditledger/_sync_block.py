# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""`with client.reserve(...)`: reserved work of a client for threads."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from creditledger._block import Block, Resending, note_unreleased
from creditledger._callers import SyncCaller
from creditledger._fields import given_or_drawn
from creditledger._reservation_methods import ReservationMethods

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from types import TracebackType

    from creditledger._block import Pulse
    from creditledger.v1.credit_ledger_pb2 import (
        CommitReservationRequest,
        CommitReservationResponse,
        ReleaseReservationResponse,
        ReserveResponse,
    )


class ReservationBlock(Block):
    """Reserved work, from `CreditLedgerClient.reserve`. For one `with`, and the thread that runs it."""

    _heartbeat: _Heartbeat | None = None

    def __init__(
        self,
        client: ReservingCaller,
        reserve: Callable[[], ReserveResponse],
        quantity: int,
        metrics: Mapping[str, int] | None,
        timeout: float,
        commit_timeout: float,
    ) -> None:
        super().__init__(quantity, metrics)
        self._client = client
        self._reserve_call = reserve
        self._timeout = timeout
        self._commit_timeout = commit_timeout

    def __enter__(self) -> Self:
        self._begin()
        answer = self._reserve_call()
        reservation = answer.reservation
        if answer.replayed:
            # The answer is that of then.
            reservation = self._client.get_reservation(
                reservation.account_id, reservation.reservation_id, timeout=self._timeout
            ).reservation
        self._heartbeat = _Heartbeat(self._client, self._reserved(answer, reservation, self._timeout))
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_heartbeat()
        if self._has_ended:
            return
        if error is None:
            self.commit()
        elif self._unresolved is None:
            self._release_after(error)

    def commit(self) -> CommitReservationResponse:
        """Charge now what `usage` and `quantity` tell; the end of the block then does nothing more.

        A commit without an answer is sent again, always the very same, for commit_timeout. Called after that,
        also after the block, it goes on to do so.

        Raises:
            CreditLedgerError: As `commit_reservation`. With outcome_unknown the credits are not released. What
                was refused has changed nothing, and can be committed with less or released until it expires.
        """
        self._stop_heartbeat()
        commit = self._commit_to_send()
        resending = Resending(self._commit_timeout, self._timeout)
        while True:
            try:
                return self._committed(self._send(commit, resending.seconds()))
            except Exception as error:
                delay = self._resend_after(error, resending)
            time.sleep(delay)

    def release(self, *, reason: str = "") -> ReleaseReservationResponse:
        """Give all of it back now; the end of the block then does nothing more.

        Args:
            reason: Why, for people; at most 1,024 bytes.

        Raises:
            CreditLedgerError: As `release_reservation`.
        """
        self._check_may_release()
        self._stop_heartbeat()
        response = self._client.release_reservation(
            self.reservation.account_id,
            self.reservation.reservation_id,
            reason=reason,
            timeout=self._timeout,
        )
        return self._was_released(response)

    def __del__(self) -> None:
        self._stop_heartbeat()

    def _send(self, commit: CommitReservationRequest, seconds: float) -> CommitReservationResponse:
        return self._client.commit_reservation(
            commit.account_id,
            commit.reservation_id,
            quantity=commit.quantity,
            usage=commit.usage if commit.HasField("usage") else None,
            request_id=commit.request_id,
            timeout=seconds,
        )

    def _release_after(self, error: BaseException) -> None:
        try:
            self.release(reason=type(error).__name__)
        except Exception as failure:
            note_unreleased(error, failure, self.reservation)

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()


class _Heartbeat:
    """Extends a reservation in a thread of its own until it is stopped."""

    def __init__(self, client: ReservingCaller, pulse: Pulse) -> None:
        self._client = client
        self._pulse = pulse
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="creditledger-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        # It does not wait for an extension under way: that could make the commit late. The ledger refuses one that
        # comes after the commit.
        self._pulse.is_stopped = True
        self._stopped.set()

    def _run(self) -> None:
        wait: float | None = self._pulse.first
        while wait is not None and not self._stopped.wait(wait):
            wait = self._beat()

    def _beat(self) -> float | None:
        pulse = self._pulse
        try:
            response = self._client.extend_reservation(
                pulse.reservation.account_id,
                pulse.reservation.reservation_id,
                ttl=pulse.ttl,
                timeout=pulse.seconds_of_call,
            )
        except Exception as error:
            return pulse.wait_after(error)
        return pulse.wait_after_success(response)


class ReservingCaller(ReservationMethods, SyncCaller):
    """The method that makes blocks."""

    def reserve(
        self,
        account_id: str,
        operation: str,
        *,
        quantity: int = 1,
        metrics: Mapping[str, int] | None = None,
        account_level: str | None = None,
        ttl: timedelta | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        commit_timeout: float = 30.0,
    ) -> ReservationBlock:
        """Set the cost of an operation aside for a block of work, and charge what it really was at its end.

            with ledger.reserve("user-1", "voice_creation") as r:
                voice = create_voice()
                r.usage(service="openai", metrics={"tokens": voice.tokens})
            print(r.cost, r.balance.available)

        Nothing is reserved before `with`. When the block succeeds, what `usage` and `quantity` of the block tell
        is committed; when it raises, all is released and the error goes on, with a note if the release failed.
        `commit` and `release` of the block do so earlier. In between a thread extends the reservation every third
        of its ttl, each time by an entry. A process that dies leaves it to expire after its ttl.

        A commit that gets no answer is sent again, always the very same. When commit_timeout has passed its error
        is raised with outcome_unknown, and nothing is released: call `commit` of the block to find out.

        Args:
            account_id: The account.
            operation: An operation of the catalog.
            quantity: How many uses to reserve; 1 to 10^9.
            metrics: The expected metrics of a metered price, for example {"tokens": 1834}; values 0 to 10^15.
            account_level: Your own record of the account's level, as in `deduct`.
            ttl: For how long to reserve at a time, by the database's clock; 1 s to 24 h. None for 60 s. The block
                may take 24 h in all.
            request_id: The block, as in `deduct`: with the id of a block that has ended, nothing is worked on
                or charged again, but `with` raises how it ended; one that has not ended goes on. None draws one.
            timeout: Seconds for each call; None for the client's.
            commit_timeout: Seconds for which a commit without an answer is sent again.

        Raises:
            InsufficientCredits, LimitExceeded, TooManyReservations: From `with`, as `create_reservation`. From
                its end: it was more than had been reserved, as `commit_reservation`; what is reserved stays so
                until it expires, and `commit` and `release` of the block still work.
            ReservationCommitted, ReservationReleased, ReservationExpired: From `with`: the block of this
                request_id has ended. From its end: somebody else ended it, or it was late and what is available
                does not cover it.
            CreditLedgerError: As `create_reservation` and `commit_reservation`.
        """
        seconds = self._seconds({"timeout": timeout})
        reserve = functools.partial(
            self.create_reservation,
            account_id,
            operation,
            quantity=quantity,
            metrics=metrics,
            account_level=account_level,
            ttl=ttl,
            request_id=given_or_drawn(request_id),
            timeout=seconds,
        )
        return ReservationBlock(self, reserve, quantity, metrics, seconds, commit_timeout)
