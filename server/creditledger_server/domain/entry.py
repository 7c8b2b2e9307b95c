"""The immutable rows of an account's history and the hash chain through them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Any, NamedTuple

from .periods import Period
from .usage import json_text

GENESIS = bytes(32)
"""What the first entry of every account is chained to."""


class EntryKind(IntEnum):
    """What an entry records; numbers as in the proto enum and the database."""

    OPENED = 1
    LEVEL_CHANGED = 2
    GRANTED = 3
    DEDUCTED = 4
    RESERVED = 5
    COMMITTED = 6
    RELEASED = 7
    RESERVATION_EXPIRED = 8
    EXTENDED = 9
    REFUNDED = 10
    GRANT_EXPIRED = 11
    GRANT_VOIDED = 12
    ADJUSTED = 13
    STATE_CHANGED = 14
    GRANT_STARTED = 15


class Draw(NamedTuple):
    """What an entry took from the grant made by the entry of ``grant_revision``; negative: gave back to it."""

    grant_revision: int
    amount: int


class LimitState(NamedTuple):
    """Where an account stands against one limit. ``reset_time`` is None for LIFETIME, ``limit`` -1 for unlimited."""

    operation: str
    period: Period
    limit: int
    used: int
    reset_time: int | None


class Entry(NamedTuple):
    """One mutation of one account; fields as in the proto message.

    ``limits`` are those of the operation as the response told them, so that a replay tells the same. ``usage`` and
    ``details`` are canonical JSON; ``details`` holds what only some kinds have. ``request_id`` and ``fingerprint`` are
    set together.
    """

    account_id: str
    revision: int
    kind: EntryKind
    create_time: int
    amount: int
    cost: int
    available: int
    reserved: int
    spent: int
    forfeited: int
    quantity: int
    catalog_version: int
    operation: str | None
    request_id: str | None
    fingerprint: bytes | None
    draws: tuple[Draw, ...]
    limits: tuple[LimitState, ...]
    usage: str | None
    details: str | None
    hash: bytes

    @property
    def granted(self) -> int:
        """All that was ever granted, which is the sum of where it went (contract §3, promise 2)."""
        return self.available + self.reserved + self.spent + self.forfeited

    def told(self) -> dict[str, Any]:
        """What ``details`` holds."""
        return json.loads(self.details) if self.details else {}


def chain_hash(previous: bytes, fields: Sequence[Any]) -> bytes:
    """SHA-256(previous hash ‖ canonical entry), of 32 bytes; ``fields`` are an entry's, with or without its own hash.

    The canonical form is a JSON array of the fields in their order, led by a version; JSON's quoting makes it
    injective. docs/hash-chain.md shows how to recompute it from the table alone.
    """
    return sha256(previous + _canonical(*fields[:19]).encode()).digest()


def _canonical(
    account_id: str, revision: int, kind: EntryKind, create_time: int, amount: int, cost: int, available: int,
    reserved: int, spent: int, forfeited: int, quantity: int, catalog_version: int, operation: str | None,
    request_id: str | None, fingerprint: bytes | None, draws: tuple[Draw, ...], limits: tuple[LimitState, ...],
    usage: str | None, details: str | None,
) -> str:  # fmt: skip
    # Written out: the json module takes three times as long, and this runs for every entry under the lock.
    return (
        f"[1,{json_text(account_id)},{revision},{kind:d},{create_time},{amount},{cost},{available},"
        f"{reserved},{spent},{forfeited},{quantity},{catalog_version},{json_text(operation)},"
        f"{json_text(request_id)},{json_text(fingerprint.hex() if fingerprint else None)},"
        f"{json_text(draws_text(draws))},{json_text(limits_text(limits))},{json_text(usage)},{json_text(details)}]"
    )


def charged(entry: Entry) -> int:
    """What an entry charged for use; negative: what it refunded."""
    if entry.kind in (EntryKind.DEDUCTED, EntryKind.COMMITTED):
        return entry.cost
    return sum(draw.amount for draw in entry.draws) if entry.kind is EntryKind.REFUNDED else 0


def draws_text(draws: tuple[Draw, ...]) -> str | None:
    """Draws as they are stored and hashed: ``grant revision:amount,...``; None where there are none."""
    return ",".join([f"{revision}:{amount}" for revision, amount in draws]) if draws else None


def parse_draws(text: str | None) -> tuple[Draw, ...]:
    """The draws that ``draws_text`` wrote."""
    if not text:
        return ()
    return tuple(Draw(*map(int, part.split(":"))) for part in text.split(","))


def limits_text(limits: tuple[LimitState, ...]) -> str | None:
    """Limit states as they are stored and hashed: ``period:limit:used:reset time,...``; None where there are none."""
    if not limits:
        return None
    return ",".join([f"{s.period:d}:{s.limit}:{s.used}:{s.reset_time or ''}" for s in limits])


def parse_limits(operation: str | None, text: str | None) -> tuple[LimitState, ...]:
    """The limit states that ``limits_text`` wrote, of the entry's operation."""
    if not text or operation is None:
        return ()
    return tuple(_parse_limit(operation, part) for part in text.split(","))


def _parse_limit(operation: str, text: str) -> LimitState:
    period, limit, used, reset = text.split(":")
    return LimitState(operation, Period(int(period)), int(limit), int(used), int(reset) if reset else None)
