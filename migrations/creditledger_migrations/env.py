"""Alembic's entry: runs the revisions on the connection it was given, or prints them."""

from __future__ import annotations

from alembic import context


def _configure() -> None:
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    else:
        # In a transaction already, which whoever gave the connection commits.
        context.configure(connection=context.config.attributes["connection"])


_configure()
with context.begin_transaction():
    context.run_migrations()
