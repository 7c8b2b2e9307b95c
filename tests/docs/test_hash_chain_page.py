"""The program in docs/hash-chain.md recomputes a chain from the table alone, and tells where it was tampered with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from creditledger import CreditLedgerClient, Usage

Recompute = Callable[[], subprocess.CompletedProcess[str]]


@pytest.fixture
def recompute(dsn: str, fences: Callable[[str, str], list[str]]) -> Recompute:
    """Runs the program of the page on one account."""
    [program] = fences("docs/hash-chain.md", "python")
    return lambda: subprocess.run(
        [sys.executable, "-c", program, dsn, "user-1"], capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def history(ledger: CreditLedgerClient) -> str:
    """Writes entries with something in every column; returns the hash of the newest one."""
    ledger.open_account("user-1", level="free", labels={"name": 'Zoë "Z" \\ \t'})
    ledger.grant_credits("user-1", 6, reason="two lines\nof it", priority=3)
    ledger.grant_credits("user-1", 6)
    usage = Usage(service="modèle", metrics={"tokens": 1834}, outcome=Usage.OUTCOME_FAILED)
    usage.metadata.update({"topic": "日本 \u2028 😀", "ratio": 0.1, "none": None, "nested": {"b": [1, True]}})
    ledger.deduct("user-1", "voice_creation", usage=usage)
    usage.outcome = Usage.OUTCOME_SUCCEEDED
    ledger.deduct("user-1", "voice_creation", usage=usage, account_level="pro")
    ledger.deduct("user-1", "voice_creation")
    return ledger.verify_account("user-1").head_hash.hex()


def test_program_recomputes_the_head(recompute: Recompute, history: str) -> None:
    result = recompute()
    assert (result.stdout, result.stderr, result.returncode) == (f"head: {history}\n", "", 0)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE entry SET cost = cost + 1 WHERE revision = 4",
        """UPDATE entry SET usage = '{"service":"other"}' WHERE revision = 4""",
        "UPDATE entry SET create_time = create_time - interval '1 microsecond' WHERE revision = 4",
        "UPDATE entry SET hash = sha256('') WHERE revision = 4",
    ],
    ids=["cost", "usage", "time", "hash"],
)
@pytest.mark.usefixtures("history")
def test_program_names_a_revision_that_was_changed(dsn: str, recompute: Recompute, tampering: str) -> None:
    _tamper(dsn, tampering)
    result = recompute()
    assert (result.stderr, result.returncode) == ("revision 4: the hash does not match\n", 1)


@pytest.mark.usefixtures("history")
def test_program_notices_an_entry_that_was_removed(dsn: str, recompute: Recompute) -> None:
    _tamper(dsn, "DELETE FROM entry WHERE revision = 4")
    assert recompute().stderr == "revision 5: the hash does not match\n"


def test_program_is_short(fences: Callable[[str, str], list[str]]) -> None:
    [program] = fences("docs/hash-chain.md", "python")
    assert len([line for line in program.splitlines() if line]) <= 16


def _tamper(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE entry DISABLE TRIGGER ALL")
        conn.execute(statement)
