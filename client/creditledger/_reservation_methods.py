# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The methods of both clients for reservations, one call each; `_reserve` makes a block of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from creditledger._fields import duration, given_or_drawn
from creditledger._rpc import rpc
from creditledger.v1.credit_ledger_pb2 import (
    CommitReservationRequest,
    ExtendReservationRequest,
    GetReservationRequest,
    ListReservationsRequest,
    ReleaseReservationRequest,
    ReserveRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from creditledger.v1.resources_pb2 import ReservationState, Usage


class ReservationMethods:
    """Reservations."""

    @rpc(lambda stubs: stubs.ledger.Reserve, mutates=True)
    def create_reservation(
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
    ) -> ReserveRequest:
        """Set the cost of an operation aside, for work whose end another process or a later request sees.

        Where one block of code sees both ends, `reserve` does this and the rest. Commit or release it by its
        reservation_id; after its `expire_time` the credits are the account's again.

        Args:
            account_id: The account.
            operation: An operation of the catalog.
            quantity: How many uses; 1 to 10^9.
            metrics: The expected metrics of a metered price, for example {"tokens": 1834}; values 0 to 10^15.
            account_level: Your own record of the account's level, as in `deduct`.
            ttl: For how long, by the database's clock; 1 s to 24 h. None for 60 s.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            InsufficientCredits: The cost exceeds what is available.
            LimitExceeded: A limit of the account's level is used up.
            TooManyReservations: The account has as many active reservations as it may.
            AccountFrozen, AccountClosed: The account does not spend.
            AccountNotFound: No such account, and no account_level.
            OperationUnknown, LevelUnknown: Not in the current catalog.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return ReserveRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            account_level=account_level or "",
            operation=operation,
            quantity=quantity,
            metrics=metrics,
            ttl=duration(ttl),
        )

    @rpc(lambda stubs: stubs.ledger.CommitReservation, mutates=True)
    def commit_reservation(
        self,
        account_id: str,
        reservation_id: str,
        *,
        quantity: int | None = None,
        usage: Usage | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> CommitReservationRequest:
        """Charge the real cost of reserved work, at the prices that held when it was reserved.

        What it costs less than was reserved is given back, what it costs more is drawn from what is available.
        After the reservation's expiry the whole cost is, and the response says `late`.

        Args:
            account_id: The account.
            reservation_id: The reservation.
            quantity: How many uses; 1 to 10^9. None for as many as were reserved.
            usage: What the use was; its metrics are what a metered price is computed from. None for the metrics
                that were reserved with.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            InsufficientCredits: It costs more than was reserved and what is available together; nothing changed.
            LimitExceeded: It has more uses than were reserved and a limit of the level allows; nothing changed.
            ReservationExpired: It has expired, and what is available does not cover the cost; nothing changed.
            ReservationCommitted, ReservationReleased: It was ended before, by another request.
            AccountFrozen, AccountClosed: The account does not spend.
            ReservationNotFound: The account has no such reservation.
            AccountNotFound: No such account.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id, and do not release.
        """
        return CommitReservationRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            reservation_id=reservation_id,
            quantity=quantity,
            usage=usage,
        )

    @rpc(lambda stubs: stubs.ledger.ReleaseReservation, mutates=True)
    def release_reservation(
        self,
        account_id: str,
        reservation_id: str,
        *,
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ReleaseReservationRequest:
        """Give all of a reservation back: the work was not done, or is not charged.

        Args:
            account_id: The account.
            reservation_id: The reservation.
            reason: Why, for people; at most 1,024 bytes.
            request_id: The logical call, as in `deduct`.
            timeout: Seconds; None for the client's.

        Raises:
            ReservationCommitted, ReservationReleased, ReservationExpired: It has ended before.
            ReservationNotFound: The account has no such reservation.
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return ReleaseReservationRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            reservation_id=reservation_id,
            reason=reason,
        )

    @rpc(lambda stubs: stubs.ledger.ExtendReservation, mutates=True)
    def extend_reservation(
        self,
        account_id: str,
        reservation_id: str,
        *,
        ttl: timedelta,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ExtendReservationRequest:
        """Move the expiry of an active reservation to `ttl` from now.

        Args:
            account_id: The account.
            reservation_id: The reservation.
            ttl: From now, by the database's clock; 1 s to 24 h. The reservation's whole life is at most 24 h.
            request_id: The logical call, as in `deduct`. The same id moves it once, however often it is sent.
            timeout: Seconds; None for the client's.

        Raises:
            ReservationCommitted, ReservationReleased, ReservationExpired: It has ended.
            ReservationNotFound: The account has no such reservation.
            AccountNotFound: No such account.
            AccountClosed: The account is closed.
            RequestIdReused: The id was accepted before with other content.
            CreditLedgerError: With outcome_unknown, call again with the error's request_id.
        """
        return ExtendReservationRequest(
            request_id=given_or_drawn(request_id),
            account_id=account_id,
            reservation_id=reservation_id,
            ttl=duration(ttl),
        )

    @rpc(lambda stubs: stubs.ledger.GetReservation)
    def get_reservation(
        self, account_id: str, reservation_id: str, *, timeout: float | None = None
    ) -> GetReservationRequest:
        """Tell one reservation, also one that has ended.

        Args:
            account_id: The account.
            reservation_id: The reservation.
            timeout: Seconds; None for the client's.

        Raises:
            ReservationNotFound: The account has no such reservation.
            AccountNotFound: No such account.
        """
        return GetReservationRequest(account_id=account_id, reservation_id=reservation_id)

    @rpc(lambda stubs: stubs.ledger.ListReservations)
    def list_reservations(
        self,
        account_id: str,
        *,
        states: Iterable[ReservationState.ValueType] = (),
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> ListReservationsRequest:
        """List a page of an account's reservations, newest first.

        Args:
            account_id: The account.
            states: Only these states; empty for all.
            page_size: 1 to 1,000; 0 for 100.
            page_token: next_page_token of the page before; all else but page_size as then.
                It is empty on the last page.
            timeout: Seconds; None for the client's.

        Raises:
            AccountNotFound: No such account.
        """
        return ListReservationsRequest(
            account_id=account_id, page_size=page_size, page_token=page_token, states=states
        )
