"""A real ledger whose clock stands still: a database, servers on it, and the time that tests set to the microsecond."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psycopg
from ledger_calls import Failure, Ledger, failure_of
from ledger_harness import Postgres, ServerProcess
from model_catalog import Plain, from_datetime, to_datetime
from model_wire import plain, request_message

CLOCK = """
CREATE TABLE model_clock (now timestamptz NOT NULL);
INSERT INTO model_clock VALUES (clock_timestamp());
CREATE OR REPLACE FUNCTION ledger_time() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT now FROM model_clock';
"""
"""The ledger's clock (migration 0003) replaced by one that tests set."""

LAST_YEAR = 9_900

PAGES = {"ListEntries", "ListReservations", "ListGrants", "ListPackages", "ListAccounts"}


class Clock:
    """What every server of the database takes for the time. Microseconds."""

    def __init__(self, dsn: str) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._conn.execute("SET synchronous_commit = off")
        self._conn.execute(CLOCK)
        self.now = 0

    def set(self, time: int) -> None:
        """It is ``time`` from now on."""
        self._conn.execute("UPDATE model_clock SET now = %s", [to_datetime(time)])
        self.now = time

    def revision(self, account_id: str) -> int:
        """The revision that the database holds, whatever is due."""
        row = self._conn.execute(
            "SELECT revision FROM account WHERE account_id = %s", [account_id]
        ).fetchone()
        return row[0] if row else 0

    def told(self) -> int:
        """What the ledger takes for the time."""
        row = self._conn.execute("SELECT ledger_time()").fetchone()
        assert row
        return from_datetime(row[0])

    def close(self) -> None:
        """Ends the connection."""
        self._conn.close()


class Server:
    """One server process, and calls to it. It can be started again."""

    def __init__(self, dsn: str, sweeper: bool) -> None:
        self._dsn = dsn
        self.start(sweeper)

    def start(self, sweeper: bool) -> None:
        """Starts it, with or without a sweeper."""
        self.sweeper = sweeper
        self._process = ServerProcess(self._dsn, env={"CREDITLEDGER_SWEEPER": str(sweeper)}, catalog=None)
        self._ledger = Ledger(self._process.target)

    def end(self, kill: bool) -> None:
        """kill -9 or SIGTERM."""
        self._ledger.channel.close()
        if kill:
            self._process.kill()
        else:
            status = self._process.stop()
            assert status == 0, f"the server ended with {status}: {self._process.log()}"
        self._process._log.close()

    def call(self, method: str, request: Plain, page_size: int = 0) -> Plain:
        """The response as the model tells it; of a list, all of its pages together."""
        try:
            if method in PAGES:
                return self._pages(method, request, page_size)
            return plain(self._ledger.call(request_message(method, request)))
        except grpc.RpcError as error:
            return {"error": _error(failure_of(error))}

    def _pages(self, method: str, request: Plain, page_size: int) -> Plain:
        found: Plain = {}
        fields = {**request, "page_size": page_size}
        while True:
            page = plain(self._ledger.call(request_message(method, fields)))
            token = page.pop("next_page_token", "")
            for name, items in page.items():
                assert len(items) <= (page_size or 100)
                found.setdefault(name, []).extend(items)
            if not token:
                return found
            fields["page_token"] = token


def _error(failure: Failure) -> Plain:
    return {
        "code": failure.code.name,
        "reason": failure.reason,
        "metadata": failure.metadata,
        "fields": sorted(failure.fields),
    }


class World:
    """A database with a clock and two servers. ``catalogs`` are those that were read or written so far."""

    def __init__(self, dsn: str, sweepers: tuple[bool, ...] = (True, False)) -> None:
        self.clock = Clock(dsn)
        self.catalogs: dict[int, Plain] = {}
        self.servers = [Server(dsn, sweeper) for sweeper in sweepers]

    def call(self, place: int, method: str, request: Plain, page_size: int = 0) -> Plain:
        """A call to one of the servers."""
        return self.servers[place % len(self.servers)].call(method, request, page_size)

    def restart(self, place: int, kill: bool, sweeper: bool) -> None:
        """Ends one of the servers, by kill -9 or SIGTERM, and starts it again."""
        server = self.servers[place % len(self.servers)]
        server.end(kill)
        server.start(sweeper)

    @property
    def swept(self) -> bool:
        """Whether a sweeper runs."""
        return any(server.sweeper for server in self.servers)

    @property
    def spent(self) -> bool:
        """Whether examples, of which each takes some years, have brought it near the last year there is."""
        return to_datetime(self.clock.told()).year > LAST_YEAR

    def close(self) -> None:
        """Ends all."""
        for server in self.servers:
            server.end(kill=True)
        self.clock.close()


@contextmanager
def world(postgres: Postgres, **options: Any) -> Iterator[World]:
    """A world on a database of its own."""
    dsn = postgres.create_database()
    made = World(dsn, **options)
    try:
        yield made
    finally:
        made.close()
        postgres.drop_database(dsn)
