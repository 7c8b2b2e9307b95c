"""What callers ask the ledger to do, and when two requests are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from .account import AccountState
from .reservation import DEFAULT_TTL
from .usage import Usage, canonical_json, json_text


def fingerprint(method: str, *fields: object) -> bytes:
    """The identity of a request: SHA-256 over a versioned JSON array of the method and its semantic fields.

    The request id is left out: it is what the fingerprint is compared under. Wire bytes would not do, because protobuf
    serialization is not canonical.
    """
    return sha256(canonical_json((1, method, *fields)).encode()).digest()


class Deduct(NamedTuple):
    """Charge an operation. ``account_level`` None: as stored, and the account must be known."""

    request_id: str
    account_id: str
    operation: str
    quantity: int = 1
    usage: Usage | None = None
    account_level: str | None = None

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        usage = self.usage.to_json() if self.usage else None
        # What ``fingerprint`` would make of these fields, written out.
        identity = (
            f'[1,"Deduct",{json_text(self.account_id)},{json_text(self.account_level)},'
            f"{json_text(self.operation)},{self.quantity},{json_text(usage)}]"
        )
        return sha256(identity.encode()).digest()


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Open an account. ``level`` None: the catalog's default."""

    request_id: str
    account_id: str
    level: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("OpenAccount", self.account_id, self.level, dict(self.labels))


@dataclass(frozen=True, slots=True)
class UpdateAccount:
    """Change an account; None leaves a field as it is. ``labels`` replace all that there were."""

    request_id: str
    account_id: str
    level: str | None = None
    labels: Mapping[str, str] | None = None
    state: AccountState | None = None

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        labels = None if self.labels is None else dict(self.labels)
        return fingerprint("UpdateAccount", self.account_id, self.level, labels, self.state)


@dataclass(frozen=True, slots=True)
class GrantCredits:
    """Give credits. Lower ``priority`` burns first; times in microseconds, None: from now, and for ever."""

    request_id: str
    account_id: str
    amount: int
    priority: int = 0
    reason: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    effective_time: int | None = None
    expire_time: int | None = None

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        terms = [self.account_id, self.amount, self.priority, self.reason, dict(self.labels)]
        if self.effective_time is not None or self.expire_time is not None:
            # Left out where they are absent: grants were made before they could have times.
            terms += [self.effective_time, self.expire_time]
        return fingerprint("GrantCredits", *terms)


@dataclass(frozen=True, slots=True)
class VoidGrant:
    """Take back what is left of the grant that the entry of ``grant_revision`` made."""

    request_id: str
    account_id: str
    grant_revision: int
    reason: str = ""

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("VoidGrant", self.account_id, self.grant_revision, self.reason)


@dataclass(frozen=True, slots=True)
class AdjustBalance:
    """Correct the balance up, or with a negative amount down."""

    request_id: str
    account_id: str
    amount: int
    reason: str

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("AdjustBalance", self.account_id, self.amount, self.reason)


@dataclass(frozen=True, slots=True)
class PurchasePackage:
    """Grant the credits of a package, once per payment in the whole ledger."""

    request_id: str
    account_id: str
    package_id: str
    payment_reference: str

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("PurchasePackage", self.account_id, self.package_id, self.payment_reference)


@dataclass(frozen=True, slots=True)
class Reserve:
    """Set the cost of an operation aside for ``ttl`` microseconds. ``account_level`` is as in Deduct."""

    request_id: str
    account_id: str
    operation: str
    quantity: int = 1
    metrics: Mapping[str, int] = field(default_factory=dict)
    ttl: int = DEFAULT_TTL
    account_level: str | None = None

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint(
            "Reserve", self.account_id, self.account_level, self.operation, self.quantity, dict(self.metrics), self.ttl
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CommitReservation:
    """Charge the real cost of the work that entry ``reservation`` reserved. ``quantity`` None: as reserved."""

    request_id: str
    account_id: str
    reservation: int
    quantity: int | None = None
    usage: Usage | None = None

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        usage = self.usage.to_json() if self.usage else None
        return fingerprint("CommitReservation", self.account_id, self.reservation, self.quantity, usage)


@dataclass(frozen=True, slots=True)
class ReleaseReservation:
    """Give all of a reservation back."""

    request_id: str
    account_id: str
    reservation: int
    reason: str = ""

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("ReleaseReservation", self.account_id, self.reservation, self.reason)


@dataclass(frozen=True, slots=True)
class ExtendReservation:
    """Let a reservation live for ``ttl`` microseconds from now."""

    request_id: str
    account_id: str
    reservation: int
    ttl: int

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("ExtendReservation", self.account_id, self.reservation, self.ttl)


@dataclass(frozen=True, slots=True)
class Refund:
    """Give back ``amount`` of what the entry of ``revision`` charged; 0: all that is left."""

    request_id: str
    account_id: str
    revision: int
    amount: int = 0
    reason: str = ""

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint("Refund", self.account_id, self.revision, self.amount, self.reason)


Command = (
    Deduct
    | OpenAccount
    | UpdateAccount
    | GrantCredits
    | VoidGrant
    | AdjustBalance
    | PurchasePackage
    | Reserve
    | CommitReservation
    | ReleaseReservation
    | ExtendReservation
    | Refund
)


@dataclass(frozen=True, slots=True)
class Settle:
    """Write what time has done to an account. Nobody's request, so it has no id and no answer."""

    account_id: str
