"""Credits set aside for work under way."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from .entry import Draw

MIN_TTL: Final = 1_000_000
"""The shortest life of a reservation, in microseconds."""

MAX_LIFE: Final = 86_400_000_000
"""The longest life of a reservation, extensions included, in microseconds."""

DEFAULT_TTL: Final = 60_000_000
"""How long a reservation lives if its caller does not say, in microseconds."""

MAX_ACTIVE: Final = 1_000
"""How many active reservations an account may have."""


class ReservationState(IntEnum):
    """Where a reservation stands; numbers as in the proto enum and the database."""

    ACTIVE = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4


class Reservation(NamedTuple):
    """A reservation; ``revision`` is that of the entry that made it and names it within the account.

    ``draws`` are what it took from which grant, ``metrics`` the canonical JSON of what its caller expected.
    """

    account_id: str
    revision: int
    operation: str
    quantity: int
    amount: int
    state: ReservationState
    create_time: int
    expire_time: int
    catalog_version: int
    draws: tuple[Draw, ...]
    metrics: str | None
