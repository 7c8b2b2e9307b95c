"""the commit log forgets what is old"""

from __future__ import annotations

from pathlib import Path

from creditledger_migrations import execute_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    execute_file(Path(__file__).with_suffix(".sql"))
