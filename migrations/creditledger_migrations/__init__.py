"""The schema's history: an Alembic environment whose revisions are plain SQL files.

A revision is ``versions/NNNN_name.sql`` with a small ``.py`` of the same name beside it, and is one transaction. Nobody
runs Alembic's own command: ``creditledger-server migrate`` does it, see ``creditledger_server.storage.schema``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alembic import op

if TYPE_CHECKING:
    from pathlib import Path

LOCK_ID: Final = int.from_bytes(b"crledger")

GUARDS: Final = (
    "SET LOCAL statement_timeout = 0;",
    # First wait for another process that migrates. It is a lock of the transaction, which works through a pooler too.
    "SET LOCAL lock_timeout = '60s';",
    f"SELECT pg_advisory_xact_lock({LOCK_ID});",
    # Then no more than a moment for each table: whoever queues behind a waiting ALTER TABLE waits as long as it does.
    "SET LOCAL lock_timeout = '5s';",
)
"""What begins every transaction that changes the schema."""


def execute_file(path: Path) -> None:
    """Runs the SQL of a revision, or prints it if Alembic is in its offline mode."""
    context = op.get_context()
    for sql in (*GUARDS, path.read_text(encoding="utf-8").strip()):
        if context.as_sql:
            context.impl.static_output(sql)
        else:
            # As it stands: neither SQLAlchemy nor psycopg shall look for parameters in it.
            op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
