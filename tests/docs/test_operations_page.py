"""What docs/operations.md tells operators to do, done; and its table of settings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from creditledger import CreditLedgerClient
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger_server.config import settings_table
from ledger_calls import Ledger
from ledger_harness import ROOT, ServerProcess, running_server
from scraped import scrape
from usage_histories import expected, random_uses, told_rows, write_history

PAGE = "docs/operations.md"
ROLE, PASSWORD = "creditledger", "change me"

Fences = Callable[[str, str], list[str]]


@pytest.fixture
def role_dsn(dsn: str, fences: Fences) -> Iterator[str]:
    """The test's database as the role of the page; under a name of the test's own, because roles are shared."""
    role = f"creditledger_test_{os.getpid()}"
    statements = (
        fences(PAGE, "sql")[0].replace(f"TO {ROLE};", f"TO {role};").replace(f"ROLE {ROLE} ", f"ROLE {role} ")
    )
    _execute(dsn, statements)
    yield _as_user(dsn, role, PASSWORD)
    _execute(dsn, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_settings_are_those_of_the_server() -> None:
    rows = [_row(setting, meaning) for setting, meaning in settings_table()]
    table = "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows])
    assert table in (ROOT / PAGE).read_text(encoding="utf-8"), f"the table should be\n{table}"


def test_metrics_are_those_of_the_server(dsn: str) -> None:
    with running_server(dsn, "--metrics-listen", "127.0.0.1:0") as server:
        meanings, types = _described(scrape(server).text)
    rows = [f"| `{name}` | {types[name]} | {meaning} |" for name, meaning in meanings.items()]
    table = "\n".join(["| Metric | Type | Meaning |", "|---|---|---|", *rows])
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert table in page, f"the table should be\n{table}"
    named = set(re.findall("creditledger_[a-z_]+[a-z]", page))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= meanings.keys()


def _described(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The meaning and the type of every metric."""
    told = re.findall(r"^# (HELP|TYPE) (\S+) (.*)$", text, flags=re.MULTILINE)
    meanings = {name: rest for what, name, rest in told if what == "HELP"}
    return meanings, {name: rest for what, name, rest in told if what == "TYPE"}


def test_server_serves_as_the_role_of_the_page(role_dsn: str) -> None:
    with running_server(role_dsn) as server, CreditLedgerClient(server.target) as ledger:
        ledger.open_account("user-1", level="free")
        ledger.grant_credits("user-1", 10)
        assert ledger.can_perform("user-1", "voice_creation").allowed
        assert ledger.deduct("user-1", "voice_creation").balance.available == 5
        assert ledger.get_balance("user-1").revision == 3
        assert len(ledger.list_entries("user-1").entries) == 3
        assert ledger.verify_account("user-1").valid
        with ledger.watch_usage("user-1") as watch:
            assert next(watch).snapshot.balance.available == 5
        catalog = ledger.get_catalog().catalog
        assert ledger.update_catalog(catalog, expected_version=1).catalog.version == 2


def test_server_sums_usage_as_the_role_of_the_page(dsn: str, role_dsn: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    uses = random_uses(1, 2_500, start, start + timedelta(days=2))
    with psycopg.connect(dsn) as conn:
        write_history(conn, "user-1", uses)
    with running_server(role_dsn) as server, Ledger(server.target) as ledger:
        answer = ledger.call(pb.SummarizeUsageRequest(account_id="user-1"))
    assert told_rows(answer) == expected(uses)
    assert _execute(dsn, "SELECT revision FROM usage_rollup_head") == [(2_000,)]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE entry SET amount = 0", "DELETE FROM entry", "TRUNCATE entry", "UPDATE catalog SET version = 9"],
)
def test_role_of_the_page_cannot_change_history(role_dsn: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        _execute(role_dsn, statement)
    assert refused.value.sqlstate == "42501"


def test_role_of_the_page_has_no_right_to_update_entries_even_without_the_trigger(
    dsn: str, role_dsn: str
) -> None:
    _execute(dsn, "ALTER TABLE entry DISABLE TRIGGER ALL")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table entry"):
        _execute(role_dsn, "UPDATE entry SET amount = 0")


def test_owner_is_refused_by_the_trigger(dsn: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        _execute(dsn, "DELETE FROM entry")


def test_sigterm_ends_the_server_with_status_0(server: ServerProcess) -> None:
    assert server.stop() == 0


def test_all_accounts_can_be_watched_after_a_logical_restore(dsn: str, fences: Fences) -> None:
    with running_server(dsn) as server, CreditLedgerClient(server.target) as ledger:
        ledger.open_account("user-1", level="free")
        ledger.grant_credits("user-1", 10)
    # As another cluster sees it, whose transaction ids are far behind those of the first.
    _execute(dsn, "UPDATE account SET commit_position = 10^12; UPDATE commit_log SET position = 10^12")
    _execute(dsn, fences(PAGE, "sql")[1])
    with (
        running_server(dsn, env={"CREDITLEDGER_HEARTBEAT_SECONDS": "0.1"}) as server,
        CreditLedgerClient(server.target) as ledger,
        ledger.watch_usage() as watch,
    ):
        assert next(watch).HasField("heartbeat")
        ledger.deduct("user-1", "voice_creation")
        change = next(message.change for message in watch if message.HasField("change"))
    assert (change.entry.revision, change.entry.balance.available) == (3, 5)


def test_oldest_writer_is_told(dsn: str, fences: Fences) -> None:
    query = fences(PAGE, "sql")[2]
    with closing(psycopg.connect(dsn)) as writer:
        writer.execute("INSERT INTO refund VALUES ('user-1', 1, 1)")
        [(age,)] = _execute(dsn, query)
    assert age.total_seconds() > 0


def _row(setting: str, meaning: str) -> str:
    name, _, default = setting.partition("=")
    return f"| `{name}` | {f'`{default}`' if default else '—'} | {meaning} |"


def _execute(dsn: str, statements: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statements)
        return cursor.fetchall() if cursor.description else []


def _as_user(dsn: str, user: str, password: str) -> str:
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password)}@{address}"))
