"""Entries out of thin air, for the parts of the watch path that only look at who wrote what, and in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from creditledger_server.domain.entry import Draw, Entry, EntryKind
from creditledger_server.storage.connect import Connection


def entry(account_id: str, revision: int, kind: EntryKind = EntryKind.DEDUCTED, cost: int = 1) -> Entry:
    """An entry that charges ``cost``, or gives it back if it is a refund."""
    refund = kind is EntryKind.REFUNDED
    return Entry(
        account_id, revision, kind, create_time=revision, amount=cost if refund else -cost, cost=0 if refund else cost,
        available=1_000 - revision, reserved=0, spent=revision, forfeited=0, quantity=1, catalog_version=1,
        operation="chat_refinement", request_id=f"request-{revision}", fingerprint=bytes(32),
        draws=(Draw(2, -cost if refund else cost),), limits=(), usage=None, details=None, hash=bytes(32),
    )  # fmt: skip


def entries(account_id: str, first: int, last: int) -> list[Entry]:
    """The deductions of an account from one revision to another."""
    return [entry(account_id, revision) for revision in range(first, last + 1)]


@asynccontextmanager
async def no_connection() -> AsyncIterator[Connection]:
    """Stands for a connection where nothing is asked of it."""
    yield cast(Connection, None)
