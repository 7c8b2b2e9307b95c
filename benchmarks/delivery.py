"""Whether the streams of a benchmark delivered what the tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager

import psycopg

from . import watchers
from .sample import account_name
from .site import Site
from .watchers import Delivered

Table = Mapping[str, Mapping[int, bytes]]

_SETTLE_SECONDS = 30.0
_REVISIONS = "SELECT account_id, revision FROM account WHERE account_id = ANY(%s)"
_ENTRIES = """
SELECT entry.account_id, entry.revision, entry.hash
FROM unnest(%s::text[], %s::bigint[]) AS begun (account_id, revision)
JOIN entry ON entry.account_id = begun.account_id AND entry.revision > begun.revision
"""


def is_wrong(stream: Delivered, table: Mapping[int, bytes]) -> bool:
    """Whether a stream is not, one after the other, the entries after its snapshot, or has ended.

    ``table``: hashes by revision.
    """
    revision = stream.revision
    for told in stream.told:
        if told.first != revision + 1 or told.last < told.first:
            return True
        if told.hash and told.hash != table.get(told.last):
            return True
        revision = told.last
    return bool(stream.ended) or revision != max(table, default=stream.revision)


class Streams:
    """Streams that ``pool``, of one process, holds open, on accounts of a ledger."""

    def __init__(self, site: Site, database: str, pool: Executor) -> None:
        self._dsn = site.database(database)
        self._pool = pool

    @contextmanager
    def opened(self, target: str, accounts: Sequence[int]) -> Iterator[None]:
        """A stream on each account, for as long as the block lasts."""
        try:
            self.add(target, accounts)
            yield
        finally:
            self._pool.submit(watchers.close_streams).result()

    def add(self, target: str, accounts: Sequence[int]) -> None:
        """Opens more."""
        names = [account_name(number) for number in accounts]
        self._pool.submit(watchers.open_streams, target, names).result()

    def fanned_out(self, target: str, account: int, entries: int) -> watchers.FannedOut:
        """Deducts from an account that all streams are on, as fast as they take it."""
        return self._pool.submit(watchers.fan_out, target, account_name(account), entries).result()

    def delivered(self) -> list[Delivered]:
        """What all streams delivered so far, without a look into the tables."""
        return self._pool.submit(watchers.collect, {}, _SETTLE_SECONDS).result()

    def settled(self) -> tuple[list[Delivered], int]:
        """What all streams delivered, once that is all there is; and how many of them are wrong."""
        accounts = sorted({stream.account_id for stream in self.delivered()})
        with psycopg.connect(self._dsn) as conn:
            revisions: dict[str, int] = dict(conn.execute(_REVISIONS, [accounts]).fetchall())
        delivered = self._pool.submit(watchers.collect, revisions, _SETTLE_SECONDS).result()
        table = self._table(delivered)
        return delivered, sum(is_wrong(stream, table[stream.account_id]) for stream in delivered)

    def _table(self, delivered: Sequence[Delivered]) -> Table:
        """The hashes of all entries after each account's first snapshot."""
        begun: dict[str, int] = {}
        for stream in delivered:
            begun[stream.account_id] = min(stream.revision, begun.get(stream.account_id, stream.revision))
        table: dict[str, dict[int, bytes]] = {name: {} for name in begun}
        with psycopg.connect(self._dsn) as conn:
            for name, revision, hash_ in conn.execute(_ENTRIES, [list(begun), list(begun.values())]):
                table[name][revision] = hash_
        return table
