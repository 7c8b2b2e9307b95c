"""What callers are told of errors that are not refusals."""

from __future__ import annotations

import logging
import secrets

from ..domain.refusal import Reason, Refused
from ..storage.errors import Contended, OpenedElsewhere, Overloaded, StorageUnavailable

logger = logging.getLogger(__name__)


def refusal_of(error: BaseException, situation: str) -> Refused:
    """The refusal that stands for any error; one that nobody has foreseen becomes an incident."""
    match error:
        case Refused():
            return error
        case StorageUnavailable():
            logger.warning("%s: storage is unavailable: %s", situation, error)
            words = "Postgres does not answer; send the same request again"
            return Refused(Reason.STORAGE_UNAVAILABLE, words, retry_after=1_000_000)
        case Overloaded():
            return Refused(Reason.SERVER_OVERLOADED, "too many requests are waiting", retry_after=500_000)
        case Contended() | OpenedElsewhere():
            words = "others hold what the request needs; nothing was written"
            return Refused(Reason.CONTENTION, words, retry_after=200_000)
    return incident(situation, error)


def incident(situation: str, error: BaseException) -> Refused:
    """Logs the error under a random id and returns what a caller is told: the id, and nothing of the error."""
    number = secrets.token_hex(8)
    logger.error("incident %s: %s", number, situation, exc_info=error)
    return Refused(Reason.INTERNAL, f"internal error, incident {number}", incidentId=number)
