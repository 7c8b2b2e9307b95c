"""The words of the model: prices and limits of ``catalog.example.toml``, and what an account has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PRICES = {"script_generation": 1, "voice_creation": 5, "video_processing": 2, "chat_refinement": 1}
LIMITS = {
    "free": {"script_generation": 3, "voice_creation": 1, "video_processing": 2},
    "pro": {"script_generation": 100, "voice_creation": 20, "video_processing": 50},
}
"""Uses per month."""
MONTH = 3
MOST_LOTS = 100
"""Grants with something left, per account."""

NEVER = "9999"
"""When what does not expire does: later than every time."""

AMOUNTS = ("available", "reserved", "granted", "spent", "forfeited")


@dataclass(slots=True)
class Entry:
    """A row of the history as it was read back. ``time`` is ISO 8601 in UTC; ``content`` is as in a call."""

    account_id: str
    revision: int
    kind: str
    request_id: str
    content: dict[str, Any]
    time: str
    facts: dict[str, Any]


@dataclass(slots=True, order=True)
class Lot:
    """What is left of a grant, and what reservations hold of it; in burn order."""

    priority: int
    expire: str
    revision: int
    left: int
    held: int = 0


@dataclass(slots=True)
class Reservation:
    """Credits set aside; ``draws`` are [grant revision, amount]."""

    operation: str
    quantity: int
    amount: int
    draws: list[list[int]]
    expire: str
    state: str = "ACTIVE"


@dataclass(slots=True)
class Charge:
    """What can be refunded of an entry; ``draws`` are what is left of them."""

    operation: str
    quantity: int
    left: int
    draws: list[list[int]]
