"""the ledger's tables"""

from __future__ import annotations

from pathlib import Path

from creditledger_migrations import execute_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    execute_file(Path(__file__).with_suffix(".sql"))
