"""What must be there before a ledger is served: its row, with the decimals asked for, and its catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..domain.catalog import Catalog
from ..domain.refusal import Refused
from ..storage.catalogs import LedgerRow, ensure_ledger
from ..storage.connect import Database
from ..storage.errors import StorageError
from .catalogs import Catalogs


class StartupError(Exception):
    """The server cannot start; the message is one line for its operator."""


async def prepare(database: Database, decimals: int | None, catalog: Catalog | None) -> LedgerRow:
    """Makes the ledger at its first start and ``catalog`` the current one, if it differs; raises StartupError."""
    async with database.connection() as conn:
        identity = await ensure_ledger(conn, decimals or 0)
    if decimals not in (None, identity.decimals):
        raise StartupError(f"this ledger has {identity.decimals} decimals, which cannot be changed")
    if catalog is not None:
        await Catalogs(database.connection).apply(catalog)
    return identity


@contextmanager
def startup_errors() -> Iterator[None]:
    """Turns what the database and the ledger raise into StartupError."""
    try:
        yield
    except StorageError as error:
        raise StartupError(f"cannot use the database: {' '.join(str(error).split())}") from error
    except Refused as refusal:
        raise StartupError(refusal.message) from refusal
