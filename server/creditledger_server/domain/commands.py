"""What callers ask the ledger to do, and when two requests are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from .account import AccountState
from .usage import Usage, canonical_json, json_text


def fingerprint(method: str, *fields: object) -> bytes:
    """The identity of a request: SHA-256 over a versioned JSON array of the method and its semantic fields.

    The request id is left out: it is what the fingerprint is compared under. Wire bytes would not do, because protobuf
    serialization is not canonical.
    """
    return sha256(canonical_json((1, method, *fields)).encode()).digest()


@dataclass(frozen=True, slots=True)
class Deduct:
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
    """Give credits. Lower ``priority`` burns first."""

    request_id: str
    account_id: str
    amount: int
    priority: int = 0
    reason: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> bytes:
        """The identity of the request."""
        return fingerprint(
            "GrantCredits", self.account_id, self.amount, self.priority, self.reason, dict(self.labels)
        )


Command = Deduct | OpenAccount | UpdateAccount | GrantCredits
