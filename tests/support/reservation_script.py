"""What a scripted server answers to reservations, and what came to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from creditledger import (
    CommitReservationResponse,
    ExtendReservationResponse,
    Reservation,
    ReservationState,
    ReserveResponse,
)

State = ReservationState

NOW = datetime(2026, 11, 23, tzinfo=UTC)
TIMEOUT = 30.0
"""Seconds; only ends a test that would hang."""
NO_RETRIES = {"options": [("grpc.enable_retries", 0)], "timeout": TIMEOUT}
"""Of the channel: what is sent again then is sent by the block."""

MUTATIONS = ("Reserve", "ExtendReservation", "CommitReservation", "ReleaseReservation")


def reservation(ttl: float = 600.0, **fields: Any) -> Reservation:
    """A reservation that was made NOW, for so many seconds."""
    return Reservation(
        **{
            "reservation_id": "r7",
            "account_id": "user-1",
            "operation": "video_processing",
            "quantity": 1,
            "state": State.RESERVATION_STATE_ACTIVE,
            "create_time": NOW,
            "expire_time": NOW + timedelta(seconds=ttl),
            **fields,
        }
    )


def reserved(ttl: float = 600.0, **fields: Any) -> ReserveResponse:
    """The answer that makes it."""
    return ReserveResponse(reservation=reservation(ttl), **fields)


def lenient(server: Any) -> None:
    """Has a scripted server let everything be reserved, extended, committed and released."""
    server.always("Reserve", reserved())
    server.always("CommitReservation", CommitReservationResponse(cost=2))
    server.always("ExtendReservation", ExtendReservationResponse(reservation=reservation()))


def nothing(block: Any) -> None:
    """Work that has nothing to tell."""


def fail(block: Any) -> None:
    """Work that fails."""
    raise KeyError("voice")


def wait_for(condition: Callable[[], Any]) -> None:
    """Waits for something to come about."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def sent(server: Any) -> list[str]:
    """The mutations that came, each method as often as it came."""
    return [method for method in MUTATIONS for _ in server.requests[method]]
