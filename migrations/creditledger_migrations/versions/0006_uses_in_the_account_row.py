"""uses that count towards limits move into the account"""

from __future__ import annotations

from pathlib import Path

from creditledger_migrations import execute_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    execute_file(Path(__file__).with_suffix(".sql"))
