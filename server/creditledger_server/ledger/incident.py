"""Errors that should not happen: logged in full, told as an id."""

from __future__ import annotations

import logging
import secrets

from ..domain.refusal import Reason, Refused

logger = logging.getLogger(__name__)


def incident(situation: str, error: BaseException) -> Refused:
    """Logs the error under a random id and returns what a caller is told: the id, and nothing of the error."""
    number = secrets.token_hex(8)
    logger.error("incident %s: %s", number, situation, exc_info=error)
    return Refused(Reason.INTERNAL, f"internal error, incident {number}", incidentId=number)
