"""Why something is refused: the domain's only kind of error."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The public words of contract §7 (``ErrorReason`` without its prefix) that a decision can end with."""

    FIELD_INVALID = "FIELD_INVALID"
    OPERATION_UNKNOWN = "OPERATION_UNKNOWN"
    LEVEL_UNKNOWN = "LEVEL_UNKNOWN"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    ENTRY_NOT_FOUND = "ENTRY_NOT_FOUND"
    CATALOG_NOT_FOUND = "CATALOG_NOT_FOUND"
    INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    ACCOUNT_FROZEN = "ACCOUNT_FROZEN"
    ACCOUNT_CLOSED = "ACCOUNT_CLOSED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    ACCOUNT_EXISTS = "ACCOUNT_EXISTS"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    CONTENTION = "CONTENTION"
    SERVER_OVERLOADED = "SERVER_OVERLOADED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    CURSOR_INVALID = "CURSOR_INVALID"
    CURSOR_AHEAD = "CURSOR_AHEAD"
    CURSOR_EXPIRED = "CURSOR_EXPIRED"
    WATCHER_TOO_SLOW = "WATCHER_TOO_SLOW"
    RESERVATION_NOT_FOUND = "RESERVATION_NOT_FOUND"
    GRANT_NOT_FOUND = "GRANT_NOT_FOUND"
    PACKAGE_UNKNOWN = "PACKAGE_UNKNOWN"
    RESERVATION_COMMITTED = "RESERVATION_COMMITTED"
    RESERVATION_RELEASED = "RESERVATION_RELEASED"
    RESERVATION_EXPIRED = "RESERVATION_EXPIRED"
    REFUND_EXCEEDS_COST = "REFUND_EXCEEDS_COST"
    PAYMENT_REFERENCE_REUSED = "PAYMENT_REFERENCE_REUSED"
    TOO_MANY_RESERVATIONS = "TOO_MANY_RESERVATIONS"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    INTERNAL = "INTERNAL"


class Refused(Exception):
    """A request that was not carried out and wrote nothing.

    ``metadata`` holds every changing value of ``message`` under lowerCamelCase keys. ``violations`` are (field path,
    rule) pairs, set where ``reason`` is about fields. ``retry_after`` is in microseconds, where waiting helps.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: tuple[tuple[str, str], ...] = (),
        retry_after: int | None = None,
        shortfall: int = 0,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations
        self.retry_after = retry_after
        self.shortfall = shortfall
        self.metadata = {key: str(value) for key, value in metadata.items() if value is not None}
        if shortfall:
            self.metadata["shortfall"] = str(shortfall)
        self.revision: int | None = None
        self.decide_time: int | None = None

    def decided_at(self, revision: int, time: int) -> Refused:
        """Notes at which revision and time (microseconds) the refusal was decided; returns itself."""
        self.revision = revision
        self.decide_time = time
        return self
