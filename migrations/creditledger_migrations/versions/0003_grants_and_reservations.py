"""grants that begin and expire, allowances, reservations, refunds, purchases"""

from __future__ import annotations

from pathlib import Path

from creditledger_migrations import execute_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    execute_file(Path(__file__).with_suffix(".sql"))
