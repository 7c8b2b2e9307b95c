"""A clock for the ledger of a test database: stands still until it is set."""

from __future__ import annotations

from datetime import datetime

import psycopg

# What everything in the product asks for the time; open connections follow when it is replaced.
_STOP = """
CREATE TABLE test_clock (now timestamptz NOT NULL);
INSERT INTO test_clock VALUES ('{start}');
CREATE OR REPLACE FUNCTION ledger_time() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT now FROM test_clock';
"""


class LedgerClock:
    """Stops the time of a database at ``start``; may be set to any other."""

    def __init__(self, dsn: str, start: datetime) -> None:
        self._dsn = dsn
        with psycopg.connect(dsn) as conn:
            conn.execute(_STOP.format(start=start.isoformat()).encode())

    def set(self, now: datetime) -> None:
        """Makes it this time."""
        with psycopg.connect(self._dsn) as conn:
            conn.execute("UPDATE test_clock SET now = %s", [now])
