"""kill -9 of a process of Postgres: all of it starts again from its log, and the servers with it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from creditledger_server.embedded import embedded_postgres
from ledger_harness import Postgres, running_server
from ledger_load import (
    ClientProcess,
    Plan,
    await_true,
    effects,
    open_account,
    rows,
    run_together,
    unequal,
    verified,
)

IDS = 2_000
ACCOUNTS = [f"account-{number}" for number in range(6)]
CALLS = [(f"id-{number}", ACCOUNTS[number % len(ACCOUNTS)]) for number in range(IDS)]

_BACKEND = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'creditledger' ORDER BY random() LIMIT 1"
)


@pytest.fixture
def own_dsn(tmp_path: Path) -> Iterator[str]:
    """A database on a Postgres of its own, which may crash."""
    with embedded_postgres(tmp_path, notice=lambda _line: None) as dsn:
        yield Postgres(dsn).create_database()


def test_what_was_acknowledged_before_crashes_of_postgres_is_there_after_them(own_dsn: str) -> None:
    with running_server(own_dsn) as server:
        for account_id in ACCOUNTS:
            open_account(server.target, account_id, IDS)
        with ClientProcess(Plan([server.target], CALLS, callers=32, insist=True)) as client:
            client.await_ready()
            client.go()
            for crash in range(1, 4):
                _crash(own_dsn, crash * IDS // 4)
            answers = client.answers()
        resent = run_together([Plan([server.target], CALLS, insist=True)])

    assert Counter(answer.outcome for answer in answers + resent) == {"OK": 2 * IDS}
    assert effects(own_dsn) == IDS
    assert unequal(answers + resent) == []
    assert verified(own_dsn) == f"accounts={len(ACCOUNTS)} entries={IDS + 2 * len(ACCOUNTS)} mismatches=0"


def _crash(dsn: str, after: int) -> None:
    """Kills a backend of the server once there are so many effects."""

    def crashed() -> bool:
        try:
            if effects(dsn) < after:
                return False
            [(pid,)] = rows(dsn, _BACKEND)
        except psycopg.OperationalError:
            return False  # not back yet from the crash before
        os.kill(pid, signal.SIGKILL)
        return True

    await_true(crashed)
