"""commit_log's arrays are stored as they are"""

from __future__ import annotations

from pathlib import Path

from creditledger_migrations import execute_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    execute_file(Path(__file__).with_suffix(".sql"))
