"""The example that watches, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from creditledger import CreditLedgerClient, Usage
from example_programs import running
from ledger_harness import ROOT, ServerProcess

WATCHER = ROOT / "examples/usage_watcher.py"


@pytest.fixture
def rich(ledger: CreditLedgerClient) -> CreditLedgerClient:
    """The client, with 10 credits for user-1."""
    ledger.open_account("user-1", level="free")
    ledger.grant_credits("user-1", 10)
    return ledger


def test_watcher_shows_the_balance_and_changes_and_goes_on_where_it_was_stopped(
    server: ServerProcess, rich: CreditLedgerClient, tmp_path: Path
) -> None:
    cursor_file = tmp_path / "user-1.cursor"
    arguments = (WATCHER, "user-1", "--ledger", server.target, "--cursor-file", str(cursor_file))
    with running(*arguments) as read_line:
        assert read_line() == "balance: 10 at revision 2"
        rich.deduct("user-1", "voice_creation")
        assert read_line() == "revision 3: deducted voice_creation -5, balance: 5"
        rich.deduct("user-1", "chat_refinement", usage=Usage(outcome=Usage.OUTCOME_FAILED))
        assert read_line() == "revision 4: deducted chat_refinement (failed) +0, balance: 5"
    rich.grant_credits("user-1", 7)
    with running(*arguments) as read_line:
        assert _last_of(read_line, "caught up") == "revision 5: granted +7, balance: 12"
        rich.deduct("user-1", "chat_refinement")
        assert read_line() == "revision 6: deducted chat_refinement -1, balance: 11"


def test_watcher_begins_anew_with_a_cursor_that_is_not_its_own(
    server: ServerProcess, rich: CreditLedgerClient, tmp_path: Path
) -> None:
    cursor_file = tmp_path / "cursor"
    cursor_file.write_text("made-up")
    with running(
        WATCHER, "user-1", "--ledger", server.target, "--cursor-file", str(cursor_file)
    ) as read_line:
        assert read_line().startswith("starting anew: CURSOR_INVALID: ")
        assert read_line() == "balance: 10 at revision 2"


def _last_of(read_line: Callable[[], str], end: str) -> str:
    """The line before ``end``. A watcher may show again what it showed just before it was stopped."""
    line = ""
    while (following := read_line()) != end:
        line = following
    return line
