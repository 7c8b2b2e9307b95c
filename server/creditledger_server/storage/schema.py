"""Brings a database to the schema that this server needs, and tells how far it is.

Synchronous, for the start of a process and the command line: the only place that uses SQLAlchemy, because Alembic does.
"""

from __future__ import annotations

import io
import logging
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import creditledger_migrations
import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.script import Script

OLDEST_POSTGRES: Final = 15

# It reports every step at INFO, which nobody who runs a ledger asked for.
logging.getLogger("alembic").setLevel(logging.WARNING)


class SchemaError(Exception):
    """The database cannot be used, or not as it is; the message is one line and says what to do."""


class DatabaseUnreachable(SchemaError):
    """No connection to the database could be made."""


class SchemaOutdated(SchemaError):
    """The database lacks revisions that this server needs."""


class SchemaTooNew(SchemaError):
    """The database was migrated by a newer server: its revision is unknown to this one."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema's history."""

    revision_id: str
    title: str
    applied: bool


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """How far a database is. ``current`` is None before the first revision; ``revisions`` go from old to new."""

    current: str | None
    revisions: tuple[Revision, ...]

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions to apply, in order."""
        return tuple(revision.revision_id for revision in self.revisions if not revision.applied)


def expected_version() -> str:
    """The revision that this server needs."""
    return _history()[-1].revision


def status(dsn: str) -> SchemaStatus:
    """How far the database is. Raises SchemaTooNew if that is further than this server knows."""
    with _connection(dsn) as connection:
        return _status(connection)


def check(dsn: str) -> None:
    """Raises SchemaOutdated or SchemaTooNew unless the database has exactly the schema that this server needs."""
    state = status(dsn)
    if state.pending:
        raise SchemaOutdated(
            f"the database is at revision {state.current or 'none'}, this server needs {expected_version()}:"
            " run 'creditledger-server migrate up', or serve with --migrate"
        )


def migrate(dsn: str) -> tuple[str, ...]:
    """Applies what is pending, each revision in a transaction of its own; returns what it applied."""
    applied: list[str] = []
    with _connection(dsn) as connection:
        if not _status(connection).pending:
            return ()  # Without the lock, which another process may hold for a while.
        connection.rollback()
        while (revision := _migrate_one(connection)) is not None:
            applied.append(revision)
    return tuple(applied)


def sql() -> str:
    """All revisions as a script for psql, for those who do not let a server change their schema."""
    output = io.StringIO()
    config = _config()
    config.output_buffer = output
    command.upgrade(config, "head", sql=True)
    return output.getvalue()


def _migrate_one(connection: sqlalchemy.Connection) -> str | None:
    """Applies the next revision, if there still is one once the lock is held."""
    with connection.begin():
        for guard in creditledger_migrations.GUARDS:
            connection.exec_driver_sql(guard)
        pending = _status(connection).pending
        if not pending:
            return None
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "+1")
        return pending[0]


def _status(connection: sqlalchemy.Connection) -> SchemaStatus:
    current = MigrationContext.configure(connection).get_current_revision()
    history = _history()
    ids = [script.revision for script in history]
    if current is not None and current not in ids:
        raise SchemaTooNew(
            f"the database is at revision {current}, this server knows only up to {ids[-1]}:"
            " a newer server migrated it, run that one"
        )
    applied = 0 if current is None else ids.index(current) + 1
    revisions = (Revision(script.revision, script.doc, i < applied) for i, script in enumerate(history))
    return SchemaStatus(current, tuple(revisions))


def _history() -> list[Script]:
    """Every revision that this server knows, from old to new."""
    return list(ScriptDirectory.from_config(_config()).walk_revisions())[::-1]


def _config() -> Config:
    config = Config()
    folder = str(Path(creditledger_migrations.__file__).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return config


@contextmanager
def _connection(dsn: str) -> Iterator[sqlalchemy.Connection]:
    """A connection as Alembic wants it, made by psycopg, which takes any form of DSN and names what is wrong."""
    with closing(_connect(dsn)) as driver_connection:
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: driver_connection, poolclass=sqlalchemy.NullPool
        )
        try:
            with engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise SchemaError(f"the database refused: {_first_line(error.orig)}") from error


def _connect(dsn: str) -> psycopg.Connection:
    try:
        connection = psycopg.connect(dsn, connect_timeout=5, application_name="creditledger-migrate")
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(f"no connection to the database: {_first_line(error)}") from error
    except psycopg.ProgrammingError as error:
        # Without its own words, which may quote the password.
        raise DatabaseUnreachable(
            "the database URL is not one: postgresql://user:password@host:port/name"
        ) from error
    version = connection.info.server_version // 10_000
    if version < OLDEST_POSTGRES:
        connection.close()
        raise SchemaError(f"the database is Postgres {version}, this server needs {OLDEST_POSTGRES} or newer")
    return connection


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0].rstrip(" .,")
