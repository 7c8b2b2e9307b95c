"""What can go wrong with Postgres, in the words of the write path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout, TooManyRequests


class StorageError(Exception):
    """Any of the following."""


class StorageUnavailable(StorageError):
    """Postgres did not answer, or is in no state to. Whether a commit under way happened is unknown."""


class Overloaded(StorageError):
    """More wait for a connection than the pool lets wait."""


class Contended(StorageError):
    """The transaction was rolled back because others were in its way."""


class BatchRejected(StorageError):
    """Postgres rolled the transaction back because of what it was asked: a bug, or data that slipped validation."""


class OpenedElsewhere(StorageError):
    """Another server opened an account or credited a payment of the batch: nothing was written, load again."""


_CONTENDED = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.QueryCanceled,
)
# Besides OperationalError, which is every fault of the connection and of the server's resources.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.UndefinedTable,
    errors.InvalidSqlStatementName,
    errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    OSError,
    TimeoutError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turns psycopg's errors into the ones above."""
    try:
        yield
    except TooManyRequests as error:
        raise Overloaded(str(error)) from error
    except _CONTENDED as error:
        raise Contended(str(error)) from error
    except errors.UniqueViolation as error:
        if error.diag.constraint_name in ("account_pkey", "purchase_pkey"):
            raise OpenedElsewhere(str(error)) from error
        raise BatchRejected(str(error)) from error
    except _UNAVAILABLE as error:
        raise StorageUnavailable(str(error)) from error
    except psycopg.Error as error:
        raise BatchRejected(str(error)) from error
