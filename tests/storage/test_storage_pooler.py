"""Behind a pooler that hands out sessions per transaction everything works, and with a URL of their own also hints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import TIMEOUT, Ledger, serving, unique
from ledger_load import rows, verified
from transaction_pooler import PGBOUNCER, SESSIONS, pooled

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed; .ci/run installs it")

POOLED = {"CREDITLEDGER_POOLED": "true"}


def needed(dsn: str) -> list[str]:
    """The statements by which a server that refuses to start asks for settings."""
    command = [sys.executable, "-m", "creditledger_server.cli", "serve", "--database-url", dsn]
    refused = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"],
        env={**os.environ, **POOLED}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "ALTER ROLE" in refused.stderr, refused.stderr
    return re.findall(r"ALTER ROLE CURRENT_USER SET \w+ = '[^']*';", refused.stderr)


@pytest.fixture
def pooler(dsn: str) -> Iterator[str]:
    """The DSN of the test's database through a pooler, with the settings that a server asks for."""
    with pooled(dsn) as through:
        statements = needed(through)
    assert len(statements) > 5
    for statement in statements:
        # Of the database, because the role is that of other tests as well.
        rows(dsn, statement.replace("ROLE CURRENT_USER", f"DATABASE {urlsplit(dsn).path[1:]}"))
    with pooled(dsn) as through:  # anew: it remembers what sessions told when they began
        yield through


def changes(stream: Iterator[pb.WatchUsageResponse], count: int) -> list[int]:
    """The revisions of the next entries."""
    found: list[int] = []
    while len(found) < count:
        message = next(stream)
        if message.HasField("change"):
            found.append(message.change.entry.revision)
    return found


def watched(ledger: Ledger, *names: str) -> Iterator[pb.WatchUsageResponse]:
    stream = ledger.call(pb.WatchUsageRequest(account_ids=names), timeout=TIMEOUT)
    next(stream)
    return iter(stream)


def test_two_servers_charge_reserve_watch_and_sweep(dsn: str, pooler: str) -> None:
    with serving(pooler, env=POOLED) as (_, one), serving(pooler, env=POOLED) as (_, other):
        account = one.open(credits_=100)
        streams = [watched(other, account), watched(other)]
        for number in range(20):
            (one, other)[number % 2].deduct(account)
        reserved = other.call(
            pb.ReserveRequest(request_id=unique("r"), account_id=account, operation="voice_creation")
        )
        one.call(
            pb.CommitReservationRequest(
                request_id=unique("c"), account_id=account, reservation_id=reserved.reservation.reservation_id
            )
        )
        soon = Timestamp()
        soon.FromMilliseconds(int((time.time() + 0.5) * 1_000))
        one.call(
            admin_pb.GrantCreditsRequest(
                request_id=unique("g"), account_id=account, amount=7, expire_time=soon
            )
        )
        assert one.call(pb.CanPerformRequest(account_id=account, operation="voice_creation")).allowed
        # Nobody touches the account: the sweeper writes the expiry.
        for stream in streams:
            assert changes(stream, 24) == list(range(3, 27))
        [(sessions,)] = rows(
            dsn,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND starts_with(application_name, 'creditledger')",
        )
        assert sessions <= SESSIONS
    assert rows(dsn, "SELECT kind FROM entry WHERE revision = 26") == [
        (resources_pb2.ENTRY_KIND_GRANT_EXPIRED,)
    ]
    assert verified(dsn).endswith("mismatches=0")


def test_hints_arrive_where_the_listener_goes_round_the_pooler(dsn: str, pooler: str) -> None:
    env = {**POOLED, "CREDITLEDGER_LISTEN_URL": dsn, "CREDITLEDGER_WATCH_POLL_MS": "60000"}
    with serving(pooler, env=env) as (_, one), serving(pooler, env=env) as (_, other):
        account = one.open(credits_=100)
        stream = watched(other, account)
        time.sleep(0.5)
        for revision in range(3, 8):
            assert one.deduct(account).entry.revision == revision
            assert changes(stream, 1) == [revision]
